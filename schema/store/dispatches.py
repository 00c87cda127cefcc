"""From a row that waits to the message that wakes a worker for it."""

from __future__ import annotations

from typing import Any, Protocol

from schema.span import Span
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
_SLOWEST = 2
_HARD_AFTER_S = 30

#: Stitching ten hours of words takes seconds; ITN of them a minute or two.
REDUCE_LIMIT_S = 600


def segment_limit_s(duration_ms: int) -> int:
    """Return how many seconds segments that are so long may take to decode, together."""
    return _START_S + _SLOWEST * duration_ms // 1000


class Row(Protocol):
    """A row by column name: SQLAlchemy's RowMapping, or the dict that was inserted."""

    def __getitem__(self, column: str, /) -> Any:
        """Return one column's value."""


def segment_dispatch(row: Row, priority: Priority | None = None) -> Dispatch:
    """Return the message for a segment's row; what is urgent goes first, unless told how.

    Needs ``id, dispatch_token, submission_id, recording_id, kind, channel, index, start_ms,
    end_ms``, and ``urgent`` where no priority is given.
    """
    span = Span(row["start_ms"], row["end_ms"])
    soft_s = segment_limit_s(span.duration_ms)
    channel = "mix" if row["channel"] is None else f"ch {row['channel']}"
    name = "repair" if row["kind"] == "repair" else f"seg {row['index']}"
    place = f"{channel} {name} {clock(span.start_ms)}-{clock(span.end_ms)}"
    return Dispatch(
        task=TRANSCRIBE_SEGMENT,
        queue=SEGMENTS_QUEUE,
        message=Message(row["id"], row["dispatch_token"]),
        label=_label(row, place),
        soft_limit_s=soft_s,
        hard_limit_s=soft_s + _HARD_AFTER_S,
        priority=_priority(row) if priority is None else priority,
    )


def reduce_dispatch(row: Row) -> Dispatch:
    """Return the message for a recording whose segments have all ended.

    Needs ``submission_id, recording_id, reduce_dispatch_token, duration_ms, urgent``.
    """
    return Dispatch(
        task=REDUCE_RECORDING,
        queue=REDUCE_QUEUE,
        message=Message(row["recording_id"], row["reduce_dispatch_token"]),
        label=_label(row, clock(row["duration_ms"] or 0)),
        soft_limit_s=REDUCE_LIMIT_S,
        hard_limit_s=REDUCE_LIMIT_S + _HARD_AFTER_S,
        priority=_priority(row),
    )


def _priority(row: Row) -> Priority:
    return Priority.FIRST if row["urgent"] else Priority.NORMAL


def _label(row: Row, place: str) -> str:
    """Return what Flower shows, which cuts it after some forty characters, and searches."""
    recording, submission = short_id(row["recording_id"]), short_id(row["submission_id"])
    return f"recording {recording} {place}, submission {submission}"


def short_id(identifier: object) -> str:
    """Return the first eight characters of an id: enough to find it, short enough to read."""
    return str(identifier)[:8]


def clock(ms: int) -> str:
    """Return a time as people read it: ``m:ss``, or ``h:mm:ss`` from an hour on."""
    hours, rest = divmod(ms // 1000, 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
