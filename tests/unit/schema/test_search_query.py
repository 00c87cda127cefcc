"""Queries, and where in a text they are: words, phrases, exclusions, CJK, and odd input."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.errors import BadRequest
from schema.search_query import Query, find_highlights, parse_query, tokens


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("refund", Query(("refund",))),
        ("refund  money", Query(("refund", "money"))),
        ('"money back" now', Query(("money back", "now"))),
        ('refund -voucher -"gift card"', Query(("refund",), ("voucher", "gift card"))),
        ("e-mail", Query(("e-mail",))),
        ("“money back”", Query(("money back",))),
        ('"never closed', Query(("never closed",))),
        ('say"again please"', Query(("say", "again please"))),
        ("退款 -账户", Query(("退款",), ("账户",))),
        ('- -- "" -"" !? 。', Query(())),
        ("a\0b \ud800c", Query(("a", "b", "c"))),
    ],
)
def test_a_query_is_words_phrases_and_what_must_not_be_said(text: str, query: Query):
    assert parse_query(text) == query


def test_a_query_that_nobody_means_is_refused():
    with pytest.raises(BadRequest, match="1000"):
        parse_query("x" * 1_001)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Don't e-mail me.", ["don", "t", "e", "mail", "me"]),
        ("我要退款。", ["我", "要", "退", "款"]),
        ("用WiFi吗", ["用", "wifi", "吗"]),
        ("no. 25.5", ["no", "25", "5"]),
        ("Über e\u0301te\u0301", ["über", "e\u0301te\u0301"]),
        ("ラーメン、はい", ["ラ", "ー", "メ", "ン", "は", "い"]),
    ],
)
def test_a_word_is_a_token_and_so_is_a_cjk_character(text: str, found: list[str]):
    assert [token.text for token in tokens(text)] == found


@pytest.mark.parametrize(
    ("text", "terms", "marked"),
    [
        ("A refund, REFUND!", ["refund"], ["refund", "REFUND"]),
        ("refunds", ["refund"], []),
        ("my money, back", ["money back"], ["money, back"]),
        ("我要退款吗", ["退款"], ["退款"]),
        ("a b c", ["a b", "b c"], ["a b c"]),
        ("a b", ["b", "a"], ["a", "b"]),
    ],
)
def test_what_was_asked_for_is_marked(text: str, terms: list[str], marked: list[str]):
    assert [text[start:end] for start, end in find_highlights(text, terms)] == marked


@given(st.text(max_size=200), st.text(max_size=50))
def test_no_input_is_an_error_and_marks_lie_apart_within_the_text(said: str, asked: str):
    query = parse_query(asked)

    found = find_highlights(said, query.required_terms)

    ends = [0, *(at for span in found for at in span), len(said)]
    assert ends == sorted(ends)
    assert all(said[start:end].strip() for start, end in found)


def test_chinese_is_marked_in_either_script():
    assert find_highlights("您的訂單", ["订单"]) == [(2, 4)]
    assert find_highlights("您的订单", ["訂單"]) == [(2, 4)]
