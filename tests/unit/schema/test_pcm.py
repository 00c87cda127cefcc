"""A producer that reads all and a worker that reads a part find the same digest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.pcm import (
    BlockDigests,
    PlannedSlice,
    downmix,
    excerpt_digest,
    samples_digest,
    span_digest,
)
from schema.span import GRID_MS, Span, duration_of, frame_at


@given(
    rate_hz=st.sampled_from([8_000, 11_025, 44_100]),
    seconds=st.floats(0.05, 2),
    piece=st.integers(1, 9_999),
    first=st.integers(0, 19),
    steps=st.integers(1, 20),
)
def test_a_span_has_one_digest_however_it_is_read(rate_hz, seconds, piece, first, steps):
    frames = max(1, int(rate_hz * seconds))
    samples = np.random.default_rng(frames).standard_normal(frames).astype(np.float32)
    duration_ms = duration_of(frames, rate_hz)
    start_ms = min(first * GRID_MS, (duration_ms - 1) // GRID_MS * GRID_MS)
    span = Span(start_ms, min(start_ms + steps * GRID_MS, duration_ms))
    blocks = BlockDigests(rate_hz)
    for at in range(0, frames, piece):
        blocks.update(samples[at : at + piece])

    part = samples[frame_at(span.start_ms, rate_hz) : frame_at(span.end_ms, rate_hz)]

    assert span_digest(blocks.finish(), span) == samples_digest(part, rate_hz, span.start_ms)


def test_one_sample_makes_another_digest():
    samples = np.zeros(1_000, np.float32)
    other = samples.copy()
    other[-1] = 1e-7

    assert samples_digest(samples, 8_000, 0) != samples_digest(other, 8_000, 0)


def test_digests_start_on_the_grid():
    with pytest.raises(ValueError, match="grid"):
        BlockDigests(8_000, 50)


def test_a_downmix_is_the_mean_in_float32():
    stereo = np.array([[0.5, -0.25], [1.0, 1.0]], np.float32)

    mixed = downmix(stereo)

    assert mixed.dtype == np.float32
    assert mixed.tolist() == [0.125, 1.0]


PARTS = (PlannedSlice(Span(0, 60_000), "left"), PlannedSlice(Span(52_000, 100_000), "right"))


def shifted(parts: tuple[PlannedSlice, ...], by_ms: int) -> list[PlannedSlice]:
    return [PlannedSlice(part.span.shifted(by_ms), part.pcm_digest) for part in parts]


def test_an_excerpt_is_the_same_wherever_its_segments_lie():
    span = Span(45_000, 70_000)

    here = excerpt_digest(PARTS, span)
    there = excerpt_digest(shifted(PARTS, 5_000), span.shifted(5_000))

    assert here == there


@pytest.mark.parametrize(
    ("parts", "span"),
    [
        (PARTS, Span(45_100, 70_100)),
        (PARTS, Span(45_000, 70_100)),
        (PARTS[:1], Span(45_000, 60_000)),
        ((PARTS[0], PlannedSlice(PARTS[1].span, "other")), Span(45_000, 70_000)),
        (shifted(PARTS, 5_000), Span(45_000, 70_000)),
    ],
)
def test_another_place_or_other_samples_are_another_excerpt(parts, span):
    assert excerpt_digest(parts, span) != excerpt_digest(PARTS, Span(45_000, 70_000))


@pytest.mark.parametrize("parts", [(), PARTS[:1], PARTS[1:]])
def test_an_excerpt_of_what_was_not_planned_is_refused(parts):
    with pytest.raises(ValueError, match="do not cover"):
        excerpt_digest(parts, Span(45_000, 70_000))
