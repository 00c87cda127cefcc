"""Layouts begin everywhere, are cut as the producer cuts, and widen a sweep without waste."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.eval.corpus import Case
from ops.eval.sweep import layouts, plan_settings, starts_ms
from ops.eval.swept import middle_cut
from producer.intake.scan import Signal
from schema.records import AudioFormat
from schema.span import Span
from schema.words import Word
from workers.transcript.seams import DecodedSegment


def case(duration_ms: int) -> Case:
    """Loud throughout, but for a hush at 65 s."""
    envelope_db = np.full(duration_ms // 100, -20.0, np.float32)
    envelope_db[648:652] = -70.0
    audio = AudioFormat("WAV", "PCM_16", 16_000, 1, duration_ms * 16)
    signal = Signal((), envelope_db, is_silent=False)
    return Case(Path("x.wav"), audio, 0, duration_ms, signal, "", (), None)


def cuts_ms(spans: tuple[Span, ...]) -> list[int]:
    return [(a.end_ms + b.start_ms) // 2 for a, b in pairwise(spans)]


def test_fixed_cuts_fall_where_shares_meet_wherever_it_is_quiet():
    settings = plan_settings(60, 8, fixed=True)
    found = list(layouts(case(200_000), settings, 6))
    assert [layout.start_ms for layout in found] == [0, 10_000, 20_000, 30_000, 40_000, 50_000]
    for layout in found:
        begun_ms = layout.start_ms
        share_ms = (200_000 - begun_ms) / len(layout.segments)
        assert cuts_ms(layout.segments)[0] == pytest.approx(begun_ms + share_ms, abs=100)
        assert (layout.segments[0].start_ms, layout.segments[-1].end_ms) == (begun_ms, 200_000)


def test_quiet_cuts_keep_to_the_recording_s_clock():
    found = layouts(case(240_000), plan_settings(60, 8, fixed=False), 2)
    assert [cuts_ms(layout.segments)[0] for layout in found] == [65_000, 82_500]


def test_a_recording_that_ends_before_a_layout_begins_is_left_out():
    assert len(list(layouts(case(25_000), plan_settings(60, 8, fixed=True), 6))) == 3


def test_a_segment_of_less_than_three_overlaps_is_refused():
    with pytest.raises(ValueError, match="3 overlaps"):
        plan_settings(20, 8, fixed=True)


@given(st.integers(1, 40), st.integers(1, 6))
def test_a_wider_sweep_holds_the_narrower_one(shifts: int, times: int):
    assert set(starts_ms(shifts, 60_000)) <= set(starts_ms(shifts * times, 60_000))


def test_the_simple_merge_gives_each_moment_to_one_side():
    words = tuple(Word(str(ms), ms, ms + 100) for ms in range(0, 20_000, 500))
    heard = [
        DecodedSegment(span, tuple(w for w in words if span.start_ms <= w.start_ms < span.end_ms))
        for span in (Span(0, 10_000), Span(6_000, 14_000), Span(11_000, 20_000))
    ]
    assert middle_cut(heard) == list(words)
