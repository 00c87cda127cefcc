"""A reducer claims a recording whose segments have all ended, and stores its transcript."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Text,
    case,
    cast,
    func,
    insert,
    literal,
    select,
    text,
    update,
)

from schema.errors import ErrorCode, LeaseLost, Misconfigured, Transient
from schema.profile import Profile, stored_profile
from schema.seal import SealedResult, read_result
from schema.span import Span
from schema.states import RecordingState, SegmentKind, SegmentState
from schema.store.dispatches import (
    REDUCE_RETURNING,
    SEGMENT_COLUMNS,
    reduce_dispatch,
    segment_dispatch,
)
from schema.store.ledger import CLEAR_REDUCE_LEASE, NO_REDUCE_LEASE, OPEN_SEGMENTS, Cursor, in_array
from schema.store.work.segments import BACKOFF_LAST_S, backoff_s
from schema.tables import Recording, ResultRow, SeamRow, SegmentRow, Transcript, UtteranceRow
from schema.text import storable_json, storable_text
from schema.transcript import Draft
from schema.wire import Dispatch, Message, Priority
from schema.words import SegmentResult

#: Reduces that raised or died, after which the recording is given up.
REDUCE_ATTEMPTS_MAX = 5


@dataclass(frozen=True, slots=True)
class EndedSegment:
    """A segment as the reducer sees it: its result, or the reason why there is none."""

    channel: int | None
    index: int
    kind: str
    span: Span
    result: SegmentResult | None
    error_code: str | None
    error_message: str | None
    #: Of a repair: see :class:`schema.transcript.PlannedRepair`.
    core: Span | None = None
    reason: str | None = None
    language: str | None = None
    #: None in tests of what needs neither.
    id: UUID | None = None
    pcm_digest: str = ""
    #: The result where its texts are sealed still; ``result`` is None then.
    sealed: SealedResult | None = None
    #: The key of its result, and the digest of the result as it was read, of a protected call.
    result_key: str | None = None
    body_digest: str = ""


@dataclass(frozen=True, slots=True)
class MaskedResult:
    """What is left of a protected call's result, and the digest of what was read."""

    decode_key: str
    body_digest: str
    result: SegmentResult


@dataclass(frozen=True, slots=True)
class ReduceClaim:
    """A recording leased to this reducer; ``lease_token`` is the fence."""

    recording_id: UUID
    lease_token: UUID
    name: str
    duration_ms: int
    channels: int
    flags: tuple[str, ...]
    profile: Profile
    rate_hz: int = 0
    direction: str | None = None
    #: Whether the voices that were missing were ordered already.
    has_ordered_voices: bool = False


_CLAIM = """
update recordings r
   set reduce_owner = %(owner)s,
       reduce_token = %(lease)s,
       reduce_expires_at = now() + make_interval(secs => %(lease_s)s),
       reduce_attempts = r.reduce_attempts + 1
  from submissions sub
 where r.id = %(id)s
   and sub.id = r.submission_id
   and r.state || '' = 'stitching'
   and r.reduce_dispatch_token = %(token)s
   and r.reduce_attempts < %(attempts_max)s
   and coalesce(r.reduce_expires_at < now(), true)
returning r.id, r.name, r.duration_ms, r.channels, r.flags, sub.profile, r.rate_hz, r.direction,
          r.voices_ordered_at is not null as has_ordered_voices
"""


def claim_reduce(
    cursor: Cursor, message: Message, *, owner: str, lease_s: int
) -> ReduceClaim | None:
    """Lease a recording to stitch, or return None if there is nothing to do.

    Raises:
        Misconfigured: another release submitted it, with settings that this one does not know. It
            was put back for a reducer that does, and no attempt counted.
    """
    lease = uuid4()
    parameters = {
        "id": message.id,
        "token": message.token,
        "owner": owner,
        "lease": lease,
        "lease_s": lease_s,
        "attempts_max": REDUCE_ATTEMPTS_MAX,
    }
    row = cursor.execute(_CLAIM, parameters).fetchone()
    if row is None:
        return None
    try:
        profile = stored_profile(row["profile"])
    except Misconfigured as error:
        pause = {"code": error.code, "message": str(error), "pause_s": BACKOFF_LAST_S}
        cursor.execute(_RELEASE_UNKNOWN_PROFILE, {**parameters, **pause})
        raise
    return ReduceClaim(
        recording_id=row["id"],
        lease_token=lease,
        name=row["name"],
        duration_ms=row["duration_ms"],
        channels=row["channels"],
        flags=tuple(row["flags"]),
        profile=profile,
        rate_hz=row["rate_hz"],
        direction=row["direction"],
        has_ordered_voices=row["has_ordered_voices"],
    )


_RELEASE_UNKNOWN_PROFILE = f"""
update recordings
   set {CLEAR_REDUCE_LEASE},
       reduce_attempts = reduce_attempts - 1,
       reduce_dispatched_at = now() + make_interval(secs => %(pause_s)s),
       error_code = %(code)s, error_message = %(message)s
 where id = %(id)s and reduce_token = %(lease)s and state || '' = 'stitching'
"""


def _body_digest() -> ColumnElement[str]:
    """Return the digest of a result's text, by which a change is noticed."""
    return func.md5(cast(ResultRow.body, Text))


def read_ended_segments(
    connection: Connection, recording_id: UUID, *, is_protected: bool = False
) -> tuple[EndedSegment, ...]:
    """Return a recording's segments with their results, in order of channel and start.

    Not part of the claim, so that results which cannot be read count as an attempt, too.
    """
    digest = _body_digest() if is_protected else literal("")
    rows = connection.execute(
        select(SegmentRow, ResultRow.body, digest.label("body_digest"))
        .outerjoin(ResultRow, SegmentRow.result_key == ResultRow.decode_key)
        .where(SegmentRow.recording_id == recording_id)
        .order_by(SegmentRow.channel.nulls_first(), SegmentRow.start_ms, SegmentRow.index)
    ).mappings()
    return tuple(
        EndedSegment(
            channel=row["channel"],
            index=row["index"],
            kind=row["kind"],
            span=Span(row["start_ms"], row["end_ms"]),
            **_results(row["body"]),
            error_code=row["error_code"],
            error_message=row["error_message"],
            core=_core(row),
            reason=row["reason"],
            language=row["language"],
            id=row["id"],
            pcm_digest=row["pcm_digest"],
            result_key=row["result_key"],
            body_digest=row["body_digest"] or "",
        )
        for row in rows
    )


def _results(body: dict[str, Any] | None) -> dict[str, Any]:
    if body is None:
        return {"result": None}
    # Cleaned here, too: a finish of an earlier version kept a NUL, which no transcript takes.
    result = read_result(storable_json(body))
    is_sealed = isinstance(result, SealedResult)
    return {"result": None, "sealed": result} if is_sealed else {"result": result}


def _core(row: RowMapping) -> Span | None:
    start_ms, end_ms = row["core_start_ms"], row["core_end_ms"]
    return None if start_ms is None else Span(start_ms, end_ms)


def store_transcript(
    connection: Connection,
    claim: ReduceClaim,
    segments: Sequence[EndedSegment],
    draft: Draft,
    masked_results: Sequence[MaskedResult] = (),
) -> RecordingState:
    """Store a transcript as the recording's next version and end the recording.

    It ends "done", "partial" where a planned segment failed, or "failed" where every one did.
    Of a protected call ``masked_results`` replace what was decoded.

    Raises:
        LeaseLost: another reducer took over: nothing was stored.
        Transient: a result is no longer as it was read: nothing was stored.
    """
    planned_segments = [segment for segment in segments if segment.kind == SegmentKind.PLAN]
    failed_segments = [segment for segment in planned_segments if segment.result is None]
    state = RecordingState.DONE
    if failed_segments:
        all_failed = len(failed_segments) == len(planned_segments)
        state = RecordingState.FAILED if all_failed else RecordingState.PARTIAL
    update_result = connection.execute(
        update(Recording)
        .where(
            Recording.id == claim.recording_id,
            Recording.reduce_token == claim.lease_token,
            # Looked up by its id: see schema.store.work.segments.
            Recording.state + "" == RecordingState.STITCHING,
        )
        .values(
            state=state,
            ended_at=func.now(),
            error_code=failed_segments[0].error_code if failed_segments else None,
            error_message=failed_segments[0].error_message if failed_segments else None,
            **NO_REDUCE_LEASE,
            reduce_attempts=0,
            voices_ordered_at=None,
        )
    )
    if update_result.rowcount == 0:
        raise reduce_lost_error(claim)
    _replace_results(connection, claim, masked_results)
    _insert_transcript(connection, claim.recording_id, draft)
    return state


def _replace_results(
    connection: Connection, claim: ReduceClaim, masked_results: Sequence[MaskedResult]
) -> None:
    """Replace results by what is left of them; in order of their keys, which twins share."""
    for masked in sorted(masked_results, key=lambda masked: masked.decode_key):
        update_result = connection.execute(
            update(ResultRow)
            .where(ResultRow.decode_key == masked.decode_key, _body_digest() == masked.body_digest)
            .values(body=storable_json(masked.result.to_json()), seal_key=None)
        )
        if update_result.rowcount == 0:
            # What another reducer masked meanwhile must not come back.
            raise Transient(
                ErrorCode.LEASE_LOST,
                f"recording {claim.recording_id}",
                "a result that it shares with another recording changed while it was reduced",
            )


def reduce_lost_error(claim: ReduceClaim) -> LeaseLost:
    """Return the error that a reducer's lease was taken over."""
    cause = "another reducer has taken it over, or it was cancelled"
    return LeaseLost(ErrorCode.LEASE_LOST, f"recording {claim.recording_id}", cause)


_REDO = text(f"""
    update segments s
       set state = 'pending', attempts = 0, strikes = 0, next_attempt_at = null, ended_at = null,
           result_key = case when :keeps_results then result_key end,
           -- A sweep of an earlier release would end it, since its words are known.
           force = true,
           dispatch_token = gen_random_uuid(), dispatched_at = now(), dispatches = 1
      from recordings r
     where s.id = any(:ids) and r.id = s.recording_id and r.id = :recording
       and s.state || '' = 'done' and s.result_key is not null
 returning {SEGMENT_COLUMNS}
""")


def redo_segments(
    connection: Connection, claim: ReduceClaim, segments: Collection[UUID], *, keeps_results: bool
) -> list[Dispatch]:
    """Have ended segments of a recording done again; the messages to publish. The lease ends here.

    Those that keep their results are not decoded.
    """
    parameters = {
        "ids": list(segments),
        "recording": claim.recording_id,
        "keeps_results": keeps_results,
    }
    rows = connection.execute(_REDO, parameters).mappings().all()
    if rows:
        reopen_recording(connection, claim)
    return [segment_dispatch(row, Priority.URGENT) for row in rows]


def lock_reduce(connection: Connection, claim: ReduceClaim) -> RowMapping:
    """Lock the recording that a reducer holds; return it.

    Raises:
        LeaseLost: another reducer took over.
    """
    query = select(Recording).where(
        Recording.id == claim.recording_id,
        Recording.reduce_token == claim.lease_token,
        Recording.state == RecordingState.STITCHING,
    )
    rows = connection.execute(query.with_for_update(key_share=True)).mappings()
    recording = rows.one_or_none()
    if recording is None:
        raise reduce_lost_error(claim)
    return recording


def reopen_recording(connection: Connection, claim: ReduceClaim) -> None:
    """Have a recording run again, since segments of it are pending; the reducer's lease ends.

    The end of the last of them asks for the reduce again.
    """
    connection.execute(
        update(Recording)
        .where(Recording.id == claim.recording_id)
        .values(
            state=RecordingState.RUNNING,
            open_segments=OPEN_SEGMENTS,
            reduce_dispatch_token=None,
            reduce_dispatched_at=None,
            reduce_dispatches=0,
            reduce_attempts=0,
            **NO_REDUCE_LEASE,
        )
    )


def _insert_transcript(connection: Connection, recording_id: UUID, draft: Draft) -> None:
    latest = select(func.coalesce(func.max(Transcript.version), 0)).where(
        Transcript.recording_id == recording_id
    )
    gaps = [
        [gap.channel, storable_text(gap.speaker), gap.span.start_ms, gap.span.end_ms, gap.code]
        for gap in draft.gaps
    ]
    transcript_id = connection.execute(
        insert(Transcript)
        .values(
            id=uuid4(),
            recording_id=recording_id,
            version=latest.scalar_subquery() + 1,
            language=None if draft.language is None else storable_text(draft.language),
            flags=list(draft.flags),
            speech_ms=draft.speech_ms,
            worded_ms=draft.worded_ms,
            gaps=gaps,
            coverage=[coverage.to_json() for coverage in draft.coverage],
            repairs=storable_json([repair.to_json() for repair in draft.repairs]),
            places=storable_json([place.to_json() for place in draft.places]),
            languages=[list(pair) for pair in draft.languages],
            speakers_from=draft.speakers_from,
            **({"redaction": draft.redaction.to_json()} if draft.redaction else {}),
            **({"talk": storable_json(draft.talk.to_json())} if draft.talk else {}),
        )
        .returning(Transcript.id)
    ).scalar_one()
    if draft.utterances:
        connection.execute(
            insert(UtteranceRow),
            [
                {
                    "transcript_id": transcript_id,
                    "index": index,
                    "channel": utterance.channel,
                    "speaker": storable_text(utterance.speaker),
                    "start_ms": utterance.start_ms,
                    "end_ms": utterance.end_ms,
                    "text": storable_text(utterance.text),
                    "words": storable_json([word.to_json() for word in utterance.words]),
                    "speaker_confidence": utterance.speaker_confidence,
                }
                for index, utterance in enumerate(draft.utterances)
            ],
        )
    if draft.seams:
        connection.execute(
            insert(SeamRow),
            [
                {
                    "transcript_id": transcript_id,
                    "channel": seam.channel,
                    "index": seam.index,
                    "rule": seam.rule,
                    "at_ms": seam.at_ms,
                    "confidence": seam.confidence,
                    "dropped_left": storable_json([word.to_json() for word in seam.dropped_left]),
                    "dropped_right": storable_json([word.to_json() for word in seam.dropped_right]),
                }
                for seam in draft.seams
            ],
        )


_RENEW = """
update recordings
   set reduce_expires_at = now() + make_interval(secs => %(lease_s)s)
 where id = %(id)s and reduce_token = %(lease)s and state || '' = 'stitching'
"""


def renew_reduce(cursor: Cursor, claim: ReduceClaim, *, lease_s: int) -> bool:
    """Extend a reducer's lease, unless it was taken over or the recording cancelled."""
    parameters = {"id": claim.recording_id, "lease": claim.lease_token, "lease_s": lease_s}
    return cursor.execute(_RENEW, parameters).rowcount == 1


_RELEASE_FAILED = text(f"""
    update recordings
       set {CLEAR_REDUCE_LEASE},
           reduce_attempts = reduce_attempts - :returned_attempts,
           reduce_dispatched_at = now() + make_interval(secs => :pause_s),
           error_code = :code, error_message = :message
     where id = :id and reduce_token = :lease and state || '' = 'stitching'
""")


def fail_reduce(connection: Connection, claim: ReduceClaim, code: ErrorCode, message: str) -> None:
    """Record that a reduce failed; the sweep dispatches it again, or gives the recording up.

    Nothing is recorded where another reducer took over, or the recording was erased.
    """
    _put_back(connection, claim, code, message, returned_attempts=0)


def postpone_reduce(
    connection: Connection, claim: ReduceClaim, code: ErrorCode, message: str
) -> None:
    """Record that this host cannot reduce it now: a pause follows, and no attempt is counted.

    Another host's reducer may be able to, or this one later.
    """
    _put_back(connection, claim, code, message, returned_attempts=1)


def _put_back(
    connection: Connection,
    claim: ReduceClaim,
    code: ErrorCode,
    message: str,
    *,
    returned_attempts: int,
) -> None:
    row = connection.execute(
        select(Recording.reduce_attempts, Recording.reduce_dispatches).where(
            Recording.id == claim.recording_id
        )
    ).one_or_none()
    if row is None:
        return
    attempts = row.reduce_dispatches if returned_attempts else row.reduce_attempts
    connection.execute(
        _RELEASE_FAILED,
        {
            "id": claim.recording_id,
            "lease": claim.lease_token,
            "returned_attempts": returned_attempts,
            "pause_s": backoff_s(attempts),
            "code": code,
            "message": storable_text(message),
        },
    )


def return_reduces(connection: Connection, owner: str, *, child_died: bool) -> list[Dispatch]:
    """Free the recordings that a reducer of this owner held; the new messages to publish.

    A reducer that shuts down in order gives the attempt back.
    """
    rows = connection.execute(
        update(Recording)
        .where(Recording.reduce_owner == owner, Recording.state == RecordingState.STITCHING)
        .values(
            **NO_REDUCE_LEASE,
            reduce_attempts=Recording.reduce_attempts - (0 if child_died else 1),
            reduce_dispatch_token=func.gen_random_uuid(),
            reduce_dispatched_at=func.now(),
        )
        .returning(*REDUCE_RETURNING)
    )
    return [reduce_dispatch(row) for row in rows.mappings()]


def retry_failed_segments(connection: Connection, submission_id: UUID) -> tuple[int, int]:
    """Take up every failed segment of a submission again; the segments and recordings reopened.

    Their recordings run again and get a new version of their transcript. The sweep dispatches.
    Recordings whose reduce was given up are reduced again.
    """
    recordings = connection.scalars(
        select(Recording.id)
        .where(
            Recording.submission_id == submission_id,
            Recording.state.in_([RecordingState.FAILED, RecordingState.PARTIAL]),
        )
        .order_by(Recording.id)
        .with_for_update(key_share=True)
    ).all()
    segments = connection.execute(
        update(SegmentRow)
        .where(
            in_array(SegmentRow.recording_id, recordings), SegmentRow.state == SegmentState.FAILED
        )
        .values(
            state=SegmentState.PENDING,
            attempts=0,
            strikes=0,
            next_attempt_at=None,
            dispatch_token=func.gen_random_uuid(),
            dispatched_at=None,
            dispatches=0,
            ended_at=None,
        )
    ).rowcount
    connection.execute(
        update(Recording)
        .where(in_array(Recording.id, recordings))
        .values(
            open_segments=OPEN_SEGMENTS,
            state=case((OPEN_SEGMENTS > 0, RecordingState.RUNNING), else_=RecordingState.STITCHING),
            ended_at=None,
            voices_ordered_at=None,
            # A reducer that froze in an earlier attempt may wake with what it made of it then.
            **NO_REDUCE_LEASE,
            reduce_attempts=0,
            reduce_dispatch_token=func.gen_random_uuid(),
            reduce_dispatched_at=None,
        )
    )
    return int(segments), len(recordings)
