"""Stored results of decodes, by their keys: which recordings use them, and which are unused."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy import Connection, delete, exists, or_, select

from schema.store.ledger import in_array
from schema.tables import ResultRow, SegmentRow


def find_result_keys(connection: Connection, ids: Collection[UUID]) -> Sequence[str]:
    """Return the keys of recordings' results: those of the plan, and those of the stored results.

    The two differ where a smaller model, or a worker of another release, decoded them.
    """
    query = select(SegmentRow.decode_key, SegmentRow.result_key)
    rows = connection.execute(query.where(in_array(SegmentRow.recording_id, ids)))
    return sorted({key for row in rows for key in row if key is not None})


def find_recordings_using(connection: Connection, keys: Collection[str]) -> list[UUID]:
    """Return the recordings with segments of these keys: those of the same audio."""
    query = (
        select(SegmentRow.recording_id)
        .where(or_(in_array(SegmentRow.result_key, keys), in_array(SegmentRow.decode_key, keys)))
        .distinct()
        .order_by(SegmentRow.recording_id)
    )
    return list(connection.scalars(query))


def delete_unused_results(connection: Connection, keys: Collection[str]) -> int:
    """Delete the results of ``keys`` that no segment uses; return how many.

    Locked first, then checked: a transaction that gives a segment one of these results meanwhile
    has a lock on it.
    """
    has_key = in_array(ResultRow.decode_key, keys)
    connection.execute(
        select(ResultRow.decode_key).where(has_key).order_by(ResultRow.decode_key).with_for_update()
    )
    is_used = exists().where(SegmentRow.result_key == ResultRow.decode_key)
    return connection.execute(delete(ResultRow).where(has_key, ~is_used)).rowcount
