"""Dates, moments and ages as people write them on a command line."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from schema.bounds import check_moment, is_plausible
from schema.errors import BadRequest, ErrorCode, Misconfigured

_AGE = re.compile(r"(\d{1,6})([hdw])")
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}

#: A hundred years: no call is older.
_MAX_AGE = timedelta(days=36_525)


def check_clock() -> None:
    """Make sure that this host's time zone is valid: every time that people read is in it.

    Raises:
        Misconfigured: ``TZ`` names one that is more than a day off.
    """
    try:
        datetime.now(UTC).astimezone()
    except ValueError as error:
        raise Misconfigured(
            ErrorCode.SETTING_MISSING, "TZ", str(error), "Set it to a time zone: TZ=Europe/Berlin."
        ) from None


def parse_age(text: str, option: str) -> timedelta:
    """Return how long ``36h``, ``30d`` or ``12w`` is.

    Raises:
        BadRequest: it is written otherwise, zero, or over a hundred years; names the option.
    """
    match = _AGE.fullmatch(text.strip())
    age = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else timedelta()
    if not timedelta() < age <= _MAX_AGE:
        raise _invalid(option, text, "Write hours, days or weeks: 36h, 30d, 12w.")
    return age


def parse_moment(text: str, option: str, *, end: bool = False) -> datetime:
    """Return a moment, or a date's first moment; with ``end``, the next date's.

    Both are in ISO 8601; without a time zone they are in this host's.

    Raises:
        BadRequest: the text is neither; names the option.
    """
    try:
        return _moment(text.strip(), end=end).astimezone()
    except (ValueError, OverflowError, OSError):
        remedy = "Write 2026-05-01, or 2026-05-01T09:30+02:00."
        raise _invalid(option, text, remedy) from None


def parse_call_moment(text: str, zone: tzinfo | None, now: datetime | None = None) -> datetime:
    """Return when a call started, from a manifest, a sidecar or a file name.

    Formats are ISO 8601, ``20260502``, ``202605020930`` and ``20260502093015``, and seconds or
    milliseconds since 1970, which are in UTC. Digits that may be either are a date if it is one.

    Args:
        text: the moment, as it is written there.
        zone: time zone of moments without one.
        now: later dates are in the future.

    Raises:
        ValueError: it is in none of these formats, has no time zone and ``zone`` is None, or no
            call can have started then.
    """
    text = text.strip()
    moment = _parse_number(text, now) if _IS_NUMBER(text) else _parse_iso(text)
    if moment.tzinfo is None:
        if zone is None:
            raise ValueError(f"{text} has no time zone")
        moment = moment.replace(tzinfo=zone)
    check_moment(moment, now)
    return moment


_IS_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?").fullmatch

#: Formats of dates that are digits alone, by their length.
_DIGIT_FORMATS = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}


def _parse_number(number: str, now: datetime | None) -> datetime:
    """Return the moment of a number; without a time zone where its digits are a date."""
    if number.isdecimal() and len(number) in _DIGIT_FORMATS:
        try:
            return datetime.strptime(number, _DIGIT_FORMATS[len(number)])
        except ValueError:
            # Twelve digits may be milliseconds as well.
            if len(number) != len("177244200000"):
                raise ValueError(f"{number} is not a date") from None
    for unit in (1, 1_000):
        try:
            moment = datetime.fromtimestamp(float(number) / unit, UTC)
        except (OverflowError, OSError, ValueError):
            continue
        if is_plausible(moment, now):
            return moment
    raise ValueError(f"{number} is neither a date nor seconds or milliseconds since 1970")


def _parse_iso(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a date like 2026-11-28 09:15") from None


def _moment(text: str, *, end: bool) -> datetime:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return datetime.fromisoformat(text)
    return datetime.combine(day + timedelta(days=end), time())


def _invalid(option: str, text: str, remedy: str) -> BadRequest:
    return BadRequest(ErrorCode.OPTION_INVALID, option, f"{text!r} is not valid", remedy)
