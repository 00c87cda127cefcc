"""Where times are guesses, regions and texts say where two segments meet, and no word's time."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from schema.span import Span
from schema.transcript import SeamRule
from schema.words import Word
from workers.transcript.seams import DecodedSegment
from workers.transcript.stitch import ChannelTimeline, stitch

LEFT, RIGHT = Span(0, 20_000), Span(12_000, 32_000)
#: What is said in each region, all in one place of it: nobody knows when.
REGIONS = {
    Span(1_000, 9_000): "good morning you are through to billing",
    Span(12_500, 15_000): "may i have your name",
    Span(16_500, 19_500): "of course",
    Span(21_000, 30_000): "thank you what can i do for you",
}


def untimed(span: Span, regions: dict[Span, str], at_share: float) -> DecodedSegment:
    """A segment whose words crowd at a share of their region."""
    words = []
    for region, text in regions.items():
        texts = text.split()
        at_ms = region.start_ms + int(at_share * (region.duration_ms - 10 * len(texts)))
        words += [Word(t, at_ms + 10 * i, at_ms + 10 * i + 10) for i, t in enumerate(texts)]
    return DecodedSegment(span, tuple(words), tuple(regions), untimed_speech=tuple(regions))


def within(span: Span, regions: dict[Span, str] = REGIONS) -> dict[Span, str]:
    return {region: text for region, text in regions.items() if span.overlap(region) == region}


def text_of(timeline: ChannelTimeline) -> str:
    return " ".join(word.text for word in timeline.words)


def rule_of(timeline: ChannelTimeline) -> SeamRule:
    [seam] = timeline.seams
    return seam.rule


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_pause_that_both_heard_is_the_seam_wherever_the_guesses_lie(left_at, right_at):
    left = untimed(LEFT, within(LEFT), left_at)
    right = untimed(RIGHT, within(RIGHT), right_at)

    timeline = stitch(0, [left, right])

    assert text_of(timeline) == " ".join(REGIONS.values())
    assert rule_of(timeline) is SeamRule.AGREED_SILENCE
    assert timeline.untimed_speech == tuple(REGIONS)


LONG_TEXT = [f"w{i}" for i in range(60)]


@given(st.integers(20, 38), st.integers(0, 18), st.floats(0, 1), st.floats(0, 1))
def test_without_a_pause_the_texts_are_joined_where_they_agree(end, start, left_at, right_at):
    """One long region, of which each side heard a part."""
    left = untimed(LEFT, {LEFT: " ".join(LONG_TEXT[:end])}, left_at)
    right = untimed(RIGHT, {RIGHT: " ".join(LONG_TEXT[start:])}, right_at)

    timeline = stitch(0, [left, right])

    assert text_of(timeline).split() == LONG_TEXT
    assert rule_of(timeline) is SeamRule.ANCHOR


def test_a_region_that_one_side_missed_is_kept():
    heard = within(LEFT)
    left = untimed(LEFT, heard, 0.5)
    right = untimed(RIGHT, {r: text for r, text in within(RIGHT).items() if r not in heard}, 0.5)
    right = replace(right, speech=tuple(within(RIGHT)))

    timeline = stitch(0, [left, right])

    assert text_of(timeline) == " ".join(REGIONS.values())
    assert rule_of(timeline) is SeamRule.ONE_SIDED


def test_the_pause_that_loses_no_word_is_taken():
    left = untimed(LEFT, within(LEFT), 0.5)
    right = untimed(
        RIGHT, {r: text for r, text in within(RIGHT).items() if r.start_ms != 12_500}, 0.5
    )

    assert text_of(stitch(0, [left, right])) == " ".join(REGIONS.values())


def test_a_timed_neighbour_is_no_better():
    right = replace(untimed(RIGHT, within(RIGHT), 0.0), untimed_speech=())

    timeline = stitch(0, [untimed(LEFT, within(LEFT), 1.0), right])

    assert text_of(timeline) == " ".join(REGIONS.values())
    assert timeline.untimed_speech == tuple(REGIONS)[:2]


def test_words_with_nothing_in_common_are_parted_in_the_middle():
    left = untimed(LEFT, {LEFT: "a b c d e f"}, 0.5)
    right = untimed(RIGHT, {RIGHT: "u v w x y z"}, 0.5)

    timeline = stitch(0, [left, right])

    assert rule_of(timeline) is SeamRule.MIDPOINT
    assert timeline.seams[0].confidence < 0.5
    assert text_of(timeline) == "a b c d e f u v w x y z"


def test_nothing_said_is_nothing_to_decide():
    left = untimed(LEFT, {Span(1_000, 9_000): "hello"}, 0.5)
    quiet = Span(13_000, 15_000)
    left = replace(left, speech=(*left.speech, quiet), untimed_speech=(*left.untimed_speech, quiet))
    right = untimed(RIGHT, {Span(22_000, 30_000): "bye"}, 0.5)

    timeline = stitch(0, [left, right])

    assert (text_of(timeline), rule_of(timeline)) == ("hello bye", SeamRule.EMPTY)
