"""What is only overheard is taken out; what two people say stays."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from schema.span import Span
from schema.words import ResultTag, SegmentResult, Word
from workers.transcript.crosstalk import CrosstalkResult, drop_crosstalk
from workers.transcript.loudness import Loudness
from workers.transcript.stitch import ChannelTimeline

TEXT = ["thank", "you", "for", "calling", "how", "may", "i", "help", "you", "today"]
REPLY = ["i", "would", "like", "to", "make", "an", "appointment", "please"]
LOUD, FAINT = -20, -40


def make_words(texts: Sequence[str], at_ms: int = 0, step_ms: int = 400) -> list[Word]:
    return [
        Word(text, at_ms + i * step_ms, at_ms + i * step_ms + 300, 0.9)
        for i, text in enumerate(texts)
    ]


def side(channel: int, *turns: tuple[Sequence[Word], int]) -> tuple[ChannelTimeline, Loudness]:
    """Return a channel of turns, each with its level, which makes a speech region."""
    words = [word for turn_words, _ in turns for word in turn_words]
    speech = [
        Span(turn_words[0].start_ms, turn_words[-1].end_ms) for turn_words, _ in turns if turn_words
    ]
    levels = [
        [level] * -(-span.duration_ms // 500)
        for span, (_, level) in zip(speech, [turn for turn in turns if turn[0]], strict=True)
    ]
    result = SegmentResult((), tuple(speech), None, {ResultTag.LOUDNESS_DB: levels})
    return ChannelTimeline(channel, tuple(words), tuple(speech), ()), Loudness([(0, result)])


def count(words: Sequence[Sequence[Word]]) -> int:
    return sum(map(len, words))


def clean(*sides: tuple[ChannelTimeline, Loudness]) -> CrosstalkResult:
    timelines = [timeline for timeline, _ in sides]
    return drop_crosstalk(timelines, {timeline.channel: levels for timeline, levels in sides})


def texts(timeline: ChannelTimeline) -> list[str]:
    return [word.text for word in timeline.words]


def test_a_faint_copy_is_taken_out():
    source = side(0, (make_words(TEXT), LOUD))
    other = side(1, (make_words(TEXT, at_ms=30), FAINT), (make_words(REPLY, at_ms=6_000), LOUD))

    result = clean(source, other)

    assert texts(result.timelines[0]) == TEXT
    assert texts(result.timelines[1]) == REPLY
    assert (count(result.removed_words), count(result.suspected_words)) == (len(TEXT), 0)


def test_either_channel_may_be_the_copy():
    source = side(1, (make_words(TEXT), LOUD))
    other = side(0, (make_words(TEXT, at_ms=30), FAINT), (make_words(REPLY, at_ms=6_000), LOUD))

    result = clean(other, source)

    assert [texts(timeline) for timeline in result.timelines] == [REPLY, TEXT]


def test_a_channel_without_a_voice_of_its_own_needs_a_greater_difference():
    source = side(0, (make_words(TEXT), LOUD))

    assert count(clean(source, side(1, (make_words(TEXT), FAINT))).removed_words) == len(TEXT)
    assert count(clean(source, side(1, (make_words(TEXT), LOUD - 8))).suspected_words) == len(TEXT)


def test_two_who_say_the_same_keep_their_words():
    numbers = ["one", "two", "three", "four", "five"]
    source = side(0, (make_words(numbers), LOUD), (make_words(TEXT, at_ms=6_000), LOUD))
    other = side(1, (make_words(numbers), LOUD - 3), (make_words(REPLY, at_ms=12_000), LOUD))

    result = clean(source, other)

    assert [texts(timeline) for timeline in result.timelines] == [numbers + TEXT, numbers + REPLY]
    assert (count(result.removed_words), count(result.suspected_words)) == (0, len(numbers))


def test_a_quiet_speaker_is_no_copy():
    """The caller is far quieter than the agent throughout: counting together proves nothing."""
    numbers = ["one", "two", "three", "four", "five"]
    source = side(0, (make_words(numbers), LOUD))
    other = side(1, (make_words(numbers), FAINT), (make_words(REPLY, at_ms=6_000), FAINT))

    assert count(clean(source, other).removed_words) == 0


def test_one_yes_on_each_side_is_neither_taken_out_nor_suspected():
    source = side(0, (make_words(["yes"]), LOUD), (make_words(TEXT, at_ms=6_000), LOUD))
    other = side(1, (make_words(["Yes."]), FAINT), (make_words(REPLY, at_ms=12_000), LOUD))

    assert clean(source, other) == CrosstalkResult((source[0], other[0]), ((), ()), ((), ()))


def test_where_a_speaker_is_overheard_short_copies_and_misheard_words_go_too():
    heard = ["tank", "you", "for", "calling", "how", "they", "i", "help", "you", "two"]
    source = side(0, (make_words(TEXT), LOUD), (make_words(["okay"], at_ms=9_000), LOUD))
    other = side(
        1,
        (make_words(heard, at_ms=20), FAINT),
        (make_words(REPLY, at_ms=5_000), LOUD),
        (make_words(["okay"], at_ms=9_020), FAINT),
    )

    assert texts(clean(source, other).timelines[1]) == REPLY


def test_what_is_said_over_the_copy_stays():
    source = side(0, (make_words(TEXT), LOUD))
    other = side(
        1,
        (make_words(TEXT[:6], at_ms=20), FAINT),
        (make_words(["right"], at_ms=2_500), LOUD),
        (make_words(REPLY, at_ms=6_000), LOUD),
    )

    assert texts(clean(source, other).timelines[1]) == ["right", *REPLY]


def test_the_same_words_later_are_an_answer():
    source = side(0, (make_words(TEXT), LOUD))
    other = side(1, (make_words(TEXT, at_ms=5_000), FAINT), (make_words(REPLY, at_ms=12_000), LOUD))

    assert clean(source, other) == CrosstalkResult((source[0], other[0]), ((), ()), ((), ()))


def test_without_levels_nothing_is_taken_out():
    timelines = [side(0, (make_words(TEXT), LOUD))[0], side(1, (make_words(TEXT), FAINT))[0]]

    assert drop_crosstalk(timelines, {}) == CrosstalkResult(
        tuple(timelines), ((), ()), ((), timelines[1].words)
    )


def test_chinese_is_matched_by_the_character():
    text = "您好请问有什么可以帮您"
    source = side(0, (make_words(text), LOUD))
    other = side(
        1, (make_words(text, at_ms=40), FAINT), (make_words("我想预约一下", at_ms=6_000), LOUD)
    )

    assert texts(clean(source, other).timelines[1]) == list("我想预约一下")


def test_one_channel_has_no_crosstalk():
    timeline, levels = side(0, (make_words(TEXT), LOUD))
    assert drop_crosstalk([timeline], {0: levels}) == CrosstalkResult((timeline,), ((),), ((),))
    assert drop_crosstalk([], {}) == CrosstalkResult((), (), ())


TURNS = st.lists(
    st.tuples(st.lists(st.sampled_from(TEXT), min_size=1, max_size=8), st.sampled_from([-20, -40])),
    max_size=4,
)


def drawn_side(
    channel: int, turns: Sequence[tuple[Sequence[str], int]]
) -> tuple[ChannelTimeline, Loudness]:
    at_ms, turns_in_time = 0, []
    for own, level in turns:
        turns_in_time.append((make_words(own, at_ms), level))
        at_ms = turns_in_time[-1][0][-1].end_ms + 700
    return side(channel, *turns_in_time)


@given(TURNS, TURNS)
def test_only_faint_words_that_the_other_channel_covers_are_taken_out(lefts, rights):
    sides = drawn_side(0, lefts), drawn_side(1, rights)

    result = clean(*sides)

    removed_count = 0
    for own, (timeline, levels), (other, _) in zip(
        result.timelines, sides, reversed(sides), strict=True
    ):
        kept_words = list(own.words)
        removed_words = [word for word in timeline.words if word not in kept_words]
        removed_count += len(removed_words)
        assert kept_words == [word for word in timeline.words if word not in removed_words]
        assert (own.speech, own.seams) == (timeline.speech, timeline.seams)
        for word in removed_words:
            near = Span(max(0, word.start_ms - 400), word.end_ms + 400)
            assert levels.level_db(word.span) < -30
            assert any(near.overlap(said.span) for said in other.words)
    assert count(result.removed_words) == removed_count


@given(TURNS, TURNS)
def test_the_channels_order_makes_no_difference(lefts, rights):
    left, right = drawn_side(0, lefts), drawn_side(1, rights)
    there, back = clean(left, right), clean(right, left)
    assert there.timelines == tuple(reversed(back.timelines))
    assert (count(there.removed_words), count(there.suspected_words)) == (
        count(back.removed_words),
        count(back.suspected_words),
    )


def test_two_who_take_turns_and_are_both_overheard_make_one_run_of_both():
    there = [*make_words(TEXT), *make_words(REPLY, at_ms=4_100)]
    speech = (Span(0, 8_000),)
    half = 8  # Half seconds of the first speaker, and as many of the second.

    def heard(channel: int, levels: list[int]) -> tuple[ChannelTimeline, Loudness]:
        result = SegmentResult((), speech, None, {ResultTag.LOUDNESS_DB: [levels]})
        return ChannelTimeline(channel, tuple(there), speech, ()), Loudness([(0, result)])

    found = clean(
        heard(0, [LOUD] * half + [LOUD - 13] * half), heard(1, [LOUD - 12] * half + [LOUD] * half)
    )

    assert [texts(timeline) for timeline in found.timelines] == [TEXT, REPLY]
    assert count(found.suspected_words) == 0
