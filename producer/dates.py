"""Dates, moments and ages as people write them on a command line."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from schema.bounds import check_moment, is_plausible
from schema.errors import BadRequest, ErrorCode, Misconfigured

_AGE = re.compile(r"(\d{1,6})([hdw])")
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}

#: A hundred years: no call is older.
_OLDEST = timedelta(days=36_525)


def check_clock() -> None:
    """Make sure that this host's zone is one: every moment that people read is in it.

    Raises:
        Misconfigured: ``TZ`` names one that is more than a day off.
    """
    try:
        datetime.now(UTC).astimezone()
    except ValueError as error:
        raise Misconfigured(
            ErrorCode.SETTING_MISSING, "TZ", str(error), "Set it to a zone: TZ=Europe/Berlin."
        ) from None


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


def parse_call_moment(text: str, zone: tzinfo | None, now: datetime | None = None) -> datetime:
    """Return when a call began, as a manifest, a sidecar or a file name says it.

    Understood are ISO 8601, ``20260502``, ``202605020930`` and ``20260502093015``, and seconds or
    milliseconds since 1970, which are in UTC. Digits that may be either are a date if it is one.

    Args:
        text: what is said.
        zone: of those that name none.
        now: by which a date is in the future.

    Raises:
        ValueError: it is none of these, names no zone and no other is given, or no call can have
            begun then.
    """
    said = text.strip()
    moment = _digits(said, now) if _IS_NUMBER(said) else datetime.fromisoformat(said)
    if moment.tzinfo is None:
        if zone is None:
            raise ValueError(f"{said} names no zone, and no other was given")
        moment = moment.replace(tzinfo=zone)
    check_moment(moment, now)
    return moment


_IS_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?").fullmatch

#: Dates of digits alone, by how many there are.
_FORMATS = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}


def _digits(said: str, now: datetime | None) -> datetime:
    """Return a moment of digits alone; without a zone where they are a date."""
    if said.isdecimal() and len(said) in _FORMATS:
        try:
            return datetime.strptime(said, _FORMATS[len(said)])
        except ValueError:
            if len(said) != len("177244200000"):
                raise ValueError(f"{said} is no date") from None
    for unit in (1, 1_000):
        try:
            moment = datetime.fromtimestamp(float(said) / unit, UTC)
        except (OverflowError, OSError, ValueError):
            continue
        if is_plausible(moment, now):
            return moment
    raise ValueError(f"{said} is neither a date nor seconds or milliseconds since 1970")


def _moment(text: str, *, end: bool) -> datetime:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return datetime.fromisoformat(text)
    return datetime.combine(day + timedelta(days=end), time())


def _senseless(option: str, text: str, remedy: str) -> BadRequest:
    return BadRequest(ErrorCode.OPTION_INVALID, option, f"{text!r} makes no sense", remedy)
