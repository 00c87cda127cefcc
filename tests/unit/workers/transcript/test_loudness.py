"""Levels of speech are measured with the decode and found again by time."""

from __future__ import annotations

import numpy as np
import pytest

from schema.span import Span
from schema.words import ResultTag, SegmentResult
from workers.segment.loudness import measure_loudness
from workers.transcript.loudness import Loudness


def tone(ms: int, level_db: float) -> np.ndarray:
    t = np.arange(ms * 16) / 16_000
    samples = np.sqrt(2) * 10 ** (level_db / 20) * np.sin(2 * np.pi * 440 * t)
    return samples.astype(np.float32)


def test_each_half_second_of_speech_has_its_level():
    samples = np.concatenate([tone(1_000, -20), tone(500, -40), np.zeros(8_000, np.float32)])

    levels_db = measure_loudness(samples, [Span(0, 1_200), Span(1_200, 1_500), Span(1_500, 2_000)])

    assert [len(levels) for levels in levels_db] == [3, 1, 1]
    assert levels_db[0][:2] == [-20, -20]
    assert levels_db[1:] == [[-40], [-99]]


def test_nothing_was_measured_where_nobody_spoke():
    assert measure_loudness(tone(500, -20), []) == []
    assert Loudness(()).level_db(Span(0, 100)) is None


def test_a_span_is_as_loud_as_what_was_measured_in_it():
    result = SegmentResult(
        (), (Span(0, 1_000), Span(5_000, 5_400)), None, {ResultTag.LOUDNESS_DB: [[-20, -40], [-9]]}
    )

    loudness = Loudness([(10_000, result)])

    assert loudness.level_db(Span(10_100, 10_400)) == pytest.approx(-20)
    assert loudness.level_db(Span(10_600, 10_700)) == pytest.approx(-40)
    assert loudness.level_db(Span(10_400, 10_600)) == pytest.approx(-23, abs=0.1)
    assert loudness.level_db(Span(15_350, 16_000)) == pytest.approx(-9)
    assert loudness.level_db(Span(11_000, 15_000)) is None


def test_results_without_levels_say_nothing():
    assert Loudness([(0, SegmentResult((), (Span(0, 900),)))]).level_db(Span(0, 900)) is None
