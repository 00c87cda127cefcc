"""A worker claims a segment, keeps its lease, and ends or returns it.

Claiming and finishing are one statement each, so that a segment costs two round trips: the ledger
must never be what a fleet waits for. Both lock the recording first; ``claim_segment`` also relies
on the unique index over live decodes, which refuses a second decode of one key. Whoever decodes by
another key than was planned claims that one first (:func:`claim_decode_key`): the index does not
know of it.

A row that is looked up by its id has its state compared as ``state || ''``: statistics are older
than a backlog, and a planner would read all of an index of pending or open rows
(:mod:`schema.tables`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

from psycopg.errors import UniqueViolation
from sqlalchemy import Connection, text

from schema.errors import ErrorCode, LeaseLost, Misconfigured
from schema.pcm import PlannedSlice
from schema.profile import Profile, stored_profile
from schema.records import AudioFormat, Location, SegmentSource
from schema.seal import SealedResult, read_result
from schema.span import Span
from schema.states import SegmentKind
from schema.store.dispatches import SEGMENT_COLUMNS, ColumnValues, reduce_dispatch, segment_dispatch
from schema.store.ledger import END_SEGMENT_OF_RECORDING, Cursor
from schema.text import storable_text, write_storable_json
from schema.transcript import is_channel_shared
from schema.voices import Voices, voice_key
from schema.wire import Dispatch, Message, Priority
from schema.words import SegmentResult

#: Attempts that raised or killed their worker, after which a segment is given up: poison.
STRIKES_MAX = 3
#: Claims of any kind, after which a segment is given up: a fleet that dies this often on one
#: segment has something to show a person.
ATTEMPTS_MAX = 20
#: The pause before another attempt doubles from the first to the last.
BACKOFF_FIRST_S = 5
BACKOFF_LAST_S = 300


@dataclass(frozen=True, slots=True)
class Claim:
    """A segment leased to this worker, with all that decoding it takes.

    ``lease_token`` is the fence: a write under it is refused once another worker took over.
    Where ``is_cached`` the ledger has the words already, and nothing is to be decoded.
    """

    segment_id: UUID
    recording_id: UUID
    lease_token: UUID
    name: str
    index: int
    source: SegmentSource
    decode_key: str
    profile: Profile
    attempt: int
    is_cached: bool
    #: Whether several may speak on its channel, who are told apart by their voices.
    wants_voices: bool = False

    @property
    def voice_key(self) -> str:
        """The key of its voices."""
        return voice_key(self.profile, self.source.pcm_digest, self.source.format.rate_hz)

    @property
    def span(self) -> Span:
        """Where in its recording the segment lies."""
        return self.source.span


class FailureKind(StrEnum):
    """What a failed attempt means for its segment."""

    #: The recording is at fault, and trying again cannot help: given up.
    PERMANENT = "for good"
    #: An error that another attempt may or may not survive: a strike, and a pause.
    STRIKE = "strike"
    #: The moment was bad, say storage out of reach: a pause, and the attempt is given back.
    RETRY_LATER = "pause"
    #: This host cannot do it, say for want of weights: likewise.
    WRONG_HOST = "not here"
    #: It was decoded together with others, and no one knows which is at fault: a pause, and an
    #: attempt that counts, since what was tried before is decoded alone.
    SUSPECT = "suspect"


@dataclass(frozen=True, slots=True)
class EndResult:
    """What the end of a segment makes due.

    The ``reduce`` of its recording; the end of duplicates, which wait for the words of the same
    decode key; and :func:`resend_waiting_duplicates` of ``abandoned_keys``, whose decode ended
    without words.
    """

    reduce: Dispatch | None
    has_waiting_duplicates: bool = False
    abandoned_keys: tuple[str, ...] = ()


#: Where the samples of a segment ``s`` of a recording ``r`` lie.
_SOURCE_COLUMNS = """
       s.channel, s.start_ms, s.end_ms, s.pcm_digest, r.audio_root, r.audio_path, r.container,
       r.encoding, r.rate_hz, r.channels, r.frames,
       case when s.kind = 'repair' then (
           select json_agg(
                      json_build_array(planned_segment.start_ms, planned_segment.end_ms,
                                       planned_segment.pcm_digest)
                      order by planned_segment.start_ms)
             from segments planned_segment
            where planned_segment.recording_id = s.recording_id and planned_segment.kind = 'plan'
              and planned_segment.channel is not distinct from s.channel
              and planned_segment.start_ms < s.end_ms
              and planned_segment.end_ms > s.start_ms) end as slices
"""

#: Whether a worker works on another segment than ``s``.
_HAS_OTHER_LIVE_LEASE = (
    "other_segment.state = 'leased' and other_segment.lease_expires_at > now()"
    " and other_segment.id <> s.id"
)

_CLEAR_LEASE = "lease_owner = null, lease_token = null, lease_expires_at = null"

_CLAIM = f"""
with locked_recording as materialized (
    select r.*, sub.profile
      from recordings r
      join submissions sub on sub.id = r.submission_id
     where r.id = (select recording_id from segments where id = %(id)s)
       and r.state || '' in ('planned', 'running')
       for no key update of r
),
leased_segment as (
    update segments s
       set state = 'leased',
           attempts = s.attempts + 1,
           lease_owner = %(owner)s,
           lease_token = %(lease)s,
           leased_at = now(),
           lease_expires_at = now() + make_interval(secs => %(lease_s)s),
           decoding_key = null
      from locked_recording
     where s.id = %(id)s
       and s.recording_id = locked_recording.id
       and s.dispatch_token = %(token)s
       and s.attempts < %(attempts_max)s
       and s.strikes < %(strikes_max)s
       and coalesce(s.next_attempt_at <= now(), true)
       and (s.state = 'pending' or (s.state = 'leased' and s.lease_expires_at < now()))
       and (s.attempts = 0 or not %(untried_only)s)
       and not exists (
           select from segments other_segment
            where other_segment.decoding_key = s.decode_key and {_HAS_OTHER_LIVE_LEASE})
 returning s.*
),
started_recording as (
    update recordings r set state = 'running' from leased_segment
     where r.id = leased_segment.recording_id and r.state || '' = 'planned'
)
select s.id, s.recording_id, s.index, s.attempts, s.language, r.name, r.profile, s.kind, r.flags,
       -- A segment that is done again, for its voices alone, has a result.
       coalesce(s.result_key, s.decode_key) as decode_key,
       (s.result_key is not null or not s.force) and exists (
           select from results
            where results.decode_key = coalesce(s.result_key, s.decode_key)) as is_cached,
       {_SOURCE_COLUMNS},
       -- No wait for the disk: a claim that a crash of the server undoes is a fence, no loss.
       set_config('synchronous_commit', 'off', true)
  from leased_segment s
  join locked_recording r on r.id = s.recording_id
"""


def claim_segment(
    cursor: Cursor, message: Message, *, owner: str, lease_s: int, untried_only: bool = False
) -> Claim | None:
    """Lease the segment that a message names, or return None if there is nothing to do.

    Nothing is to do when the message is a duplicate or stale, the segment has ended, is leased,
    waits for its next attempt, is given up, its recording is cancelled, or another worker decodes
    the same samples right now: its finish will serve this segment too. With ``untried_only``, also
    when it was tried before: it may be what its worker died on.

    Raises:
        Misconfigured: another release submitted it, with settings that this one does not know. The
            segment was put back for a worker that does, and no attempt counted.
    """
    lease = uuid4()
    parameters = {
        "id": message.id,
        "token": message.token,
        "owner": owner,
        "lease": lease,
        "lease_s": lease_s,
        "attempts_max": ATTEMPTS_MAX,
        "strikes_max": STRIKES_MAX,
        "untried_only": untried_only,
    }
    try:
        row = cursor.execute(_CLAIM, parameters).fetchone()
    except UniqueViolation as error:
        if error.diag.constraint_name == "segments_live_decode_uq":
            return None
        raise
    if row is None:
        return None
    try:
        return _claim(row, lease)
    except Misconfigured as error:
        pause = {"first_s": BACKOFF_FIRST_S, "last_s": BACKOFF_LAST_S}
        reason = {"code": error.code, "message": str(error)}
        cursor.execute(_RELEASE_UNKNOWN_PROFILE, {**parameters, **pause, **reason})
        raise


_RELEASE_UNKNOWN_PROFILE = f"""
update segments
   set state = 'pending', attempts = attempts - 1,
       next_attempt_at = now() + make_interval(secs => least(
           %(last_s)s, %(first_s)s * 2.0 ^ greatest(least(dispatches - 1, 10), 0))),
       dispatched_at = null,
       error_code = %(code)s, error_message = %(message)s,
       {_CLEAR_LEASE}
 where id = %(id)s and lease_token = %(lease)s and state || '' = 'leased'
"""


def _claim(row: Mapping[str, Any], lease: UUID) -> Claim:
    profile = stored_profile(row["profile"])
    return Claim(
        segment_id=row["id"],
        recording_id=row["recording_id"],
        lease_token=lease,
        name=row["name"],
        index=row["index"],
        source=_source(row),
        decode_key=row["decode_key"],
        profile=profile.with_language(row["language"]),
        attempt=row["attempts"],
        is_cached=row["is_cached"],
        wants_voices=profile.render.tells_voices
        and row["kind"] == SegmentKind.PLAN
        and is_channel_shared(row["channel"], row["channels"], row["flags"]),
    )


def _source(row: Mapping[str, Any]) -> SegmentSource:
    return SegmentSource(
        location=Location(row["audio_root"], row["audio_path"]),
        format=AudioFormat.from_row(row),
        channel=row["channel"],
        span=Span(row["start_ms"], row["end_ms"]),
        pcm_digest=row["pcm_digest"],
        slices=tuple(
            PlannedSlice(Span(start_ms, end_ms), digest)
            for start_ms, end_ms, digest in row["slices"] or ()
        ),
    )


_SOURCE_AHEAD = f"""
select {_SOURCE_COLUMNS}
  from segments s
  join recordings r on r.id = s.recording_id
 where s.id = %(id)s and s.dispatch_token = %(token)s
   and s.state || '' = 'pending' and r.state || '' in ('planned', 'running')
   and (s.force or not exists (select from results where results.decode_key = s.decode_key))
"""


def read_source_ahead(cursor: Cursor, message: Message) -> SegmentSource | None:
    """Return the audio that a message's segment will want, or None where nothing is to be decoded.

    Nothing is leased: another worker may claim the segment.
    """
    parameters = {"id": message.id, "token": message.token}
    row = cursor.execute(_SOURCE_AHEAD, parameters).fetchone()
    return None if row is None else _source(row)


@dataclass(frozen=True, slots=True)
class DecodeTurn:
    """Whether a segment is to be decoded by a key that is not the planned one.

    Not where the ledger has a ``cached_result`` of that key, nor where another worker is busy
    decoding by it.
    """

    cached_result: SegmentResult | SealedResult | None = None
    is_busy: bool = False

    @property
    def may_decode(self) -> bool:
        """Whether neither is so."""
        return self.cached_result is None and not self.is_busy


_LOCK_DECODE_KEY = text("select pg_advisory_xact_lock(hashtextextended(:key, 0))")

_CLAIM_DECODE_KEY = text(f"""
    update segments s
       set decoding_key = :key
     where s.id = :id and s.lease_token = :lease and s.state || '' = 'leased'
 returning s.dispatches,
           (select body from results where results.decode_key = :key and not s.force) as cached,
           exists (select from segments other_segment
                    where other_segment.decode_key = :key and {_HAS_OTHER_LIVE_LEASE})
           or exists (select from segments other_segment
                       where other_segment.decoding_key = :key and {_HAS_OTHER_LIVE_LEASE})
           as is_busy
""")

_RELEASE_BUSY = text(f"""
    update segments
       set state = 'pending', attempts = attempts - 1,
           next_attempt_at = now() + make_interval(secs => :pause_s), dispatched_at = null,
           {_CLEAR_LEASE}
     where id = :id and lease_token = :lease and state || '' = 'leased'
""")


def claim_decode_key(connection: Connection, claim: Claim, key: str) -> DecodeTurn:
    """Claim another ``key`` than was planned to decode a claimed segment by.

    Two that claim one key do so one after the other. Where another worker decodes by it, the
    segment is put back, and no attempt is counted: by its next one the words are stored.

    Raises:
        LeaseLost: another worker took over.
    """
    connection.execute(_LOCK_DECODE_KEY, {"key": key})
    parameters = {"id": claim.segment_id, "lease": claim.lease_token, "key": key}
    row = connection.execute(_CLAIM_DECODE_KEY, parameters).one_or_none()
    if row is None:
        raise _lease_lost_error(claim)
    if row.cached is not None:
        return DecodeTurn(cached_result=read_result(row.cached))
    if row.is_busy:
        pause = {"pause_s": backoff_s(row.dispatches - 1)}
        connection.execute(_RELEASE_BUSY, {**parameters, **pause})
    return DecodeTurn(is_busy=row.is_busy)


_RENEW = """
update segments s
   set lease_expires_at = now() + make_interval(secs => %(lease_s)s)
  from recordings r
 where s.id = %(id)s and s.lease_token = %(lease)s and s.state || '' = 'leased'
   and r.id = s.recording_id and r.state || '' = 'running'
"""


def renew_lease(cursor: Cursor, claim: Claim, *, lease_s: int) -> bool:
    """Extend a lease, even one that expired, unless it was taken over or work was cancelled."""
    parameters = {"id": claim.segment_id, "lease": claim.lease_token, "lease_s": lease_s}
    return cursor.execute(_RENEW, parameters).rowcount == 1


_FINISH = f"""
with locked_recording as materialized (
    select id from recordings where id = %(recording)s and state || '' = 'running' for no key update
),
existing_result as materialized (
    -- Locked, since an erasure may be about to delete it.
    select decode_key from results where decode_key = %(key)s for key share
),
finished_segment as (
    update segments s
       set state = 'done', result_key = %(key)s, ended_at = now(),
           error_code = null, error_message = null, decoding_key = null,
           {_CLEAR_LEASE}
      from locked_recording
     where s.id = %(id)s and s.recording_id = locked_recording.id
       and s.lease_token = %(lease)s and s.state || '' = 'leased'
       and (cast(%(body)s as json) is not null or exists (select from existing_result))
 returning s.id, s.recording_id, s.decode_key
),
stored_voices as (
    insert into voices (segment_id, key, body)
    select id, %(voice_key)s, cast(%(voices)s as bytea) from finished_segment
     where cast(%(voices)s as bytea) is not null
        on conflict (segment_id) do update
       set key = excluded.key, body = excluded.body, created_at = now()
),
stored_result as (
    insert into results (decode_key, body, seal_key)
    select %(key)s, cast(%(body)s as json), %(seal_key)s from finished_segment
     where cast(%(body)s as json) is not null
        on conflict (decode_key) do update
       set body = excluded.body, seal_key = excluded.seal_key, created_at = now()
),
updated_recording as ({END_SEGMENT_OF_RECORDING})
select updated_recording.*, finished_segment.decode_key as planned_key,
       exists (select from segments duplicate_segment
                where duplicate_segment.decode_key = %(key)s
                  and duplicate_segment.state = 'pending')
           as has_waiting_duplicates
  from updated_recording, finished_segment
"""


def finish_segment(
    cursor: Cursor,
    claim: Claim,
    result: SegmentResult | SealedResult | None,
    voices: Voices | None = None,
) -> EndResult:
    """Store a segment's words, and its voices if it has any, and end it.

    ``result`` is None where the ledger has the words already; those of a protected call are sealed.

    Raises:
        LeaseLost: the lease was taken over, the recording cancelled, or the words that the ledger
            had are erased: nothing was stored.
        ValueError: clear words of a protected call.
    """
    if claim.profile.redact is not None and isinstance(result, SegmentResult):
        raise ValueError("words of a protected call are not sealed")
    parameters = {
        "recording": claim.recording_id,
        "id": claim.segment_id,
        "lease": claim.lease_token,
        "key": claim.decode_key,
        "body": None if result is None else write_storable_json(result.to_json()),
        "seal_key": result.key_id if isinstance(result, SealedResult) else None,
        "voice_key": None if voices is None else claim.voice_key,
        "voices": None if voices is None else voices.to_bytes(),
    }
    row = cursor.execute(_FINISH, parameters).fetchone()
    if row is None:
        raise _lease_lost_error(claim)
    planned_key = row["planned_key"]
    abandoned_keys = () if planned_key == claim.decode_key else (planned_key,)
    return EndResult(
        _reduce_if_due(row),
        has_waiting_duplicates=row["has_waiting_duplicates"],
        abandoned_keys=abandoned_keys,
    )


_FINISH_DUPLICATE = text(f"""
    with locked_recording as materialized (
        select r.id from recordings r
         where r.id = :recording and r.state || '' in ('planned', 'running') for no key update
    ),
    existing_result as materialized (
        select decode_key from results where decode_key = :key for key share
    ),
    finished_segment as (
        update segments s
           set state = 'done', result_key = s.decode_key, ended_at = now()
          from locked_recording, existing_result
         where s.id = :id and s.recording_id = locked_recording.id and s.state || '' = 'pending'
           and s.decode_key = existing_result.decode_key
           -- Else it has its words, and is done again for its voices.
           and s.result_key is null
           and (:just_decoded or not s.force)
     returning s.recording_id
    )
    {END_SEGMENT_OF_RECORDING}
""")


def finish_waiting_duplicates(
    connection: Connection, decode_key: str, *, just_decoded: bool
) -> list[Dispatch]:
    """End every segment that waits for the words of ``decode_key``; return the reduces now due.

    Unless they are ``just_decoded``, the words are not for a forced submission. One
    transaction may lock several recordings: always in order of their ids.
    """
    duplicates = connection.execute(
        text(
            "select id, recording_id from segments where decode_key = :key and state = 'pending'"
            " order by recording_id, id"
        ),
        {"key": decode_key},
    ).all()
    reduces = []
    for segment_id, recording_id in duplicates:
        parameters = {
            "id": segment_id,
            "recording": recording_id,
            "key": decode_key,
            "just_decoded": just_decoded,
        }
        row = connection.execute(_FINISH_DUPLICATE, parameters).mappings().one_or_none()
        if row is not None and (dispatch := _reduce_if_due(row)):
            reduces.append(dispatch)
    return reduces


_LEASED_FOR_UPDATE = text("""
    select s.strikes, s.attempts, s.dispatches, s.decode_key, s.decoding_key
      from segments s join recordings r on r.id = s.recording_id
     where s.id = :id and s.lease_token = :lease and s.state || '' = 'leased' and r.id = :recording
       for no key update of r, s
""")

_RELEASE_FAILED = text(f"""
    update segments
       set state = 'pending', strikes = :strikes, attempts = :attempts,
           next_attempt_at = now() + make_interval(secs => :pause_s),
           dispatched_at = null, -- its message is spent: the sweep sends the next one when due
           error_code = :code, error_message = :message,
           {_CLEAR_LEASE}
     where id = :id
""")

_GIVE_UP = text(f"""
    with finished_segment as (
        update segments
           -- One that was to be done again for its voices alone keeps its words.
           set state = case when result_key is null then 'failed' else 'done' end,
               error_code = case when result_key is null then :code end,
               error_message = case when result_key is null then :message end,
               ended_at = now(), decoding_key = null,
               {_CLEAR_LEASE}
         where id = :id and state || '' in ('pending', 'leased')
     returning recording_id
    )
    {END_SEGMENT_OF_RECORDING}
""")


def fail_segment(
    connection: Connection, claim: Claim, code: ErrorCode, message: str, fate: FailureKind
) -> EndResult:
    """Record that an attempt failed: put the segment back for later, or give it up.

    Raises:
        LeaseLost: the lease was taken over: the failure is another's to judge.
    """
    parameters = {
        "recording": claim.recording_id,
        "id": claim.segment_id,
        "lease": claim.lease_token,
    }
    row = connection.execute(_LEASED_FOR_UPDATE, parameters).one_or_none()
    if row is None:
        raise _lease_lost_error(claim)
    strikes = row.strikes + (fate is FailureKind.STRIKE)
    if fate is FailureKind.PERMANENT or strikes >= STRIKES_MAX:
        abandoned_keys = tuple(key for key in (row.decode_key, row.decoding_key) if key is not None)
        return EndResult(
            give_up_segment(connection, claim.segment_id, code, message),
            abandoned_keys=abandoned_keys,
        )
    connection.execute(
        _RELEASE_FAILED,
        {
            "id": claim.segment_id,
            "strikes": strikes,
            "attempts": row.attempts - (fate in (FailureKind.RETRY_LATER, FailureKind.WRONG_HOST)),
            "pause_s": backoff_s(row.dispatches - 1),
            "code": code,
            "message": storable_text(message),
        },
    )
    return EndResult(None)


def give_up_segment(
    connection: Connection, segment_id: UUID, code: ErrorCode, message: str
) -> Dispatch | None:
    """End a segment as failed; the caller holds its recording's lock. Return a reduce now due."""
    parameters = {"id": segment_id, "code": code, "message": storable_text(message)}
    row = connection.execute(_GIVE_UP, parameters).mappings().one_or_none()
    return None if row is None else _reduce_if_due(row)


_RELEASE_OWNED = text(f"""
    with leased_segments as (
        select id from segments where lease_owner = :owner and state = 'leased'
    )
    update segments s
       set state = 'pending',
           attempts = s.attempts - :attempts,
           -- Of several that were decoded together no one knows which it died on; each is tried
           -- alone the next time.
           strikes = s.strikes + case when (select count(*) from leased_segments) = 1
                                        then :strikes else 0 end,
           error_code = coalesce(:code, s.error_code),
           error_message = coalesce(:message, s.error_message),
           {_CLEAR_LEASE},
           dispatch_token = gen_random_uuid(), dispatched_at = now(),
           dispatches = s.dispatches + 1
      from recordings r
     where r.id = s.recording_id and s.id in (select id from leased_segments)
       and s.lease_owner = :owner and s.state || '' = 'leased'
 returning {SEGMENT_COLUMNS}
""")


def return_leases(connection: Connection, owner: str, *, child_died: bool) -> list[Dispatch]:
    """Return what ``owner`` holds to the pending; the new messages to publish for it.

    Celery sends the old message again by itself, but another worker may have met it with the
    lease still on, and dropped it. A child that follows one that died counts a strike against
    what it was working on, if that was one segment; a worker that shuts down in order gives the
    attempt back.
    """
    parameters: dict[str, Any] = {
        "owner": owner,
        "attempts": 0 if child_died else 1,
        "strikes": 1 if child_died else 0,
        "code": ErrorCode.ATTEMPTS_EXHAUSTED if child_died else None,
        "message": "the worker process died while decoding it" if child_died else None,
    }
    rows = connection.execute(_RELEASE_OWNED, parameters).mappings()
    return [segment_dispatch(row, Priority.URGENT) for row in rows]


_PENDING_SEGMENT = text(f"""
    select {SEGMENT_COLUMNS}
      from segments s join recordings r on r.id = s.recording_id
     where s.id = :id and s.dispatch_token = :token and s.state || '' = 'pending'
""")


def resend_segment(connection: Connection, message: Message) -> Dispatch | None:
    """Return a message as it was, but with the priority of begun work; None if it is stale."""
    parameters = {"id": message.id, "token": message.token}
    row = connection.execute(_PENDING_SEGMENT, parameters).mappings().one_or_none()
    return None if row is None else segment_dispatch(row, Priority.URGENT)


_WAITING_DUPLICATES = text(f"""
    select distinct on (s.decode_key) {SEGMENT_COLUMNS}
      from segments s join recordings r on r.id = s.recording_id
     where s.decode_key = any(:keys) and s.state = 'pending'
       and coalesce(s.next_attempt_at <= now(), true)
       and not exists (select from segments leased_segment
                        where leased_segment.decode_key = s.decode_key
                          and leased_segment.state = 'leased')
     order by s.decode_key, s.dispatched_at
""")


def resend_waiting_duplicates(connection: Connection, keys: Sequence[str]) -> list[Dispatch]:
    """Return the message of one segment that waited for the decode of each of ``keys``, as it was.

    That decode has ended without their words, and their messages may have come meanwhile and been
    dropped. Of several, the first one's finish serves the rest.
    """
    rows = connection.execute(_WAITING_DUPLICATES, {"keys": list(keys)}).mappings()
    return [segment_dispatch(row, Priority.URGENT) for row in rows]


def backoff_s(earlier_attempts: int) -> int:
    """Return the pause after a failed attempt that follows earlier ones: 5, 10, ... 300 s."""
    return min(BACKOFF_LAST_S, BACKOFF_FIRST_S << max(0, min(earlier_attempts, 10)))


def _reduce_if_due(row: ColumnValues) -> Dispatch | None:
    return reduce_dispatch(row) if row["reduce_dispatch_token"] is not None else None


def _lease_lost_error(claim: Claim) -> LeaseLost:
    return LeaseLost(
        ErrorCode.LEASE_LOST,
        f"segment {claim.segment_id}",
        "another worker has taken it over, or its recording was cancelled",
    )
