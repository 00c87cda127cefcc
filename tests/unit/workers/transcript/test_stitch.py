"""A channel's segments as one timeline: every word once, whatever the cuts."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.span import Span
from schema.transcript import SeamRule
from schema.words import Word
from tests.unit.workers.overlaps import any_decode, any_truth, decode_exactly, is_known, words
from workers.transcript.seams import DecodedSegment
from workers.transcript.stitch import stitch

LEFT, RIGHT = Span(0, 20_000), Span(12_000, 32_000)


def texts(timeline) -> list[str]:
    return [word.text for word in timeline.words]


def test_one_segment_is_its_own_timeline():
    decode = DecodedSegment(LEFT, words(("hello", 500, 900)), (Span(400, 1_000),))

    timeline = stitch(1, [decode])

    assert texts(timeline) == ["hello"]
    assert timeline.speech == decode.speech
    assert timeline.seams == ()


def test_no_segments_are_an_empty_timeline():
    timeline = stitch(None, [])

    assert (timeline.words, timeline.speech, timeline.seams, timeline.gaps) == ((), (), (), ())


def test_a_seam_says_what_it_dropped_on_both_sides():
    two = words(("one", 14_000, 14_500), ("two", 17_000, 17_500))
    left = DecodedSegment(LEFT, (*words(("zero", 1_000, 1_500)), *two))
    right = DecodedSegment(RIGHT, (*two, *words(("three", 25_000, 25_500))))

    timeline = stitch(3, [left, right])

    (seam,) = timeline.seams
    assert texts(timeline) == ["zero", "one", "two", "three"]
    assert (seam.channel, seam.index, seam.rule) == (3, 0, SeamRule.AGREED_SILENCE)
    assert [w.text for w in seam.dropped_left] == ["two"]
    assert [w.text for w in seam.dropped_right] == ["one"]


def test_segments_out_of_order_are_refused():
    for one, other in [(Span(0, 9_000), Span(1_000, 8_000)), (RIGHT, LEFT)]:
        with pytest.raises(ValueError, match="before"):
            stitch(0, [DecodedSegment(one), DecodedSegment(other)])


def test_a_failed_segment_leaves_its_core_as_a_gap():
    left_words = words(("here", 12_500, 12_900), ("there", 18_000, 18_400))
    later = words(("later", 30_000, 30_400))
    segments = [
        DecodedSegment(LEFT, left_words),
        DecodedSegment(RIGHT, is_failed=True),
        DecodedSegment(Span(24_000, 44_000), later),
    ]

    timeline = stitch(0, segments)

    assert texts(timeline) == ["here", "there", "later"]
    assert [seam.rule for seam in timeline.seams] == [SeamRule.GAP, SeamRule.GAP]
    assert timeline.gaps == (Span(20_000, 24_000),)


def test_what_failed_between_two_that_meet_is_no_gap_and_doubles_nothing():
    both = words(("one", 12_000, 12_400), ("two", 16_000, 16_400))
    segments = [
        DecodedSegment(LEFT, both),
        DecodedSegment(Span(8_000, 26_000), is_failed=True),
        DecodedSegment(Span(12_000, 44_000), (*both, *words(("three", 22_000, 22_400)))),
    ]

    timeline = stitch(0, segments)

    assert texts(timeline) == ["one", "two", "three"]
    assert timeline.gaps == (Span(20_000, 20_000),)


def test_a_segment_that_overlaps_the_next_but_one_gives_each_word_once():
    truth = words(*((f"w{at}", at, at + 300) for at in range(0, 32_000, 400)))
    spans = [Span(0, 12_000), Span(6_000, 18_000), Span(10_000, 24_000), Span(11_000, 32_000)]

    timeline = stitch(0, [decode_exactly(truth, span) for span in spans])

    assert timeline.words == tuple(w for w in truth if w.end_ms <= 32_000)
    places = [seam.at_ms for seam in timeline.seams]
    assert places == sorted(places)


def test_speech_is_counted_once():
    speech = (Span(13_000, 19_000),)

    timeline = stitch(0, [DecodedSegment(LEFT, (), speech), DecodedSegment(RIGHT, (), speech)])

    assert timeline.speech == speech


def cover(end_ms: int, length_ms: int, step_ms: int) -> list[Span]:
    """Return segments that cover a recording, each begun ``step_ms`` after the one before."""
    starts = range(0, max(1, end_ms - length_ms + step_ms), step_ms)
    return [Span(start_ms, start_ms + length_ms) for start_ms in starts]


@st.composite
def covered(draw, overlaps):
    truth = draw(any_truth(repeats=False))
    length_ms = draw(st.integers(18_000, 40_000))
    step_ms = length_ms - draw(overlaps)
    return truth, cover(truth[-1].end_ms, length_ms, step_ms)


@given(covered(st.sampled_from([4_000, 8_000, 10_000, 12_000, 15_000])))
def test_where_all_decode_alike_every_word_comes_out_once_and_as_it_was(case):
    truth, spans = case

    timeline = stitch(0, [decode_exactly(truth, span) for span in spans])

    assert timeline.words == truth


@st.composite
def worn(draw):
    """Draw the truth, and a decode of it by segments that are each weak at its edges."""
    truth, spans = draw(covered(st.sampled_from([4_000, 8_000])))
    late_words = [draw(st.sampled_from([-100, 0, 100])) for _ in spans]
    return truth, [
        draw(any_decode(truth, span, late_ms=late_ms, jitter_ms=60, garbled=True))
        for span, late_ms in zip(spans, late_words, strict=True)
    ]


@given(worn())
def test_whatever_segments_make_of_their_edges_every_word_comes_out_once(case):
    truth, segments = case

    timeline = stitch(0, segments)

    decoded_once = {w.confidence for s in segments for w in s.words if is_known(w)}
    counts = Counter(w.confidence for w in timeline.words if is_known(w))
    assert counts == Counter({w.confidence for w in truth} & decoded_once)
    starts = [word.start_ms for word in timeline.words]
    assert starts == sorted(starts)


@st.composite
def heard_segment(draw, span: Span) -> DecodedSegment:
    starts = sorted(draw(st.lists(st.integers(span.start_ms, span.end_ms - 10), max_size=30)))
    stitched_words = tuple(
        Word(draw(st.sampled_from("abc")), start, draw(st.integers(start, span.end_ms)), None)
        for start in starts
    )
    return DecodedSegment(
        span, stitched_words, tuple(filter(None, (w.span.overlap(span) for w in stitched_words)))
    )


@given(heard_segment(LEFT), heard_segment(RIGHT), heard_segment(Span(24_000, 44_000)))
def test_times_never_go_back_and_no_word_is_invented(first, second, third):
    timeline = stitch(0, [first, second, third])

    starts = [word.start_ms for word in timeline.words]
    assert starts == sorted(starts)
    truth = Counter((w.text, w.end_ms) for s in (first, second, third) for w in s.words)
    # Times may have been moved on, to come after those of the word before; texts never.
    assert Counter(texts(timeline)) <= Counter(text for text, _ in truth.elements())
    dropped = sum(len(s.dropped_left) + len(s.dropped_right) for s in timeline.seams)
    assert len(timeline.words) + dropped >= truth.total()
