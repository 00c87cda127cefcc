"""Voices of segments: read by the reducer, ordered where they are missing, and erased.

A reducer that lacks voices has its segments done again, for these alone: they keep their results,
and whoever claims one decodes no word. It does so once; what is still missing then, nobody tells.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from uuid import UUID

from sqlalchemy import Connection, delete, exists, func, select, text, update

from schema.store.ledger import Cursor, in_array
from schema.store.work.reduces import ReduceClaim, lock_reduce, redo_segments
from schema.tables import Recording, SegmentRow, VoicesRow
from schema.voices import Voices
from schema.wire import Dispatch


def has_voices(cursor: Cursor, key: str) -> bool:
    """Tell whether the ledger has the voices of a key."""
    row = cursor.execute(
        "select exists (select from voices where key = %(key)s) as has_voices", {"key": key}
    ).fetchone()
    return bool(row and row["has_voices"])


def read_voices(connection: Connection, keys: Mapping[UUID, str]) -> dict[UUID, Voices]:
    """Return the voices of segments, by the segments' ids; ``keys`` has the key of each.

    Those of another segment of the same samples will do. Left out is what is missing, and what is
    not as this release writes it.
    """
    query = select(VoicesRow.key, VoicesRow.body).where(in_array(VoicesRow.key, set(keys.values())))
    voices_by_key: dict[str, Voices] = {}
    for key, body in connection.execute(query):
        try:
            voices_by_key[key] = Voices.from_bytes(bytes(body))
        except ValueError:
            continue
    return {segment: voices_by_key[key] for segment, key in keys.items() if key in voices_by_key}


def order_voices(
    connection: Connection, claim: ReduceClaim, segments: Collection[UUID]
) -> list[Dispatch]:
    """Have segments done again for their voices; the messages to publish. The lease ends here.

    Where it was ordered before nothing changes, and the reduce goes on.

    Raises:
        LeaseLost: another reducer took over: nothing was ordered.
    """
    if lock_reduce(connection, claim)["voices_ordered_at"] is not None:
        return []
    dispatches = redo_segments(connection, claim, segments, keeps_results=True)
    if dispatches:
        is_this = Recording.id == claim.recording_id
        connection.execute(update(Recording).where(is_this).values(voices_ordered_at=func.now()))
    return dispatches


def erase_voices_of(connection: Connection, recording: UUID) -> None:
    """Erase the voices of a recording, whose transcript is stored in the same transaction."""
    is_its_segment = exists().where(
        SegmentRow.id == VoicesRow.segment_id, SegmentRow.recording_id == recording
    )
    connection.execute(delete(VoicesRow).where(is_its_segment))


_ERASE_OLD = text("""
    delete from voices
     where segment_id in (
           select v.segment_id
             from voices v
             join segments s on s.id = v.segment_id
             join recordings r on r.id = s.recording_id
            where v.created_at < now() - make_interval(secs => :keep_s)
              and r.state in ('done', 'partial', 'failed', 'cancelled')
            order by v.created_at
            limit :batch)
""")


def erase_old_voices(connection: Connection, keep_s: int, batch: int) -> int:
    """Erase voices that were kept long enough, or whose recording ended without a transcript.

    Those of a recording under way stay. Returns how many segments' they were.
    """
    return connection.execute(_ERASE_OLD, {"keep_s": keep_s, "batch": batch}).rowcount
