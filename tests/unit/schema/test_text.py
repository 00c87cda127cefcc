"""Text as people read it, and as Postgres can store it."""

from __future__ import annotations

import json
import re
import sys
from importlib import import_module
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schema.text import (
    format_clock,
    is_cjk,
    join_words,
    printable_path,
    storable_json,
    write_storable_json,
)

MIGRATION = import_module("schema.migrations.versions.0006_search")
SURROGATES = range(0xD800, 0xE000)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | TEXT,
    lambda values: st.lists(values) | st.dictionaries(TEXT, values),
)


def test_a_search_knows_the_cjk_characters_of_the_index():
    in_index = re.compile(f"[{MIGRATION._CJK}]").match
    different = [
        f"U+{code:04X}"
        for code in range(sys.maxunicode + 1)
        if code not in SURROGATES and bool(in_index(chr(code))) != is_cjk(chr(code))
    ]
    assert different == []


def test_words_have_a_space_between_unless_a_side_is_cjk():
    assert join_words(["say", "你", "好", "now", "", "please"]) == "say你好now please"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (b"calls/a.wav", "calls/a.wav"),
        ("呼叫.wav".encode(), "呼叫.wav"),
        (b"\xff.wav", "\\xff.wav"),
        (b"a\nb\x1b[31m.wav", "a\\nb\\x1b[31m.wav"),
    ],
)
def test_a_path_is_printed_without_control_characters(path: bytes, text: str):
    assert printable_path(path) == text


def test_a_clock_has_hours_only_from_an_hour_on():
    assert [format_clock(ms) for ms in (0, 59_999, 3_599_999, 3_600_000)] == [
        "0:00",
        "0:59",
        "59:59",
        "1:00:00",
    ]


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ("a\0", "a\N{REPLACEMENT CHARACTER}"),
        ({"a\0": 1}, {"a\N{REPLACEMENT CHARACTER}": 1}),
        (["\ud800", 1], ["\N{REPLACEMENT CHARACTER}", 1]),
        (["\ud800\0"], ["\N{REPLACEMENT CHARACTER}" * 2]),
        ([1.5, float("nan"), [float("inf"), -float("inf")], None], [1.5, None, [None, None], None]),
    ],
)
def test_what_cannot_be_stored_is_replaced(value: Any, stored: Any):
    assert storable_json(value) == stored
    assert json.loads(write_storable_json(value)) == stored


@given(JSON)
@example(["NaN", "\\u0000", "Infinity"])
def test_what_can_be_stored_stays_as_it_is(value: Any):
    assert storable_json(value) == value
    assert json.loads(write_storable_json(value)) == value
