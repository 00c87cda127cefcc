"""Dates and ages on a command line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.moments import parse_age, parse_moment
from schema.errors import BadRequest


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("36h", timedelta(hours=36)),
        ("30d", timedelta(days=30)),
        ("12w", timedelta(weeks=12)),
    ],
)
def test_ages_are_hours_days_or_weeks(text: str, age: timedelta):
    assert parse_age(text, "--older-than") == age


@pytest.mark.parametrize("text", ["", "30", "d", "0d", "-3d", "3m", "1.5d", "999999d", "٣d x"])
def test_an_age_that_makes_no_sense_is_refused_by_its_option(text: str):
    with pytest.raises(BadRequest, match="--older-than"):
        parse_age(text, "--older-than")


def test_a_date_is_its_first_moment_here_and_an_end_the_next_dates():
    begin = parse_moment("2026-05-01", "--since")
    end = parse_moment("2026-05-01", "--until", end=True)

    assert begin == datetime(2026, 5, 1).astimezone()
    assert end == datetime(2026, 5, 2).astimezone()


def test_a_moment_is_taken_as_it_is():
    moment = parse_moment("2026-05-01T09:30+02:00", "--until", end=True)

    assert moment == datetime(2026, 5, 1, 7, 30, tzinfo=UTC)


def refused(text: str, *, end: bool) -> str:
    """Return how a moment is refused, or nothing where it is taken."""
    try:
        parse_moment(text, "--since", end=end)
    except BadRequest as error:
        return str(error)
    return ""


@given(st.text(max_size=20))
def test_what_is_no_date_is_refused_by_its_option(text: str):
    assert refused(f"{text}?", end=False).startswith("[option.invalid] --since")


def test_the_end_of_the_calendar_is_refused_and_no_crash():
    assert refused("9999-12-31", end=True).startswith("[option.invalid] --since")
