"""Dates, moments and ages as people write them on a command line."""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta

from schema.errors import BadRequest, ErrorCode

_AGE = re.compile(r"(\d{1,6})([hdw])")
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}

#: A hundred years: no call is older.
_OLDEST = timedelta(days=36_525)


def parse_age(text: str, option: str) -> timedelta:
    """Return how long ``36h``, ``30d`` or ``12w`` is.

    Raises:
        BadRequest: it is none of these, nothing, or more than a hundred years; names the option.
    """
    match = _AGE.fullmatch(text.strip())
    age = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else timedelta()
    if not timedelta() < age <= _OLDEST:
        raise _senseless(option, text, "Write hours, days or weeks: 36h, 30d, 12w.")
    return age


def parse_moment(text: str, option: str, *, end: bool = False) -> datetime:
    """Return a date's first moment (with ``end``, the next date's) or the moment that is given.

    Dates and moments are written as in ISO 8601; those without a zone are in this host's.

    Raises:
        BadRequest: it is neither; names the option.
    """
    try:
        return _moment(text.strip(), end=end).astimezone()
    except (ValueError, OverflowError, OSError):
        remedy = "Write 2026-05-01, or 2026-05-01T09:30+02:00."
        raise _senseless(option, text, remedy) from None


def _moment(text: str, *, end: bool) -> datetime:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return datetime.fromisoformat(text)
    return datetime.combine(day + timedelta(days=end), time())


def _senseless(option: str, text: str, remedy: str) -> BadRequest:
    return BadRequest(ErrorCode.OPTION_INVALID, option, f"{text!r} makes no sense", remedy)
