"""What people call the fields of a call, and which of them they mean."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
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
_TIME = re.compile(r"\d{1,2}[:.]\d\d([:.]\d\d([.,]\d+)?)?(\s*[AaPp][Mm])?").fullmatch


@dataclass(frozen=True, slots=True)
class Meanings:
    """Which name means which field; a field may have two: a date, and a time of day."""

    names: Mapping[str, tuple[str, ...]]

    @property
    def near_misses(self) -> dict[str, str]:
        """Names that are no field's own, and the fields that they mean."""
        return {
            name: field for field, names in self.names.items() for name in names if name != field
        }

    def applied(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return a record with its fields under their own names."""
        if not self.near_misses:
            return dict(record)
        used = {name for names in self.names.values() for name in names}
        rest = {name: value for name, value in record.items() if name not in used}
        fields = {
            field: _joined([record[name] for name in names if name in record])
            for field, names in self.names.items()
        }
        return rest | {field: value for field, value in fields.items() if value is not None}


@lru_cache(maxsize=256)
def meanings(names: tuple[str, ...], among: tuple[str, ...] = tuple(_SPELLINGS)) -> Meanings:
    """Return which of the names mean which of the fields ``among``; each field's own name wins."""
    plain = {name: _plain(name) for name in names}
    found = {}
    for field in among:
        meant = _meant(field, names, plain)
        if meant:
            found[field] = meant
    return Meanings(found)


def names_a_file(names: Iterable[str]) -> bool:
    """Tell whether a header has a column of files."""
    return any(_plain(name) in _SPELLINGS[FILE] for name in names)


def _meant(field: str, names: tuple[str, ...], plain: Mapping[str, str]) -> tuple[str, ...]:
    if field in names:
        return (field,)
    by_plain: dict[str, str] = {}
    for name in names:
        by_plain.setdefault(plain[name], name)
    own, *others = _SPELLINGS[field]
    if own not in by_plain and field == STARTED_AT:
        for pair in _PAIRS:
            if all(part in by_plain for part in pair):
                return tuple(by_plain[part] for part in pair)
    return next(((by_plain[each],) for each in (own, *others) if each in by_plain), ())


def _joined(values: list[Any]) -> Any:
    """Return a field's only value, or a date and its time of day as a moment."""
    if len(values) < 2:
        return values[0] if values else None
    day, time = values
    if isinstance(day, str) and isinstance(time, str):
        return f"{day.strip()} {time.strip()}" if _TIME(time.strip()) else time or day
    return day if time is None else time


def _plain(name: str) -> str:
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(char for char in folded if char.isalnum())
