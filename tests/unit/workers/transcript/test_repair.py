"""A repair brings back what was lost, once, and takes nothing away."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from schema.span import Span
from schema.transcript import RepairOutcome, RepairReason, SeamRule
from schema.words import Word
from workers.transcript.coverage import find_lost_speech, repair_span
from workers.transcript.repair import DecodedRepair, apply_repairs
from workers.transcript.seams import DecodedSegment
from workers.transcript.stitch import ChannelTimeline, stitch

END_MS = 120_000


def make_words(*spans: tuple[int, int]) -> tuple[Word, ...]:
    return tuple(Word(f"w{i}", start, end, 0.9) for i, (start, end) in enumerate(spans))


STEADY = make_words(*((at, at + 400) for at in range(0, END_MS, 500)))


def decode_exactly(words: tuple[Word, ...], span: Span) -> DecodedSegment:
    """What a decode of a span with speech throughout hears: words that lie in it."""
    decoded_words = tuple(
        w for w in words if span.start_ms <= w.start_ms and w.end_ms <= span.end_ms
    )
    return DecodedSegment(span, decoded_words, (span,))


def without(words: tuple[Word, ...], *holes: Span) -> tuple[Word, ...]:
    return tuple(w for w in words if not any(hole.overlap(w.span) for hole in holes))


def repair_of(words: tuple[Word, ...], core: Span, **options) -> DecodedRepair:
    return DecodedRepair(
        decode_exactly(words, repair_span(core, END_MS)), core, RepairReason.SPEECH, **options
    )


def stitch_two(words: tuple[Word, ...]) -> tuple[ChannelTimeline, list[DecodedSegment]]:
    segments = [decode_exactly(words, Span(0, 60_000)), decode_exactly(words, Span(52_000, END_MS))]
    return stitch(0, segments), segments


@pytest.mark.parametrize(
    "hole",
    [
        Span(20_000, 25_000),
        Span(53_000, 59_000),
        Span(0, 6_000),
        Span(3_000, 9_000),
        Span(112_000, END_MS),
        Span(0, END_MS),
    ],
)
def test_what_was_lost_comes_back_once(hole):
    timeline, segments = stitch_two(without(STEADY, hole))
    places = find_lost_speech(timeline, segments)

    repaired_timeline, reports = apply_repairs(
        timeline, [repair_of(STEADY, place.core) for place in places]
    )

    assert repaired_timeline.words == STEADY
    assert [report.outcome for report in reports] == [RepairOutcome.REPAIRED] * len(places)
    assert not reports[0].dropped_words


WORDS = st.lists(st.tuples(st.integers(0, 700), st.integers(80, 900)), min_size=30, max_size=160)
HOLES = st.lists(
    st.tuples(st.integers(0, END_MS - 2_000), st.integers(1_500, 20_000)), min_size=1, max_size=4
)


@given(WORDS, HOLES)
def test_every_word_is_there_once_whatever_was_lost(gaps, holes):
    """Where both decodes write alike, for any words, any losses and any seam."""
    spans, at_ms = [], 0
    for gap_ms, length_ms in gaps:
        spans.append((at_ms + gap_ms, at_ms + gap_ms + length_ms))
        at_ms += gap_ms + length_ms
    truth = tuple(w for w in make_words(*spans) if w.end_ms <= END_MS)
    assume(truth)
    lost_spans = [Span(start, min(start + length, END_MS)) for start, length in holes]
    timeline, segments = stitch_two(without(truth, *lost_spans))
    places = find_lost_speech(timeline, segments)

    repaired_timeline, reports = apply_repairs(
        timeline, [repair_of(truth, place.core) for place in places]
    )

    assert len(set(repaired_timeline.words)) == len(repaired_timeline.words)
    assert set(timeline.words) <= set(repaired_timeline.words) <= set(truth)
    starts = [word.start_ms for word in repaired_timeline.words]
    assert starts == sorted(starts)
    for report, place in zip(reports, places, strict=True):
        if report.outcome is RepairOutcome.REPAIRED:
            inside = {
                w
                for w in truth
                if place.core.start_ms < w.start_ms and w.end_ms < place.core.end_ms
            }
            assert inside <= set(repaired_timeline.words)
    assert apply_repairs(timeline, []) == (timeline, ())


def test_a_repair_that_writes_no_more_changes_nothing():
    timeline, _ = stitch_two(without(STEADY, Span(20_000, 25_000)))
    core = Span(19_900, 25_000)

    repaired_timeline, (report,) = apply_repairs(timeline, [repair_of(without(STEADY, core), core)])

    assert repaired_timeline == timeline
    assert report.outcome is RepairOutcome.UNCHANGED


def test_a_repair_that_hears_less_around_its_place_takes_nothing_away():
    timeline, _ = stitch_two(without(STEADY, Span(20_000, 25_000)))
    less = without(STEADY, Span(12_000, 22_000), Span(23_000, 33_000))

    repaired_timeline, (report,) = apply_repairs(timeline, [repair_of(less, Span(19_900, 25_000))])

    assert set(timeline.words) < set(repaired_timeline.words)
    assert [word.start_ms for word in report.added_words] == [22_000, 22_500]


def test_a_failed_repair_leaves_what_was_there_and_says_why():
    timeline, _ = stitch_two(without(STEADY, Span(20_000, 25_000)))
    core = Span(19_900, 25_000)
    failed_segment = DecodedSegment(repair_span(core, END_MS), is_failed=True)

    repaired_timeline, (report,) = apply_repairs(
        timeline,
        [DecodedRepair(failed_segment, core, RepairReason.SPEECH, error_code="engine.failed")],
    )

    assert repaired_timeline == timeline
    assert (report.outcome, report.error_code) == (RepairOutcome.FAILED, "engine.failed")


def test_a_gap_stays_a_gap_beside_a_repair():
    segments = [
        decode_exactly(without(STEADY, Span(50_000, 56_000)), Span(0, 60_000)),
        DecodedSegment(Span(52_000, END_MS), is_failed=True),
    ]
    timeline = stitch(0, segments)
    (place,) = find_lost_speech(timeline, segments)

    repaired_timeline, (report,) = apply_repairs(timeline, [repair_of(STEADY, place.core)])

    assert report.outcome is RepairOutcome.REPAIRED
    assert repaired_timeline.gaps == timeline.gaps == (Span(60_000, END_MS),)
    assert repaired_timeline.words == tuple(word for word in STEADY if word.end_ms <= 60_000)


def test_words_that_nobody_is_sure_of_are_no_gain():
    timeline, _ = stitch_two(without(STEADY, Span(20_000, 25_000)))
    unsure = tuple(replace(word, confidence=0.2) for word in STEADY)

    repaired_timeline, _ = apply_repairs(timeline, [repair_of(unsure, Span(19_900, 25_000))])

    assert repaired_timeline == timeline


def test_a_repair_says_how_it_was_joined_and_the_seams_of_the_plan_stay():
    timeline, _ = stitch_two(without(STEADY, Span(20_000, 25_000)))

    repaired_timeline, (report,) = apply_repairs(
        timeline, [repair_of(STEADY, Span(19_900, 25_000))]
    )

    assert repaired_timeline.seams == timeline.seams
    assert len(report.rules) == 2
    assert SeamRule.GAP not in report.rules
    assert [w.text for w in report.added_words] == [f"w{i}" for i in range(40, 50)]


def test_words_in_another_language_are_replaced_though_they_cover_more():
    timeline, _ = stitch_two(STEADY)
    core = Span(20_000, 24_000)
    spanish = make_words(*((at, at + 300) for at in range(0, END_MS, 600)))
    right = tuple(replace(word, text="hola") for word in spanish)

    repaired_timeline, (report,) = apply_repairs(
        timeline,
        [
            replace(repair_of(right, core, language="es"), reason=RepairReason.LANGUAGE),
        ],
    )

    assert {w.text for w in repaired_timeline.words if core.overlap(w.span)} == {"hola"}
    assert (report.outcome, report.language) == (RepairOutcome.REPAIRED, "es")


@pytest.mark.parametrize(("count", "outcome"), [(40, "repaired"), (5, "unchanged")])
def test_a_repair_whose_times_are_guesses_is_better_if_it_wrote_more(count: int, outcome: str):
    """Six words, guessed over all of a region; a second decode wrote more of them, or fewer."""
    region = Span(40_000, 70_000)

    def spread(words_count: int) -> tuple[Word, ...]:
        step_ms = region.duration_ms // words_count
        starts_ms = (region.start_ms + i * step_ms for i in range(words_count))
        return tuple(Word(f"w{i}", at, at + step_ms) for i, at in enumerate(starts_ms))

    timeline = ChannelTimeline(0, spread(6), (region,), (), untimed_speech=(region,))
    span = repair_span(region, END_MS)
    segment = DecodedSegment(span, spread(count), (region,), untimed_speech=(region,))

    repaired, [repair] = apply_repairs(
        timeline, [DecodedRepair(segment, region, RepairReason.COVERAGE)]
    )

    assert repair.outcome == outcome
    assert len(repaired.words) == max(6, count)
    assert repaired.untimed_speech == (region,)
