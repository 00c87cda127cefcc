"""Manifests as spreadsheets, switches and scripts write them: bytes to records, each with its line.

What can be understood is, and a notice says how. A row that cannot costs itself alone; a manifest
of which nothing can be understood is refused.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Any, NamedTuple, Self

from producer.metadata.column_names import (
    FILE,
    STARTED_AT,
    TEXT_FIELDS,
    ColumnMeanings,
    find_meanings,
)
from producer.metadata.text_encodings import ENCODING_HINT, WINDOWS, DecodedText, decode_text
from schema.errors import BadRequest, ErrorCode
from schema.records import Notice
from schema.text import printable_path


class InterpretationCode(StrEnum):
    """Codes of notices that are no errors: something was understood, if not as written."""

    MANIFEST = "manifest.understood"
    SIDECAR = "sidecar.understood"


_DELIMITERS = ",;\t|"
#: Of a table of one column there is nothing to delimit, and its names may hold commas.
_NO_DELIMITER = "\x1f"
#: Excel's own first line, which says what delimits.
_SEP = re.compile(r'"?sep=([^"\r\n])"?[,;\t|]*(\r\n|\r|\n|$)', re.IGNORECASE)
#: Reports of switches have a title, and perhaps the day, above their table.
_HEADER_SEARCH_ROWS = 20
#: How Excel is told that digits are text.
_AS_TEXT = re.compile(r'="(.*)"', re.DOTALL).fullmatch
_EXAMPLES = 3
_ROW_LEFT_OUT = "; this row is left out"
#: A million calls' rows are some 200 MB.
_BYTES_MAX = 512 * 2**20
#: Longer digits are no number of anybody's; Python refuses those of 4,300.
_DIGITS_MAX = 400
#: Fields of a manifest that are left out are named up to so many; a row of 10,000 columns has more.
_MAX_FIELDS_NAMED = 20
#: How files begin that spreadsheets write, or that are sent about, and are no text with rows.
_NOT_TABLES = {
    b"PK\x03\x04": "it is a workbook, or zipped",
    b"\xd0\xcf\x11\xe0": "it is a workbook",
    b"\x1f\x8b": "it is packed by gzip",
    b"ID;P": "it is SYLK",
    b"<": "it is HTML or XML",
    b"%PDF": "it is a PDF",
}


class ManifestRecord(NamedTuple):
    """One row: the line it begins on, its fields, and its file as the bytes that were written."""

    line: int
    values: Mapping[str, Any]
    file: bytes


@dataclass(slots=True)
class ManifestTable:
    """The rows of a manifest, and what had to be understood or left out."""

    path: bytes
    #: SHA-256 of the file's bytes, as hex.
    digest: str = ""
    records: list[ManifestRecord] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)

    def note(self, position: str, message: str) -> None:
        """Say how something was understood."""
        subject = f"{printable_path(self.path)}{position}"
        self.notices.append(Notice(InterpretationCode.MANIFEST, subject, message))

    def omit_row(self, line: int, cause: str) -> None:
        """Go on without a row."""
        subject, message = f"{printable_path(self.path)}, line {line}", f"{cause}{_ROW_LEFT_OUT}"
        self.notices.append(Notice(ErrorCode.MANIFEST_INVALID, subject, message))


def read_table(path: bytes, encoding: str | None = None) -> ManifestTable:
    """Read a manifest: JSON Lines where its name ends in ``.jsonl`` or ``.ndjson``, else CSV.

    ``encoding`` is that of one which is no UTF-8.

    Raises:
        BadRequest: it cannot be read, has no column of files, or none of its rows is understood.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_BYTES_MAX + 1)
    except OSError as error:
        raise manifest_error(path, None, error.strerror or str(error)) from error
    if len(data) > _BYTES_MAX:
        raise manifest_error(path, None, f"it is larger than {_BYTES_MAX >> 20} MiB")
    first_bytes = data.removeprefix(codecs.BOM_UTF8).lstrip()
    for mark, cause in _NOT_TABLES.items():
        if first_bytes.startswith(mark):
            raise manifest_error(path, None, cause, "Save it as CSV UTF-8, unpacked.")
    table = ManifestTable(path, hashlib.sha256(data).hexdigest())
    if os.path.splitext(path)[1].lower() in {b".jsonl", b".ndjson"}:
        text = decode_text(data, lambda text: text.lstrip()[:1] in {"{", "["}, encoding)
        _read_json_lines(table, text)
    else:
        text = decode_text(data, lambda text: _find_header(text) is not None, encoding)
        _read_csv(table, text)
    first_invalid = next((n for n in table.notices if n.code == ErrorCode.MANIFEST_INVALID), None)
    if first_invalid is not None and not table.records:
        cause = first_invalid.message.removesuffix(_ROW_LEFT_OUT)
        raise BadRequest(ErrorCode.MANIFEST_INVALID, first_invalid.subject, cause, _REMEDY)
    return table


class _Header(NamedTuple):
    """Where a table's header is, and what delimits its columns."""

    delimiter: str
    #: Lines above its rows, the header among them.
    lines: int
    line: int
    names: Sequence[str]


def _read_csv(table: ManifestTable, source: DecodedText) -> None:
    header = _find_header(source.text)
    if header is None:
        raise manifest_error(table.path, 1, "the header must name a column 'file'")
    names = _column_names(table, header)
    meanings = find_meanings(tuple(names))
    _note_encoding(table, source)
    _note_names(table, f", line {header.line}", meanings)
    (file_name,) = meanings.names[FILE]
    column = names.index(file_name)
    for line, cells in _read_rows(table, source.text, header):
        if not any(map(str.strip, cells)):
            continue
        if any(map(str.strip, cells[len(names) :])):
            table.omit_row(line, f"it has {len(cells)} columns, the header {len(names)}")
            continue
        cells_by_name = zip(names, (_unescape_cell(cell).strip() for cell in cells), strict=False)
        values = {name: source.without_stray_bytes(value) for name, value in cells_by_name if value}
        file = _unescape_cell(cells[column]) if column < len(cells) else ""
        if not file.strip() or "\0" in file:
            table.omit_row(line, "it names no file")
        else:
            record = meanings.apply(values) | {FILE: source.without_stray_bytes(file)}
            table.records.append(ManifestRecord(line, record, source.file_bytes(file)))


def _column_names(table: ManifestTable, header: _Header) -> list[str]:
    """Return a name for each column; those at the end that have none are no columns."""
    names = [name.strip("\ufeff\u200b") for name in header.names]
    while names and not names[-1].strip():
        names.pop()
    stripped_names = [name.strip() for name in names]
    repeated_names = {name for name in stripped_names if name and stripped_names.count(name) > 1}
    if repeated_fields := repeated_names & {FILE, STARTED_AT, *TEXT_FIELDS}:
        cause = f"the header names the column {min(repeated_fields)!r} twice"
        raise manifest_error(table.path, header.line, cause)
    earlier_names: set[str] = set()
    for index, name in enumerate(stripped_names):
        if not name or name in earlier_names:
            # Attributes: two of one name stay apart.
            names[index] = f"{name or 'column'} ({index + 1})"
        earlier_names.add(name)
    if repeated_names:
        names_text = ", ".join(sorted(repeated_names))
        table.note(": columns", f"{names_text}: each is there twice; both are kept")
    return names


def _find_header(text: str) -> _Header | None:
    """Return the header: the first row that names a column of files, by the delimiter of most."""
    sep = _SEP.match(text)
    delimiters = sep[1] if sep else _DELIMITERS
    offset = sep.end() if sep else 0
    headers = [_find_header_with(text[offset:], delimiter, bool(sep)) for delimiter in delimiters]
    best = max(filter(None, headers), key=_header_rank, default=None)
    if best is None:
        return None
    if len(best.names) == 1 and not sep:
        best = best._replace(delimiter=_NO_DELIMITER)
    return best


def _header_rank(header: _Header) -> tuple[int, int, int]:
    field_count = len(find_meanings(tuple(header.names)).names)
    return -header.line, field_count, len(header.names)


def _find_header_with(text: str, delimiter: str, below_sep: bool) -> _Header | None:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    line = 1
    try:
        for cells in islice(reader, _HEADER_SEARCH_ROWS):
            if FILE in find_meanings(tuple(cells)).names:
                return _Header(delimiter, reader.line_num + below_sep, line + below_sep, cells)
            line = reader.line_num + 1
    except csv.Error:
        pass
    return None


def _read_rows(table: ManifestTable, text: str, header: _Header) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of each row below the header, and the line it begins on.

    A row that is no CSV, such as one with a quote that nothing closes, costs itself: reading goes
    on with the next line.
    """
    lines = list(io.StringIO(text, newline=""))
    index = header.lines
    while index < len(lines):
        start = index
        reader = csv.reader(islice(lines, start, None), delimiter=header.delimiter, strict=True)
        try:
            for cells in reader:
                yield index + 1, cells
                index = start + reader.line_num
        except csv.Error as error:
            table.omit_row(index + 1, str(error))
            index += 1
        else:
            return


def _unescape_cell(cell: str) -> str:
    """Return what a cell holds that Excel was told is text; any other as it is."""
    as_text = _AS_TEXT(cell.strip())
    return as_text[1].replace('""', '"') if as_text else cell


def _read_json_lines(table: ManifestTable, source: DecodedText) -> None:
    _note_encoding(table, source)
    reported_names: set[str] = set()
    # Not splitlines(): a JSON string may hold U+2028, which is a line's end to Python.
    for line, content in enumerate(source.text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            fields = parse_json_object(content)
        except ValueError as error:
            table.omit_row(line, str(error))
            continue
        meanings = find_meanings(tuple(fields))
        if meanings.near_misses.keys() - reported_names:
            reported_names |= meanings.near_misses.keys()
            _note_names(table, f", line {line}", meanings)
        record = meanings.apply(fields)
        file = record.get(FILE)
        if not isinstance(file, str) or not file.strip() or "\0" in file:
            table.omit_row(line, "it names no file")
            continue
        for name, value in record.items():
            record[name] = source.without_stray_bytes(value) if isinstance(value, str) else value
        table.records.append(ManifestRecord(line, record, _file_bytes(file, source)))


def _file_bytes(file: str, source: DecodedText) -> bytes:
    try:
        return source.file_bytes(file)
    except UnicodeEncodeError:
        return file.encode("utf-8", "surrogatepass")


def parse_json_object(text: str) -> dict[str, Any]:
    """Return the object that a text is; a number that is none costs its field, later.

    Raises:
        ValueError: it is none.
    """
    try:
        value = json.loads(text, parse_int=_parse_integer, parse_float=WrittenFloat)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004 - callers expect a ValueError
    return value


class WrittenFloat(float):
    """A number with a fraction, as it was written: 5.10 and 5.1 are two ids, and one number."""

    text: str

    def __new__(cls, text: str) -> Self:
        """Return the number that a text says."""
        number = super().__new__(cls, text)
        number.text = text
        return number


def _parse_integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= _DIGITS_MAX else digits


def _note_encoding(table: ManifestTable, source: DecodedText) -> None:
    if source.encoding == WINDOWS:
        table.note(": encoding", f"it is not UTF-8, and was read as {WINDOWS}; {ENCODING_HINT}")
    elif source.has_stray_bytes:
        table.note(": encoding", f"some of it is not UTF-8, and was read as {WINDOWS}")


def _note_names(table: ManifestTable, position: str, meanings: ColumnMeanings) -> None:
    if meanings.near_misses:
        table.note(position, describe_meanings(meanings))


def describe_meanings(meanings: ColumnMeanings) -> str:
    """Return how near misses were understood."""
    names = ", ".join(f"{printable_text(n)!r} as {f}" for n, f in meanings.near_misses.items())
    return f"understood {names}"


def omitted_field_notices(path: bytes, causes: Iterable[tuple[int, str, str]]) -> Iterator[Notice]:
    """Yield a notice for each field that some rows are without: of each its line and its cause."""
    by_field: dict[str, list[str]] = defaultdict(list)
    for line, name, cause in causes:
        by_field[name].append(f"line {line} ({cause})")
    for name, lines in islice(by_field.items(), _MAX_FIELDS_NAMED):
        ellipsis = ", ..." if len(lines) > _EXAMPLES else ""
        rows = "1 row" if len(lines) == 1 else f"{len(lines)} rows"
        message = f"left out of {rows}: {', '.join(lines[:_EXAMPLES])}{ellipsis}"
        subject = f"{printable_path(path)}: {printable_text(name)}"
        yield Notice(ErrorCode.MANIFEST_INVALID, subject, message)
    if (unnamed := len(by_field) - _MAX_FIELDS_NAMED) > 0:
        message = f"{unnamed} other fields were left out of some rows as well"
        yield Notice(ErrorCode.MANIFEST_INVALID, printable_path(path), message)


_REMEDY = "A manifest is a CSV whose header names 'file', or JSON Lines."


def manifest_error(path: bytes, line: int | None, cause: str, remedy: str = _REMEDY) -> BadRequest:
    """Return the refusal of a whole manifest."""
    subject = printable_path(path) if line is None else f"{printable_path(path)}, line {line}"
    return BadRequest(ErrorCode.MANIFEST_INVALID, subject, cause, remedy)


def printable_text(text: str) -> str:
    """Return a text as people read it."""
    is_escaped = all(not "\ud800" <= c <= "\udfff" or "\udc80" <= c <= "\udcff" for c in text)
    return printable_path(text.encode("utf-8", "surrogateescape" if is_escaped else "replace"))
