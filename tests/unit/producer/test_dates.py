"""Dates and ages on a command line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.dates import check_clock, parse_age, parse_call_moment, parse_moment
from schema.bounds import is_plausible
from schema.errors import BadRequest, Misconfigured


@pytest.fixture
def clock_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Put this process into a time zone."""

    def put(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield put
    monkeypatch.undo()
    time.tzset()


def test_a_zone_more_than_a_day_off_is_refused_by_its_variable(clock_of: Callable[[str], None]):
    clock_of("XXX99")
    with pytest.raises(Misconfigured, match="TZ"):
        check_clock()
    for zone in ("Europe/Berlin", "UTC", "XXX-14", ""):
        clock_of(zone)
        check_clock()


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


NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-02T09:30:00+02:00", datetime(2026, 3, 2, 7, 30, tzinfo=UTC)),
        ("2026-03-02 09:30", datetime(2026, 3, 2, 8, 30, tzinfo=UTC)),
        (" 2026-03-02T09:30Z ", datetime(2026, 3, 2, 9, 30, tzinfo=UTC)),
        ("20260302", datetime(2026, 3, 1, 23, tzinfo=UTC)),
        ("202603020930", datetime(2026, 3, 2, 8, 30, tzinfo=UTC)),
        ("20260302093000", datetime(2026, 3, 2, 8, 30, tzinfo=UTC)),
        ("1772442000", datetime(2026, 3, 2, 9, tzinfo=UTC)),
        ("1772442000.5", datetime(2026, 3, 2, 9, 0, 0, 500_000, tzinfo=UTC)),
        ("1772442000000", datetime(2026, 3, 2, 9, tzinfo=UTC)),
        ("946684800000", datetime(2000, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_calls_beginning_is_understood_as_switches_write_it(text: str, expected: datetime):
    assert parse_call_moment(text, BERLIN, NOW).astimezone(UTC) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "0001-01-01T00:00:00",
        "9999-12-31T23:59:59Z",
        "1899-12-30",
        "17011027",
        "20261327",
        "20260302096100",
        "0",
        "-1",
        "17724420",
        "1772442000000000",
        "9" * 400,
        "1e9",
        "2027-01-15T00:00Z",
    ],
)
def test_what_no_call_began_at_is_refused_and_never_another_century(text: str):
    with pytest.raises(ValueError, match=r"\w"):
        parse_call_moment(text, BERLIN, NOW)


def test_a_date_in_the_local_manner_is_refused_with_how_to_write_it():
    with pytest.raises(ValueError, match=r"'28.11.2026 09:15' is not a date like 2026-11-28 09:15"):
        parse_call_moment("28.11.2026 09:15", BERLIN, NOW)


def test_a_moment_without_a_zone_needs_one():
    with pytest.raises(ValueError, match="has no time zone"):
        parse_call_moment("2026-03-02T09:30", None, NOW)
    assert parse_call_moment("1772442000", None, NOW).tzinfo is not None


@given(st.text(max_size=30) | st.integers().map(str) | st.floats().map(str))
def test_whatever_is_said_is_a_date_of_a_call_or_refused(text: str):
    try:
        found = parse_call_moment(text, timezone(timedelta(hours=14)), NOW)
    except ValueError:
        return
    assert is_plausible(found, NOW)
