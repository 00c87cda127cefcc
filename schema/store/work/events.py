"""Receivers are notified of each end at least once; no lock is held while they are asked.

A trigger adds an event for each recording that ends (migration 0007), and
:func:`add_submission_events` one for each submission. A notifier claims events for a while in one
transaction, and records in another whether they were delivered. If it is killed in between, its
claim runs out, and the event is sent again with the same id.

Pauses between the attempts at an event grow. So do those of a receiver: while it fails, one event
at a time asks whether it is back, so that a night's backlog is not sent in vain again and again.
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

from schema.bounds import plausible_start
from schema.states import EventState
from schema.tables import EventRow, ReceiverRow, Submission

#: The key of the advisory lock: one process at a time adds events.
_LOCK = 0x6E6F7466

#: The pause after an event's attempt doubles from the first to the last; so many attempts, with
#: their pauses, take 23 hours.
_EVENT_PAUSE_S, _EVENT_PAUSE_MAX_S = 10, 3_600
EVENT_ATTEMPTS_MAX = 32
#: The same of a receiver: a failed attempt at one event delays all others that wait.
_RECEIVER_PAUSE_S, _RECEIVER_PAUSE_MAX_S = 5, 600
#: An event that has waited so long for a receiver that has failed as long is given up.
_PATIENCE_S = 24 * 3_600

#: How many events one statement gives up: it is called again at once.
_BATCH = 1_000


def find_or_add_receiver(connection: Connection, url: str, host: str) -> UUID:
    """Return the id of a receiver; add it where it is new."""
    connection.execute(
        upsert(ReceiverRow).values(id=uuid4(), url=url, host=host).on_conflict_do_nothing()
    )
    return connection.execute(select(ReceiverRow.id).where(ReceiverRow.url == url)).scalar_one()


_ADD_SUBMISSION_EVENTS = text("""
    with ended_submissions as materialized (
        select sub.id, sub.receiver_id
          from submissions sub
         where sub.receiver_id is not null and sub.state = 'sealed'
           and exists (select from events e where e.submission_id = sub.id and not e.summed)
           and not exists (select from recordings r
                            where r.submission_id = sub.id
                              and r.state in ('planned', 'running', 'stitching'))
    ),
    counted_events as (
        update events e set summed = true from ended_submissions sub
         where e.submission_id = sub.id and not e.summed
    )
    insert into events (receiver_id, submission_id, counts, summed)
    select sub.receiver_id, sub.id, state_counts.counts, true
      from ended_submissions sub
     cross join lateral (
           select jsonb_object_agg(by_state.state, by_state.recordings) as counts
             from (select r.state, count(*) as recordings from recordings r
                    where r.submission_id = sub.id group by r.state) by_state) state_counts
""")


def add_submission_events(connection: Connection) -> int:
    """Add an event for each submission that has ended since its last one; return how many.

    A submission of which recordings are retried ends once more.
    """
    lock = connection.execute(text("select pg_try_advisory_xact_lock(:key)"), {"key": _LOCK})
    return connection.execute(_ADD_SUBMISSION_EVENTS).rowcount if lock.scalar_one() else 0


_GIVE_UP = text("""
    update events
       set state = 'given-up', error = coalesce(error, 'its receiver failed for a day')
     where id in (
           select e.id
             from receivers v join events e on e.receiver_id = v.id
            where v.failing_since < now() - make_interval(secs => :patience_s)
              and e.state = 'waiting' and e.created_at < now() - make_interval(secs => :patience_s)
            limit :batch
              for update of e skip locked)
""")


def give_up_events(connection: Connection) -> int:
    """Give up what has waited a day for a receiver that failed for a day; return how many."""
    return connection.execute(_GIVE_UP, {"patience_s": _PATIENCE_S, "batch": _BATCH}).rowcount


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event to be sent: ``body`` is JSON, the same at each attempt."""

    event_id: UUID
    receiver_id: UUID
    url: str
    host: str
    body: bytes


_CLAIM = text("""
    with due_events as materialized (
        select e.id
          from receivers v
         cross join lateral (
               select id from events
                where receiver_id = v.id and state = 'waiting' and next_attempt_at <= now()
                  -- Other processes may add events: a receiver is notified of its own submissions.
                  and v.id = (
                      select sub.receiver_id from submissions sub where sub.id = submission_id)
                order by next_attempt_at
                limit case when v.failing_since is null then :per_receiver else 1 end
                  for update skip locked) e
         where coalesce(v.next_attempt_at <= now(), true) and not v.id = any(:busy_receivers)
         limit :limit
    ),
    claimed_events as (
        update events e
           set attempts = e.attempts + 1,
               next_attempt_at = now() + make_interval(secs => :lease_s)
          from due_events
         where e.id = due_events.id
     returning e.*
    )
    select e.id as event_id, e.receiver_id, e.created_at as event_at, e.recording_state,
           e.error_code, e.ended_at, e.counts, v.url, v.host, sub.id as submission_id, sub.title,
           sub.created_at as submission_at, sub.sealed_at, r.id as recording_id, r.name, r.call_id,
           r.started_at, r.direction, r.line, r.agent, r.customer, r.attributes, r.duration_ms,
           r.created_at as recording_at, r.flags as recording_flags, t.flags as transcript_flags,
           t.speakers_from
      from claimed_events e
      join receivers v on v.id = e.receiver_id
      join submissions sub on sub.id = e.submission_id
      left join recordings r on r.id = e.recording_id
      left join lateral (
           select flags, coalesce(speakers_from, 'channel') as speakers_from
             from transcripts where recording_id = r.id order by version desc limit 1) t on true
     order by e.created_at, e.id
""")


def claim_events(
    connection: Connection,
    *,
    limit: int,
    per_receiver: int,
    busy_receivers: Collection[UUID],
    lease_s: int,
) -> list[Delivery]:
    """Claim up to ``limit`` due events, oldest first, and up to ``per_receiver`` of each receiver.

    Of ``busy_receivers`` none are claimed, and one of a receiver that fails. A claim runs out after
    ``lease_s``.
    """
    parameters = {
        "limit": limit,
        "per_receiver": per_receiver,
        "busy_receivers": list(busy_receivers),
        "lease_s": lease_s,
    }
    return [_delivery(row) for row in connection.execute(_CLAIM, parameters).mappings()]


def _delivery(row: RowMapping) -> Delivery:
    is_of_recording = row["recording_id"] is not None
    document = _recording_event(row) if is_of_recording else _submission_event(row)
    return Delivery(
        event_id=row["event_id"],
        receiver_id=row["receiver_id"],
        url=row["url"],
        host=row["host"],
        body=json.dumps(document, ensure_ascii=False).encode(),
    )


def _recording_event(row: RowMapping) -> dict[str, Any]:
    return {
        **_event_head(row, "recording.ended"),
        "recording": str(row["recording_id"]),
        "file": row["name"],
        "state": row["recording_state"],
        "error_code": row["error_code"],
        "call_id": row["call_id"],
        "started_at": _isoformat(plausible_start(row["started_at"])),
        "direction": row["direction"],
        "line": row["line"],
        "agent": row["agent"],
        "customer": row["customer"],
        "attributes": row["attributes"],
        "duration_ms": row["duration_ms"],
        "speakers_from": row["speakers_from"],
        "flags": list(dict.fromkeys((*row["recording_flags"], *(row["transcript_flags"] or ())))),
        "created_at": _isoformat(row["recording_at"]),
        "ended_at": _isoformat(row["ended_at"]),
    }


def _submission_event(row: RowMapping) -> dict[str, Any]:
    counts = row["counts"] or {}
    return {
        **_event_head(row, "submission.ended"),
        "title": row["title"],
        "recordings": {"total": sum(counts.values()), **counts},
        "created_at": _isoformat(row["submission_at"]),
        "sealed_at": _isoformat(row["sealed_at"]),
    }


def _event_head(row: RowMapping, kind: str) -> dict[str, Any]:
    return {
        "event": str(row["event_id"]),
        "type": kind,
        "at": _isoformat(row["event_at"]),
        "submission": str(row["submission_id"]),
    }


def _isoformat(moment: Any) -> str | None:
    return None if moment is None else moment.isoformat()


_RECORD_DELIVERY = text("""
    with delivered_event as (
        update events set state = 'delivered', delivered_at = now(), error = null
         where id = :event and state <> 'delivered'
    )
    update receivers set failing_since = null, failures = 0, next_attempt_at = null
     where id = :receiver and failing_since is not null
""")


def record_delivery(connection: Connection, delivery: Delivery) -> None:
    """Record that a receiver accepted an event; it fails no longer, if it did."""
    parameters = {"event": delivery.event_id, "receiver": delivery.receiver_id}
    connection.execute(_RECORD_DELIVERY, parameters)


_RECORD_REFUSAL = text("""
    with failed_event as (
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
""")


def record_refusal(connection: Connection, delivery: Delivery, error: str) -> None:
    """Record that a receiver did not accept an event, and why; ``error`` names no URL."""
    connection.execute(
        _RECORD_REFUSAL,
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


def is_any_event_waiting(connection: Connection) -> bool:
    """Tell whether any event waits to be delivered."""
    query = select(EventRow.id).where(EventRow.state == EventState.WAITING).limit(1)
    return connection.execute(query).first() is not None


@dataclass(frozen=True, slots=True)
class PendingReceiver:
    """A receiver for which events wait, and since when it fails, if it does."""

    host: str
    events: int
    failing_since: datetime | None


def find_pending_receivers(connection: Connection) -> list[PendingReceiver]:
    """Return the receivers for which events wait, those that wait for most first."""
    rows = connection.execute(
        select(ReceiverRow.host, func.count().label("events"), ReceiverRow.failing_since)
        .join(EventRow, EventRow.receiver_id == ReceiverRow.id)
        .where(EventRow.state == EventState.WAITING)
        .group_by(ReceiverRow.id)
        .order_by(func.count().desc())
    )
    return [PendingReceiver(row.host, row.events, row.failing_since) for row in rows]


@dataclass(frozen=True, slots=True)
class NotificationStatus:
    """How far a submission's events were delivered: their number by state, and the latest error."""

    host: str
    events: dict[str, int]
    error: str | None


def read_notification_status(
    connection: Connection, submission_id: UUID
) -> NotificationStatus | None:
    """Return how far a submission's events were delivered, or None where it has no receiver."""
    host = connection.scalar(
        select(ReceiverRow.host)
        .join(Submission, Submission.receiver_id == ReceiverRow.id)
        .where(Submission.id == submission_id)
    )
    if host is None:
        return None
    of_submission = EventRow.submission_id == submission_id
    counts = connection.execute(
        select(EventRow.state, func.count()).where(of_submission).group_by(EventRow.state)
    )
    error = connection.scalar(
        select(EventRow.error)
        .where(of_submission, EventRow.error.is_not(None))
        .order_by(EventRow.next_attempt_at.desc())
        .limit(1)
    )
    return NotificationStatus(host, {state: int(count) for state, count in counts}, error)
