"""Regions fit what follows, and the detector hears the same in the same audio."""

from itertools import pairwise

import numpy as np
import pytest

from schema.span import Span
from tests.fakes import FakeDetector
from workers.segment.speech_regions import find_speech

MAX_MS = 30_000


class Says:
    """A detector with a fixed opinion."""

    def __init__(self, *regions: Span) -> None:
        self.regions = regions

    def detect(self, samples):
        return self.regions


def quiet(ms: int) -> np.ndarray:
    return np.zeros(ms * 16, np.float32)


def loud(ms: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, ms * 16).astype(np.float32)


@pytest.mark.parametrize("ms", [0, 1, 99])
def test_what_is_too_short_never_reaches_the_detector(ms):
    detector = FakeDetector()
    assert find_speech(detector, loud(ms), MAX_MS) == ()
    assert detector.calls == 0


def test_regions_end_with_the_audio():
    detector = Says(Span(100, 400), Span(800, 1_010), Span(1_000, 1_010))
    assert find_speech(detector, quiet(1_000), MAX_MS) == (Span(100, 400), Span(800, 1_000))


def test_regions_that_meet_are_one():
    detector = Says(Span(100, 400), Span(390, 500), Span(500, 600), Span(700, 800))
    assert find_speech(detector, quiet(1_000), MAX_MS) == (Span(100, 600), Span(700, 800))


def test_a_long_region_is_cut_where_it_is_quietest():
    samples = np.concatenate([loud(2_000), quiet(200), loud(2_000)])
    first, second = find_speech(Says(Span(0, 4_200)), samples, 3_000)
    assert 2_000 <= first.end_ms <= 2_200
    assert second == Span(first.end_ms, 4_200)


def test_the_parts_of_a_long_region_are_within_its_limit():
    parts = find_speech(Says(Span(0, 60_000)), loud(60_000), 7_000)
    assert all(part.duration_ms <= 7_000 for part in parts)
    assert all(left.end_ms == right.start_ms for left, right in pairwise(parts))
    assert (parts[0].start_ms, parts[-1].end_ms) == (0, 60_000)


def test_neighbours_soon_cut_a_region_that_both_see_at_the_same_moments():
    words = [loud(400, seed) if seed % 3 else 0.01 * loud(400, seed) for seed in range(300)]
    samples = np.concatenate(words)
    whole = find_speech(Says(Span(0, 120_000)), samples, 20_000)
    later = find_speech(Says(Span(0, 90_000)), samples[30_000 * 16 :], 20_000)
    cuts = {part.end_ms for part in whole if part.end_ms > 70_000}
    assert cuts == {part.end_ms + 30_000 for part in later if part.end_ms > 40_000}
