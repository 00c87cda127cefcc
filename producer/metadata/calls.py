"""What a call centre knows of its calls: from a manifest, a sidecar, or a file's name.

A manifest is a CSV with a header, or JSON Lines; a sidecar is a JSON object beside a recording
(``x.json`` or ``x.wav.json`` beside ``x.wav``). Both use the fields of ``CallInfo``; whatever else
they hold becomes an attribute. A name pattern reads fields out of file names, see
:class:`NamePattern`. Where several speak of a call, each field is taken from the manifest, else
from the sidecar, else from the name.
"""

from __future__ import annotations

import json
import math
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, tzinfo
from itertools import islice
from typing import Any, NoReturn

from producer.dates import parse_call_moment
from producer.metadata.column_names import FILE, STARTED_AT, TEXT_FIELDS, meanings
from producer.metadata.manifest import (
    Record,
    Table,
    Understood,
    WrittenFloat,
    display,
    fields_left_out,
    invalid,
    json_object,
    read_table,
    said_of,
)
from producer.metadata.matching import Matches, Row, match, refuse_duplicates
from producer.metadata.name_pattern import NameParts
from producer.metadata.text_encodings import OTHERWISE, WINDOWS, decoded
from producer.sources.walk import Found, Read, sidecars_of
from schema.bounds import ATTRIBUTES_MAX_BYTES, LeftOut, check_attributes, check_moment, check_text
from schema.errors import BadRequest, ErrorCode
from schema.records import CallInfo, Notice

#: The code of a notice; the recording is submitted all the same.
NAME_UNMATCHED = "name-pattern.unmatched"

#: A sidecar describes one call; what is larger is something else.
_SIDECAR_BYTES = 1024**2
#: Recordings whose sidecars are read at a time: together they are fetched sooner from a bucket.
_CHUNK = 64
#: How spreadsheets show, and save, an id of many digits that they took for a number.
_ROUNDED = re.compile(r"[+-]?\d([.,]\d+)?E\+\d{2,3}").fullmatch
#: What spreadsheets write where a formula has no value.
_ERRORS = frozenset({"#N/A", "#REF!", "#VALUE!", "#NAME?", "#DIV/0!", "#NULL!", "#NUM!"})
#: Words of scripts and databases for nothing; as names they are people's.
_NO_IDS = frozenset({"null", "nan", "none", "n/a", "undefined", "<null>", "\\n"})
#: Characters of a field's name in a notice.
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Said:
    """What one source says of a call, and what of it could not be understood."""

    call: CallInfo = field(default_factory=CallInfo)
    notices: tuple[Notice, ...] = ()


class Manifest:
    """The rows of a manifest, and what had to be understood or left out of it."""

    def __init__(
        self,
        path: bytes,
        rows: Sequence[Row],
        notices: Sequence[Notice] = (),
        digest: str | None = None,
    ) -> None:
        self.path = path
        #: Of its bytes, which a pipe has but once.
        self.digest = digest
        self.rows = tuple(rows)
        self.notices = tuple(notices)
        refuse_duplicates(path, (((row.file,), row) for row in rows))

    def match(self, files: Iterable[Found]) -> Matches:
        """Find the row of each file, see :func:`producer.metadata.matching.match`.

        Raises:
            BadRequest: two rows name the same file.
        """
        found = match(self.path, self.rows, files)
        return Matches(found.calls, (*self.notices, *found.notices))


def load_manifest(path: bytes, zone: tzinfo | None = None, encoding: str | None = None) -> Manifest:
    """Read a manifest: JSON Lines where its name ends in ``.jsonl`` or ``.ndjson``, else CSV.

    ``zone`` is that of moments which name none, ``encoding`` that of text that is no UTF-8.

    A field that cannot be understood costs itself.

    Raises:
        BadRequest: it cannot be read or understood, describes a file twice, or none of its moments
            names a zone and no other is given; says which line.
    """
    table = read_table(path, encoding)
    rows, left_out = [], []
    for record in table.records:
        call, found = _understood(record.values, zone)
        rows.append(_row(record, call))
        left_out += [(record.line, each.field, each.cause) for each in found]
    if zone is None:
        _refuse_zoneless(table, rows)
    notices = [*table.notices, *fields_left_out(path, left_out)]
    return Manifest(path, rows, notices, table.digest)


def _row(record: Record, call: CallInfo) -> Row:
    file = os.path.normpath(record.values[FILE].encode("utf-8", "surrogatepass"))
    raw = os.path.normpath(record.file)
    return Row(record.line, file, call, None if raw == file else raw)


def _refuse_zoneless(table: Table, rows: Sequence[Row]) -> None:
    """Refuse a manifest whose moments all lack what ``--zone`` says: nothing else is wrong."""
    if any(row.call.started_at for row in rows):
        return
    for record in table.records:
        call, _ = _understood({STARTED_AT: record.values.get(STARTED_AT)}, UTC)
        if call.started_at is not None:
            cause = f"started_at {record.values[STARTED_AT]} names no zone, and no other was given"
            raise invalid(table.path, record.line, cause, "Say --zone Europe/Berlin.")


def read_sidecars(
    recordings: Iterable[bytes],
    read: Read,
    zone: tzinfo | None = None,
    encoding: str | None = None,
) -> Iterator[Said | None]:
    """Yield what the sidecar of each recording says, or None where it has none.

    A sidecar that cannot be understood gives a notice: the recording is worth more than it. So
    does a field, and the others are kept.
    """
    told: set[Notice] = set()
    left = iter(recordings)
    while chunk := list(islice(left, _CHUNK)):
        candidates = [sidecars_of(path) for path in chunk]
        contents = iter(read([name for names in candidates for name in names], _SIDECAR_BYTES + 1))
        for names in candidates:
            said = [_said(name, next(contents), zone, encoding, told) for name in names]
            yield next((source for source in said if source is not None), None)


def _said(
    sidecar: bytes,
    content: bytes | OSError,
    zone: tzinfo | None,
    encoding: str | None,
    told: set[Notice],
) -> Said | None:
    """Return what a sidecar says; what holds for many of them is ``told`` once."""
    if isinstance(content, FileNotFoundError | NotADirectoryError):
        return None
    if isinstance(content, OSError):
        return _not_understood(sidecar, content.strerror or str(content))
    try:
        return _sidecar(sidecar, content, zone, encoding, told)
    except ValueError as error:
        return _not_understood(sidecar, str(error))


def _sidecar(
    path: bytes, data: bytes, zone: tzinfo | None, encoding: str | None, told: set[Notice]
) -> Said:
    if len(data) > _SIDECAR_BYTES:
        raise ValueError(f"it is larger than {_SIDECAR_BYTES} bytes")
    source = decoded(data, lambda text: text.lstrip()[:1] == "{", encoding)
    record = json_object(source.readable(source.text))
    understood = meanings(tuple(record), (*TEXT_FIELDS, STARTED_AT))
    call, left_out = _understood(understood.applied(record), zone)
    notices = set()
    if understood.near_misses:
        names = ", ".join(map(repr, understood.near_misses))
        notices.add(Notice(Understood.SIDECAR, f"sidecars: {names}", said_of(understood)))
    if source.encoding == WINDOWS or source.has_stray_bytes:
        cause = f"some are not UTF-8, and were read as {WINDOWS}; {OTHERWISE}"
        notices.add(Notice(Understood.SIDECAR, "sidecars: encoding", cause))
    new = sorted(notices - told, key=lambda notice: notice.subject)
    told |= notices
    if left_out:
        new.append(Notice(ErrorCode.SIDECAR_INVALID, display(path), _kept_rest(left_out)))
    return Said(call, tuple(new))


def _not_understood(path: bytes, cause: str) -> Said:
    message = f"{cause}; the recording is submitted without it"
    return Said(notices=(Notice(ErrorCode.SIDECAR_INVALID, display(path), message),))


def _kept_rest(left_out: Iterable[LeftOut]) -> str:
    found = ", ".join(f"{each.field} ({each.cause})" for each in left_out)
    return f"left out: {found}; the recording is submitted without it, and with the rest"


class NamePattern:
    """Reads what file names say of calls, see :class:`producer.metadata.name_pattern.NameParts`.

    What is no field of ``CallInfo`` becomes an attribute; ``{started_at}`` without a format is a
    moment in ISO 8601. A pattern with slashes is compared with that many directories as well.
    """

    def __init__(self, pattern: str, zone: tzinfo | None = None) -> None:
        """Take a pattern apart; ``zone`` is that of moments which name none.

        Raises:
            BadRequest: it cannot be understood, or its moments have no zone.
        """
        self._pattern = pattern
        self._zone = zone
        try:
            self._parts = NameParts(pattern)
        except ValueError as error:
            self._refuse(str(error))
        form = self._parts.moment_format
        if form is not None and "%z" not in form and zone is None:
            self._refuse("its moments have no zone; add %z, or say the zone")

    def read(self, path: bytes) -> Said:
        """Return what a file's name says; a notice where it, or a field, does not fit."""
        depth = self._pattern.count("/") + 1
        name = "/".join(os.fsdecode(path).split("/")[-depth:])
        values = self._parts.read(name)
        if values is None:
            return _unfit(path, f"its name is not {self._pattern}")
        moment, left_out = None, []
        if self._parts.moment_format and STARTED_AT in values:
            try:
                moment = self._moment(values.pop(STARTED_AT), self._parts.moment_format)
            except ValueError as error:
                left_out = [LeftOut(STARTED_AT, str(error))]
        call, others = _understood(values, self._zone)
        call = _merge_two(CallInfo(started_at=moment), call)
        left_out += others
        return _unfit(path, _kept_rest(left_out), call) if left_out else Said(call)

    def _moment(self, text: str, form: str) -> datetime:
        moment = datetime.strptime(text, form)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=self._zone)
        check_moment(moment)
        return moment

    def _refuse(self, cause: str) -> NoReturn:
        raise BadRequest(
            ErrorCode.OPTION_INVALID,
            f"--name-pattern {self._pattern}",
            cause,
            "Write for instance {started_at:%Y%m%d-%H%M%S%z}_{agent}_{call_id}.wav",
        )


def merge(*calls: CallInfo | None) -> CallInfo:
    """Return each field from the first that has it; attributes likewise, each by itself."""
    merged = CallInfo()
    for call in calls:
        if call is not None:
            merged = _merge_two(merged, call)
    return merged


def call_of(
    path: bytes,
    from_manifest: CallInfo | None = None,
    from_sidecar: Said | None = None,
    pattern: NamePattern | None = None,
) -> tuple[CallInfo, tuple[Notice, ...]]:
    """Return what is known of the call recorded at ``path``, and what could not be understood."""
    sources = [from_sidecar or Said(), pattern.read(path) if pattern else Said()]
    notices = tuple(notice for source in sources for notice in source.notices)
    return merge(from_manifest, *(source.call for source in sources)), notices


def _merge_two(first: CallInfo, second: CallInfo) -> CallInfo:
    values: dict[str, Any] = {}
    for item in fields(CallInfo):
        value = getattr(first, item.name)
        values[item.name] = getattr(second, item.name) if value is None else value
    values["attributes"] = second.attributes | first.attributes
    return CallInfo(**values)


def _unfit(path: bytes, cause: str, call: CallInfo | None = None) -> Said:
    return Said(call or CallInfo(), (Notice(NAME_UNMATCHED, display(path), cause),))


def _understood(record: Mapping[str, Any], zone: tzinfo | None) -> tuple[CallInfo, list[LeftOut]]:
    """Return a record's fields, and those that cannot be understood or stored."""
    values: dict[str, Any] = {}
    left_out: list[LeftOut] = []
    for name in (*TEXT_FIELDS, STARTED_AT):
        try:
            value = _text(record.get(name))
            if name == "call_id" and value is not None and value.lower() in _NO_IDS:
                raise ValueError(f"{value} is no call's id")  # noqa: TRY301
            if value is not None:
                is_moment = name == STARTED_AT
                values[name] = parse_call_moment(value, zone) if is_moment else value
        except (ValueError, OverflowError) as error:
            left_out.append(LeftOut(name, str(error)))
    known = {*TEXT_FIELDS, STARTED_AT, FILE}
    own = {name: value for name, value in record.items() if name not in known}
    attributes, others = _attributes(own)
    return CallInfo(**values, attributes=attributes), left_out + others


def _attributes(own: Mapping[str, Any]) -> tuple[dict[str, Any], list[LeftOut]]:
    """Return what of a call's own fields can be stored, and what cannot."""
    kept: dict[str, Any] = {}
    left_out: list[LeftOut] = []
    size = 0
    for name, value in own.items():
        try:
            check_attributes({name: value})
            more = len(json.dumps({name: value}, ensure_ascii=False).encode())
            if size + more > ATTRIBUTES_MAX_BYTES:
                raise ValueError("the call's other fields leave no room for it")  # noqa: TRY301
        except (ValueError, RecursionError) as error:
            left_out.append(LeftOut(name[:_SHOWN], str(error)))
        else:
            kept[name] = value
            size += more
    return kept, left_out


def _text(value: Any) -> str | None:
    """Return a field as text; a number is what its digits say, an empty text is none.

    Raises:
        ValueError: it is neither, no id of anybody's, or longer than what can be found.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no number")
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = _digits(value)
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError("it is neither text nor a number")  # noqa: TRY004
    text = _stripped(value)
    check_text(text)
    if _ROUNDED(text):
        raise ValueError(f"a spreadsheet rounded it to {text}; format the column as text")
    if text.upper() in _ERRORS:
        raise ValueError(f"it is {text}, an error of a spreadsheet's")
    return text or None


def _digits(number: float) -> str:
    """Return a number as it was written, but for a fraction of nothing; one in powers as it is."""
    text = number.text if isinstance(number, WrittenFloat) else str(number)
    if "e" in text.lower():
        text = str(int(number)) if float(number).is_integer() else str(float(number))
    whole, _, fraction = text.partition(".")
    return text if fraction.strip("0") else whole


def _stripped(text: str) -> str:
    """Return a text without blanks and characters that nobody sees at its ends."""
    start, end = 0, len(text)
    while start < end and _is_blank(text[start]):
        start += 1
    while start < end and _is_blank(text[end - 1]):
        end -= 1
    return text[start:end]


def _is_blank(char: str) -> bool:
    return char.isspace() or unicodedata.category(char) == "Cf"
