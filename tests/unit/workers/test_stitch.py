"""Seams: every word once, whatever the cut, and a rule that says why."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schema.span import Span
from schema.transcript import SeamRule
from schema.words import Word
from workers.stitch import Heard, stitch


def words(*timed: tuple[str, int, int]) -> tuple[Word, ...]:
    return tuple(Word(text, start_ms, end_ms, 0.9) for text, start_ms, end_ms in timed)


def texts(track) -> list[str]:
    return [word.text for word in track.words]


def seam(left: Heard, right: Heard):
    track = stitch(0, [left, right])
    (only,) = track.seams
    return track, only


LEFT, RIGHT = Span(0, 20_000), Span(12_000, 32_000)


def test_one_segment_is_its_own_track():
    heard = Heard(LEFT, words(("hello", 500, 900)), (Span(400, 1_000),))

    track = stitch(1, [heard])

    assert texts(track) == ["hello"]
    assert track.speech == heard.speech
    assert track.seams == ()


def test_a_pause_that_both_hear_is_cut_at_its_centre():
    left = Heard(
        LEFT,
        words(("one", 14_000, 14_500), ("two", 17_000, 17_500)),
        (Span(13_900, 14_600), Span(16_900, 17_600)),
    )
    right = Heard(
        RIGHT,
        words(("one", 14_010, 14_490), ("two", 17_000, 17_480)),
        (Span(13_900, 14_600), Span(16_900, 17_600)),
    )

    track, cut = seam(left, right)

    assert cut.rule is SeamRule.AGREED_SILENCE
    assert cut.at_ms == (14_600 + 16_900) // 2
    assert texts(track) == ["one", "two"]
    assert [w.text for w in cut.dropped_left] == ["two"]
    assert [w.text for w in cut.dropped_right] == ["one"]


def test_a_pause_that_only_one_hears_is_not_trusted():
    everywhere = (Span(12_000, 20_000),)
    left = Heard(LEFT, words(("one", 14_000, 14_500), ("two", 17_000, 17_500)), everywhere)
    right = Heard(RIGHT, words(("one", 14_000, 14_500), ("two", 17_000, 17_500)), ())

    _, cut = seam(left, right)

    assert cut.rule is not SeamRule.AGREED_SILENCE


def test_a_common_run_decides_where_nobody_pauses():
    run = [
        ("the", 15_000, 15_300),
        ("quick", 15_300, 15_900),
        ("brown", 15_900, 16_400),
        ("fox", 16_400, 16_900),
    ]
    left = Heard(
        LEFT,
        words(("said", 14_500, 15_000), *run, ("jum", 16_900, 17_600)),
        (Span(12_000, 20_000),),
    )
    right = Heard(
        RIGHT,
        words(("aid", 14_600, 15_000), *run, ("jumps", 16_900, 17_500)),
        (Span(12_000, 32_000),),
    )

    track, cut = seam(left, right)

    assert cut.rule is SeamRule.ANCHOR
    assert texts(track) == ["said", "the", "quick", "brown", "fox", "jumps"]


def test_time_tells_repeated_words_apart():
    ones = [("one", at, at + 400) for at in range(12_200, 19_800, 500)]
    left = Heard(LEFT, words(*ones), (Span(12_000, 20_000),))
    right = Heard(RIGHT, words(*ones), (Span(12_000, 32_000),))

    track, _ = seam(left, right)

    assert texts(track) == ["one"] * len(ones)


def test_chinese_anchors_on_three_characters():
    said = [("你", 15_000, 15_200), ("好", 15_200, 15_400), ("吗", 15_400, 15_600)]
    left = Heard(LEFT, words(*said, ("阿", 15_600, 15_800)), (Span(12_000, 20_000),))
    right = Heard(RIGHT, words(*said, ("我", 15_600, 15_800)), (Span(12_000, 32_000),))

    track, cut = seam(left, right)

    assert cut.rule is SeamRule.ANCHOR
    assert "".join(texts(track)) == "你好吗我"


def test_different_words_are_cut_between_two_of_them_near_the_middle():
    left = Heard(
        LEFT, words(("apples", 15_000, 15_900), ("pears", 16_100, 17_000)), (Span(12_000, 20_000),)
    )
    right = Heard(
        RIGHT,
        words(("oranges", 15_000, 15_900), ("plums", 16_100, 17_000)),
        (Span(12_000, 32_000),),
    )

    track, cut = seam(left, right)

    assert cut.rule is SeamRule.MIDPOINT
    assert 15_900 <= cut.at_ms <= 16_100
    assert texts(track) == ["apples", "plums"]


def test_words_of_one_side_are_kept_where_the_other_wrote_none():
    left = Heard(LEFT, words(("hello", 13_000, 13_400)), (Span(12_000, 20_000),))
    right = Heard(RIGHT, words(("later", 25_000, 25_400)), (Span(12_000, 32_000),))

    track, cut = seam(left, right)

    assert cut.rule is SeamRule.ONE_SIDED
    assert texts(track) == ["hello", "later"]


def test_two_empty_overlaps_need_no_decision():
    track, cut = seam(Heard(LEFT), Heard(RIGHT))

    assert cut.rule is SeamRule.EMPTY
    assert track.words == ()


def test_beside_a_failed_segment_everything_is_kept():
    right = Heard(RIGHT, words(("here", 12_500, 12_900)), (Span(12_400, 13_000),))

    track, cut = seam(Heard(LEFT, failed=True), right)

    assert cut.rule is SeamRule.GAP
    assert cut.confidence == 0
    assert texts(track) == ["here"]


def test_speech_is_counted_once():
    speech = (Span(13_000, 19_000),)
    track, _ = seam(Heard(LEFT, (), speech), Heard(RIGHT, (), speech))

    assert track.speech == speech


_SPOKEN = st.tuples(
    st.sampled_from([0, 0, 0, 50, 300, 2_000, 9_000]),  # a pause, then a word
    st.integers(80, 900),
    st.sampled_from(["one", "two", "three", "你", "international"]),
)


@st.composite
def spoken(draw) -> tuple[list[Word], list[Span]]:
    """Return up to a minute of speech, and segments over it of 20 s that overlap by 8 s."""
    at_ms, said = 0, []
    for pause_ms, length_ms, text in draw(st.lists(_SPOKEN, max_size=60)):
        start_ms = at_ms + pause_ms
        at_ms = start_ms + length_ms
        said.append(Word(text, start_ms, at_ms, 0.9))
    first_ms = -1_000 * draw(st.integers(0, 11))
    starts = range(first_ms, max(at_ms, 1), 12_000)
    return said, [Span(max(0, start), start + 20_000) for start in starts]


@given(spoken())
def test_where_both_decode_alike_every_word_comes_out_once(case):
    said, spans = case
    heard = [
        Heard(
            span,
            tuple(w for w in said if span.start_ms <= w.start_ms and w.end_ms <= span.end_ms),
            tuple(filter(None, (w.span.overlap(span) for w in said))),
        )
        for span in spans
    ]

    track = stitch(0, heard)

    inside = [
        w for w in said if any(s.start_ms <= w.start_ms and w.end_ms <= s.end_ms for s in spans)
    ]
    assert list(track.words) == inside


@st.composite
def heard_segment(draw, span: Span) -> Heard:
    starts = sorted(draw(st.lists(st.integers(span.start_ms, span.end_ms - 10), max_size=30)))
    found = tuple(
        Word(draw(st.sampled_from("abc")), start, draw(st.integers(start, span.end_ms)), None)
        for start in starts
    )
    return Heard(span, found, tuple(filter(None, (w.span.overlap(span) for w in found))))


@given(heard_segment(LEFT), heard_segment(RIGHT), heard_segment(Span(24_000, 44_000)))
def test_times_never_go_back_and_no_word_is_invented(first, second, third):
    track = stitch(0, [first, second, third])

    starts = [word.start_ms for word in track.words]
    assert starts == sorted(starts)
    spoken_texts = [w.text for s in (first, second, third) for w in s.words]
    assert len(track.words) <= len(spoken_texts)
    dropped = sum(len(s.dropped_left) + len(s.dropped_right) for s in track.seams)
    assert len(track.words) + dropped >= len(spoken_texts)
