"""The rules of FSMN-VAD over arrays, against the same rules frame by frame."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.span import Span
from workers.engines.vad.endpointing import find_regions

SILENCE_MS = (500, 800, 1_000, 1_500)


def frame_by_frame(is_speech, end_silence_ms):
    """What FunASR does with each frame, written down as it does it."""
    found, window, position = [], [0] * 20, 0
    voiced = speaking = False
    earliest = start = end = paused = 0
    limit_ms = end_silence_ms - 150
    for frame, flag in enumerate(is_speech):
        window[position], position = int(flag), (position + 1) % 20
        total, before = sum(window), voiced
        if not voiced and total >= 15:
            voiced = True
        elif voiced and total <= 15:
            voiced = False
        if voiced and not before and not speaking:
            start, speaking = max(earliest, frame - 40), True
        paused = paused + 1 if not voiced and not before else 0
        if not speaking:
            continue
        if paused * 10 >= limit_ms:
            end = frame - max(0, limit_ms // 10 - 11)
            found.append(Span(start * 10, (end + 1) * 10))
            earliest, speaking, voiced, paused = end + 1, False, False, 0
            window, position = [0] * 20, 0
    if speaking:
        found.append(Span(start * 10, len(is_speech) * 10))
    return found


def frames(*runs):
    return (
        np.concatenate([np.full(count, flag) for flag, count in runs])
        if runs
        else np.zeros(0, bool)
    )


@given(
    runs=st.lists(st.tuples(st.booleans(), st.integers(1, 130)), max_size=40),
    end_silence_ms=st.sampled_from(SILENCE_MS),
)
def test_runs_of_speech_and_silence_give_the_same_regions(runs, end_silence_ms):
    flags = frames(*runs).astype(bool)
    assert find_regions(flags, end_silence_ms) == frame_by_frame(flags, end_silence_ms)


@given(
    seed=st.integers(0, 10_000),
    chance=st.floats(0.3, 0.95),
    end_silence_ms=st.sampled_from(SILENCE_MS),
)
def test_flickering_frames_give_the_same_regions(seed, chance, end_silence_ms):
    """Around 15 of 20 frames, where windows waver."""
    flags = np.random.default_rng(seed).random(1_500) < chance
    assert find_regions(flags, end_silence_ms) == frame_by_frame(flags, end_silence_ms)


@pytest.mark.parametrize("count", [0, 1, 14, 19, 20])
def test_a_stretch_shorter_than_the_window_may_hold_nothing(count):
    assert find_regions(np.zeros(count, bool), 500) == []


def test_speech_up_to_the_end_ends_there():
    assert find_regions(frames((False, 100), (True, 50)), 500) == [Span(740, 1_500)]


def test_regions_are_in_order_and_do_not_overlap():
    flags = frames(*[(index % 2 == 1, 60) for index in range(20)])
    found = find_regions(flags, 500)
    assert len(found) >= 5
    assert all(a.end_ms <= b.start_ms for a, b in pairwise(found))
