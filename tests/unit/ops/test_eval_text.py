"""What counts as a difference between two texts."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.eval.text import normalised, tokens
from schema.words import Word


@pytest.mark.parametrize(
    ("written", "reference"),
    [
        ("25", "twenty five"),
        ("Twenty-five!", "twenty five"),
        ("In 1865, he", "in eighteen sixty five he"),
        ("the 2nd", "the second"),
        ("50%", "fifty percent"),
        ("Mr. King", "mister king"),
        ("Don\u2019t", "don't"),
        ("29度", "二十九度"),
        ("設定三十度", "设定三十度"),
        ("幺三七", "一三七"),
        ("Loft时尚", "loft 时 尚"),
        ("\uff21\uff34\uff06\uff34", "at & t"),
    ],
)
def test_what_is_said_alike_is_written_alike(written: str, reference: str):
    assert normalised(written) == normalised(reference) != ""


def test_what_differs_stays_different():
    assert normalised("twenty four") != normalised("25")
    assert normalised("二十九") != normalised("二十")


def test_a_cjk_character_is_a_token():
    assert normalised("时间到了").split() == ["时", "间", "到", "了"]


def test_mere_marks_leave_nothing():
    assert normalised(" -- ,。!") == ""


def test_a_number_shares_its_time_among_its_words():
    found = tokens([Word("25,", 1_000, 1_600), Word("men", 1_600, 1_900)])
    assert [(t.text, t.start_ms, t.end_ms) for t in found] == [
        ("twenty", 1_000, 1_300),
        ("five", 1_300, 1_600),
        ("men", 1_600, 1_900),
    ]


def test_a_number_is_read_as_what_follows_it_wants():
    digits = tokens([Word("2014", 0, 800), Word("年", 800, 900)])
    assert "".join(token.text for token in digits) == "二零一四年"
    amount = tokens([Word("29", 0, 800), Word("度", 800, 900)])
    assert "".join(token.text for token in amount) == "二十九度"


@given(st.lists(st.sampled_from(["a", "12", "时", "-", "x-y", "$5"]), max_size=8))
def test_tokens_stay_in_order_and_within_their_words(texts: list[str]):
    words = [Word(text, 100 * i, 100 * i + 90) for i, text in enumerate(texts)]
    found = tokens(words)
    assert all(a.end_ms <= b.start_ms for a, b in pairwise(found))
    assert all(any(w.start_ms <= t.start_ms <= t.end_ms <= w.end_ms for w in words) for t in found)
