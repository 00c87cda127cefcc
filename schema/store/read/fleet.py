"""Figures of the ledger for dashboards and alerts.

Every query reads what is pending, what is leased, what is under way, or what was lately submitted
or ended, each by an index: of a ledger that holds years it costs no more than of one that holds
days, whether its submissions were sealed or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, text

from schema.errors import ErrorCode
from schema.states import RecordingState, SegmentState


@dataclass(frozen=True, slots=True)
class LedgerFigures:
    """The ledger at a moment. Each mapping has a count for every state, or for codes that occur.

    ``open_segments`` are pending and leased ones: ``expired_leases`` have lost their worker, and
    ``waiting_segments`` wait after an attempt that failed. ``hour_segments`` ended in the last
    hour, with ``hour_audio_ms`` of audio done; ``day_recordings`` were submitted in the last day.
    ``oldest_event_s`` is the age of the oldest event that waits for its receiver.
    ``last_retention`` is None where retention never ran.
    """

    open_segments: Mapping[str, int]
    oldest_pending_s: float
    waiting_segments: Mapping[str, int]
    expired_leases: int
    hour_segments: Mapping[str, int]
    hour_audio_ms: int
    day_recordings: Mapping[str, int]
    oldest_event_s: float
    last_retention: RetentionRun | None


@dataclass(frozen=True, slots=True)
class RetentionRun:
    """What a run of retention did, which ended so many seconds ago."""

    age_s: float
    recordings: int
    unfinished_recordings: int


_PENDING_SEGMENTS = text(
    "select error_code, count(*) as segments from segments where state = 'pending'"
    " group by error_code"
)

#: From the oldest that is open on, until one has a segment that waits: the first, as a rule. The
#: limit keeps the planner from beginning with all that waits.
_OLDEST_PENDING = text("""
    select extract(epoch from now() - r.created_at)::float8
      from recordings r
     where r.state in ('planned', 'running')
       and (select true from segments s
             where s.recording_id = r.id and s.state = 'pending' limit 1)
     order by r.created_at
     limit 1
""")

_LEASES = text("""
    select count(*) as leased,
           count(*) filter (where lease_expires_at < now()) as expired
      from segments where state = 'leased'
""")

_DAY_RECORDINGS = text("""
    select state, count(*) as recordings
      from recordings
     where created_at > now() - interval '1 day'
     group by state
""")

#: Segments have no index by when they ended. One that ended in the last hour is of a recording that
#: is under way or did so, too; of a planned one nothing was decoded. The index has the first
#: condition, and both branches look into it. The aggregate is lateral, so that it is made recording
#: by recording, by an index.
_HOUR_SEGMENTS = text("""
    select sum(counts.done)::bigint as done, sum(counts.failed)::bigint as failed,
           sum(counts.audio_ms)::bigint as audio_ms
      from (select id from recordings where state <> 'planned' and ended_at is null
            union all
            select id from recordings
             where state <> 'planned' and ended_at > now() - interval '1 hour'
            offset 0) recent_recording
     cross join lateral (
           select count(*) filter (where s.state = 'done') as done,
                  count(*) filter (where s.state = 'failed') as failed,
                  sum(s.end_ms - s.start_ms) filter (where s.state = 'done') as audio_ms
             from segments s
            where s.recording_id = recent_recording.id and s.ended_at > now() - interval '1 hour'
              and s.error_code is distinct from :cancelled) counts
""")


_OLDEST_EVENT = text("""
    select coalesce(extract(epoch from now() - min(created_at)), 0)::float8
      from events where state = 'waiting'
""")

#: By the primary key, backwards: those that were broken off are few.
_LAST_RETENTION = text("""
    select extract(epoch from now() - ended_at)::float8 as age_s, recordings, spared
      from purges where ended_at is not null and not narrowed
     order by id desc limit 1
""")


def read_figures(connection: Connection) -> LedgerFigures:
    """Return the ledger's figures, by seven queries."""
    pending = connection.execute(_PENDING_SEGMENTS).all()
    leases = connection.execute(_LEASES).one()
    day = {row.state: row.recordings for row in connection.execute(_DAY_RECORDINGS)}
    hour = connection.execute(_HOUR_SEGMENTS, {"cancelled": ErrorCode.CANCELLED.value}).one()
    retention = connection.execute(_LAST_RETENTION).one_or_none()
    return LedgerFigures(
        open_segments={
            SegmentState.PENDING: sum(row.segments for row in pending),
            SegmentState.LEASED: leases.leased,
        },
        oldest_pending_s=connection.scalar(_OLDEST_PENDING) or 0.0,
        waiting_segments={
            row.error_code: row.segments for row in pending if row.error_code is not None
        },
        expired_leases=leases.expired,
        hour_segments={SegmentState.DONE: hour.done or 0, SegmentState.FAILED: hour.failed or 0},
        hour_audio_ms=hour.audio_ms or 0,
        day_recordings={state: day.get(state, 0) for state in RecordingState},
        oldest_event_s=connection.execute(_OLDEST_EVENT).scalar_one(),
        last_retention=RetentionRun(*retention) if retention else None,
    )
