"""Errors near seams against those of whole-file decodes there, and where no seam is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ops.eval.corpus import Case
from ops.eval.errors import compare
from ops.eval.places import NARROW_MS, elsewhere, seams_of
from ops.eval.seams import excess, rate_difference
from ops.eval.sweep import Layout
from ops.eval.swept import Stitched, Swept, Whole, truth_of
from ops.eval.text import Token, tokens
from producer.intake.scan import Signal
from schema.records import AudioFormat
from schema.span import Span
from schema.words import Word
from workers.transcript.seams import DecodedSegment
from workers.transcript.stitch import stitch

DURATION_MS = 120_000
SPOKEN = tuple(Word("abc"[i % 3], 1_000 * i + 100, 1_000 * i + 700) for i in range(120))
CASE = Case(
    path=Path("x.wav"),
    format=AudioFormat("WAV", "PCM_16", 16_000, 1, DURATION_MS * 16),
    channel=0,
    duration_ms=DURATION_MS,
    signal=Signal((), np.zeros(DURATION_MS // 100, np.float32), is_silent=False),
    reference=" ".join(word.text for word in SPOKEN),
    truth=SPOKEN,
    turns=None,
)
LEFT, RIGHT = Span(0, 64_000), Span(56_000, DURATION_MS)


def heard(span: Span, wrong_ms: int | None = None) -> DecodedSegment:
    """All that is said in a span; the word at a moment is written wrongly."""
    words = tuple(
        replace(word, text="z") if wrong_ms and abs(word.middle_ms - wrong_ms) < 500 else word
        for word in SPOKEN
        if span.start_ms <= word.start_ms < span.end_ms
    )
    return DecodedSegment(span, words)


def swept(wrong_ms: int | None = None, whole_wrong_ms: int | None = None) -> Swept:
    """One layout of two segments, and one whole-file decode."""
    truth = tokens(SPOKEN)
    written = tuple(tokens(heard(Span(0, DURATION_MS), whole_wrong_ms).words))
    whole = Whole(0, written, compare(truth, written))
    sides = (heard(LEFT, wrong_ms), heard(RIGHT, wrong_ms))
    layout, track = Layout(CASE, 0, (LEFT, RIGHT)), stitch(0, sides)
    stitched = Stitched(layout, sides, track, track, 0, tuple(truth), whole)
    return Swept(CASE, (whole,), (stitched,))


def test_a_seam_without_an_error_has_no_excess_and_drops_nothing():
    [seam] = seams_of(swept())
    assert seam.merge is not None
    assert (seam.merge.dropped, seam.merge.doubled) == ((), ())
    assert seam.merge.twins == 8
    assert seam.excess(NARROW_MS) == 0


def test_an_error_of_ours_near_the_seam_is_excess():
    [seam] = seams_of(swept(wrong_ms=58_400))
    assert [mistake.kind for mistake in seam.ours(NARROW_MS)] == ["substitution"]
    assert seam.excess(NARROW_MS) == 1
    assert seam.against_whole(NARROW_MS) == 1


def test_an_error_that_the_whole_file_decode_makes_as_well_is_none():
    both = swept(wrong_ms=58_400, whole_wrong_ms=58_400)
    [seam] = seams_of(both)
    assert seam.whole(NARROW_MS) == 1
    assert excess([seam], NARROW_MS).mean == 0
    assert seam.against_whole(NARROW_MS) == 0


def test_an_error_far_from_the_seam_does_not_count_there_but_in_the_rate():
    far = swept(wrong_ms=90_400)
    [seam] = seams_of(far)
    assert seam.ours(NARROW_MS) == ()
    assert rate_difference([far]).mean == pytest.approx(100 / 120)


def test_places_without_a_seam_are_far_from_seams_and_the_same_each_time():
    places = list(elsewhere(swept()))
    [seam] = seams_of(swept())
    assert len(places) == 1
    assert all(abs(place.at_ms - seam.at_ms) >= 12_000 for place in places)
    assert [p.at_ms for p in elsewhere(swept())] == [p.at_ms for p in places]


def test_a_reference_without_times_borrows_them_from_a_decode():
    untimed = replace(CASE, truth=())
    assert truth_of(untimed, SPOKEN) == tokens(SPOKEN)
    assert truth_of(CASE, ()) == [Token(w.text, w.start_ms, w.end_ms) for w in SPOKEN]
