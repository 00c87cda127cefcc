"""Sealed results whose texts nobody will read: decoded again, or erased."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import Connection, func, select, text

from schema.states import RecordingState
from schema.store.dispatches import SEGMENT_COLUMNS, segment_dispatch
from schema.store.work.reduces import ReduceClaim, reduce_lost_error, reopen_recording
from schema.tables import Recording, ResultRow
from schema.wire import Dispatch, Priority

#: So long the texts of a recording that got no transcript stay, sealed.
SEALED_KEEP_S = 24 * 3_600

_ORDER = text(f"""
    update segments s
       set state = 'pending', attempts = 0, strikes = 0, next_attempt_at = null, ended_at = null,
           result_key = null, force = true,
           dispatch_token = gen_random_uuid(), dispatched_at = now(), dispatches = 1
      from recordings r
     where s.id = any(:ids) and r.id = s.recording_id and r.id = :recording
       and s.state || '' = 'done'
 returning {SEGMENT_COLUMNS}
""")


def order_decodes(
    connection: Connection, claim: ReduceClaim, segments: Collection[UUID]
) -> list[Dispatch]:
    """Have segments decoded again, whose words nobody can unseal; the messages to publish.

    The reducer's lease ends here.

    Raises:
        LeaseLost: another reducer took over: nothing was ordered.
    """
    is_mine = connection.execute(
        select(Recording.id)
        .where(
            Recording.id == claim.recording_id,
            Recording.reduce_token == claim.lease_token,
            Recording.state == RecordingState.STITCHING,
        )
        .with_for_update(key_share=True)
    ).one_or_none()
    if is_mine is None:
        raise reduce_lost_error(claim)
    parameters = {"ids": list(segments), "recording": claim.recording_id}
    rows = connection.execute(_ORDER, parameters).mappings().all()
    if rows:
        reopen_recording(connection, claim)
    return [segment_dispatch(row, Priority.URGENT) for row in rows]


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
