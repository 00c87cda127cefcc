"""Transcripts as Parquet, for a data lake: a row for each recording, with all that its JSON has.

Columns and fields are named as in the JSON; a name that ends in ``_ms`` is in milliseconds.
``ops/docs/parquet.md`` lists them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from producer.export.formats import document
from producer.export.incremental import appearing
from schema.errors import ErrorCode, Misconfigured
from schema.store.read.recordings import StoredTranscript

#: Raised when a column changes its meaning or goes; a new one is no reason.
SCHEMA_VERSION = 1

#: A row group is in memory until it is written: as many recordings, or as much of them, at most.
_GROUP_ROWS = 1_000
_GROUP_BYTES = 16 * 1024 * 1024


@contextmanager
def opened_table(path: Path) -> Iterator[Callable[[StoredTranscript], None]]:
    """Yield what adds a transcript to a table that appears whole or not at all.

    Where none is added no file is made.

    Raises:
        Misconfigured: pyarrow is not installed, or the file cannot be written.
    """
    _pyarrow()
    with appearing(path) as file, closing(_Table(file)) as table:
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
        """Write what is gathered as one row group."""
        if not self._rows:
            return
        if self._writer is None:
            from pyarrow.parquet import ParquetWriter

            self._writer = ParquetWriter(self._file, lake_schema(), compression="zstd")
        group = _pyarrow().Table.from_batches(self._rows)
        self._writer.write_table(group, row_group_size=len(group))
        self._rows, self._bytes = [], 0

    def close(self) -> None:
        """Write the end of the file, if it has begun."""
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
    """Return the table's columns, as a ``pyarrow.Schema``.

    Raises:
        Misconfigured: pyarrow is not installed.
    """
    pa = _pyarrow()
    text, number, real, moment = pa.string(), pa.int32(), pa.float64(), pa.timestamp("us", "UTC")

    def rows(**fields: Any) -> Any:
        return pa.list_(pa.struct(fields))

    place = {"start_ms": number, "end_ms": number}
    words = rows(text=text, **place, confidence=real)
    speakers = rows(
        speaker=text,
        talk_ms=number,
        share=real,
        words=number,
        words_per_minute=number,
        longest_ms=number,
        interruptions=number,
    )
    said_by = {"speaker": text, "channel": number, **place}
    columns = {
        "recording": text,
        "file": text,
        "state": text,
        "error": pa.struct({"code": text, "message": text}),
        "call_id": text,
        "started_at": moment,
        "direction": text,
        "line": text,
        "agent": text,
        "customer": text,
        "attributes": pa.map_(text, text),
        "duration_ms": number,
        "channels": number,
        "version": number,
        "stored_at": moment,
        "language": text,
        "languages": rows(channel=number, language=text),
        "flags": pa.list_(text),
        "coverage": real,
        "speech_ms": number,
        "crosstalk_words": number,
        "noise_words": number,
        "talk": pa.struct({"silence_ms": number, "overlap_ms": number, "speakers": speakers}),
        "text": text,
        "utterances": rows(**said_by, text=text, words=words),
        "gaps": rows(**said_by, code=text),
        "seams": rows(
            channel=number,
            rule=text,
            at_ms=number,
            confidence=real,
            dropped_left=words,
            dropped_right=words,
        ),
        "segments": rows(channel=number, index=number, **place, speech_ms=number, worded_ms=number),
        "repairs": rows(
            channel=number,
            **place,
            reason=text,
            outcome=text,
            language=text,
            error=text,
            rules=pa.list_(text),
            added=words,
            dropped=words,
        ),
    }
    return pa.schema(columns, metadata={"callscribe.schema": str(SCHEMA_VERSION)})


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise Misconfigured(
            ErrorCode.SETTING_MISSING,
            "--format parquet",
            "Parquet cannot be written without pyarrow",
            "Install it: pip install -c ops/constraints.txt '.[parquet]'",
        ) from None
    return pyarrow
