"""What stalled is found and dispatched again: lost messages, dead workers, crashes in between.

Redis is a wake-up hint and may lose any message at any time; this is what makes that harmless. Any
number of sweepers may run: an advisory lock lets one through, and all times are the server's.

A sweep costs what it sends and what it ends, not what waits: each of its queries reads a stretch of
an index and stops. One that found more than it may do at once says so, and is asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, TextClause, text

from schema.errors import ErrorCode
from schema.store.connection import BoundedConnection
from schema.store.dispatches import Row, reduce_dispatch, segment_dispatch
from schema.store.work.reduces import REDUCE_ATTEMPTS_MAX
from schema.store.work.segments import give_up, settle_twins, wake
from schema.tables import (
    REDUCE_EXHAUSTED,
    REDUCE_SINCE,
    REDUCE_TURN,
    REDUCE_WAITS,
    SEGMENT_EXHAUSTED,
    SEGMENT_SINCE,
    SEGMENT_TURN,
    SEGMENT_WAITS,
    TURNS_MAX,
)
from schema.wire import Dispatch, Priority, Queued

#: The key of the advisory lock: one sweep at a time in a ledger.
_LOCK = 0x73776570

#: How many rows one sweep ends itself, each by statements of its own; the rest is the next one's.
_BATCH = 200

#: How many rows of a kind one sweep sends: their locks are held for a tenth of a second, no longer.
SENT_MAX = 500

#: How long one statement may take, however short a lease is: an index may be missing, while it is
#: being built. No other sweep runs meanwhile.
_STATEMENT_S = 60

#: A message is given this many sweep intervals to arrive before its row is dispatched again; then
#: twice as many, and so on, up to the cap in seconds.
_PATIENCE_SWEEPS = 2
_PATIENCE_MAX_S = 600

#: What was decoded lately may have left others that wait for it. So many intervals back, and so
#: many of the last decodes, are looked at; whom this misses is settled by whoever claims it.
_SETTLED_SWEEPS = 3
_SETTLED_MAX = 5_000


@dataclass(slots=True)
class Swept:
    """What a sweep did, and the messages to publish, now that it is committed.

    ``more`` says that there may be as much again to do, at once.
    """

    dispatches: list[Dispatch] = field(default_factory=list)
    expired: int = 0
    given_up: int = 0
    settled: int = 0
    more: bool = False

    def add(self, other: Swept) -> None:
        """Count in what the next sweep did, at once after this one."""
        self.dispatches += other.dispatches
        self.expired += other.expired
        self.given_up += other.given_up
        self.settled += other.settled
        self.more = other.more


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
    with _own_limits(connection):
        _give_up_exhausted(connection, swept)
        _settle_known(connection, swept, _SETTLED_SWEEPS * interval_s)
        _give_up_reduces(connection, swept)
        if queued is not None:
            _dispatch(connection, swept, queued, high_water, _PATIENCE_SWEEPS * interval_s)
    return swept


@contextmanager
def _own_limits(connection: Connection) -> Iterator[None]:
    """Let a statement take as long as a sweep's may: of the server and of the client."""
    own = text("select set_config('statement_timeout', :limit, true)")
    connection.execute(own, {"limit": f"{_STATEMENT_S}s"})
    raw = connection.connection.dbapi_connection
    if not isinstance(raw, BoundedConnection):
        yield
        return
    before_s, raw.answer_s = raw.answer_s, max(raw.answer_s, _STATEMENT_S)
    try:
        yield
    finally:
        raw.answer_s = before_s


def _dispatch(
    connection: Connection, swept: Swept, queued: Queued, high_water: int, patience_s: int
) -> None:
    """Dispatch again what is due, as far as there is room for it."""
    expired = {"patience_s": patience_s, "patience_max_s": _PATIENCE_MAX_S, "batch": SENT_MAX}
    _dispatch_expired(connection, swept, expired)
    limit = {"high_water": high_water}
    pending = connection.execute(_PENDING_COUNT, limit).scalar_one()
    stitching = connection.execute(_STITCHING_COUNT, limit).scalar_one()
    due = _when_due(patience_s)

    def dispatch(resend: _Resend, room: int, **which: object) -> int:
        if room <= 0:
            return 0
        parameters = {"room": min(room, SENT_MAX), **due, **which}
        ids = connection.scalars(resend.due, parameters).all()
        if not ids:
            return 0
        rows = connection.execute(resend.send, {"ids": list(ids)}).mappings().all()
        swept.dispatches += [resend.dispatch(row) for row in rows]
        swept.more |= SENT_MAX <= len(ids) < room
        return len(rows)

    # What is urgent has a list of its own and room of its own in it: no backlog keeps it out. What
    # lies there counts against the rest, which would wait behind it anyhow.
    urgent = dispatch(_SEGMENTS, pending - queued.first, urgent=[True])
    dispatch(_SEGMENTS, pending - queued.segments - urgent, urgent=[True, False])
    dispatch(_REDUCES, stitching - queued.reduces)


def _when_due(patience_s: int) -> dict[str, list[int]]:
    """Return each turn of a row, and how long in seconds its last message has to arrive.

    Longer for each before it, up to a cap. Of what has no message out, 0 and less, nothing is
    waited for but the end of a pause.
    """
    turns = range(-1, TURNS_MAX + 1)
    pauses_s = [min(patience_s << turn - 1, _PATIENCE_MAX_S) if turn > 0 else 0 for turn in turns]
    return {"turns": list(turns), "pauses_s": pauses_s}


_EXHAUSTED = text(
    f"""
    select s.id, s.recording_id, s.decode_key, s.decoding_key, s.attempts, s.strikes,
           s.error_message
      from segments s
     where {SEGMENT_EXHAUSTED} and (state = 'pending' or lease_expires_at < now())
     order by s.recording_id, s.id
     limit :batch
    """
)


def _give_up_exhausted(connection: Connection, swept: Swept) -> None:
    rows = connection.execute(_EXHAUSTED, {"batch": _BATCH}).mappings().all()
    for row in rows:
        _lock_recording(connection, row["recording_id"])
        last = f"; the last error was: {row['error_message']}" if row["error_message"] else ""
        message = f"given up after {row['attempts']} attempts, {row['strikes']} failed{last}"
        dispatch = give_up(connection, row["id"], ErrorCode.ATTEMPTS_EXHAUSTED, message)
        swept.given_up += 1
        if dispatch is not None:
            swept.dispatches.append(dispatch)
    if rows:
        keys = {row[key] for row in rows for key in ("decode_key", "decoding_key")}
        swept.dispatches += wake(connection, sorted(keys - {None}))
    swept.more |= len(rows) == _BATCH


def _lock_recording(connection: Connection, recording_id: Any) -> None:
    connection.execute(
        text("select 1 from recordings where id = :id for no key update"), {"id": recording_id}
    )


#: Key by key: of a join a planner may make one with all that is pending.
_KNOWN = text(
    """
    select x.decode_key
      from (select decode_key from results
             where created_at >= now() - make_interval(secs => :lately_s)
             order by created_at desc
             limit :decodes) x
     cross join lateral (
           select from segments s
            where s.decode_key = x.decode_key and s.state = 'pending' and not s.force
            limit 1) waiting
     limit :batch
    """
)


def _settle_known(connection: Connection, swept: Swept, lately_s: int) -> None:
    """End segments whose words came meanwhile: a worker died between its finish and its twins'."""
    parameters = {"lately_s": lately_s, "decodes": _SETTLED_MAX, "batch": _BATCH}
    keys = connection.scalars(_KNOWN, parameters).all()
    for key in keys:
        swept.dispatches += settle_twins(connection, key, decoded=False)
    swept.settled += len(keys)
    swept.more |= len(keys) == _BATCH


def _dispatched_again(chosen: str) -> TextClause:
    """Return SQL: give the segments that a query chooses and locks a new dispatch."""
    return text(
        f"""
        with chosen as materialized ({chosen} for update skip locked)
        update segments s
           set dispatch_token = gen_random_uuid(), dispatched_at = now(),
               dispatches = s.dispatches + 1
          from recordings r
         where s.id = any(array(select id from chosen)) and r.id = s.recording_id
     returning s.id, s.dispatch_token, s.recording_id, s.kind, s.channel, s.index, s.start_ms,
               s.end_ms, s.urgent, r.submission_id
        """
    )


_EXPIRED = _dispatched_again(
    """
    select id from segments
     where state = 'leased' and lease_expires_at < now()
       and (coalesce(dispatched_at < lease_expires_at, true)
            or dispatched_at < now() - make_interval(secs => least(
                   :patience_s * 2.0 ^ greatest(least(dispatches, 20) - 1, 0), :patience_max_s)))
     order by lease_expires_at
     limit :batch
    """
)


def _dispatch_expired(connection: Connection, swept: Swept, parameters: dict[str, int]) -> None:
    """Dispatch again each segment whose worker fell silent: at once, then with patience.

    It stays leased: the worker may still renew and finish, until another one claims it.
    """
    rows = connection.execute(_EXPIRED, parameters).mappings().all()
    swept.expired += len(rows)
    swept.more |= len(rows) == SENT_MAX
    swept.dispatches += [segment_dispatch(row, Priority.FIRST) for row in rows]


#: Counts that stop at the high water, beyond which they tell nothing.
_PENDING_COUNT = text(
    f"select count(*) from (select from segments where {SEGMENT_WAITS} limit :high_water) waiting"
)
_STITCHING_COUNT = text(
    f"select count(*) from (select from recordings where {REDUCE_WAITS} limit :high_water) waiting"
)


@dataclass(frozen=True, slots=True)
class _Resend:
    """How rows of a kind that are due are found, sent again, and made into messages."""

    due: TextClause
    send: TextClause
    dispatch: Callable[[Row], Dispatch]


#: What waits longer than a message takes, oldest first, backing off. Each turn has its own moment
#: from which on it is due, and is a stretch in order in the index: no more of it is read than there
#: is room for. What is found is locked, and looked at anew, as it is sent.
_SEGMENTS = _Resend(
    due=text(
        f"""
        select due.id
          from unnest(cast(:urgent as boolean[])) as u (urgent)
         cross join unnest(cast(:turns as integer[]), cast(:pauses_s as integer[]))
                    as t (turn, pause_s)
         cross join lateral (
               select id, dispatched_at, start_ms from segments
                where {SEGMENT_WAITS} and urgent = u.urgent and {SEGMENT_TURN} = t.turn
                  and {SEGMENT_SINCE} <= now() - make_interval(secs => t.pause_s)
                  and coalesce(next_attempt_at <= now(), true)
                order by {SEGMENT_SINCE}, start_ms
                limit :room) due
         order by due.dispatched_at nulls first, due.start_ms
         limit :room
        """
    ),
    send=_dispatched_again(
        # So that it is looked up by its id, and in no index of what waits.
        "select id from segments where id = any(:ids) and coalesce(state = 'pending', false)"
    ),
    dispatch=segment_dispatch,
)

_REDUCES = _Resend(
    due=text(
        f"""
        select due.id
          from unnest(cast(:turns as integer[]), cast(:pauses_s as integer[])) as t (turn, pause_s)
         cross join lateral (
               select id, reduce_dispatched_at from recordings
                where {REDUCE_WAITS} and {REDUCE_TURN} = t.turn
                  and {REDUCE_SINCE} <= now() - make_interval(secs => t.pause_s)
                  and coalesce(reduce_expires_at < now(), true)
                order by {REDUCE_SINCE}
                limit :room) due
         order by due.reduce_dispatched_at nulls first
         limit :room
        """
    ),
    send=text(
        """
        with chosen as materialized (
            select id from recordings
             where id = any(:ids) and coalesce(state = 'stitching', false)
               and coalesce(reduce_expires_at < now(), true)
               for update skip locked
        )
        update recordings r
           set reduce_dispatch_token = gen_random_uuid(), reduce_dispatched_at = now(),
               reduce_dispatches = r.reduce_dispatches + 1
         where r.id = any(array(select id from chosen))
     returning r.id as recording_id, r.submission_id, r.reduce_dispatch_token, r.duration_ms,
               (select b.urgent from submissions b where b.id = r.submission_id) as urgent
        """
    ),
    dispatch=reduce_dispatch,
)


_GIVE_UP_REDUCES = text(
    f"""
    update recordings
       set state = 'failed', ended_at = now(),
           error_code = coalesce(error_code, :code),
           error_message = coalesce(error_message, :message),
           -- Whoever still holds it, frozen, must not store what it made of it then.
           reduce_owner = null, reduce_token = null, reduce_expires_at = null,
           reduce_dispatch_token = null
     where id in (
           select id from recordings
            where {REDUCE_EXHAUSTED} and coalesce(reduce_expires_at < now(), true)
            limit :batch
              for update skip locked)
    """
)


def _give_up_reduces(connection: Connection, swept: Swept) -> None:
    given_up = connection.execute(
        _GIVE_UP_REDUCES,
        {
            "code": ErrorCode.ATTEMPTS_EXHAUSTED,
            "message": f"its reduce failed {REDUCE_ATTEMPTS_MAX} times",
            "batch": _BATCH,
        },
    ).rowcount
    swept.given_up += given_up
    swept.more |= given_up == _BATCH
