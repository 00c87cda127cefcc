"""What a merge loses or doubles is told from both sides' own words."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ops.eval.merges import audit, twins, unreported
from schema.span import Span
from schema.transcript import Seam, SeamRule
from schema.words import Word
from workers.transcript.seams import DecodedSegment
from workers.transcript.stitch import ChannelTimeline, stitch


def spoken(text: str, first_ms: int = 0, each_ms: int = 500) -> tuple[Word, ...]:
    return tuple(
        Word(word, first_ms + each_ms * i, first_ms + each_ms * i + 300)
        for i, word in enumerate(text.split())
    )


LEFT = DecodedSegment(Span(0, 10_000), spoken("a b c d", 6_000))
RIGHT = DecodedSegment(Span(5_000, 20_000), spoken("a b c d e", 6_040))


def seam(kept_left: int, kept_right: int) -> Seam:
    """Keep the first words of the left side, and the right side's from one on."""
    return Seam(
        None, 0, SeamRule.ANCHOR, 7_000, 1.0, LEFT.words[kept_left:], RIGHT.words[:kept_right]
    )


def test_a_merge_that_writes_each_word_once_is_faultless():
    found = audit(LEFT, RIGHT, seam(2, 2))
    assert (found.twins, found.dropped, found.doubled) == (4, (), ())


def test_a_word_that_neither_side_gave_is_dropped():
    assert [word.text for word in audit(LEFT, RIGHT, seam(1, 2)).dropped] == ["b"]


def test_a_word_that_both_sides_gave_is_doubled():
    assert [word.text for word in audit(LEFT, RIGHT, seam(3, 1)).doubled] == ["b", "c"]


def test_what_one_side_alone_heard_is_not_the_merge_s_affair():
    deaf = replace(RIGHT, words=RIGHT.words[2:])
    only = Seam(None, 0, SeamRule.ANCHOR, 7_000, 1.0, LEFT.words, ())
    found = audit(LEFT, deaf, only)
    assert (found.twins, found.dropped) == (2, ())


def test_repeated_words_are_paired_by_time():
    ones = spoken("one one one", 1_000, 350)
    assert twins(ones, [replace(word) for word in ones[1:]]) == list(
        zip(ones[1:], ones[1:], strict=True)
    )


def test_words_too_far_apart_are_not_one():
    assert twins(spoken("a"), spoken("a", 501)) == []


def test_numbers_and_their_words_are_one():
    assert len(twins([Word("25", 0, 600)], [Word("twenty-five,", 0, 600)])) == 1


def test_words_that_no_seam_accounts_for_are_counted():
    track = ChannelTimeline(None, (*LEFT.words[:2], *RIGHT.words[2:]), (), (seam(2, 2),))
    assert unreported([LEFT, RIGHT], track) == 0
    assert unreported([LEFT, RIGHT], replace(track, words=track.words[1:])) == 1


texts = st.lists(st.sampled_from(["a", "b", "one"]), max_size=10).map(" ".join)


@given(texts, texts, st.integers(-300, 300))
def test_the_cascade_accounts_for_every_word(left: str, right: str, by_ms: int):
    sides = [
        DecodedSegment(Span(0, 12_000), spoken(left, 6_000)),
        DecodedSegment(Span(5_000, 20_000), spoken(right, 6_000 + by_ms)),
    ]
    assert unreported(sides, stitch(None, sides)) == 0


@given(texts, texts)
def test_pairing_is_symmetric_and_in_order(left: str, right: str):
    a, b = spoken(left), spoken(right, 100)
    found = twins(a, b)
    assert len(found) == len(twins(b, a))
    assert [x.start_ms for x, _ in found] == sorted({x.start_ms for x, _ in found})
    assert [y.start_ms for _, y in found] == sorted({y.start_ms for _, y in found})
