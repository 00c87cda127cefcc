"""Values from outside, held to what can be stored and read again."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.bounds import (
    ATTRIBUTES_MAX_BYTES,
    EARLIEST,
    TEXT_CHARS_MAX,
    check_text,
    is_plausible,
    omit_out_of_bounds,
    omitted_field_flag,
    plausible_start,
)
from schema.records import CallInfo

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
ZONES = st.timedeltas(timedelta(hours=-14), timedelta(hours=14)).map(
    lambda offset: timezone(timedelta(minutes=offset // timedelta(minutes=1)))
)
MOMENTS = st.datetimes(timezones=ZONES)
TEXTS = st.text(st.characters(exclude_categories=()), max_size=700)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)
CALLS = st.builds(
    CallInfo,
    call_id=st.none() | TEXTS,
    started_at=st.none() | MOMENTS,
    direction=st.none() | TEXTS,
    line=st.none() | TEXTS,
    agent=st.none() | TEXTS,
    customer=st.none() | TEXTS,
    attributes=st.dictionaries(TEXTS, JSON, max_size=3),
)


@given(CALLS)
def test_what_is_left_can_be_stored_and_what_is_not_is_named(call):
    kept, left_out = omit_out_of_bounds(call, NOW)
    names = {each.field for each in left_out}
    for name in ("call_id", "direction", "line", "agent", "customer"):
        value = getattr(kept, name)
        assert value is None or (len(value.encode()) <= 4 * TEXT_CHARS_MAX and "\0" not in value)
        assert (value == getattr(call, name)) is (name not in names)
    assert kept.started_at is None or is_plausible(kept.started_at, NOW)
    written = json.dumps(kept.attributes, ensure_ascii=False, allow_nan=False)
    assert len(written.encode()) <= ATTRIBUTES_MAX_BYTES
    assert "\\u0000" not in written
    assert omit_out_of_bounds(kept, NOW) == (kept, [])
    assert all(
        each.cause and omitted_field_flag(each) == f"left-out:{each.field}" for each in left_out
    )


@pytest.mark.parametrize(
    ("moment", "plausible"),
    [
        (datetime(1, 1, 1, tzinfo=UTC), False),
        (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))), False),
        (datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone(timedelta(hours=-12))), False),
        (datetime(1899, 12, 30, tzinfo=UTC), False),
        (datetime(1970, 1, 1, tzinfo=UTC), False),
        (EARLIEST, True),
        (datetime(2026, 3, 2, 9, tzinfo=UTC), True),
        (NOW + timedelta(hours=26), True),
        (NOW + timedelta(days=3), False),
    ],
)
def test_calls_begin_between_the_first_recorders_and_the_day_after_tomorrow(moment, plausible):
    assert is_plausible(moment, NOW) is plausible


def test_what_is_stored_and_out_of_bounds_is_read_as_none():
    assert plausible_start(datetime(2, 1, 1, tzinfo=UTC)) is None
    assert plausible_start(datetime(2026, 3, 2, tzinfo=UTC)) == datetime(2026, 3, 2, tzinfo=UTC)
    assert plausible_start(None) is None


@pytest.mark.parametrize(
    ("text", "cause"),
    [("x" * 501, "501 characters"), ("a\0b", "NUL"), ("a\ud800", "not UTF-8")],
)
def test_a_text_is_refused_by_its_cause(text, cause):
    with pytest.raises(ValueError, match=cause):
        check_text(text)


def test_fields_nested_without_end_are_left_out():
    deep: list = []
    for _ in range(10_000):
        deep = [deep]
    kept, (left_out,) = omit_out_of_bounds(CallInfo(attributes={"deep": deep}), NOW)
    assert kept.attributes == {}
    assert "deeper than 16" in left_out.cause
