"""A channel is in one language, and a little speech in another is looked at again."""

from __future__ import annotations

import pytest

from schema.span import Span
from schema.store.work.reduces import EndedSegment
from schema.transcript import RepairReason
from schema.words import ResultTag, SegmentResult, Word
from workers.transcript.coverage import RepairCandidate
from workers.transcript.language import (
    LanguageDoubt,
    choose_languages,
    find_foreign_speech,
    language_doubts,
    spoken_language,
)
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


def doubted(*windows: tuple[int, int, str, float, float]) -> SegmentResult:
    return SegmentResult((), (), "en", {ResultTag.LANGUAGE_DOUBTS: [list(w) for w in windows]})


def test_windows_in_a_row_that_may_be_in_one_language_are_one_stretch():
    here = doubted((0, 6_000, "de", 0.2, 0.7), (7_000, 12_000, "de", 0.3, 0.6))
    there = doubted((0, 11_000, "de", 0.8, 0.1), (11_000, 22_000, "fr", 0.8, 0.1))

    assert language_doubts([(100_000, here), (0, there)]) == [
        LanguageDoubt(Span(0, 11_000), "de", is_likelier=True),
        LanguageDoubt(Span(11_000, 22_000), "fr", is_likelier=True),
        LanguageDoubt(Span(100_000, 112_000), "de", is_likelier=False),
    ]


def test_a_word_that_sounds_foreign_is_no_doubt():
    assert language_doubts([(0, doubted((0, 9_900, "de", 0.9, 0.0)))]) == []


def lost(start_ms: int, end_ms: int) -> RepairCandidate:
    return RepairCandidate(0, Span(start_ms, end_ms), RepairReason.SPEECH, "en")


def test_speech_without_words_is_decoded_as_what_it_may_be():
    doubts = [LanguageDoubt(Span(10_000, 30_000), "de", is_likelier=False)]
    places = [lost(0, 5_000), lost(12_000, 28_000), lost(29_000, 40_000)]

    languages = [place.language for place in choose_languages(0, places, doubts)]

    assert languages == ["en", "de", "en"]


def test_words_that_sound_like_another_language_are_decoded_as_that_one():
    doubts = [LanguageDoubt(Span(10_000, 100_000), "de", is_likelier=True)]

    places = list(choose_languages(0, [lost(5_000, 60_000)], doubts))

    assert [(p.reason, p.core, p.language) for p in places] == [
        (RepairReason.LANGUAGE, Span(10_000, 40_000), "de"),
        (RepairReason.LANGUAGE, Span(40_000, 70_000), "de"),
        (RepairReason.LANGUAGE, Span(70_000, 100_000), "de"),
        (RepairReason.SPEECH, Span(5_000, 10_000), "en"),
    ]
