"""Sealed results whose texts nobody will read: decoded again, or erased."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import Connection, func, select, text

from schema.store.work.reduces import ReduceClaim, lock_reduce, redo_segments
from schema.tables import ResultRow
from schema.wire import Dispatch

#: So long the texts of a recording that got no transcript stay, sealed.
SEALED_KEEP_S = 24 * 3_600


def order_decodes(
    connection: Connection, claim: ReduceClaim, segments: Collection[UUID]
) -> list[Dispatch]:
    """Have segments decoded again, whose words nobody can unseal; the messages to publish.

    The reducer's lease ends here.

    Raises:
        LeaseLost: another reducer took over: nothing was ordered.
    """
    lock_reduce(connection, claim)
    return redo_segments(connection, claim, segments, keeps_results=False)


_ERASE = text("""
    update results
       set body = cast(jsonb_set(cast(body as jsonb), '{sealed,blob}', '""') as json),
           seal_key = null
     where decode_key in (
           select sealed_result.decode_key
             from results sealed_result
            where sealed_result.seal_key is not null
              and sealed_result.created_at < now() - make_interval(secs => :keep_s)
              and not exists (
                  select from segments s join recordings r on r.id = s.recording_id
                   where s.result_key = sealed_result.decode_key
                     and r.state in ('planned', 'running', 'stitching'))
            order by sealed_result.created_at
            limit :batch)
""")


def erase_old_seals(connection: Connection, batch: int, keep_s: int = SEALED_KEEP_S) -> int:
    """Erase sealed texts of recordings that ended without a transcript; return of how many results.

    Whoever wants their words decodes them again.
    """
    return connection.execute(_ERASE, {"keep_s": keep_s, "batch": batch}).rowcount


def count_sealed(connection: Connection) -> dict[str, int]:
    """Return how many results are sealed to each key."""
    rows = connection.execute(
        select(ResultRow.seal_key, func.count())
        .where(ResultRow.seal_key.is_not(None))
        .group_by(ResultRow.seal_key)
        .order_by(ResultRow.seal_key)
    )
    return {str(key): int(count) for key, count in rows}
