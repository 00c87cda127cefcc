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
from producer.metadata import manifest
from producer.metadata.column_names import FILE, STARTED_AT, TEXT_FIELDS, find_meanings
from producer.metadata.matching import ManifestRow, Matches, match_rows, refuse_duplicates
from producer.metadata.name_pattern import NameParts
from producer.metadata.text_encodings import ENCODING_HINT, WINDOWS, decode_text
from producer.sources.walk import FoundFile, ReadHeads, sidecar_paths
from schema import bounds
from schema.errors import BadRequest, ErrorCode
from schema.records import CallInfo, Notice
from schema.text import printable_path

#: The code of a notice; the recording is submitted all the same.
NAME_UNMATCHED = "name-pattern.unmatched"

#: A sidecar describes one call; what is larger is something else.
_SIDECAR_BYTES = 1024**2
#: Recordings whose sidecars are read at a time: together they are fetched sooner from a bucket.
_SIDECAR_BATCH = 64
#: How spreadsheets show, and save, an id of many digits that they took for a number.
_is_rounded = re.compile(r"[+-]?\d([.,]\d+)?E\+\d{2,3}").fullmatch
#: What spreadsheets write where a formula has no value.
_ERROR_VALUES = frozenset({"#N/A", "#REF!", "#VALUE!", "#NAME?", "#DIV/0!", "#NULL!", "#NUM!"})
#: Words of scripts and databases for nothing; as names they are people's.
_NULL_WORDS = frozenset({"null", "nan", "none", "n/a", "undefined", "<null>", "\\n"})
#: Characters of a field's name in a notice.
_NAME_CHARS = 60


@dataclass(frozen=True, slots=True)
class CallDescription:
    """What one source says of a call, and what of it could not be understood."""

    call: CallInfo = field(default_factory=CallInfo)
    notices: tuple[Notice, ...] = ()


class Manifest:
    """The rows of a manifest, and what had to be understood or left out of it."""

    def __init__(
        self,
        path: bytes,
        rows: Sequence[ManifestRow],
        notices: Sequence[Notice] = (),
        digest: str | None = None,
    ) -> None:
        self.path = path
        #: Of its bytes, which a pipe has but once.
        self.digest = digest
        self.rows = tuple(rows)
        self.notices = tuple(notices)
        refuse_duplicates(path, (((row.file,), row) for row in rows))

    def match(self, files: Iterable[FoundFile]) -> Matches:
        """Find the row of each file, see :func:`producer.metadata.matching.match_rows`.

        Raises:
            BadRequest: two rows name the same file.
        """
        matches = match_rows(self.path, self.rows, files)
        return Matches(matches.calls, (*self.notices, *matches.notices))


def load_manifest(path: bytes, zone: tzinfo | None = None, encoding: str | None = None) -> Manifest:
    """Read a manifest: JSON Lines where its name ends in ``.jsonl`` or ``.ndjson``, else CSV.

    ``zone`` is that of moments which name none, ``encoding`` that of text that is no UTF-8.

    A field that cannot be understood costs itself.

    Raises:
        BadRequest: it cannot be read or understood, describes a file twice, or none of its moments
            names a zone and no other is given; says which line.
    """
    table = manifest.read_table(path, encoding)
    rows, omitted_fields = [], []
    for record in table.records:
        call, record_omissions = _parse_record(record.values, zone)
        rows.append(_row(record, call))
        omitted_fields += [(record.line, item.field, item.cause) for item in record_omissions]
    if zone is None:
        _refuse_zoneless(table, rows)
    notices = [*table.notices, *manifest.omitted_field_notices(path, omitted_fields)]
    return Manifest(path, rows, notices, table.digest)


def _row(record: manifest.ManifestRecord, call: CallInfo) -> ManifestRow:
    file = os.path.normpath(record.values[FILE].encode("utf-8", "surrogatepass"))
    raw = os.path.normpath(record.file)
    return ManifestRow(record.line, file, call, None if raw == file else raw)


def _refuse_zoneless(table: manifest.ManifestTable, rows: Sequence[ManifestRow]) -> None:
    """Refuse a manifest whose moments all lack what ``--zone`` says: nothing else is wrong."""
    if any(row.call.started_at for row in rows):
        return
    for record in table.records:
        call, _ = _parse_record({STARTED_AT: record.values.get(STARTED_AT)}, UTC)
        if call.started_at is not None:
            cause = f"started_at {record.values[STARTED_AT]} has no time zone"
            remedy = "Add --zone, e.g. Europe/Berlin."
            raise manifest.manifest_error(table.path, record.line, cause, remedy)


def read_sidecars(
    recordings: Iterable[bytes],
    read: ReadHeads,
    zone: tzinfo | None = None,
    encoding: str | None = None,
) -> Iterator[CallDescription | None]:
    """Yield what the sidecar of each recording says, or None where it has none.

    A sidecar that cannot be understood gives a notice: the recording is worth more than it. So
    does a field, and the others are kept.
    """
    old_notices: set[Notice] = set()
    path_iterator = iter(recordings)
    while chunk := list(islice(path_iterator, _SIDECAR_BATCH)):
        candidates = [sidecar_paths(path) for path in chunk]
        data = iter(read([name for names in candidates for name in names], _SIDECAR_BYTES + 1))
        for names in candidates:
            # Each is read, so that the contents stay in step with their names.
            sidecars = [_read_sidecar(n, next(data), zone, encoding, old_notices) for n in names]
            yield next((sidecar for sidecar in sidecars if sidecar is not None), None)


def _read_sidecar(
    sidecar: bytes,
    content: bytes | OSError,
    zone: tzinfo | None,
    encoding: str | None,
    old_notices: set[Notice],
) -> CallDescription | None:
    """Return what a sidecar says; what ``old_notices`` has is not repeated."""
    if isinstance(content, FileNotFoundError | NotADirectoryError):
        return None
    if isinstance(content, OSError):
        return _invalid_sidecar(sidecar, content.strerror or str(content))
    try:
        return _parse_sidecar(sidecar, content, zone, encoding, old_notices)
    except ValueError as error:
        return _invalid_sidecar(sidecar, str(error))


def _parse_sidecar(
    path: bytes, data: bytes, zone: tzinfo | None, encoding: str | None, old_notices: set[Notice]
) -> CallDescription:
    if len(data) > _SIDECAR_BYTES:
        raise ValueError(f"it is larger than {_SIDECAR_BYTES} bytes")
    source = decode_text(data, lambda text: text.lstrip()[:1] == "{", encoding)
    record = manifest.parse_json_object(source.without_stray_bytes(source.text))
    meanings = find_meanings(tuple(record), (*TEXT_FIELDS, STARTED_AT))
    call, omitted_fields = _parse_record(meanings.apply(record), zone)
    notices = set()
    if meanings.near_misses:
        names = ", ".join(map(repr, meanings.near_misses))
        subject, message = f"sidecars: {names}", manifest.describe_meanings(meanings)
        notices.add(Notice(manifest.InterpretationCode.SIDECAR, subject, message))
    if source.encoding == WINDOWS or source.has_stray_bytes:
        cause = f"some are not UTF-8, and were read as {WINDOWS}; {ENCODING_HINT}"
        notices.add(Notice(manifest.InterpretationCode.SIDECAR, "sidecars: encoding", cause))
    new_notices = sorted(notices - old_notices, key=lambda notice: notice.subject)
    old_notices |= notices
    if omitted_fields:
        cause = _omission_cause(omitted_fields)
        new_notices.append(Notice(ErrorCode.SIDECAR_INVALID, printable_path(path), cause))
    return CallDescription(call, tuple(new_notices))


def _invalid_sidecar(path: bytes, cause: str) -> CallDescription:
    message = f"{cause}; the recording is submitted without it"
    notice = Notice(ErrorCode.SIDECAR_INVALID, printable_path(path), message)
    return CallDescription(notices=(notice,))


def _omission_cause(omitted_fields: Iterable[bounds.OmittedField]) -> str:
    causes = ", ".join(f"{item.field} ({item.cause})" for item in omitted_fields)
    return f"left out: {causes}; the recording is submitted without it, and with the rest"


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

    def read(self, path: bytes) -> CallDescription:
        """Return what a file's name says; a notice where it, or a field, does not fit."""
        depth = self._pattern.count("/") + 1
        name = "/".join(os.fsdecode(path).split("/")[-depth:])
        values = self._parts.read(name)
        if values is None:
            return _unmatched_name(path, f"its name is not {self._pattern}")
        moment, omitted_fields = None, []
        if self._parts.moment_format and STARTED_AT in values:
            try:
                moment = self._moment(values.pop(STARTED_AT), self._parts.moment_format)
            except ValueError as error:
                omitted_fields = [bounds.OmittedField(STARTED_AT, str(error))]
        call, more_omitted_fields = _parse_record(values, self._zone)
        call = merge_calls(CallInfo(started_at=moment), call)
        omitted_fields += more_omitted_fields
        if not omitted_fields:
            return CallDescription(call)
        return _unmatched_name(path, _omission_cause(omitted_fields), call)

    def _moment(self, text: str, form: str) -> datetime:
        moment = datetime.strptime(text, form)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=self._zone)
        bounds.check_moment(moment)
        return moment

    def _refuse(self, cause: str) -> NoReturn:
        raise BadRequest(
            ErrorCode.OPTION_INVALID,
            f"--name-pattern {self._pattern}",
            cause,
            "Write e.g. {started_at:%Y%m%d-%H%M%S%z}_{agent}_{call_id}.wav",
        )


def merge_calls(*calls: CallInfo | None) -> CallInfo:
    """Return each field from the first that has it; attributes likewise, each by itself."""
    values: dict[str, Any] = {}
    attributes: dict[str, Any] = {}
    for call in reversed(calls):
        if call is not None:
            values |= {f.name: v for f in fields(call) if (v := getattr(call, f.name)) is not None}
            attributes |= call.attributes
    return CallInfo(**values | {"attributes": attributes})


def describe_call(
    path: bytes,
    from_manifest: CallInfo | None = None,
    from_sidecar: CallDescription | None = None,
    pattern: NamePattern | None = None,
) -> tuple[CallInfo, tuple[Notice, ...]]:
    """Return what is known of the call recorded at ``path``, and what could not be understood."""
    from_name = pattern.read(path) if pattern else CallDescription()
    sources = [from_sidecar or CallDescription(), from_name]
    notices = tuple(notice for source in sources for notice in source.notices)
    return merge_calls(from_manifest, *(source.call for source in sources)), notices


def _unmatched_name(path: bytes, cause: str, call: CallInfo | None = None) -> CallDescription:
    notice = Notice(NAME_UNMATCHED, printable_path(path), cause)
    return CallDescription(call or CallInfo(), (notice,))


def _parse_record(
    record: Mapping[str, Any], zone: tzinfo | None
) -> tuple[CallInfo, list[bounds.OmittedField]]:
    values: dict[str, Any] = {}
    omitted_fields: list[bounds.OmittedField] = []
    for name in (*TEXT_FIELDS, STARTED_AT):
        try:
            value = _text(record.get(name))
            if name == "call_id" and value is not None and value.lower() in _NULL_WORDS:
                raise ValueError(f"{value} is no call's id")  # noqa: TRY301
            if value is not None:
                is_moment = name == STARTED_AT
                values[name] = parse_call_moment(value, zone) if is_moment else value
        except (ValueError, OverflowError) as error:
            omitted_fields.append(bounds.OmittedField(name, str(error)))
    field_names = {*TEXT_FIELDS, STARTED_AT, FILE}
    custom_fields = {name: value for name, value in record.items() if name not in field_names}
    attributes, more_omitted_fields = _check_custom_fields(custom_fields)
    return CallInfo(**values, attributes=attributes), omitted_fields + more_omitted_fields


def _check_custom_fields(
    custom_fields: Mapping[str, Any],
) -> tuple[dict[str, Any], list[bounds.OmittedField]]:
    attributes: dict[str, Any] = {}
    omitted_fields: list[bounds.OmittedField] = []
    total_bytes = 0
    for name, value in custom_fields.items():
        try:
            bounds.check_attributes({name: value})
            field_bytes = len(json.dumps({name: value}, ensure_ascii=False).encode())
            if total_bytes + field_bytes > bounds.ATTRIBUTES_MAX_BYTES:
                raise ValueError("the call's other fields leave no room for it")  # noqa: TRY301
        except (ValueError, RecursionError) as error:
            omitted_fields.append(bounds.OmittedField(name[:_NAME_CHARS], str(error)))
        else:
            attributes[name] = value
            total_bytes += field_bytes
    return attributes, omitted_fields


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
    text = _strip(value)
    bounds.check_text(text)
    if _is_rounded(text):
        raise ValueError(f"a spreadsheet rounded it to {text}; format the column as text")
    if text.upper() in _ERROR_VALUES:
        raise ValueError(f"it is {text}, an error of a spreadsheet's")
    return text or None


def _digits(number: float) -> str:
    """Return a number as it was written, but for a fraction of nothing; one in powers as it is."""
    text = number.text if isinstance(number, manifest.WrittenFloat) else str(number)
    if "e" in text.lower():
        text = str(int(number)) if float(number).is_integer() else str(float(number))
    integer, _, fraction = text.partition(".")
    return text if fraction.strip("0") else integer


def _strip(text: str) -> str:
    """Return a text without blanks and characters that nobody sees at its ends."""
    start, end = 0, len(text)
    while start < end and _is_blank(text[start]):
        start += 1
    while start < end and _is_blank(text[end - 1]):
        end -= 1
    return text[start:end]


def _is_blank(char: str) -> bool:
    return char.isspace() or unicodedata.category(char) == "Cf"
