"""From a row that waits to the message that wakes a worker for it."""

from __future__ import annotations

from typing import Any, Protocol

from sqlalchemy import select

from schema.span import Span
from schema.tables import Recording, Submission
from schema.text import format_clock, short_id
from schema.wire import (
    REDUCE_QUEUE,
    REDUCE_RECORDING,
    SEGMENTS_QUEUE,
    TRANSCRIBE_SEGMENT,
    Dispatch,
    Message,
    Priority,
)

#: A worker's limit: start-up of the model, and decoding no slower than half real time. Messages
#: have it for workers of releases that went by theirs, and half a minute later for the deaf.
_START_S = 120
_REAL_TIMES = 2
_HARD_AFTER_S = 30

#: Stitching ten hours of words takes seconds; ITN of them a minute or two.
REDUCE_LIMIT_S = 600


def segment_limit_s(duration_ms: int) -> int:
    """Return how many seconds segments that are so long may take to decode, together."""
    return _START_S + _REAL_TIMES * duration_ms // 1000


class ColumnValues(Protocol):
    """A row by column name: SQLAlchemy's RowMapping, or the dict that was inserted."""

    def __getitem__(self, column: str, /) -> Any:
        """Return one column's value."""


#: SQL: what :func:`segment_dispatch` needs of a segment ``s`` and its recording ``r``.
SEGMENT_COLUMNS = """
    s.id, s.dispatch_token, s.recording_id, s.kind, s.channel, s.index, s.start_ms, s.end_ms,
    s.urgent, r.submission_id
"""


def segment_dispatch(row: ColumnValues, priority: Priority | None = None) -> Dispatch:
    """Return the message for a segment's row, which needs :data:`SEGMENT_COLUMNS`.

    ``urgent`` decides its priority where none is given.
    """
    span = Span(row["start_ms"], row["end_ms"])
    soft_s = segment_limit_s(span.duration_ms)
    channel = "mix" if row["channel"] is None else f"ch {row['channel']}"
    name = "repair" if row["kind"] == "repair" else f"seg {row['index']}"
    place = f"{channel} {name} {format_clock(span.start_ms)}-{format_clock(span.end_ms)}"
    return Dispatch(
        task=TRANSCRIBE_SEGMENT,
        queue=SEGMENTS_QUEUE,
        message=Message(row["id"], row["dispatch_token"]),
        label=_label(row, place),
        soft_limit_s=soft_s,
        hard_limit_s=soft_s + _HARD_AFTER_S,
        priority=_priority(row) if priority is None else priority,
    )


#: SQL: what :func:`reduce_dispatch` needs of a recording ``r``, apart from ``urgent``.
REDUCE_COLUMNS = "r.id as recording_id, r.submission_id, r.reduce_dispatch_token, r.duration_ms"

#: The same of the recording in an UPDATE, with ``urgent``.
REDUCE_RETURNING = (
    Recording.id.label("recording_id"),
    Recording.submission_id,
    Recording.reduce_dispatch_token,
    Recording.duration_ms,
    select(Submission.urgent)
    .where(Submission.id == Recording.submission_id)
    .correlate(Recording)
    .scalar_subquery()
    .label("urgent"),
)


def reduce_dispatch(row: ColumnValues) -> Dispatch:
    """Return the message for the row of a recording whose segments have all ended."""
    return Dispatch(
        task=REDUCE_RECORDING,
        queue=REDUCE_QUEUE,
        message=Message(row["recording_id"], row["reduce_dispatch_token"]),
        label=_label(row, format_clock(row["duration_ms"] or 0)),
        soft_limit_s=REDUCE_LIMIT_S,
        hard_limit_s=REDUCE_LIMIT_S + _HARD_AFTER_S,
        priority=_priority(row),
    )


def _priority(row: ColumnValues) -> Priority:
    return Priority.URGENT if row["urgent"] else Priority.NORMAL


def _label(row: ColumnValues, place: str) -> str:
    """Return what Flower shows, which cuts it after some forty characters, and searches."""
    recording, submission = short_id(row["recording_id"]), short_id(row["submission_id"])
    return f"recording {recording} {place}, submission {submission}"
