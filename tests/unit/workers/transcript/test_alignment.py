"""The same word on both sides: by time and text, in one order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.workers.overlaps import words
from workers.transcript.alignment import align, comparison_form


def pairs(lefts, rights) -> list[tuple[int, int]]:
    columns, _ = align(lefts, rights)
    return [(c.left_index, c.right_index) for c in columns if c.is_equal]


@pytest.mark.parametrize(
    ("one", "other"),
    [("Hello,", "hello"), ("\uff21\uff22", "ab"), ("Straße", "STRASSE"), ("好。", "好")],
)
def test_case_marks_and_width_make_no_other_word(one, other):
    assert comparison_form(one) == comparison_form(other)


def test_a_word_of_marks_alone_is_still_itself():
    assert comparison_form("&") != comparison_form("%")


def test_a_constant_offset_is_found_and_taken_away():
    lefts = words(("we", 0, 300), ("went", 400, 700), ("home", 800, 1_100), ("late", 1_200, 1_500))
    rights = [word.shifted(190) for word in lefts]

    _, late_ms = align(lefts, rights)

    assert late_ms == 190
    assert pairs(lefts, rights) == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_an_offset_beyond_what_models_do_is_not_believed():
    lefts = words(("we", 0, 300), ("went", 1_400, 1_700))

    _, late_ms = align(lefts, [word.shifted(450) for word in lefts])

    assert late_ms == 200


def test_equal_words_at_other_times_are_other_words():
    assert pairs(words(("one", 0, 300)), words(("one", 900, 1_200))) == []


def test_time_pairs_the_ones_of_one_one_one():
    lefts = words(*(("one", at, at + 250) for at in (0, 300, 600, 900)))
    rights = words(*(("one", at, at + 250) for at in (330, 570, 930)))

    assert pairs(lefts, rights) == [(1, 0), (2, 1), (3, 2)]


def test_two_hearings_of_one_word_are_a_pair_that_is_not_equal():
    columns, _ = align(words(("jump", 0, 400)), words(("jumps", 0, 450)))

    assert [(c.left_index, c.right_index) for c in columns] == [(0, 0)]
    assert 0.5 < columns[0].likeness < 1


def test_lone_words_come_in_order_of_time():
    columns, _ = align(
        words(("a", 0, 200), ("b", 4_000, 4_200)), words(("x", 2_000, 2_200), ("y", 6_000, 6_200))
    )

    assert [(c.left_index, c.right_index) for c in columns] == [
        (0, None),
        (None, 0),
        (1, None),
        (None, 1),
    ]


@st.composite
def any_words(draw):
    starts = sorted(draw(st.lists(st.integers(0, 5_000), max_size=15)))
    return words(
        *((draw(st.sampled_from("abc")), at, draw(st.integers(at, 6_000))) for at in starts)
    )


@given(any_words(), any_words())
def test_every_word_is_in_one_column_and_in_order(lefts, rights):
    columns, _ = align(lefts, rights)

    assert [c.left_index for c in columns if c.left_index is not None] == list(range(len(lefts)))
    assert [c.right_index for c in columns if c.right_index is not None] == list(range(len(rights)))
