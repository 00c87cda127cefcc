"""A submission is cancelled: its work ends where it stands.

A worker notices when it next renews its lease, and leaves its decode; whatever it would still
store is refused. Its messages in Redis wake a worker for nothing, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import Connection, func, select, text, update

from schema.errors import ErrorCode
from schema.states import TERMINAL, RecordingState, SegmentState
from schema.store.dispatches import SEGMENT_COLUMNS, segment_dispatch
from schema.store.intake.submissions import seal_submission
from schema.store.ledger import NO_REDUCE_LEASE, in_array
from schema.tables import Recording, SegmentRow
from schema.wire import Dispatch, Priority


@dataclass(slots=True)
class CancelResult:
    """How much was cancelled, and the messages to publish for duplicates that waited for it."""

    recordings: int = 0
    segments: int = 0
    dispatches: list[Dispatch] = field(default_factory=list)


def cancel_submission(connection: Connection, submission_id: UUID) -> CancelResult:
    """End every recording of a submission that has not ended, and the submission with it.

    An open submission is sealed: its producer, if it still runs, is refused and stops.
    """
    seal_submission(connection, submission_id)
    recordings = connection.scalars(
        select(Recording.id)
        .where(Recording.submission_id == submission_id, Recording.state.not_in(TERMINAL))
        .order_by(Recording.id)
        .with_for_update(key_share=True)
    ).all()
    segments, keys = end_segments(connection, recordings)
    connection.execute(
        update(Recording)
        .where(in_array(Recording.id, recordings))
        .values(
            state=RecordingState.CANCELLED,
            error_code=ErrorCode.CANCELLED,
            error_message=ErrorCode.CANCELLED.meaning,
            ended_at=func.now(),
            open_segments=0,
            **NO_REDUCE_LEASE,
        )
    )
    return CancelResult(len(recordings), segments, redispatch_waiting_duplicates(connection, keys))


def end_segments(connection: Connection, recordings: Sequence[UUID]) -> tuple[int, list[str]]:
    """End the open segments of recordings whose locks the caller holds.

    All at once, unlike the end of a single segment: nothing is left to be reduced. Returns how many
    there were, and the keys that duplicates may wait for: those of the plan, and those of decodes
    under way, which differ on a host that falls back to a smaller model.
    """
    open_segments = (
        select(SegmentRow.id, SegmentRow.decoding_key)
        .where(
            in_array(SegmentRow.recording_id, recordings),
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


#: One segment for each key: its finish serves the others.
_REDISPATCH_DUPLICATES = text(f"""
    update segments s
       set dispatch_token = gen_random_uuid(), dispatched_at = now(),
           dispatches = s.dispatches + 1
      from recordings r
     where r.id = s.recording_id and s.id in (
           select distinct on (duplicate_segment.decode_key) duplicate_segment.id
             from segments duplicate_segment
            where duplicate_segment.decode_key = any(:keys) and duplicate_segment.state = 'pending'
              and coalesce(duplicate_segment.next_attempt_at <= now(), true)
              and not exists (select from segments leased_segment
                               where leased_segment.decode_key = duplicate_segment.decode_key
                                 and leased_segment.state = 'leased')
            order by duplicate_segment.decode_key, duplicate_segment.dispatched_at)
 returning {SEGMENT_COLUMNS}
""")


def redispatch_waiting_duplicates(connection: Connection, keys: Sequence[str]) -> list[Dispatch]:
    """Dispatch segments that wait for the decode of ``keys``, which no worker does any more.

    Their own messages may have come and been dropped while that decode ran.
    """
    rows = connection.execute(_REDISPATCH_DUPLICATES, {"keys": list(keys)}).mappings()
    return [segment_dispatch(row, Priority.URGENT) for row in rows]
