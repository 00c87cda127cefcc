"""Receivers are told what has ended: at least once, and nothing is held while they are asked.

A trigger writes an event for each recording that ends (migration 0007), :func:`sum_up` one for each
submission. Whoever delivers claims events for a while, in a transaction of its own, and says in
another what came of it. One that is killed in between has perhaps delivered: its claim runs out,
and the event is sent again, with the same id.

An event is tried with growing pauses. So is a receiver: while it fails, one event at a time asks
whether it is back, so that a night's backlog is not sent in vain again and again.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, RowMapping, func, select, text
from sqlalchemy.dialects.postgresql import insert as upsert

from schema.bounds import call_moment
from schema.states import EventState
from schema.tables import EventRow, ReceiverRow, Submission

#: The key of the advisory lock: one process at a time sums up.
_LOCK = 0x6E6F7466

#: The pause after an event's attempt doubles from the first to the last; so many attempts, with
#: their pauses, take 23 hours.
_EVENT_PAUSE_S, _EVENT_PAUSE_MAX_S = 10, 3_600
EVENT_ATTEMPTS_MAX = 32
#: The same of a receiver: what one event learns of it goes for all that wait.
_RECEIVER_PAUSE_S, _RECEIVER_PAUSE_MAX_S = 5, 600
#: What has waited so long for a receiver that has failed as long is given up, tried or not.
_PATIENCE_S = 24 * 3_600

#: How many events one statement gives up: it is called again at once.
_BATCH = 1_000


def receiver_of(connection: Connection, url: str, host: str) -> UUID:
    """Return the id of a receiver, which is made where it is new."""
    connection.execute(
        upsert(ReceiverRow).values(id=uuid4(), url=url, host=host).on_conflict_do_nothing()
    )
    return connection.execute(select(ReceiverRow.id).where(ReceiverRow.url == url)).scalar_one()


_SUM_UP = text(
    """
    with ended as materialized (
        select b.id, b.receiver_id
          from submissions b
         where b.receiver_id is not null and b.state = 'sealed'
           and exists (select from events e where e.submission_id = b.id and not e.summed)
           and not exists (select from recordings r
                            where r.submission_id = b.id
                              and r.state in ('planned', 'running', 'stitching'))
    ),
    summed as (
        update events e set summed = true from ended
         where e.submission_id = ended.id and not e.summed
    )
    insert into events (receiver_id, submission_id, counts, summed)
    select ended.receiver_id, ended.id, own.counts, true
      from ended
     cross join lateral (
           select jsonb_object_agg(by_state.state, by_state.recordings) as counts
             from (select r.state, count(*) as recordings from recordings r
                    where r.submission_id = ended.id group by r.state) by_state) own
    """
)


def sum_up(connection: Connection) -> int:
    """Write an event for each submission of which all has ended since its last one; how many.

    A submission of which something is taken up again ends once more.
    """
    locked = connection.execute(text("select pg_try_advisory_xact_lock(:key)"), {"key": _LOCK})
    return connection.execute(_SUM_UP).rowcount if locked.scalar_one() else 0


_GIVE_UP = text(
    """
    update events
       set state = 'given-up', error = coalesce(error, 'its receiver failed for a day')
     where id in (
           select e.id
             from receivers v join events e on e.receiver_id = v.id
            where v.failing_since < now() - make_interval(secs => :patience_s)
              and e.state = 'waiting' and e.created_at < now() - make_interval(secs => :patience_s)
            limit :batch
              for update of e skip locked)
    """
)


def give_up(connection: Connection) -> int:
    """Give up what has waited for a day for a receiver that has failed for a day; how many."""
    return connection.execute(_GIVE_UP, {"patience_s": _PATIENCE_S, "batch": _BATCH}).rowcount


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event to be sent: ``body`` is JSON, the same at each attempt."""

    event_id: UUID
    receiver_id: UUID
    url: str
    host: str
    body: bytes


_CLAIM = text(
    """
    with due as materialized (
        select e.id
          from receivers v
         cross join lateral (
               select id from events
                where receiver_id = v.id and state = 'waiting' and next_attempt_at <= now()
                  -- Whoever sums up may add events: a receiver is told of its own submissions.
                  and v.id = (select b.receiver_id from submissions b where b.id = submission_id)
                order by next_attempt_at
                limit case when v.failing_since is null then :each else 1 end
                  for update skip locked) e
         where coalesce(v.next_attempt_at <= now(), true) and not v.id = any(:busy)
         limit :room
    ),
    taken as (
        update events e
           set attempts = e.attempts + 1,
               next_attempt_at = now() + make_interval(secs => :lease_s)
          from due
         where e.id = due.id
     returning e.*
    )
    select t.id as event_id, t.receiver_id, t.created_at as event_at, t.recording_state,
           t.error_code, t.ended_at, t.counts, v.url, v.host, b.id as submission_id, b.title,
           b.created_at as submission_at, b.sealed_at, r.id as recording_id, r.name, r.call_id,
           r.started_at, r.direction, r.line, r.agent, r.customer, r.attributes, r.duration_ms,
           r.created_at as recording_at
      from taken t
      join receivers v on v.id = t.receiver_id
      join submissions b on b.id = t.submission_id
      left join recordings r on r.id = t.recording_id
     order by t.created_at, t.id
    """
)


def claim_events(
    connection: Connection, *, room: int, each: int, busy: Collection[UUID], lease_s: int
) -> list[Delivery]:
    """Claim up to ``room`` events that are due, up to ``each`` of a receiver; oldest first.

    Of receivers in ``busy`` none; of one that fails one. A claim runs out after ``lease_s``.
    """
    parameters = {"room": room, "each": each, "busy": list(busy), "lease_s": lease_s}
    return [_delivery(row) for row in connection.execute(_CLAIM, parameters).mappings()]


def _delivery(row: RowMapping) -> Delivery:
    of_one = row["recording_id"] is not None
    document = _recording_ended(row) if of_one else _submission_ended(row)
    return Delivery(
        event_id=row["event_id"],
        receiver_id=row["receiver_id"],
        url=row["url"],
        host=row["host"],
        body=json.dumps(document, ensure_ascii=False).encode(),
    )


def _recording_ended(row: RowMapping) -> dict[str, Any]:
    return {
        **_head(row, "recording.ended"),
        "recording": str(row["recording_id"]),
        "file": row["name"],
        "state": row["recording_state"],
        "error_code": row["error_code"],
        "call_id": row["call_id"],
        "started_at": _moment(call_moment(row["started_at"])),
        "direction": row["direction"],
        "line": row["line"],
        "agent": row["agent"],
        "customer": row["customer"],
        "attributes": row["attributes"],
        "duration_ms": row["duration_ms"],
        "created_at": _moment(row["recording_at"]),
        "ended_at": _moment(row["ended_at"]),
    }


def _submission_ended(row: RowMapping) -> dict[str, Any]:
    counts = row["counts"] or {}
    return {
        **_head(row, "submission.ended"),
        "title": row["title"],
        "recordings": {"total": sum(counts.values()), **counts},
        "created_at": _moment(row["submission_at"]),
        "sealed_at": _moment(row["sealed_at"]),
    }


def _head(row: RowMapping, kind: str) -> dict[str, Any]:
    return {
        "event": str(row["event_id"]),
        "type": kind,
        "at": _moment(row["event_at"]),
        "submission": str(row["submission_id"]),
    }


def _moment(moment: Any) -> str | None:
    return None if moment is None else moment.isoformat()


_DELIVERED = text(
    """
    with told as (
        update events set state = 'delivered', delivered_at = now(), error = null
         where id = :event and state <> 'delivered'
    )
    update receivers set failing_since = null, failures = 0, next_attempt_at = null
     where id = :receiver and failing_since is not null
    """
)


def delivered(connection: Connection, delivery: Delivery) -> None:
    """Record that a receiver took an event: it is well, whatever it was before."""
    parameters = {"event": delivery.event_id, "receiver": delivery.receiver_id}
    connection.execute(_DELIVERED, parameters)


_REFUSED = text(
    """
    with tried as (
        update events
           set error = :error,
               state = case when attempts >= :attempts_max then 'given-up' else state end,
               next_attempt_at = now() + make_interval(secs => least(
                   :event_pause_s * 2.0 ^ (attempts - 1), :event_pause_max_s))
         where id = :event and state = 'waiting'
    )
    update receivers
       set failing_since = coalesce(failing_since, now()),
           failures = failures + 1,
           next_attempt_at = now() + make_interval(secs => least(
               :receiver_pause_s * 2.0 ^ least(failures, 20), :receiver_pause_max_s))
     where id = :receiver
    """
)


def refused(connection: Connection, delivery: Delivery, error: str) -> None:
    """Record that a receiver did not take an event, and why; ``error`` names no URL."""
    connection.execute(
        _REFUSED,
        {
            "event": delivery.event_id,
            "receiver": delivery.receiver_id,
            "error": error,
            "attempts_max": EVENT_ATTEMPTS_MAX,
            "event_pause_s": _EVENT_PAUSE_S,
            "event_pause_max_s": _EVENT_PAUSE_MAX_S,
            "receiver_pause_s": _RECEIVER_PAUSE_S,
            "receiver_pause_max_s": _RECEIVER_PAUSE_MAX_S,
        },
    )


def is_any_waiting(connection: Connection) -> bool:
    """Tell whether any receiver is still to be told of anything."""
    waiting = select(EventRow.id).where(EventRow.state == EventState.WAITING).limit(1)
    return connection.execute(waiting).first() is not None


@dataclass(frozen=True, slots=True)
class Untold:
    """A receiver for which events wait, and since when it fails, if it does."""

    host: str
    events: int
    failing_since: datetime | None


def untold(connection: Connection) -> list[Untold]:
    """Return the receivers for which events wait, those that wait for most first."""
    rows = connection.execute(
        select(ReceiverRow.host, func.count().label("events"), ReceiverRow.failing_since)
        .join(EventRow, EventRow.receiver_id == ReceiverRow.id)
        .where(EventRow.state == EventState.WAITING)
        .group_by(ReceiverRow.id)
        .order_by(func.count().desc())
    )
    return [Untold(row.host, row.events, row.failing_since) for row in rows]


@dataclass(frozen=True, slots=True)
class Notified:
    """How far a receiver was told of a submission: ``events`` by state, and the latest error."""

    host: str
    events: dict[str, int]
    error: str | None


def notified(connection: Connection, submission_id: UUID) -> Notified | None:
    """Return how far a submission's receiver was told, or None where it has none."""
    host = connection.scalar(
        select(ReceiverRow.host)
        .join(Submission, Submission.receiver_id == ReceiverRow.id)
        .where(Submission.id == submission_id)
    )
    if host is None:
        return None
    mine = EventRow.submission_id == submission_id
    counts = connection.execute(
        select(EventRow.state, func.count()).where(mine).group_by(EventRow.state)
    )
    error = connection.scalar(
        select(EventRow.error)
        .where(mine, EventRow.error.is_not(None))
        .order_by(EventRow.next_attempt_at.desc())
        .limit(1)
    )
    return Notified(host, {state: int(count) for state, count in counts}, error)
