"""Work that is wanted no more: ended where it stands, whoever is at it.

A worker hears of it when it next renews its lease, and leaves its decode; whatever it would still
store is refused. Its messages in Redis wake a worker for nothing, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import Connection, func, select, text, update

from schema.errors import ErrorCode
from schema.states import TERMINAL, RecordingState, SegmentState
from schema.store.dispatches import segment_dispatch
from schema.store.intake.submissions import seal
from schema.store.ledger import among
from schema.tables import Recording, SegmentRow
from schema.wire import Dispatch, Priority


@dataclass(slots=True)
class Cancelled:
    """What was cancelled, and the messages to publish for others who waited for its words."""

    recordings: int = 0
    segments: int = 0
    dispatches: list[Dispatch] = field(default_factory=list)


def cancel(connection: Connection, submission_id: UUID) -> Cancelled:
    """End every recording of a submission that has not ended, and the submission with it.

    An open submission is sealed: its producer, if it still runs, is refused and stops.
    """
    seal(connection, submission_id)
    recordings = connection.scalars(
        select(Recording.id)
        .where(Recording.submission_id == submission_id, Recording.state.not_in(TERMINAL))
        .order_by(Recording.id)
        .with_for_update(key_share=True)
    ).all()
    segments, keys = end_segments(connection, recordings)
    connection.execute(
        update(Recording)
        .where(among(Recording.id, recordings))
        .values(
            state=RecordingState.CANCELLED,
            error_code=ErrorCode.CANCELLED,
            error_message=ErrorCode.CANCELLED.meaning,
            ended_at=func.now(),
            open_segments=0,
            reduce_owner=None,
            reduce_token=None,
            reduce_expires_at=None,
        )
    )
    return Cancelled(len(recordings), segments, wake_twins(connection, keys))


def end_segments(connection: Connection, recordings: Sequence[UUID]) -> tuple[int, list[str]]:
    """End the open segments of recordings whose locks the caller holds.

    All at once, unlike the end of a single segment: nothing is left to be reduced. Returns how many
    there were, and the keys that others may have waited for: those that they were planned by, and
    those that they were being decoded by, which a host that falls back to a smaller model has.
    """
    open_segments = (
        select(SegmentRow.id, SegmentRow.decoding_key)
        .where(
            among(SegmentRow.recording_id, recordings),
            SegmentRow.state.in_([SegmentState.PENDING, SegmentState.LEASED]),
        )
        .with_for_update()
        .cte("open_segments")
    )
    rows = connection.execute(
        update(SegmentRow)
        .where(SegmentRow.id == open_segments.c.id)
        .values(
            state=SegmentState.FAILED,
            error_code=ErrorCode.CANCELLED,
            error_message=ErrorCode.CANCELLED.meaning,
            ended_at=func.now(),
            decoding_key=None,
            lease_owner=None,
            lease_token=None,
            lease_expires_at=None,
        )
        .returning(SegmentRow.decode_key, open_segments.c.decoding_key)
    ).all()
    return len(rows), sorted({key for row in rows for key in row if key is not None})


#: One segment for each key: its finish serves the rest of them.
_WAKE_TWINS = text(
    """
    update segments s
       set dispatch_token = gen_random_uuid(), dispatched_at = now(),
           dispatches = s.dispatches + 1
      from recordings r
     where r.id = s.recording_id and s.id in (
           select distinct on (t.decode_key) t.id
             from segments t
            where t.decode_key = any(:keys) and t.state = 'pending'
              and coalesce(t.next_attempt_at <= now(), true)
              and not exists (select from segments l
                               where l.decode_key = t.decode_key and l.state = 'leased')
            order by t.decode_key, t.dispatched_at)
 returning s.id, s.dispatch_token, s.recording_id, s.kind, s.channel, s.index, s.start_ms,
           s.end_ms, r.submission_id
    """
)


def wake_twins(connection: Connection, keys: Sequence[str]) -> list[Dispatch]:
    """Dispatch others that waited for the decode of ``keys``, which nobody does any more.

    Their own messages may have come and been dropped while that decode ran.
    """
    rows = connection.execute(_WAKE_TWINS, {"keys": list(keys)}).mappings()
    return [segment_dispatch(row, Priority.FIRST) for row in rows]
