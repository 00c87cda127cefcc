"""What a call centre knows of its calls: from a manifest, a sidecar, or a file's name.

A manifest is a CSV with a header, or JSON Lines; a sidecar is a JSON object beside a recording
(``x.json`` or ``x.wav.json`` beside ``x.wav``). Both use the fields of ``CallInfo``; whatever else
they hold becomes an attribute. A name pattern reads fields out of file names, see
:class:`NamePattern`. Where several speak of a call, each field is taken from the manifest, else
from the sidecar, else from the name.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import string
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, tzinfo
from itertools import islice
from typing import Any, NoReturn

from producer.walk import Found, Read
from schema.errors import BadRequest, ErrorCode
from schema.records import CallInfo, Location, Notice

#: The code of a notice; the recording is submitted all the same.
NAME_UNMATCHED = "name-pattern.unmatched"

_TEXT_FIELDS = ("call_id", "direction", "line", "agent", "customer")
#: Fields that are a moment, or free; every other is text.
_STARTED_AT = "started_at"
_FILE = "file"
#: A sidecar describes one call; what is larger is something else.
_SIDECAR_BYTES = 1024**2
#: Recordings whose sidecars are read at a time: together they are fetched sooner from a bucket.
_CHUNK = 64
_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a manifest, and the line it is on."""

    line: int
    file: bytes
    call: CallInfo


@dataclass(frozen=True, slots=True)
class Matches:
    """Which rows describe which files, by path, and what is left over on either side."""

    calls: Mapping[bytes, CallInfo]
    notices: tuple[Notice, ...]


class Manifest:
    """The rows of a manifest."""

    def __init__(self, path: bytes, rows: Sequence[Row]) -> None:
        self.path = path
        self.rows = tuple(rows)
        _refuse_duplicates(path, (((row.file,), row) for row in rows))

    def match(self, files: Iterable[Found]) -> Matches:
        """Find the row of each file.

        A row names a file by its path, relative to the manifest's directory or to a directory
        that was submitted, or by its bare name where only one file has that name; an object also
        by its URL or its key.

        Raises:
            BadRequest: two rows name the same file.
        """
        base = os.path.dirname(os.path.abspath(self.path))
        by_path: dict[bytes, set[bytes]] = defaultdict(set)
        by_name: dict[bytes, set[bytes]] = defaultdict(set)
        paths = []
        for found in files:
            paths.append(found.path)
            by_name[os.path.basename(found.path)].add(found.path)
            for name in _names(found, base):
                by_path[name].add(found.path)
        named = [
            (by_path.get(row.file) or by_name.get(row.file) or set(), row) for row in self.rows
        ]
        _refuse_duplicates(self.path, ((hits, row) for hits, row in named if len(hits) == 1))
        calls = {hit: row.call for hits, row in named if len(hits) == 1 for hit in hits}
        notices = [self._unmatched(row, hits) for hits, row in named if len(hits) != 1]
        notices += [_without_row(path, self.path) for path in paths if path not in calls]
        return Matches(calls, tuple(notices))

    def _unmatched(self, row: Row, hits: set[bytes]) -> Notice:
        cause = "no file of this name was submitted"
        if hits:
            examples = ", ".join(_display(hit) for hit in sorted(hits)[:_EXAMPLES])
            cause = f"{len(hits)} files have this name ({examples}); write the path of one"
        subject = f"{_display(self.path)}, line {row.line}: {_display(row.file)}"
        return Notice(ErrorCode.MANIFEST_UNMATCHED_ROW, subject, cause)


def load_manifest(path: bytes, zone: tzinfo | None = None) -> Manifest:
    """Read a manifest: JSON Lines where its name ends in ``.jsonl`` or ``.ndjson``, else CSV.

    ``zone`` is that of moments which name none.

    Raises:
        BadRequest: it cannot be read or understood, or describes a file twice; says which line.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise _invalid(path, None, error.strerror or str(error)) from error
    # Names of files need not be UTF-8; every other field must be, and is checked to be.
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    json_lines = os.path.splitext(path)[1].lower() in {b".jsonl", b".ndjson"}
    records = _json_lines(path, text) if json_lines else _csv_rows(path, text)
    return Manifest(path, [_row(path, line, record, zone) for line, record in records])


def read_sidecars(
    recordings: Iterable[bytes], read: Read, zone: tzinfo | None = None
) -> Iterator[CallInfo | Notice | None]:
    """Yield what the sidecar of each recording says, or None where it has none.

    A sidecar that cannot be understood gives a notice: the recording is worth more than it.
    """
    left = iter(recordings)
    while chunk := list(islice(left, _CHUNK)):
        candidates = [_sidecars(path) for path in chunk]
        contents = iter(read([name for names in candidates for name in names], _SIDECAR_BYTES + 1))
        for names in candidates:
            said = [_said(name, next(contents), zone) for name in names]
            yield next((source for source in said if source is not None), None)


def _sidecars(recording: bytes) -> list[bytes]:
    """Return where the sidecar of a recording may be, the likeliest meant first."""
    stem, suffix = os.path.splitext(recording)
    return [recording + b".json", *([stem + b".json"] if suffix else [])]


def _said(
    sidecar: bytes, content: bytes | OSError, zone: tzinfo | None
) -> CallInfo | Notice | None:
    if isinstance(content, FileNotFoundError | NotADirectoryError):
        return None
    if isinstance(content, OSError):
        return _sidecar_notice(sidecar, content.strerror or str(content))
    try:
        return _sidecar(content, zone)
    except ValueError as error:
        return _sidecar_notice(sidecar, str(error))


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

    def read(self, path: bytes) -> CallInfo | Notice:
        """Return what a file's name says, or a notice where it does not fit the pattern."""
        depth = self._pattern.count("/") + 1
        name = "/".join(os.fsdecode(path).split("/")[-depth:])
        match = self._regex.fullmatch(name)
        if not match:
            return Notice(NAME_UNMATCHED, _display(path), f"its name is not {self._pattern}")
        found = {field: match[f"f{index}"] for index, field in enumerate(self._fields)}
        try:
            if self._format and _STARTED_AT in found:
                moment = datetime.strptime(found.pop(_STARTED_AT), self._format)
                call = _call_info(found, self._zone)
                return _merge_two(CallInfo(started_at=_zoned(moment, self._zone)), call)
            return _call_info(found, self._zone)
        except ValueError as error:
            return Notice(NAME_UNMATCHED, _display(path), str(error))

    def _parts(self) -> Iterator[str]:
        for literal, name, spec, conversion in string.Formatter().parse(self._pattern):
            yield "[^/]*".join(map(re.escape, literal.split("*")))
            if name is None:
                continue
            if conversion or not name.isidentifier() or name in self._fields:
                raise ValueError(f"{{{name}}} is no name of a field, or is there twice")
            if spec and name != _STARTED_AT:
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
    from_sidecar: CallInfo | Notice | None = None,
    pattern: NamePattern | None = None,
) -> tuple[CallInfo, tuple[Notice, ...]]:
    """Return what is known of the call recorded at ``path``, and what could not be understood."""
    sources = [from_manifest, from_sidecar, pattern.read(path) if pattern else None]
    notices = tuple(source for source in sources if isinstance(source, Notice))
    return merge(*(source for source in sources if isinstance(source, CallInfo))), notices


def _names(found: Found, manifest_directory: bytes) -> Iterator[bytes]:
    """Yield every name by which a row may mean a file; rows' names are normalised."""
    yield os.path.normpath(found.path)
    yield found.relative
    yield os.path.relpath(found.path, manifest_directory)
    if found.key is not None:
        yield found.key


def _merge_two(first: CallInfo, second: CallInfo) -> CallInfo:
    values: dict[str, Any] = {}
    for item in fields(CallInfo):
        value = getattr(first, item.name)
        values[item.name] = getattr(second, item.name) if value is None else value
    values["attributes"] = second.attributes | first.attributes
    return CallInfo(**values)


def _csv_rows(path: bytes, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield each row with the line it ends on; spreadsheets of some countries write semicolons."""
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = reader.fieldnames or []
        if _FILE not in names or len(set(names)) < len(names):
            raise _invalid(path, 1, "the header must name a column 'file', and none twice")
        for row in reader:
            if None in row or None in row.values():
                raise _invalid(path, reader.line_num, f"it has not {len(names)} columns")
            yield reader.line_num, {name: value for name, value in row.items() if value}
    except csv.Error as error:
        raise _invalid(path, reader.line_num, str(error)) from error


def _json_lines(path: bytes, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    # Not splitlines(): a JSON string may hold U+2028, which is a line's end to Python.
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            yield line, _json_object(content)
        except ValueError as error:
            raise _invalid(path, line, str(error)) from error


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004 - callers expect a ValueError
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _row(path: bytes, line: int, record: Mapping[str, Any], zone: tzinfo | None) -> Row:
    file = record.get(_FILE)
    if not isinstance(file, str) or not file or "\0" in file:
        raise _invalid(path, line, "it names no file")
    try:
        return Row(
            line,
            os.path.normpath(file.encode("utf-8", "surrogateescape")),
            _call_info(record, zone),
        )
    except ValueError as error:
        raise _invalid(path, line, str(error)) from error


def _sidecar(data: bytes, zone: tzinfo | None) -> CallInfo:
    if len(data) > _SIDECAR_BYTES:
        raise ValueError(f"it is larger than {_SIDECAR_BYTES} bytes")
    return _call_info(_json_object(data.decode("utf-8-sig")), zone)


def _call_info(record: Mapping[str, Any], zone: tzinfo | None) -> CallInfo:
    """Return a record's fields. Raises ValueError where one cannot be understood or stored."""
    values: dict[str, Any] = {name: _text(record, name) for name in _TEXT_FIELDS}
    started_at = _text(record, _STARTED_AT)
    if started_at is not None:
        values[_STARTED_AT] = _zoned(datetime.fromisoformat(started_at), zone)
    known = {*_TEXT_FIELDS, _STARTED_AT, _FILE}
    attributes = {name: value for name, value in record.items() if name not in known}
    _check_storable(json.dumps(attributes, ensure_ascii=False))
    return CallInfo(**values, attributes=attributes)


def _text(record: Mapping[str, Any], name: str) -> str | None:
    """Return a field as text; a number is what its digits say, an empty text is none."""
    value = record.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise ValueError(f"{name} is neither text nor a whole number")  # noqa: TRY004
    _check_storable(value)
    return value


def _check_storable(text: str) -> None:
    """Raise ValueError for what Postgres takes neither as text nor as JSON."""
    if "\0" in text or "\\u0000" in text:
        raise ValueError("it holds a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it holds text that is not UTF-8") from None


def _zoned(moment: datetime, zone: tzinfo | None) -> datetime:
    if moment.tzinfo is not None:
        return moment
    if zone is None:
        raise ValueError(f"started_at {moment.isoformat()} names no zone, and no other was given")
    return moment.replace(tzinfo=zone)


def _refuse_duplicates(manifest: bytes, named: Iterable[tuple[Iterable[bytes], Row]]) -> None:
    lines: dict[bytes, int] = {}
    for files, row in named:
        for file in files:
            if file in lines:
                raise BadRequest(
                    ErrorCode.MANIFEST_DUPLICATE,
                    _display(manifest),
                    f"lines {lines[file]} and {row.line} both describe {_display(file)}",
                    "Keep one of them.",
                )
            lines[file] = row.line


def _invalid(path: bytes, line: int | None, cause: str) -> BadRequest:
    subject = _display(path) if line is None else f"{_display(path)}, line {line}"
    remedy = "A manifest is a CSV whose header names 'file', or JSON Lines."
    return BadRequest(ErrorCode.MANIFEST_INVALID, subject, cause, remedy)


def _without_row(path: bytes, manifest: bytes) -> Notice:
    cause = f"no row of {_display(manifest)} describes it; it is submitted without"
    return Notice(ErrorCode.MANIFEST_UNMATCHED_FILE, _display(path), cause)


def _sidecar_notice(path: bytes, cause: str) -> Notice:
    message = f"{cause}; the recording is submitted without it"
    return Notice(ErrorCode.SIDECAR_INVALID, _display(path), message)


def _display(path: bytes) -> str:
    return Location("", path).name
