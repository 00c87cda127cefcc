"""The bounds of values that come from outside, and of those that are in the ledger already.

A date of the year 1 is what some switches write for none. It can be stored but not read: no zone
east of Greenwich has a year 0. Such a row must cost itself alone, not a reading of many. So values
are checked where they enter, and again where they are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from schema.records import CallInfo
from schema.transcript import Flag

#: Calls began no earlier: tape recorders of that time leave no files.
EARLIEST = datetime(1980, 1, 1, tzinfo=UTC)
#: A clock may be in another zone than it says, and no call begins later than that.
FUTURE_MAX = timedelta(days=2)

#: Characters of an id, a name, a line or a label; an index holds no more than some 2,700 bytes.
TEXT_CHARS_MAX = 500
#: Of all of a call's own fields together, as JSON.
ATTRIBUTES_MAX_BYTES = 64 * 1024
#: How deep they may be nested.
_DEPTH_MAX = 16


def is_plausible(moment: datetime, now: datetime | None = None) -> bool:
    """Tell whether a call can have begun at a moment, which has a zone."""
    latest = (now or datetime.now(UTC)) + FUTURE_MAX
    try:
        return EARLIEST <= moment.astimezone(UTC) <= latest
    except (OverflowError, ValueError):
        return False


def check_moment(moment: datetime, now: datetime | None = None) -> None:
    """Hold a call's beginning to what it can be.

    Raises:
        ValueError: no call can have begun then.
    """
    if not is_plausible(moment, now):
        raise ValueError(
            f"{moment.isoformat()} is no date of a call: those lie between {EARLIEST:%Y-%m-%d} and"
            " the day after tomorrow"
        )


def check_text(text: str, chars_max: int = TEXT_CHARS_MAX) -> None:
    """Hold a text to what the ledger can hold and an index find.

    Raises:
        ValueError: it is longer, or holds what is no character.
    """
    if len(text) > chars_max:
        raise ValueError(f"it has {len(text):,} characters, and {chars_max:,} are the most")
    if "\0" in text:
        raise ValueError("it holds a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it holds text that is not UTF-8") from None


def check_attributes(attributes: Mapping[str, Any]) -> None:
    """Hold a call's own fields to their size, depth and characters.

    Raises:
        ValueError: they are larger, deeper, or hold what is no character or number.
    """
    _check_nested(attributes, 0)
    size = len(json.dumps(attributes, ensure_ascii=False, allow_nan=False).encode())
    if size > ATTRIBUTES_MAX_BYTES:
        raise ValueError(f"it has {size:,} bytes, and {ATTRIBUTES_MAX_BYTES:,} are the most")


def _check_nested(value: Any, depth: int) -> None:
    if depth > _DEPTH_MAX:
        raise ValueError(f"it is nested deeper than {_DEPTH_MAX} levels")
    if isinstance(value, str):
        check_text(value, ATTRIBUTES_MAX_BYTES)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            check_text(name)
            _check_nested(item, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_nested(item, depth + 1)


@dataclass(frozen=True, slots=True)
class OmittedField:
    """A field of a call that was left out, and why."""

    field: str
    cause: str


#: Of a call, those that are texts.
TEXT_FIELDS = ("call_id", "direction", "line", "agent", "customer")


def omit_out_of_bounds(
    call: CallInfo, now: datetime | None = None
) -> tuple[CallInfo, list[OmittedField]]:
    """Return a call without what is out of bounds, and what that was."""
    omitted = _find_out_of_bounds(call, now)
    fields = [field.field for field in omitted]
    replacements: dict[str, Any] = {f: {} if f == "attributes" else None for f in fields}
    return replace(call, **replacements), omitted


def _find_out_of_bounds(call: CallInfo, now: datetime | None) -> list[OmittedField]:
    checks: list[tuple[str, Any]] = [(name, check_text) for name in TEXT_FIELDS]
    checks += [("started_at", lambda value: check_moment(value, now))]
    checks += [("attributes", check_attributes)]
    omitted = []
    for name, check in checks:
        value = getattr(call, name)
        if value is not None:
            try:
                check(value)
            except (ValueError, RecursionError) as error:
                omitted.append(OmittedField(name, str(error)))
    return omitted


def omitted_field_flag(omitted: OmittedField) -> str:
    """Return the flag of a recording that says what of its call was left out."""
    return f"{Flag.OMITTED_FIELD}:{omitted.field}"


def plausible_start(stored: datetime | None) -> datetime | None:
    """Return a call's beginning as the ledger has it; None where no call can have begun then."""
    return stored if stored is not None and is_plausible(stored) else None
