"""Integrate-and-fire as intervals, against the walk through the frames that defines it."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.engines.funasr.cif import (
    _fire_frames,
    integrate,
    plain_token_times,
    upsampled_token_times,
)

WEIGHTS = st.lists(st.floats(0, 0.984375, width=32), min_size=1, max_size=80)


def walk(hidden, weights):
    """Each frame's weight goes to the token at hand, and what is over to the next."""
    tokens, held, sum_ = [], 0.0, np.zeros(hidden.shape[1])
    for frame, weight in zip(hidden, weights, strict=True):
        if held + weight < 1:
            held, sum_ = held + weight, sum_ + weight * frame
        else:
            tokens.append(sum_ + (1 - held) * frame)
            held = held + weight - 1
            sum_ = held * frame
    return tokens


@given(weights=WEIGHTS)
def test_tokens_are_those_of_the_walk(weights):
    hidden = np.random.default_rng(1).normal(size=(len(weights), 3))
    expected = walk(hidden, weights)
    count = math.floor(sum(weights) + 1e-9)
    found = integrate(torch.tensor(hidden)[None], torch.tensor([weights]), count)[0].numpy()
    common = min(len(expected), count)
    assert abs(len(expected) - count) <= 1  # a sum that is a whole number but for its last bit
    assert np.allclose(found[:common], np.array(expected).reshape(-1, 3)[:common], atol=1e-5)


@given(weights=WEIGHTS, others=WEIGHTS)
def test_a_regions_tokens_do_not_depend_on_what_is_beside_it(weights, others):
    frames = max(len(weights), len(others))
    padded = torch.zeros(2, frames)
    padded[0, : len(weights)] = torch.tensor(weights)
    padded[1, : len(others)] = torch.tensor(others)
    hidden = torch.ones(2, frames, 1)
    count = int(sum(weights))
    alone = integrate(hidden[:1, : len(weights)], padded[:1, : len(weights)], count)
    assert torch.allclose(integrate(hidden, padded, count)[:1], alone, atol=1e-5)


@given(weights=WEIGHTS, tokens=st.integers(0, 40))
def test_every_token_has_a_time_and_none_goes_back(weights, tokens):
    for times in (
        upsampled_token_times(np.array(weights), tokens),
        plain_token_times(np.array(weights), tokens, 60),
    ):
        assert times.shape == (tokens, 2)
        starts = times[:, 0].tolist()
        assert starts == sorted(starts)
        assert min(starts, default=0) >= 0


def walked(weights, fires_at=1.0 - 1e-4):
    """Frame by frame: a token fires, one a frame, where enough is held."""
    fired, held = [], 0.0
    for frame, weight in enumerate(weights):
        held += weight
        if held >= fires_at:
            fired.append(frame)
            held -= fires_at
    return fired


@given(weights=st.lists(st.floats(0, 3, width=16), min_size=1, max_size=80))
def test_tokens_fire_where_the_walk_fires(weights):
    # Eighths have no rounding to differ by.
    eighths = np.floor(np.array(weights) * 8) / 8
    assert _fire_frames(eighths).tolist() == walked(eighths)


def stepped(weights, tokens, frame_ms):
    """Each token begins where the weights of the one before it reach a whole number."""
    edges, held = [0.0], 0.0
    for frame, weight in enumerate(weights):
        while weight > 0 and held + weight >= len(edges) and len(edges) <= tokens:
            edges.append(frame + (len(edges) - held) / weight)
        held += weight
    edges += [float(len(weights))] * (tokens + 1 - len(edges))
    return [[round(a * frame_ms), round(b * frame_ms)] for a, b in pairwise(edges)]


@given(weights=st.lists(st.integers(0, 24), min_size=1, max_size=80), tokens=st.integers(0, 40))
def test_a_plain_paraformers_times_are_those_of_the_frames_it_is_made_of(weights, tokens):
    eighths = np.array(weights) / 8
    assert plain_token_times(eighths, tokens, 60).tolist() == stepped(eighths.tolist(), tokens, 60)


@given(seed=st.integers(0, 500), tokens=st.integers(1, 12))
def test_times_are_funasrs(seed, tokens):
    from funasr.utils.timestamp_tools import cif_wo_hidden, ts_prediction_lfr6_standard

    draw = np.random.default_rng(seed)
    weights = draw.random(30 * tokens).astype(np.float32)
    weights *= tokens / weights.sum()
    alphas = torch.tensor(weights)
    peaks = cif_wo_hidden(alphas[None].clone(), 1.0 - 1e-4)[0]
    _, expected = ts_prediction_lfr6_standard(alphas.clone(), peaks, ["x"] * tokens)
    found = upsampled_token_times(weights, tokens).tolist()
    # Sums in single and in double precision may pass a whole number one frame apart.
    assert all(
        abs(a - b) <= 20
        for one, other in zip(found, expected, strict=True)
        for a, b in zip(one, other, strict=True)
    )
