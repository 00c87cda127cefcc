"""What stalled is found and dispatched again: lost messages, dead workers, crashes in between.

Redis is a wake-up hint and may lose any message at any time; this is what makes that harmless. Any
number of sweepers may run: an advisory lock lets one through, and all times are the server's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, TextClause, text

from schema.errors import ErrorCode
from schema.store.dispatches import Row, reduce_dispatch, segment_dispatch
from schema.store.reduce import REDUCE_ATTEMPTS_MAX
from schema.store.work import ATTEMPTS_MAX, STRIKES_MAX, give_up, settle_twins
from schema.wire import Dispatch, Priority, Queued

#: The key of the advisory lock: one sweep at a time in a ledger.
_LOCK = 0x73776570

#: How many rows one sweep ends itself; the rest is the next sweep's.
_BATCH = 1_000

#: A message is given this many sweep intervals to arrive before its row is dispatched again; then
#: twice as many, and so on, up to the cap in seconds.
_PATIENCE_SWEEPS = 2
_PATIENCE_MAX_S = 600


def _patient(column: str) -> str:
    """Return SQL: this row's last message has had its time to arrive, longer for each before it."""
    return f"""coalesce(
                  {column}ed_at < now() - make_interval(secs => least(
                      :patience_s * 2.0 ^ greatest(least({column}es, 20) - 1, 0),
                      :patience_max_s)),
                  true)"""


@dataclass(slots=True)
class Swept:
    """What a sweep did, and the messages to publish, now that it is committed."""

    dispatches: list[Dispatch] = field(default_factory=list)
    expired: int = 0
    given_up: int = 0
    settled: int = 0


def sweep(
    connection: Connection, *, queued: Queued | None, high_water: int, interval_s: int
) -> Swept | None:
    """Run one sweep, or return None where another one is under way.

    ``queued`` is how many messages wait in Redis; None, where it does not answer, dispatches
    nothing. Rows are dispatched again only while fewer messages than rows wait, and fewer than
    ``high_water``, of those that are taken first as of all: with every worker gone for hours, no
    list grows past that. A segment whose lease expired is always dispatched again: its message is
    with a dead worker and in no queue.
    """
    locked = connection.execute(text("select pg_try_advisory_xact_lock(:key)"), {"key": _LOCK})
    if not locked.scalar_one():
        return None
    swept = Swept()
    _give_up_exhausted(connection, swept)
    _settle_known(connection, swept)
    _give_up_reduces(connection, swept)
    if queued is None:
        return swept
    patience = {
        "patience_s": _PATIENCE_SWEEPS * interval_s,
        "patience_max_s": _PATIENCE_MAX_S,
    }
    _dispatch_expired(connection, swept, patience)
    pending = min(connection.execute(_PENDING_COUNT).scalar_one(), high_water)
    stitching = min(connection.execute(_STITCHING_COUNT).scalar_one(), high_water)

    def dispatch(statement: TextClause, to: Callable[[Row], Dispatch], room: int) -> int:
        if room <= 0:
            return 0
        rows = connection.execute(statement, {"room": room, **patience}).mappings().all()
        swept.dispatches += [to(row) for row in rows]
        return len(rows)

    # What is urgent has a list of its own and room of its own in it: no backlog keeps it out. What
    # lies there counts against the rest, which would wait behind it anyhow.
    urgent = dispatch(_URGENT, segment_dispatch, pending - queued.first)
    dispatch(_PENDING, segment_dispatch, pending - queued.segments - urgent)
    dispatch(_REDUCES, reduce_dispatch, stitching - queued.reduces)
    return swept


_EXHAUSTED = text(
    """
    select s.id, s.recording_id, s.attempts, s.strikes, s.error_code, s.error_message
      from segments s
     where (s.state = 'pending' or (s.state = 'leased' and s.lease_expires_at < now()))
       and (s.attempts >= :attempts_max or s.strikes >= :strikes_max)
     order by s.recording_id, s.id
     limit :batch
    """
)


def _give_up_exhausted(connection: Connection, swept: Swept) -> None:
    rows = connection.execute(
        _EXHAUSTED,
        {"attempts_max": ATTEMPTS_MAX, "strikes_max": STRIKES_MAX, "batch": _BATCH},
    ).mappings()
    for row in rows.all():
        _lock_recording(connection, row["recording_id"])
        last = f"; the last error was: {row['error_message']}" if row["error_message"] else ""
        message = f"given up after {row['attempts']} attempts, {row['strikes']} failed{last}"
        dispatch = give_up(connection, row["id"], ErrorCode.ATTEMPTS_EXHAUSTED, message)
        swept.given_up += 1
        if dispatch is not None:
            swept.dispatches.append(dispatch)


def _lock_recording(connection: Connection, recording_id: Any) -> None:
    connection.execute(
        text("select 1 from recordings where id = :id for no key update"), {"id": recording_id}
    )


_KNOWN = text(
    """
    select distinct s.decode_key
      from segments s join results x on x.decode_key = s.decode_key
     where s.state = 'pending' and not s.force
     limit :batch
    """
)


def _settle_known(connection: Connection, swept: Swept) -> None:
    """End segments whose words came meanwhile: a worker died between its finish and its twins'."""
    for key in connection.scalars(_KNOWN, {"batch": _BATCH}).all():
        reduces = settle_twins(connection, key, decoded=False)
        swept.settled += 1
        swept.dispatches += reduces


def _dispatched_again(chosen: str) -> TextClause:
    """Return SQL: give the segments that a query chooses and locks a new dispatch."""
    return text(
        f"""
        update segments s
           set dispatch_token = gen_random_uuid(), dispatched_at = now(),
               dispatches = s.dispatches + 1
          from recordings r
         where r.id = s.recording_id and s.id in ({chosen} for update skip locked)
     returning s.id, s.dispatch_token, s.recording_id, s.kind, s.channel, s.index, s.start_ms,
               s.end_ms, s.urgent, r.submission_id
        """
    )


_EXPIRED = _dispatched_again(
    f"""
    select id from segments
     where state = 'leased' and lease_expires_at < now()
       and (coalesce(dispatched_at < lease_expires_at, true) or {_patient("dispatch")})
     order by lease_expires_at
     limit :batch
    """
)


def _dispatch_expired(connection: Connection, swept: Swept, patience: dict[str, int]) -> None:
    """Dispatch again each segment whose worker fell silent: at once, then with patience.

    It stays leased: the worker may still renew and finish, until another one claims it.
    """
    rows = connection.execute(_EXPIRED, {"batch": _BATCH, **patience}).mappings().all()
    swept.expired += len(rows)
    swept.dispatches += [segment_dispatch(row, Priority.FIRST) for row in rows]


_PENDING_COUNT = text("select count(*) from segments where state = 'pending'")


def _waiting(which: str) -> TextClause:
    """Return SQL: dispatch again what waits longer than a message takes, oldest first, backing off.

    ``which`` of the pending are meant, as an index has it: see their table.
    """
    return _dispatched_again(
        f"""
        select id from segments
         where state = 'pending' and {which}
           and coalesce(next_attempt_at <= now(), true)
           and {_patient("dispatch")}
         order by dispatched_at nulls first, start_ms
         limit :room
        """
    )


_PENDING = _waiting("dispatches >= 0")
_URGENT = _waiting("urgent")


_GIVE_UP_REDUCES = text(
    """
    update recordings
       set state = 'failed', ended_at = now(),
           error_code = coalesce(error_code, :code),
           error_message = coalesce(error_message, :message)
     where state = 'stitching' and reduce_attempts >= :attempts_max
       and coalesce(reduce_expires_at < now(), true)
    """
)


def _give_up_reduces(connection: Connection, swept: Swept) -> None:
    swept.given_up += connection.execute(
        _GIVE_UP_REDUCES,
        {
            "attempts_max": REDUCE_ATTEMPTS_MAX,
            "code": ErrorCode.ATTEMPTS_EXHAUSTED,
            "message": f"its reduce failed {REDUCE_ATTEMPTS_MAX} times",
        },
    ).rowcount


_STITCHING_COUNT = text("select count(*) from recordings where state = 'stitching'")

_REDUCES = text(
    f"""
    update recordings r
       set reduce_dispatch_token = gen_random_uuid(), reduce_dispatched_at = now(),
           reduce_dispatches = r.reduce_dispatches + 1
     where r.id in (
           select id from recordings
            where state = 'stitching'
              and coalesce(reduce_expires_at < now(), true)
              and {_patient("reduce_dispatch")}
            order by reduce_dispatched_at nulls first
            limit :room
              for update skip locked)
 returning r.id as recording_id, r.submission_id, r.reduce_dispatch_token, r.duration_ms,
           (select b.urgent from submissions b where b.id = r.submission_id) as urgent
    """
)
