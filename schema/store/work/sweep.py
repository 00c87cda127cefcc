"""Stalled work is dispatched again: lost messages, dead workers, crashes in between.

Redis is a wake-up hint and may lose any message at any time; this is what makes that harmless. Any
number of sweepers may run: an advisory lock lets one through, and all times are the server's.

A sweep costs what it sends and what it ends, not what waits: each of its queries reads a stretch of
an index and stops. Where that is not all that is due, the next sweep follows at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, TextClause, text

from schema.errors import ErrorCode
from schema.store.connection import BoundedConnection
from schema.store.dispatches import (
    REDUCE_COLUMNS,
    SEGMENT_COLUMNS,
    ColumnValues,
    reduce_dispatch,
    segment_dispatch,
)
from schema.store.ledger import CLEAR_REDUCE_LEASE
from schema.store.work.reduces import REDUCE_ATTEMPTS_MAX
from schema.store.work.segments import (
    finish_waiting_duplicates,
    give_up_segment,
    resend_waiting_duplicates,
)
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
from schema.wire import Dispatch, Priority, QueueLengths

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
#: many of the last decodes, are looked at; a segment that this misses is finished once claimed.
_DUPLICATES_SWEEPS = 3
_DUPLICATES_MAX = 5_000


@dataclass(slots=True)
class SweepResult:
    """What a sweep did, and the messages to publish, now that it is committed.

    Where it ``has_more`` to do, the next sweep is due at once.
    """

    dispatches: list[Dispatch] = field(default_factory=list)
    expired_leases: int = 0
    given_up_count: int = 0
    finished_duplicates: int = 0
    has_more: bool = False

    def add(self, other: SweepResult) -> None:
        """Count in what the next sweep did, at once after this one."""
        self.dispatches += other.dispatches
        self.expired_leases += other.expired_leases
        self.given_up_count += other.given_up_count
        self.finished_duplicates += other.finished_duplicates
        self.has_more = other.has_more


def sweep(
    connection: Connection, *, queue_lengths: QueueLengths | None, high_water: int, interval_s: int
) -> SweepResult | None:
    """Run one sweep, or return None where another one is under way.

    ``queue_lengths`` is how many messages wait in Redis; None, where it does not answer, dispatches
    nothing. Rows are dispatched again only while fewer messages than rows wait, and fewer than
    ``high_water``, of those that are taken first as of all: with every worker gone for hours, no
    list grows past that. A segment whose lease expired is always dispatched again: its message is
    with a dead worker and in no queue.
    """
    lock = connection.execute(text("select pg_try_advisory_xact_lock(:key)"), {"key": _LOCK})
    if not lock.scalar_one():
        return None
    result = SweepResult()
    with _sweep_limits(connection):
        _give_up_exhausted(connection, result)
        _finish_duplicates(connection, result, _DUPLICATES_SWEEPS * interval_s)
        _give_up_reduces(connection, result)
        if queue_lengths is not None:
            _dispatch(connection, result, queue_lengths, high_water, _PATIENCE_SWEEPS * interval_s)
    return result


@contextmanager
def _sweep_limits(connection: Connection) -> Iterator[None]:
    """Let server and client wait for a statement as long as a sweep's may take."""
    statement = text("select set_config('statement_timeout', :limit, true)")
    connection.execute(statement, {"limit": f"{_STATEMENT_S}s"})
    driver = connection.connection.dbapi_connection
    if not isinstance(driver, BoundedConnection):
        yield
        return
    previous_s, driver.answer_s = driver.answer_s, max(driver.answer_s, _STATEMENT_S)
    try:
        yield
    finally:
        driver.answer_s = previous_s


def _dispatch(
    connection: Connection,
    result: SweepResult,
    queue_lengths: QueueLengths,
    high_water: int,
    patience_s: int,
) -> None:
    """Dispatch again what is due, as far as the queues have capacity for it."""
    parameters = {"patience_s": patience_s, "patience_max_s": _PATIENCE_MAX_S, "batch": SENT_MAX}
    _dispatch_expired(connection, result, parameters)
    limit = {"high_water": high_water}
    pending_count = connection.execute(_PENDING_COUNT, limit).scalar_one()
    stitching_count = connection.execute(_STITCHING_COUNT, limit).scalar_one()
    turns = _list_turns(patience_s)

    def dispatch(kind: _Redispatch, capacity: int, **filters: object) -> int:
        if capacity <= 0:
            return 0
        parameters = {"capacity": min(capacity, SENT_MAX), **turns, **filters}
        ids = connection.scalars(kind.select_due, parameters).all()
        if not ids:
            return 0
        rows = connection.execute(kind.update, {"ids": list(ids)}).mappings().all()
        result.dispatches += [kind.to_dispatch(row) for row in rows]
        result.has_more |= SENT_MAX <= len(ids) < capacity
        return len(rows)

    # Urgent messages have a list and a capacity of their own: no backlog keeps them out. They count
    # against the capacity of the rest, which would wait behind them anyhow.
    urgent = dispatch(_SEGMENTS, pending_count - queue_lengths.urgent, urgent=[True])
    dispatch(_SEGMENTS, pending_count - queue_lengths.segments - urgent, urgent=[True, False])
    dispatch(_REDUCES, stitching_count - queue_lengths.reduces)


def _list_turns(patience_s: int) -> dict[str, list[int]]:
    """Return each turn of a row, and how long in seconds its last message has to arrive.

    Longer for each before it, up to a cap. Of what has no message out, 0 and less, nothing is
    waited for but the end of a pause.
    """
    turns = range(-1, TURNS_MAX + 1)
    pauses_s = [min(patience_s << turn - 1, _PATIENCE_MAX_S) if turn > 0 else 0 for turn in turns]
    return {"turns": list(turns), "pauses_s": pauses_s}


_EXHAUSTED_SEGMENTS = text(f"""
    select s.id, s.recording_id, s.decode_key, s.decoding_key, s.attempts, s.strikes,
           s.error_message
      from segments s
     where {SEGMENT_EXHAUSTED} and (state = 'pending' or lease_expires_at < now())
     order by s.recording_id, s.id
     limit :batch
""")


def _give_up_exhausted(connection: Connection, result: SweepResult) -> None:
    rows = connection.execute(_EXHAUSTED_SEGMENTS, {"batch": _BATCH}).mappings().all()
    for row in rows:
        _lock_recording(connection, row["recording_id"])
        last_error = f"; the last error was: {row['error_message']}" if row["error_message"] else ""
        message = f"given up after {row['attempts']} attempts, {row['strikes']} failed{last_error}"
        dispatch = give_up_segment(connection, row["id"], ErrorCode.ATTEMPTS_EXHAUSTED, message)
        result.given_up_count += 1
        if dispatch is not None:
            result.dispatches.append(dispatch)
    if rows:
        keys = {row[key] for row in rows for key in ("decode_key", "decoding_key")}
        result.dispatches += resend_waiting_duplicates(connection, sorted(keys - {None}))
    result.has_more |= len(rows) == _BATCH


def _lock_recording(connection: Connection, recording_id: Any) -> None:
    connection.execute(
        text("select 1 from recordings where id = :id for no key update"), {"id": recording_id}
    )


#: Key by key: of a join a planner may make one with all that is pending.
_CACHED_KEYS = text("""
    select recent_result.decode_key
      from (select decode_key from results
             where created_at >= now() - make_interval(secs => :lately_s)
             order by created_at desc
             limit :decodes) recent_result
     cross join lateral (
           select from segments s
            where s.decode_key = recent_result.decode_key and s.state = 'pending' and not s.force
            limit 1) waiting_segment
     limit :batch
""")


def _finish_duplicates(connection: Connection, result: SweepResult, recent_s: int) -> None:
    """End segments whose words are stored: a worker died before it finished their duplicates."""
    parameters = {"lately_s": recent_s, "decodes": _DUPLICATES_MAX, "batch": _BATCH}
    keys = connection.scalars(_CACHED_KEYS, parameters).all()
    for key in keys:
        result.dispatches += finish_waiting_duplicates(connection, key, just_decoded=False)
    result.finished_duplicates += len(keys)
    result.has_more |= len(keys) == _BATCH


def _redispatch_segments(due_ids: str) -> TextClause:
    """Return the SQL that locks the segments of a query and gives them a new dispatch."""
    return text(f"""
        with due_segments as materialized ({due_ids} for update skip locked)
        update segments s
           set dispatch_token = gen_random_uuid(), dispatched_at = now(),
               dispatches = s.dispatches + 1
          from recordings r
         where s.id = any(array(select id from due_segments)) and r.id = s.recording_id
     returning {SEGMENT_COLUMNS}
    """)


_REDISPATCH_EXPIRED = _redispatch_segments("""
    select id from segments
     where state = 'leased' and lease_expires_at < now()
       and (coalesce(dispatched_at < lease_expires_at, true)
            or dispatched_at < now() - make_interval(secs => least(
                   :patience_s * 2.0 ^ greatest(least(dispatches, 20) - 1, 0), :patience_max_s)))
     order by lease_expires_at
     limit :batch
""")


def _dispatch_expired(
    connection: Connection, result: SweepResult, parameters: dict[str, int]
) -> None:
    """Dispatch again each segment whose worker fell silent: at once, then with patience.

    It stays leased: the worker may still renew and finish, until another one claims it.
    """
    rows = connection.execute(_REDISPATCH_EXPIRED, parameters).mappings().all()
    result.expired_leases += len(rows)
    result.has_more |= len(rows) == SENT_MAX
    result.dispatches += [segment_dispatch(row, Priority.URGENT) for row in rows]


#: Counts that stop at the high water, beyond which they tell nothing.
_PENDING_COUNT = text(
    f"select count(*) from (select from segments where {SEGMENT_WAITS} limit :high_water) waiting"
)
_STITCHING_COUNT = text(
    f"select count(*) from (select from recordings where {REDUCE_WAITS} limit :high_water) waiting"
)


@dataclass(frozen=True, slots=True)
class _Redispatch:
    """How due rows of a kind are selected, dispatched again, and made into messages."""

    select_due: TextClause
    update: TextClause
    to_dispatch: Callable[[ColumnValues], Dispatch]


#: What waits longer than a message takes, oldest first, backing off. Each turn has its own moment
#: from which on it is due, and is a stretch in order in the index: no more of it is read than
#: the queue has capacity for. A selected row is locked, and its state read anew, as it is sent.
_SEGMENTS = _Redispatch(
    select_due=text(f"""
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
                limit :capacity) due
         order by due.dispatched_at nulls first, due.start_ms
         limit :capacity
    """),
    update=_redispatch_segments(
        # So that it is looked up by its id, and in no index of what waits.
        "select id from segments where id = any(:ids) and coalesce(state = 'pending', false)"
    ),
    to_dispatch=segment_dispatch,
)

_REDUCES = _Redispatch(
    select_due=text(f"""
        select due.id
          from unnest(cast(:turns as integer[]), cast(:pauses_s as integer[])) as t (turn, pause_s)
         cross join lateral (
               select id, reduce_dispatched_at from recordings
                where {REDUCE_WAITS} and {REDUCE_TURN} = t.turn
                  and {REDUCE_SINCE} <= now() - make_interval(secs => t.pause_s)
                  and coalesce(reduce_expires_at < now(), true)
                order by {REDUCE_SINCE}
                limit :capacity) due
         order by due.reduce_dispatched_at nulls first
         limit :capacity
    """),
    update=text(f"""
        with due_recordings as materialized (
            select id from recordings
             where id = any(:ids) and coalesce(state = 'stitching', false)
               and coalesce(reduce_expires_at < now(), true)
               for update skip locked
        )
        update recordings r
           set reduce_dispatch_token = gen_random_uuid(), reduce_dispatched_at = now(),
               reduce_dispatches = r.reduce_dispatches + 1
         where r.id = any(array(select id from due_recordings))
     returning {REDUCE_COLUMNS},
               (select sub.urgent from submissions sub where sub.id = r.submission_id) as urgent
    """),
    to_dispatch=reduce_dispatch,
)


_GIVE_UP_REDUCES = text(f"""
    update recordings
       set state = 'failed', ended_at = now(),
           error_code = coalesce(error_code, :code),
           error_message = coalesce(error_message, :message),
           -- A frozen reducer that still holds it must not store its transcript later.
           {CLEAR_REDUCE_LEASE},
           reduce_dispatch_token = null
     where id in (
           select id from recordings
            where {REDUCE_EXHAUSTED} and coalesce(reduce_expires_at < now(), true)
            limit :batch
              for update skip locked)
""")


def _give_up_reduces(connection: Connection, result: SweepResult) -> None:
    count = connection.execute(
        _GIVE_UP_REDUCES,
        {
            "code": ErrorCode.ATTEMPTS_EXHAUSTED,
            "message": f"stitching it failed {REDUCE_ATTEMPTS_MAX} times",
            "batch": _BATCH,
        },
    ).rowcount
    result.given_up_count += count
    result.has_more |= count == _BATCH
