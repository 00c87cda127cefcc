"""Transcripts as Parquet, for a data lake: a row for each recording, with all that its JSON has.

Columns and fields are named as in the JSON; a name that ends in ``_ms`` is in milliseconds.
:mod:`producer.export.fields` says what they mean.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

from producer.export.fields import FIELDS, WORD_FIELDS, JsonType
from producer.export.formats import document
from producer.export.incremental import open_new_file
from schema.errors import ErrorCode, Misconfigured
from schema.store.read.transcripts import StoredTranscript

#: Raised when a column changes its meaning or goes; a new one is no reason.
SCHEMA_VERSION = 1

#: A row group is in memory until it is written: as many recordings, or as much of them, at most.
_GROUP_ROWS = 1_000
_GROUP_BYTES = 16 * 1024 * 1024


@contextmanager
def open_table(path: Path) -> Iterator[Callable[[StoredTranscript], None]]:
    """Yield what adds a transcript to a table that appears whole or not at all.

    Where none is added no file is made.

    Raises:
        Misconfigured: pyarrow is not installed, or the file cannot be written.
    """
    _pyarrow()
    with open_new_file(path) as file, closing(_Table(file)) as table:
        yield table.add
        table.flush()


class _Table:
    """A Parquet file in the making: rows are gathered, and written a group at a time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._writer: Any = None
        self._rows: list[Any] = []
        self._bytes = 0

    def add(self, transcript: StoredTranscript) -> None:
        """Take a row, in columns at once: as Python's objects it is twenty times as large."""
        row = _pyarrow().RecordBatch.from_pylist([to_row(transcript)], schema=lake_schema())
        self._rows.append(row)
        self._bytes += row.nbytes
        if len(self._rows) >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        if not self._rows:
            return
        if self._writer is None:
            from pyarrow.parquet import ParquetWriter

            self._writer = ParquetWriter(self._file, lake_schema(), compression="zstd")
        group = _pyarrow().Table.from_batches(self._rows)
        self._writer.write_table(group, row_group_size=len(group))
        self._rows, self._bytes = [], 0

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def to_row(transcript: StoredTranscript) -> dict[str, Any]:
    """Return a recording as a row: its JSON, but for moments and attributes."""
    call = transcript.recording.call
    return {
        **document(transcript),
        "started_at": call.started_at,
        "stored_at": transcript.stored_at,
        "attributes": [(name, _text(value)) for name, value in call.attributes.items()],
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@cache
def lake_schema() -> Any:
    """Return the table's columns, as a ``pyarrow.Schema``: the fields of an export, in their order.

    Raises:
        Misconfigured: pyarrow is not installed.
    """
    pa = _pyarrow()
    types = {
        JsonType.STRING: pa.string(),
        JsonType.MOMENT: pa.timestamp("us", "UTC"),
        JsonType.INTEGER: pa.int32(),
        JsonType.NUMBER: pa.float64(),
        JsonType.BOOLEAN: pa.bool_(),
        JsonType.OBJECT: pa.map_(pa.string(), pa.string()),
    }
    types[JsonType.WORD] = pa.struct({field.path: types[field.type] for field in WORD_FIELDS})
    columns = _columns([(field.path, types[field.type]) for field in FIELDS])
    return pa.schema(columns, metadata={"callscribe.schema": str(SCHEMA_VERSION)})


def _columns(fields: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return types by name: a path's ``[]`` is an element of a list, its ``.`` a field."""
    pa, columns = _pyarrow(), {}
    for name, group in groupby(fields, lambda field: field[0].partition(".")[0]):
        members = [(path.partition(".")[2], type_) for path, type_ in group]
        column = pa.struct(_columns(members)) if members[0][0] else members[0][1]
        columns[name.removesuffix("[]")] = pa.list_(column) if name.endswith("[]") else column
    return columns


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        cause = "Parquet cannot be written without pyarrow"
        remedy = "Install it: pip install -c ops/constraints.txt '.[parquet]'"
        raise Misconfigured(ErrorCode.SETTING_MISSING, "--format parquet", cause, remedy) from None
    return pyarrow
