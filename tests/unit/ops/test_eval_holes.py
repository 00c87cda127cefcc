"""Words that are missing, and whether coverage sees it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ops.eval.holes import Found, found_in, holes_of, without_regions
from ops.eval.text import Token
from schema.span import Span
from tests.unit.ops.test_eval_places import swept
from workers.transcript.stitch import Heard, stitch

#: Someone speaks from 0.1 s on, a word a second.
SPEECH = (Span(0, 40_000), Span(40_000, 46_000), Span(46_000, 120_000))


def found(*, gone: Span | None = None, speech: tuple[Span, ...] = SPEECH) -> Found:
    """What is missing from a layout of which nobody wrote the words in ``gone``."""
    [stitched] = swept().stitched
    stitched = replace(stitched, truth=tuple(map(_unlike, stitched.truth)))
    heard = []
    for segment in stitched.heard:
        own = tuple(s for s in (segment.span.overlap(region) for region in speech) if s)
        words = tuple(_unlike(w) for w in segment.words if not gone or not gone.overlap(w.span))
        heard.append(Heard(segment.span, words, own))
    return found_in(stitched, heard, stitch(0, heard))


def _unlike(said: Any) -> Any:
    """Give each word a text of its own, so that only one alignment is right."""
    second = said.start_ms // 1_000
    return replace(said, text="abcdefghij"[second % 10] + "klmnopqrstuv"[second // 10])


def test_a_transcript_that_is_whole_has_no_hole():
    whole = found()
    assert (whole.words, whole.missing, whole.holes, whole.places) == (120, 0, 0, 0)


def test_a_hole_in_speech_is_seen():
    holed = found(gone=Span(40_000, 46_000))
    assert (holed.missing, holed.holes, holed.in_holes) == (6, 1, 6)
    assert (holed.seen, holed.unheard, holed.flagged) == (1, 0, 1)


def test_a_hole_that_vad_did_not_hear_is_not_seen():
    deaf = found(gone=Span(40_000, 46_000), speech=(SPEECH[0], SPEECH[2]))
    assert (deaf.holes, deaf.seen, deaf.unheard, deaf.flagged) == (1, 0, 1, 0)


def test_words_missing_here_and_there_are_no_hole():
    truth = [Token("a", 1_000 * i, 1_000 * i + 500) for i in range(10)]
    missing = {(truth[i].middle_ms, "a") for i in (1, 2, 5, 7, 8, 9)}
    assert list(holes_of(truth, missing)) == [(Span(7_000, 9_500), 3)]


def test_a_broken_recognizer_loses_every_nth_region_another_one_in_each_layout():
    [stitched] = swept().stitched
    segment = replace(stitched.heard[0], speech=SPEECH)
    broken = without_regions(segment, every=3, first=1)
    assert {w.start_ms for w in segment.words} - {w.start_ms for w in broken.words} == {
        1_000 * second + 100 for second in range(40, 46)
    }
    assert len(without_regions(segment, every=3, first=3).words) == 24
