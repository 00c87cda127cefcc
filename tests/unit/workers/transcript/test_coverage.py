"""Lost speech is found where it was lost, and looking for it ends."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schema.span import GRID_MS, Span
from schema.transcript import PlannedRepair, RepairReason
from schema.words import Word
from workers.transcript.coverage import (
    LOST_MS,
    RepairCandidate,
    find_lost_speech,
    is_coverage_low,
    plan_repairs,
    repair_span,
    segment_coverage,
    speech_ms,
    worded_ms,
)
from workers.transcript.seams import DecodedSegment
from workers.transcript.stitch import ChannelTimeline, stitch

HOUR_MS = 3_600_000


def words(*starts_ms: int, length_ms: int = 400) -> tuple[Word, ...]:
    return tuple(Word(f"w{start}", start, start + length_ms, 0.9) for start in starts_ms)


def decode_all_but(
    start_ms: int, end_ms: int, *silent: Span, failed: bool = False
) -> DecodedSegment:
    """A segment of speech throughout, a word each half second but for what is lost."""
    starts = range(-(-start_ms // 500) * 500, end_ms, 500)
    word_starts_ms = [
        start for start in starts if not any(s.start_ms <= start < s.end_ms for s in silent)
    ]
    span = Span(start_ms, end_ms)
    return DecodedSegment(span, words(*word_starts_ms), (span,), failed)


def find_lost(*segments: DecodedSegment) -> list[tuple[Span, RepairReason]]:
    places = find_lost_speech(stitch(0, segments), segments)
    return [(place.core, place.reason) for place in places]


def test_breaths_between_words_count_as_covered_and_lost_speech_does_not():
    timeline = ChannelTimeline(0, words(0, 800), (Span(0, 1_200), Span(5_000, 6_000)), ())

    assert (worded_ms(timeline), speech_ms(timeline)) == (1_200, 2_200)


def untimed(*words_spoken: Word, region: Span) -> ChannelTimeline:
    return ChannelTimeline(0, words_spoken, (region,), (), untimed_speech=(region,))


def test_of_words_whose_times_are_guesses_no_coverage_is_claimed():
    timeline = untimed(*words(*range(0, 30_000, 500), length_ms=500), region=Span(0, 30_000))
    segment = DecodedSegment(Span(0, 30_000), timeline.words, timeline.speech)

    assert (worded_ms(timeline), speech_ms(timeline)) == (0, 30_000)
    [coverage] = segment_coverage(timeline, [segment])
    assert (coverage.speech_ms, coverage.worded_ms) == (0, 0)
    assert find_lost_speech(timeline, [segment]) == ()


def test_too_few_words_are_lost_speech_whenever_they_were_said():
    """Six words evenly over half a minute: times that would cover all of it."""
    timeline = untimed(*words(*range(0, 30_000, 5_000), length_ms=5_000), region=Span(0, 30_000))
    segment = DecodedSegment(Span(0, 30_000), timeline.words, timeline.speech)

    [place] = find_lost_speech(timeline, [segment])

    assert (place.core, place.reason) == (Span(0, 30_000), RepairReason.COVERAGE)


def test_where_words_cover_the_speech_nothing_is_lost():
    assert find_lost(decode_all_but(0, 60_000), decode_all_but(52_000, 120_000)) == []
    assert find_lost() == []


def test_a_stretch_without_words_is_lost():
    assert find_lost(decode_all_but(0, 60_000, Span(20_000, 23_000))) == [
        (Span(19_900, 23_000), RepairReason.SPEECH)
    ]


def test_what_is_lost_at_a_seam_is_the_seams():
    hole = Span(53_000, 58_000)

    ((core, reason),) = find_lost(
        decode_all_but(0, 60_000, hole), decode_all_but(52_000, 120_000, hole)
    )

    assert (core, reason) == (Span(52_900, 58_000), RepairReason.SEAM)


def test_a_failed_segment_is_a_gap_and_no_loss():
    lefts, rights = decode_all_but(0, 60_000), DecodedSegment(Span(52_000, 120_000), is_failed=True)

    assert find_lost(lefts, rights) == []
    assert [c.index for c in segment_coverage(stitch(0, (lefts, rights)), (lefts, rights))] == [0]


def test_short_losses_count_where_words_cover_too_little():
    # Every third half second has a word, and is followed by one without: nothing is lost for long.
    segment = DecodedSegment(Span(0, 20_000), words(*range(0, 20_000, 1_600)), (Span(0, 20_000),))

    ((core, reason),) = find_lost(segment)

    assert reason is RepairReason.COVERAGE
    assert core.start_ms == 400
    assert core.end_ms > 19_000


def test_a_little_speech_proves_nothing():
    segment = DecodedSegment(Span(0, 20_000), (), (Span(0, 1_400), Span(9_000, 10_000)))

    assert find_lost(segment) == []
    assert not is_coverage_low(2_900, 0)
    assert is_coverage_low(3_000, 1_499)


def test_losses_close_together_are_one_place():
    segment = decode_all_but(
        0, 60_000, Span(20_000, 23_000), Span(24_000, 27_000), Span(40_000, 43_000)
    )

    assert [core for core, _ in find_lost(segment)] == [Span(19_900, 27_000), Span(39_900, 43_000)]


def test_an_hour_of_music_is_looked_at_for_a_few_minutes():
    regions = tuple(Span(at, at + 28_000) for at in range(0, HOUR_MS, 30_000))
    music = DecodedSegment(Span(0, HOUR_MS), (), regions)
    places = find_lost_speech(stitch(0, (music,)), (music,))

    repairs = plan_repairs(places, (), HOUR_MS)

    assert len(places) == 120
    assert 0 < len(repairs) <= 12
    assert sum(repair.span.duration_ms for repair in repairs) <= 180_000 + HOUR_MS // 10


def test_a_seam_is_repaired_before_what_is_longer():
    seam = RepairCandidate(0, Span(100_000, 102_000), RepairReason.SEAM)
    music = [
        RepairCandidate(1, Span(at, at + 40_000), RepairReason.SPEECH)
        for at in range(0, 200_000, 50_000)
    ]

    repairs = plan_repairs([*music, seam], (), 200_000)

    assert repairs[0].core == seam.core
    assert len(repairs) < 5, "there is no time for them all"


CORES = st.builds(
    lambda start, length: Span(start, start + length),
    st.integers(0, HOUR_MS - 40_000),
    st.integers(LOST_MS, 40_000),
)
PLACES = st.lists(
    st.builds(RepairCandidate, st.sampled_from([0, 1, None]), CORES, st.sampled_from(RepairReason)),
    max_size=40,
)


@given(PLACES, PLACES)
def test_no_place_is_ordered_twice_and_ordering_ends(places, later):
    first_repairs: tuple[PlannedRepair, ...] = plan_repairs(places, (), HOUR_MS)

    second_repairs = plan_repairs(places, first_repairs, HOUR_MS)
    later_repairs = plan_repairs(later, first_repairs, HOUR_MS)

    assert second_repairs == ()
    every = (*first_repairs, *later_repairs)
    assert len(every) <= 12
    assert sum(repair.span.duration_ms for repair in every) <= 180_000 + HOUR_MS // 10
    for index, one in enumerate(every):
        for other in every[:index]:
            assert one.channel != other.channel or not one.core.overlap(other.core)


@given(CORES, st.integers(0, 10_000))
def test_a_repair_lies_on_the_grid_around_its_place(core, beyond_ms):
    duration_ms = core.end_ms + beyond_ms

    span = repair_span(core, duration_ms)

    assert span.start_ms % GRID_MS == 0
    assert span.end_ms % GRID_MS == 0 or span.end_ms == duration_ms
    assert span.start_ms <= max(0, core.start_ms - 8_000)
    assert span.end_ms >= min(duration_ms, core.end_ms + 8_000)


@given(
    st.lists(st.integers(0, 110), unique=True).map(sorted),
    st.lists(st.integers(0, 119), unique=True, max_size=30).map(sorted),
)
def test_coverage_is_of_each_core_and_adds_up(said_s, heard_s):
    """Whatever is said and heard, second by second, in two overlapping segments."""
    speech = [Span(second * 1_000, second * 1_000 + 1_000) for second in heard_s]
    segments = [
        DecodedSegment(
            span,
            tuple(w for w in words(*(s * 1_000 for s in said_s)) if span.overlap(w.span)),
            tuple(filter(None, map(span.overlap, speech))),
        )
        for span in (Span(0, 60_000), Span(52_000, 120_000))
    ]
    timeline = stitch(0, segments)

    parts = segment_coverage(timeline, segments)

    assert sum(part.speech_ms for part in parts) == speech_ms(timeline)
    assert sum(part.worded_ms for part in parts) == worded_ms(timeline)
    assert all(0 <= part.worded_ms <= part.speech_ms for part in parts)
    for place in find_lost_speech(timeline, segments):
        assert any(place.core.overlap(span) for span in timeline.speech)
