"""What an operator watches, as figures of the ledger: one look for a dashboard or an alert.

Every query reads what is pending, what is leased, or the recordings of submissions that were lately
open, by indexes: of a ledger that holds years it costs no more than of one that holds days.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, text

from schema.errors import ErrorCode
from schema.states import RecordingState, SegmentState


@dataclass(frozen=True, slots=True)
class Figures:
    """The ledger at a moment. Each mapping has a count for every state, or for codes that occur.

    ``open_segments`` are pending and leased ones, of which ``expired`` have lost their worker, and
    ``waiting`` wait after an attempt that failed. ``hour_segments`` ended in the last hour, with
    ``hour_audio_ms`` of audio done, and ``day_recordings`` were handed in during the last day.
    ``oldest_event_s`` is for how long a receiver has not taken what it is to be told.
    ``purged`` is None where retention never ran.
    """

    open_segments: Mapping[str, int]
    oldest_pending_s: float
    waiting: Mapping[str, int]
    expired: int
    hour_segments: Mapping[str, int]
    hour_audio_ms: int
    day_recordings: Mapping[str, int]
    oldest_event_s: float
    purged: Purged | None


@dataclass(frozen=True, slots=True)
class Purged:
    """What the last run of retention that came to its end did, so many seconds ago."""

    age_s: float
    recordings: int
    spared: int


#: The age by look-ups: a join would let the planner read every recording there ever was.
_PENDING = text(
    """
    select s.error_code, count(*) as segments,
           extract(epoch from now() - min(
               (select created_at from recordings where id = s.recording_id)))::float8 as age_s
      from segments s
     where s.state = 'pending'
     group by s.error_code
    """
)

_LEASED = text(
    """
    select count(*) as leased,
           count(*) filter (where lease_expires_at < now()) as expired
      from segments where state = 'leased'
    """
)

#: Submissions are few, and none was sealed before the last of its recordings was handed in.
#: Aggregates that are lateral, here and below, are made one by one, by an index.
_DAY = text(
    """
    select own.state, sum(own.recordings)::bigint as recordings
      from submissions b
     cross join lateral (
           select r.state, count(*) as recordings
             from recordings r
            where r.submission_id = b.id and r.created_at > now() - interval '1 day'
            group by r.state) own
     where b.state = 'open' or b.sealed_at > now() - interval '1 day'
     group by own.state
    """
)

#: Recordings have no index by when they ended. What ended in the last hour was handed in within
#: three days, unless it is an old failure's retry; those are few.
_HOUR = text(
    """
    select sum(own.done)::bigint as done, sum(own.failed)::bigint as failed,
           sum(own.audio_ms)::bigint as audio_ms
      from submissions b
     cross join lateral (
           select r.id from recordings r
            where r.submission_id = b.id and r.state <> 'planned' -- of which nothing was decoded
              and coalesce(r.ended_at > now() - interval '1 hour', true)
           offset 0) lately
     cross join lateral (
           select count(*) filter (where s.state = 'done') as done,
                  count(*) filter (where s.state = 'failed') as failed,
                  sum(s.end_ms - s.start_ms) filter (where s.state = 'done') as audio_ms
             from segments s
            where s.recording_id = lately.id and s.ended_at > now() - interval '1 hour'
              and s.error_code is distinct from :cancelled) own
     where b.state = 'open' or b.sealed_at > now() - interval '3 days'
    """
)


_OLDEST_EVENT = text(
    """
    select coalesce(extract(epoch from now() - min(created_at)), 0)::float8
      from events where state = 'waiting'
    """
)

#: By the primary key, backwards: those that were broken off are few.
_PURGED = text(
    """
    select extract(epoch from now() - ended_at)::float8 as age_s, recordings, spared
      from purges where ended_at is not null
     order by id desc limit 1
    """
)


def figures(connection: Connection) -> Figures:
    """Return the ledger's figures, by six queries."""
    pending = connection.execute(_PENDING).all()
    leased = connection.execute(_LEASED).one()
    day = {row.state: row.recordings for row in connection.execute(_DAY)}
    hour = connection.execute(_HOUR, {"cancelled": ErrorCode.CANCELLED.value}).one()
    purged = connection.execute(_PURGED).one_or_none()
    return Figures(
        open_segments={
            SegmentState.PENDING: sum(row.segments for row in pending),
            SegmentState.LEASED: leased.leased,
        },
        oldest_pending_s=max((row.age_s for row in pending), default=0.0),
        waiting={row.error_code: row.segments for row in pending if row.error_code is not None},
        expired=leased.expired,
        hour_segments={
            SegmentState.DONE: hour.done or 0,
            SegmentState.FAILED: hour.failed or 0,
        },
        hour_audio_ms=hour.audio_ms or 0,
        day_recordings={state: day.get(state, 0) for state in RecordingState},
        oldest_event_s=connection.execute(_OLDEST_EVENT).scalar_one(),
        purged=Purged(*purged) if purged else None,
    )
