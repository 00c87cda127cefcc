"""A channel is in one language, and a little speech in another is looked at again."""

from __future__ import annotations

import pytest

from schema.span import Span
from schema.store.work.reduces import EndedSegment
from schema.transcript import RepairReason
from schema.words import SegmentResult, Word
from workers.transcript.coverage import RepairCandidate
from workers.transcript.language import find_foreign_speech, spoken_language
from workers.transcript.seams import DecodedSegment
from workers.transcript.stitch import stitch


def segment(index: int, language: str | None, speech_s: int) -> EndedSegment:
    """A segment of a minute, 52 s after the one before; a word a second from its tenth on."""
    begun_ms = 10_000
    words = tuple(
        Word(f"w{s}", begun_ms + s * 1_000, begun_ms + s * 1_000 + 900, 0.9)
        for s in range(speech_s)
    )
    speech = (Span(begun_ms, begun_ms + speech_s * 1_000),) if speech_s else ()
    start_ms = index * 52_000
    return EndedSegment(
        channel=0,
        index=index,
        kind="plan",
        span=Span(start_ms, start_ms + 60_000),
        result=SegmentResult(words, speech, language),
        error_code=None,
        error_message=None,
    )


def foreign(*segments: EndedSegment) -> list[RepairCandidate]:
    decoded_segments = [
        DecodedSegment(
            s.span,
            tuple(word.shifted(s.span.start_ms) for word in s.result.words),
            tuple(span.shifted(s.span.start_ms) for span in s.result.speech),
        )
        for s in segments
    ]
    return list(find_foreign_speech(stitch(0, decoded_segments), segments, decoded_segments))


def test_the_language_is_that_of_most_speech_and_not_of_most_segments():
    assert spoken_language([segment(0, "es", 40), segment(1, "en", 5), segment(2, "en", 5)]) == "es"
    assert spoken_language([]) is None
    assert spoken_language([segment(0, None, 0)]) is None


def test_a_little_speech_in_another_language_is_decoded_as_the_channels():
    (place,) = foreign(segment(0, "en", 40), segment(1, "en", 40), segment(2, "cy", 4))

    assert place == RepairCandidate(0, Span(114_000, 117_900), RepairReason.LANGUAGE, "en")


@pytest.mark.parametrize(
    "segments",
    [
        (segment(0, "en", 40), segment(1, "es", 40)),
        (segment(0, "en", 40), segment(1, "en", 40), segment(2, "es", 21)),
        (segment(0, "en", 40), segment(1, "es", 5), segment(2, "es", 5)),
        (segment(0, "en", 40), segment(1, None, 0)),
        (segment(0, "en", 40), segment(1, "en", 2)),
        (segment(0, "en", 4),),
    ],
)
def test_whoever_speaks_another_language_for_long_is_believed(segments):
    assert foreign(*segments) == []


def test_a_segment_that_failed_is_in_no_language():
    failed_segment = EndedSegment(0, 1, "plan", Span(52_000, 112_000), None, "engine.failed", None)
    decoded_segments = [
        DecodedSegment(Span(0, 60_000)),
        DecodedSegment(failed_segment.span, is_failed=True),
    ]

    assert (
        list(
            find_foreign_speech(
                stitch(0, decoded_segments),
                [segment(0, "en", 40), failed_segment],
                decoded_segments,
            )
        )
        == []
    )
