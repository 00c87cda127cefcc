"""What people call the fields of a call, and which of them they mean."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

FILE = "file"
STARTED_AT = "started_at"
TEXT_FIELDS = ("call_id", "direction", "line", "agent", "customer")

#: What a field is called, the likeliest meant first, without case, spaces and punctuation. A word
#: that may mean something else, such as "date", "id" or "number", is an attribute.
_SPELLINGS: Mapping[str, tuple[str, ...]] = {
    FILE: (
        *("file", "filename", "filepath", "fullpath", "audiofile", "audiofilename"),
        *("recordingfile", "recordingfilename", "recordfile", "recordingpath", "wavfile"),
    ),
    "call_id": ("callid", "callidentifier", "calluuid", "callguid"),
    STARTED_AT: (
        *("startedat", "startdatetime", "calldatetime", "callstartedat", "callstarttime"),
        *("callstart", "starttime", "startdate", "calldate", "calltime"),
        *("recordedat", "recordingdate"),
    ),
    "direction": ("direction", "calldirection"),
    "line": ("line", "linename"),
    "agent": ("agent", "agentname", "agentid"),
    "customer": ("customer", "customername", "customerid", "customernumber"),
}
#: A date and a time of day, where each has a column.
_PAIRS = (("calldate", "calltime"), ("startdate", "starttime"), ("recordingdate", "recordingtime"))
_is_time_of_day = re.compile(r"\d{1,2}[:.]\d\d([:.]\d\d([.,]\d+)?)?(\s*[AaPp][Mm])?").fullmatch


@dataclass(frozen=True, slots=True)
class ColumnMeanings:
    """Which name means which field; a field may have two: a date, and a time of day."""

    names: Mapping[str, tuple[str, ...]]

    @property
    def near_misses(self) -> dict[str, str]:
        """Names that are no field's own, and the fields that they mean."""
        return {
            name: field for field, names in self.names.items() for name in names if name != field
        }

    def apply(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return a record with its fields under their own names."""
        if not self.near_misses:
            return dict(record)
        field_names = {name for names in self.names.values() for name in names}
        attributes = {name: value for name, value in record.items() if name not in field_names}
        fields = {
            field: _join_values([record[name] for name in names if name in record])
            for field, names in self.names.items()
        }
        return attributes | {field: value for field, value in fields.items() if value is not None}


@lru_cache(maxsize=256)
def find_meanings(
    names: tuple[str, ...], fields: tuple[str, ...] = tuple(_SPELLINGS)
) -> ColumnMeanings:
    """Return which names mean which of the fields; a field's own name wins."""
    by_spelling: dict[str, str] = {}
    for name in names:
        by_spelling.setdefault(_normalise(name), name)
    meanings = {field: _names_of(field, names, by_spelling) for field in fields}
    return ColumnMeanings({f: field_names for f, field_names in meanings.items() if field_names})


def _names_of(
    field: str, names: tuple[str, ...], by_spelling: Mapping[str, str]
) -> tuple[str, ...]:
    if field in names:
        return (field,)
    spellings = _SPELLINGS[field]
    if spellings[0] not in by_spelling and field == STARTED_AT:
        for pair in _PAIRS:
            if all(part in by_spelling for part in pair):
                return tuple(by_spelling[part] for part in pair)
    return next(((by_spelling[name],) for name in spellings if name in by_spelling), ())


def _join_values(values: list[Any]) -> Any:
    """Return a field's only value, or a date and its time of day as a moment."""
    if len(values) < 2:
        return values[0] if values else None
    day, time = values
    if isinstance(day, str) and isinstance(time, str):
        return f"{day.strip()} {time.strip()}" if _is_time_of_day(time.strip()) else time or day
    return day if time is None else time


def _normalise(name: str) -> str:
    text = unicodedata.normalize("NFKC", name).casefold()
    return "".join(char for char in text if char.isalnum())
