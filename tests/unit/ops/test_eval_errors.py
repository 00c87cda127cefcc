"""Errors are counted once, by kind, where they were made."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ops.eval.errors import Mistake, compare, near, timed
from ops.eval.text import Token
from ops.eval.timing import Timing, timings, to_nearest
from schema.words import Word


def said(text: str) -> list[Token]:
    """A word each second, half a second long."""
    return [Token(word, 1_000 * i, 1_000 * i + 500) for i, word in enumerate(text.split())]


def test_each_kind_of_error_is_found_where_it_was_made():
    compared = compare(said("a b c d"), [*said("a x c")[:3], Token("d", 3_000, 3_500)])
    assert compared.mistakes == (Mistake("substitution", 1_250, "b", "x"),)
    assert compare(said("a b c"), said("a b c")[:1] + said("a b c")[2:]).mistakes == (
        Mistake("deletion", 1_250, "b", ""),
    )
    extra = [*said("a b"), Token("z", 5_000, 5_100)]
    assert compare(said("a b"), extra).mistakes == (Mistake("insertion", 5_050, "", "z"),)


def test_equal_words_are_paired():
    compared = compare(said("a b c"), said("b c"))
    assert compared.pairs == ((1, 0), (2, 1))
    assert compared.rate == 1 / 3


def test_nothing_written_is_all_deleted_and_nothing_said_is_all_inserted():
    assert {m.kind for m in compare(said("a b"), []).mistakes} == {"deletion"}
    assert {m.kind for m in compare([], said("a b")).mistakes} == {"insertion"}
    assert compare([], []).mistakes == ()


def test_mistakes_near_a_moment_are_those_no_farther():
    mistakes = [
        Mistake("deletion", at_ms, "x", "") for at_ms in (1_000, 2_999, 3_000, 5_000, 5_001)
    ]
    assert [m.at_ms for m in near(mistakes, 4_000, 1_000)] == [3_000, 5_000]


words = st.lists(st.sampled_from("abc"), max_size=12).map(" ".join)


@given(words, words)
def test_errors_and_pairs_account_for_every_word(expected: str, written: str):
    truth, found = said(expected), said(written)
    compared = compare(truth, found)
    kinds = [mistake.kind for mistake in compared.mistakes]
    assert len(compared.pairs) + kinds.count("substitution") + kinds.count("deletion") == len(truth)
    assert len(compared.pairs) + kinds.count("substitution") + kinds.count("insertion") == len(
        found
    )
    assert [m.at_ms for m in compared.mistakes] == sorted(m.at_ms for m in compared.mistakes)


@given(words, words)
def test_timed_words_are_all_there_in_order(expected: str, written: str):
    found = timed(expected.split(), said(written))
    assert [token.text for token in found] == expected.split()
    assert all(a.start_ms <= b.start_ms for a, b in pairwise(found))


def test_a_word_that_was_not_decoded_lies_between_those_that_were():
    found = timed(["a", "b", "c"], [Token("a", 0, 500), Token("c", 2_000, 2_500)])
    assert found[1] == Token("b", 500, 2_000)


def test_times_are_those_of_right_words_that_are_one_token():
    truth = said("one twenty five two")
    written = [Word("one", 50, 480), Word("25", 1_000, 2_500), Word("too", 3_000, 3_500)]
    assert timings(truth, written) == [Timing(250, 50, -20)]


def test_the_nearest_seam_may_be_on_either_side():
    assert to_nearest(900, [500, 1_000, 5_000]) == 100
    assert to_nearest(6_000, [500, 5_000]) == 1_000
    assert to_nearest(0, []) == float("inf")
