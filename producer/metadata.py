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
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, tzinfo
from itertools import islice
from typing import Any, NoReturn

from producer.encodings import OTHERWISE, WINDOWS, decoded
from producer.headers import FILE, STARTED_AT, TEXT_FIELDS, meanings
from producer.manifest import (
    Record,
    Table,
    Understood,
    display,
    fields_left_out,
    invalid,
    json_object,
    read_table,
    said_of,
)
from producer.matching import Matches, Row, match, refuse_duplicates
from producer.moments import parse_call_moment
from producer.walk import Found, Read
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
#: Characters of a field's name in a notice.
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Said:
    """What one source says of a call, and what of it could not be understood."""

    call: CallInfo = field(default_factory=CallInfo)
    notices: tuple[Notice, ...] = ()


class Manifest:
    """The rows of a manifest, and what had to be understood or left out of it."""

    def __init__(self, path: bytes, rows: Sequence[Row], notices: Sequence[Notice] = ()) -> None:
        self.path = path
        self.rows = tuple(rows)
        self.notices = tuple(notices)
        refuse_duplicates(path, (((row.file,), row) for row in rows))

    def match(self, files: Iterable[Found]) -> Matches:
        """Find the row of each file, see :func:`producer.matching.match`.

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
    return Manifest(path, rows, [*table.notices, *fields_left_out(path, left_out)])


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
        candidates = [_sidecars(path) for path in chunk]
        contents = iter(read([name for names in candidates for name in names], _SIDECAR_BYTES + 1))
        for names in candidates:
            said = [_said(name, next(contents), zone, encoding, told) for name in names]
            yield next((source for source in said if source is not None), None)


def _sidecars(recording: bytes) -> list[bytes]:
    """Return where the sidecar of a recording may be, the likeliest meant first."""
    stem, suffix = os.path.splitext(recording)
    return [recording + b".json", *([stem + b".json"] if suffix else [])]


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
    """Reads fields out of file names, such as ``{started_at:%Y%m%d-%H%M%S}_{agent}_{call_id}.wav``.

    ``{field}`` stands for any text without a slash, as short as the rest allows; what is no field
    of ``CallInfo`` becomes an attribute. ``{started_at:FORMAT}`` is a moment as strptime reads it
    (``%Y %y %m %d %j %H %M %S %f %z %b %B %p %I``), and ``{started_at}`` one in ISO 8601. ``*``
    stands for anything without a slash, ``{{`` and ``}}`` for braces. A pattern with slashes is
    compared with that many directories as well.
    """

    _DIRECTIVES: Mapping[str, str] = {
        **{"Y": r"\d{4}", "j": r"\d{3}", "f": r"\d{1,6}", "z": r"(?:Z|[+-]\d\d:?\d\d)"},
        **dict.fromkeys("ymdHMSI", r"\d{2}"),
        **{"b": "[A-Za-z]{3}", "B": "[A-Za-z]{3,9}", "p": "[AaPp][Mm]", "%": "%"},
    }

    def __init__(self, pattern: str, zone: tzinfo | None = None) -> None:
        """Compile a pattern; ``zone`` is that of moments which name none.

        Raises:
            BadRequest: it cannot be understood, or its moments have no zone.
        """
        self._pattern = pattern
        self._zone = zone
        self._format: str | None = None
        self._fields: list[str] = []
        try:
            self._regex = re.compile("".join(self._parts()))
        except (ValueError, re.error) as error:
            self._refuse(str(error))

    def read(self, path: bytes) -> Said:
        """Return what a file's name says; a notice where it, or a field, does not fit."""
        depth = self._pattern.count("/") + 1
        name = "/".join(os.fsdecode(path).split("/")[-depth:])
        found = self._regex.fullmatch(name)
        if not found:
            return _unfit(path, f"its name is not {self._pattern}")
        values = {each: found[f"f{index}"] for index, each in enumerate(self._fields)}
        moment, left_out = None, []
        if self._format and STARTED_AT in values:
            try:
                moment = self._moment(values.pop(STARTED_AT), self._format)
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

    def _parts(self) -> Iterator[str]:
        for literal, name, spec, conversion in string.Formatter().parse(self._pattern):
            yield "[^/]*".join(map(re.escape, literal.split("*")))
            if name is None:
                continue
            if conversion or not name.isidentifier() or name in self._fields:
                raise ValueError(f"{{{name}}} is no name of a field, or is there twice")
            if spec and name != STARTED_AT:
                raise ValueError(f"only started_at has a format, {name} has none")
            yield f"(?P<f{len(self._fields)}>{self._field(spec)})"
            self._fields.append(name)

    def _field(self, spec: str | None) -> str:
        if not spec:
            return "[^/]+?"
        if "%z" not in spec and self._zone is None:
            raise ValueError("its moments have no zone; add %z, or say the zone")
        self._format = spec
        literal, *directives = re.split("%(.)", spec)
        pairs = zip(directives[::2], directives[1::2], strict=True)
        return re.escape(literal) + "".join(
            self._directive(d) + re.escape(text) for d, text in pairs
        )

    def _directive(self, directive: str) -> str:
        try:
            return self._DIRECTIVES[directive]
        except KeyError:
            raise ValueError(f"%{directive} is not among the directives known") from None

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
        ValueError: it is neither, or longer than what can be found.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no number")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise ValueError("it is neither text nor a number")  # noqa: TRY004
    check_text(value)
    if _ROUNDED(value):
        raise ValueError(f"a spreadsheet rounded it to {value}; format the column as text")
    return value
