"""A worker claims a segment, keeps its lease, and ends or returns it.

Claiming and finishing are one statement each, so that a segment costs two round trips: the ledger
must never be what a fleet waits for. Both lock the recording first; ``claim`` also relies on the
unique index over live decodes, which refuses a second decode of one key. Whoever decodes by another
key than was planned says so first (:func:`decode_as`): that index does not know of it.

What is looked up by its id has its state said as ``state || ''``: statistics are older than a
backlog, and of an index of what waits, or is open, a planner would read all (:mod:`schema.tables`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

from psycopg.errors import UniqueViolation
from pydantic_core import to_json
from sqlalchemy import Connection, text

from schema.errors import ErrorCode, LeaseLost, Misconfigured
from schema.pcm import PlannedPart
from schema.profile import Profile, stored_profile
from schema.records import AudioFormat, Location, SegmentSource
from schema.span import Span
from schema.store.dispatches import Row, reduce_dispatch, segment_dispatch
from schema.store.ledger import CLOSE_ONE, Cursor
from schema.wire import Dispatch, Message, Priority
from schema.words import SegmentResult, clean, clean_json

#: Attempts that raised or killed their worker, after which a segment is given up: poison.
STRIKES_MAX = 3
#: Claims of any kind, after which a segment is given up: a fleet that dies this often on one
#: segment has something to show a person, whoever is to blame.
ATTEMPTS_MAX = 20
#: The pause before another attempt doubles from the first to the last.
BACKOFF_FIRST_S = 5
BACKOFF_LAST_S = 300


@dataclass(frozen=True, slots=True)
class Claim:
    """A segment leased to this worker, with all that decoding it takes.

    ``lease`` is the fence: whatever is stored under it is refused once another worker took over.
    ``known`` says that the words are in the ledger already, so that nothing is to be decoded.
    """

    segment_id: UUID
    recording_id: UUID
    lease: UUID
    name: str
    index: int
    source: SegmentSource
    decode_key: str
    profile: Profile
    attempt: int
    known: bool

    @property
    def span(self) -> Span:
        """Where in its recording the segment lies."""
        return self.source.span


class Fate(StrEnum):
    """What a failed attempt means for its segment."""

    #: The recording is at fault, and trying again cannot help: given up.
    FOR_GOOD = "for good"
    #: An error that another attempt may or may not survive: a strike, and a pause.
    STRIKE = "strike"
    #: The moment was bad, say storage out of reach: a pause, and the attempt is given back.
    PAUSE = "pause"
    #: This host cannot do it, say for want of weights: likewise.
    NOT_HERE = "not here"
    #: It was decoded together with others, and no one knows which is at fault: a pause, and an
    #: attempt that counts, since what was tried before is decoded alone.
    SUSPECT = "suspect"


@dataclass(frozen=True, slots=True)
class Ended:
    """What ended with a segment: perhaps a recording's last, perhaps others' wait.

    ``twins`` says that other segments wait for the words of the same decode key. ``left`` are keys
    whose decode has ended without words of theirs: one that waited for it is to be woken
    (:func:`wake`).
    """

    reduce: Dispatch | None
    twins: bool = False
    left: tuple[str, ...] = ()


#: What of a segment ``t`` and its recording ``h`` says where its samples lie.
_SOURCE_COLUMNS = """
       t.channel, t.start_ms, t.end_ms, t.pcm_digest, h.audio_root, h.audio_path, h.container,
       h.encoding, h.rate_hz, h.channels, h.frames,
       case when t.kind = 'repair' then (
           select json_agg(json_build_array(p.start_ms, p.end_ms, p.pcm_digest)
                           order by p.start_ms)
             from segments p
            where p.recording_id = t.recording_id and p.kind = 'plan'
              and p.channel is not distinct from t.channel
              and p.start_ms < t.end_ms and p.end_ms > t.start_ms) end as parts
"""

#: Whether somebody works on ``o``.
_IS_LIVE = "o.state = 'leased' and o.lease_expires_at > now()"

_CLAIM = f"""
with held as materialized (
    select r.*, b.profile
      from recordings r
      join submissions b on b.id = r.submission_id
     where r.id = (select recording_id from segments where id = %(id)s)
       and r.state || '' in ('planned', 'running')
       for no key update of r
),
taken as (
    update segments s
       set state = 'leased',
           attempts = s.attempts + 1,
           lease_owner = %(owner)s,
           lease_token = %(lease)s,
           leased_at = now(),
           lease_expires_at = now() + make_interval(secs => %(lease_s)s),
           decoding_key = null
      from held
     where s.id = %(id)s
       and s.recording_id = held.id
       and s.dispatch_token = %(token)s
       and s.attempts < %(attempts_max)s
       and s.strikes < %(strikes_max)s
       and coalesce(s.next_attempt_at <= now(), true)
       and (s.state = 'pending' or (s.state = 'leased' and s.lease_expires_at < now()))
       and (s.attempts = 0 or not %(untried)s)
       and not exists (
           select from segments o
            where o.decoding_key = s.decode_key and {_IS_LIVE} and o.id <> s.id)
 returning s.*
),
begun as (
    update recordings r set state = 'running' from taken
     where r.id = taken.recording_id and r.state || '' = 'planned'
)
select t.id, t.recording_id, t.index, t.decode_key, t.attempts, t.language, h.name, h.profile,
       not t.force and exists (select from results x where x.decode_key = t.decode_key) as known,
       {_SOURCE_COLUMNS},
       -- No wait for the disk: a claim that a crash of the server undoes is a fence, no loss.
       set_config('synchronous_commit', 'off', true)
  from taken t
  join held h on h.id = t.recording_id
"""


def claim(
    cursor: Cursor, message: Message, *, owner: str, lease_s: int, untried: bool = False
) -> Claim | None:
    """Lease the segment that a message names, or return None if there is nothing to do.

    Nothing is to do when the message is a duplicate or stale, the segment has ended, is leased,
    waits for its next attempt, is given up, its recording is cancelled, or another worker decodes
    the same samples right now: its finish will serve this segment too. Of an ``untried`` one, also
    where it was tried before: it may be what its worker died on.

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
        "untried": untried,
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
        put_back = {"first_s": BACKOFF_FIRST_S, "last_s": BACKOFF_LAST_S, **_said(error)}
        cursor.execute(_NOT_UNDERSTOOD, {**parameters, **put_back})
        raise


def _said(error: Misconfigured) -> Mapping[str, str]:
    return {"code": error.code, "message": str(error)}


_NOT_UNDERSTOOD = """
update segments
   set state = 'pending', attempts = attempts - 1,
       next_attempt_at = now() + make_interval(secs => least(
           %(last_s)s, %(first_s)s * 2.0 ^ greatest(least(dispatches - 1, 10), 0))),
       dispatched_at = null,
       error_code = %(code)s, error_message = %(message)s,
       lease_owner = null, lease_token = null, lease_expires_at = null
 where id = %(id)s and lease_token = %(lease)s and state || '' = 'leased'
"""


def _claim(row: Mapping[str, Any], lease: UUID) -> Claim:
    return Claim(
        segment_id=row["id"],
        recording_id=row["recording_id"],
        lease=lease,
        name=row["name"],
        index=row["index"],
        source=_source(row),
        decode_key=row["decode_key"],
        profile=stored_profile(row["profile"]).speaking(row["language"]),
        attempt=row["attempts"],
        known=row["known"],
    )


def _source(row: Mapping[str, Any]) -> SegmentSource:
    return SegmentSource(
        location=Location(row["audio_root"], row["audio_path"]),
        format=AudioFormat(
            container=row["container"],
            encoding=row["encoding"],
            rate_hz=row["rate_hz"],
            channels=row["channels"],
            frames=row["frames"],
        ),
        channel=row["channel"],
        span=Span(row["start_ms"], row["end_ms"]),
        pcm_digest=row["pcm_digest"],
        parts=tuple(PlannedPart(Span(a, b), digest) for a, b, digest in row["parts"] or ()),
    )


_SOURCE_AHEAD = f"""
select {_SOURCE_COLUMNS}
  from segments t
  join recordings h on h.id = t.recording_id
 where t.id = %(id)s and t.dispatch_token = %(token)s
   and t.state || '' = 'pending' and h.state || '' in ('planned', 'running')
   and (t.force or not exists (select from results x where x.decode_key = t.decode_key))
"""


def source_ahead(cursor: Cursor, message: Message) -> SegmentSource | None:
    """Return the audio that a message's segment will want, or None where nothing is to be decoded.

    Nothing is leased: whoever claims the segment may be another worker.
    """
    parameters = {"id": message.id, "token": message.token}
    row = cursor.execute(_SOURCE_AHEAD, parameters).fetchone()
    return None if row is None else _source(row)


@dataclass(frozen=True, slots=True)
class Turn:
    """Whether a segment is to be decoded by a key that is not the planned one.

    Not where the words of that key are ``known``, and not where another is ``busy`` with them.
    """

    known: SegmentResult | None = None
    busy: bool = False


_IN_TURN = text("select pg_advisory_xact_lock(hashtextextended(:key, 0))")

_DECODE_AS = text(
    f"""
    update segments s
       set decoding_key = :key
     where s.id = :id and s.lease_token = :lease and s.state || '' = 'leased'
 returning s.dispatches,
           (select x.body from results x where x.decode_key = :key and not s.force) as known,
           exists (select from segments o
                    where o.decode_key = :key and {_IS_LIVE} and o.id <> s.id)
           or exists (select from segments o
                       where o.decoding_key = :key and {_IS_LIVE} and o.id <> s.id) as busy
    """
)

_NOT_NOW = text(
    """
    update segments
       set state = 'pending', attempts = attempts - 1,
           next_attempt_at = now() + make_interval(secs => :pause_s), dispatched_at = null,
           lease_owner = null, lease_token = null, lease_expires_at = null
     where id = :id and lease_token = :lease and state || '' = 'leased'
    """
)


def decode_as(connection: Connection, held: Claim, key: str) -> Turn:
    """Say that a claimed segment is decoded by another ``key`` than was planned, or why not.

    Two that ask for one key ask one after the other. Where another decodes by it, the segment is
    put back, and the attempt with it: by its next one the words are known.

    Raises:
        LeaseLost: another worker took over.
    """
    connection.execute(_IN_TURN, {"key": key})
    parameters = {"id": held.segment_id, "lease": held.lease, "key": key}
    row = connection.execute(_DECODE_AS, parameters).one_or_none()
    if row is None:
        raise _lease_lost(held)
    if row.known is not None:
        return Turn(known=SegmentResult.from_json(row.known))
    if row.busy:
        pause = {"pause_s": backoff_s(row.dispatches - 1)}
        connection.execute(_NOT_NOW, {**parameters, **pause})
    return Turn(busy=row.busy)


_RENEW = """
update segments s
   set lease_expires_at = now() + make_interval(secs => %(lease_s)s)
  from recordings r
 where s.id = %(id)s and s.lease_token = %(lease)s and s.state || '' = 'leased'
   and r.id = s.recording_id and r.state || '' = 'running'
"""


def renew(cursor: Cursor, held: Claim, *, lease_s: int) -> bool:
    """Extend a lease, even one that expired, unless it was taken over or work was cancelled."""
    parameters = {"id": held.segment_id, "lease": held.lease, "lease_s": lease_s}
    return cursor.execute(_RENEW, parameters).rowcount == 1


_FINISH = f"""
with held as materialized (
    select id from recordings where id = %(recording)s and state || '' = 'running' for no key update
),
known as materialized (
    -- Locked, since another's forget may be about to erase it.
    select decode_key from results where decode_key = %(key)s for key share
),
ended as (
    update segments s
       set state = 'done', result_key = %(key)s, ended_at = now(),
           error_code = null, error_message = null, decoding_key = null,
           lease_owner = null, lease_token = null, lease_expires_at = null
      from held
     where s.id = %(id)s and s.recording_id = held.id
       and s.lease_token = %(lease)s and s.state || '' = 'leased'
       and (cast(%(body)s as json) is not null or exists (select from known))
 returning s.recording_id, s.decode_key
),
kept as (
    insert into results (decode_key, body)
    select %(key)s, cast(%(body)s as json) from ended where cast(%(body)s as json) is not null
        on conflict (decode_key) do update set body = excluded.body, created_at = now()
),
closed as ({CLOSE_ONE})
select closed.*, ended.decode_key as planned_key,
       exists (select from segments t where t.decode_key = %(key)s and t.state = 'pending')
           as twins
  from closed, ended
"""


def finish(cursor: Cursor, held: Claim, result: SegmentResult | None) -> Ended:
    """Store a segment's words and end it; ``result`` is None where they were known already.

    Raises:
        LeaseLost: the lease was taken over, the recording cancelled, or the words that were known
            are forgotten: nothing was stored.
    """
    parameters = {
        "recording": held.recording_id,
        "id": held.segment_id,
        "lease": held.lease,
        "key": held.decode_key,
        "body": None if result is None else to_json(clean_json(result.to_json())).decode(),
    }
    row = cursor.execute(_FINISH, parameters).fetchone()
    if row is None:
        raise _lease_lost(held)
    planned = row["planned_key"]
    left = () if planned == held.decode_key else (planned,)
    return Ended(_reduce_of(row), twins=row["twins"], left=left)


_SETTLE = text(
    f"""
    with held as materialized (
        select r.id from recordings r
         where r.id = :recording and r.state || '' in ('planned', 'running') for no key update
    ),
    known as materialized (
        select decode_key from results where decode_key = :key for key share
    ),
    ended as (
        update segments s
           set state = 'done', result_key = s.decode_key, ended_at = now()
          from held, known
         where s.id = :id and s.recording_id = held.id and s.state || '' = 'pending'
           and s.decode_key = known.decode_key
           and (:decoded or not s.force)
     returning s.recording_id
    )
    {CLOSE_ONE}
    """
)


def settle_twins(connection: Connection, decode_key: str, *, decoded: bool) -> list[Dispatch]:
    """End every segment that waits for the words of ``decode_key``; return the reduces now due.

    Words that were known before (not ``decoded`` just now) are not for a forced submission. One
    transaction may lock several recordings: always in order of their ids.
    """
    twins = connection.execute(
        text(
            "select id, recording_id from segments where decode_key = :key and state = 'pending'"
            " order by recording_id, id"
        ),
        {"key": decode_key},
    ).all()
    reduces = []
    for segment_id, recording_id in twins:
        parameters = {
            "id": segment_id,
            "recording": recording_id,
            "key": decode_key,
            "decoded": decoded,
        }
        row = connection.execute(_SETTLE, parameters).mappings().one_or_none()
        if row is not None and (dispatch := _reduce_of(row)):
            reduces.append(dispatch)
    return reduces


_LEASED_FOR_UPDATE = text(
    """
    select s.strikes, s.attempts, s.dispatches, s.decode_key, s.decoding_key
      from segments s join recordings r on r.id = s.recording_id
     where s.id = :id and s.lease_token = :lease and s.state || '' = 'leased' and r.id = :recording
       for no key update of r, s
    """
)

_PUT_BACK = text(
    """
    update segments
       set state = 'pending', strikes = :strikes, attempts = :attempts,
           next_attempt_at = now() + make_interval(secs => :pause_s),
           dispatched_at = null, -- its message is spent: the sweep sends the next one when due
           error_code = :code, error_message = :message,
           lease_owner = null, lease_token = null, lease_expires_at = null
     where id = :id
    """
)

_GIVE_UP = text(
    f"""
    with ended as (
        update segments
           set state = 'failed', ended_at = now(), error_code = :code, error_message = :message,
               decoding_key = null,
               lease_owner = null, lease_token = null, lease_expires_at = null
         where id = :id and state || '' in ('pending', 'leased')
     returning recording_id
    )
    {CLOSE_ONE}
    """
)


def fail(connection: Connection, held: Claim, code: ErrorCode, message: str, fate: Fate) -> Ended:
    """Record that an attempt failed: put the segment back for later, or give it up.

    Raises:
        LeaseLost: the lease was taken over: the failure is another's to judge.
    """
    parameters = {"recording": held.recording_id, "id": held.segment_id, "lease": held.lease}
    row = connection.execute(_LEASED_FOR_UPDATE, parameters).one_or_none()
    if row is None:
        raise _lease_lost(held)
    strikes = row.strikes + (fate is Fate.STRIKE)
    if fate is Fate.FOR_GOOD or strikes >= STRIKES_MAX:
        left = tuple(key for key in (row.decode_key, row.decoding_key) if key is not None)
        return Ended(give_up(connection, held.segment_id, code, message), left=left)
    connection.execute(
        _PUT_BACK,
        {
            "id": held.segment_id,
            "strikes": strikes,
            "attempts": row.attempts - (fate in (Fate.PAUSE, Fate.NOT_HERE)),
            "pause_s": backoff_s(row.dispatches - 1),
            "code": code,
            "message": clean(message),
        },
    )
    return Ended(None)


def give_up(
    connection: Connection, segment_id: UUID, code: ErrorCode, message: str
) -> Dispatch | None:
    """End a segment as failed; the caller holds its recording's lock. Return a reduce now due."""
    parameters = {"id": segment_id, "code": code, "message": clean(message)}
    row = connection.execute(_GIVE_UP, parameters).mappings().one_or_none()
    return None if row is None else _reduce_of(row)


_RETURN = text(
    """
    with held as (
        select id from segments where lease_owner = :owner and state = 'leased'
    )
    update segments s
       set state = 'pending',
           attempts = s.attempts - :attempts,
           -- Of several that were decoded together no one knows which it died on; each is tried
           -- alone the next time.
           strikes = s.strikes + case when (select count(*) from held) = 1 then :strikes else 0 end,
           error_code = coalesce(:code, s.error_code),
           error_message = coalesce(:message, s.error_message),
           lease_owner = null, lease_token = null, lease_expires_at = null,
           dispatch_token = gen_random_uuid(), dispatched_at = now(),
           dispatches = s.dispatches + 1
      from recordings r
     where r.id = s.recording_id and s.id in (select id from held)
       and s.lease_owner = :owner and s.state || '' = 'leased'
 returning s.id, s.dispatch_token, s.recording_id, s.kind, s.channel, s.index, s.start_ms,
           s.end_ms, r.submission_id
    """
)


def return_leases(connection: Connection, owner: str, *, died: bool) -> list[Dispatch]:
    """Return what ``owner`` holds to the pending; the new messages to publish for it.

    Celery sends the old message again by itself, but another worker may have met it with the
    lease still on, and dropped it. A child that follows one that died counts a strike against
    what it was working on, if that was one segment; a worker that shuts down in order gives the
    attempt back.
    """
    parameters: dict[str, Any] = {
        "owner": owner,
        "attempts": 0 if died else 1,
        "strikes": 1 if died else 0,
        "code": ErrorCode.ATTEMPTS_EXHAUSTED if died else None,
        "message": "the worker process died while decoding it" if died else None,
    }
    rows = connection.execute(_RETURN, parameters).mappings()
    return [segment_dispatch(row, Priority.FIRST) for row in rows]


_WAITING = text(
    """
    select s.id, s.dispatch_token, s.recording_id, s.kind, s.channel, s.index, s.start_ms,
           s.end_ms, r.submission_id
      from segments s join recordings r on r.id = s.recording_id
     where s.id = :id and s.dispatch_token = :token and s.state || '' = 'pending'
    """
)


def dispatch_again(connection: Connection, message: Message) -> Dispatch | None:
    """Return a message as it was, but with the priority of begun work; None if it is stale."""
    parameters = {"id": message.id, "token": message.token}
    row = connection.execute(_WAITING, parameters).mappings().one_or_none()
    return None if row is None else segment_dispatch(row, Priority.FIRST)


_ONE_EACH = text(
    """
    select distinct on (s.decode_key)
           s.id, s.dispatch_token, s.recording_id, s.kind, s.channel, s.index, s.start_ms,
           s.end_ms, r.submission_id
      from segments s join recordings r on r.id = s.recording_id
     where s.decode_key = any(:keys) and s.state = 'pending'
       and coalesce(s.next_attempt_at <= now(), true)
       and not exists (select from segments l
                        where l.decode_key = s.decode_key and l.state = 'leased')
     order by s.decode_key, s.dispatched_at
    """
)


def wake(connection: Connection, keys: Sequence[str]) -> list[Dispatch]:
    """Return the message of one segment that waited for the decode of each of ``keys``, as it was.

    That decode has ended without their words, and their messages may have come meanwhile and been
    dropped. Of several, the first one's finish serves the rest.
    """
    rows = connection.execute(_ONE_EACH, {"keys": list(keys)}).mappings()
    return [segment_dispatch(row, Priority.FIRST) for row in rows]


def backoff_s(earlier: int) -> int:
    """Return the pause after a failed attempt with ``earlier`` before it: 5, 10, ... 300 s."""
    return min(BACKOFF_LAST_S, BACKOFF_FIRST_S << max(0, min(earlier, 10)))


def _reduce_of(row: Row) -> Dispatch | None:
    return reduce_dispatch(row) if row["reduce_dispatch_token"] is not None else None


def _lease_lost(held: Claim) -> LeaseLost:
    return LeaseLost(
        ErrorCode.LEASE_LOST,
        f"segment {held.segment_id}",
        "another worker has taken it over, or its recording was cancelled",
    )
