"""A producer opens a submission, adds recordings a hundred at a time, and seals it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert

from schema.bounds import TEXT_FIELDS, omit_out_of_bounds, omitted_field_flag
from schema.errors import BadRequest, ErrorCode
from schema.profile import Profile
from schema.records import (
    AudioFormat,
    CallInfo,
    Location,
    NewRecording,
    Notice,
    QuarantinedRecording,
)
from schema.states import RecordingState, SegmentKind, SegmentState, SubmissionState
from schema.store.dispatches import REDUCE_RETURNING, reduce_dispatch, segment_dispatch
from schema.store.ledger import NO_REDUCE_LEASE, OPEN_SEGMENTS
from schema.tables import NoticeRow, Recording, ResultRow, SegmentRow, Submission
from schema.wire import Dispatch

#: What an index entry holds is under 2,704 bytes; a subject is cut well below.
SUBJECT_MAX = 500

_AUDIO_COLUMNS = (
    *("audio_root", "audio_path", "duration_ms", "size_bytes", "content_digest"),
    *(item.name for item in fields(AudioFormat)),
)


@dataclass(frozen=True, slots=True)
class OpenSubmission:
    """A submission that takes recordings; ``is_resumed`` if a killed producer opened it.

    An ``urgent`` one goes before all others.
    """

    id: UUID
    profile: Profile
    force: bool
    is_resumed: bool
    urgent: bool = False


@dataclass(slots=True)
class AddResult:
    """What one commit added, and the messages to publish for it.

    ``waiting_segments`` were left to the sweep, since the queue is full.
    """

    dispatches: list[Dispatch] = field(default_factory=list)
    recordings: int = 0
    quarantined_recordings: int = 0
    segments: int = 0
    cached_segments: int = 0
    waiting_segments: int = 0


def open_submission(
    connection: Connection,
    key: str,
    title: str,
    profile: Profile,
    *,
    force: bool,
    urgent: bool = False,
    receiver: UUID | None = None,
) -> OpenSubmission:
    """Open a submission, or find the open one with the same ``key``.

    ``key`` stands for everything that the command asked for; the same command again resumes.
    ``receiver`` is notified of what has ended (:mod:`schema.store.work.events`).
    """
    values = {
        "key": key,
        "state": SubmissionState.OPEN,
        "title": _storable(title),
        # Values that are not set are left out, so that a worker of the last version can read it.
        "profile": profile.model_dump(mode="json", exclude_none=True),
        "force": force,
        **({"urgent": True} if urgent else {}),
        **({"receiver_id": receiver} if receiver is not None else {}),
    }
    while True:
        new_id = connection.execute(
            upsert(Submission)
            .values(id=uuid4(), **values)
            .on_conflict_do_nothing(
                # Literal: a parameter, once the statement is prepared, no longer names the index.
                index_elements=[Submission.key],
                index_where=text("state = 'open'"),
            )
            .returning(Submission.id)
        ).scalar()
        if new_id is not None:
            return OpenSubmission(new_id, profile, force, is_resumed=False, urgent=urgent)
        open_id = connection.execute(
            select(Submission.id).where(
                Submission.key == key, Submission.state == SubmissionState.OPEN
            )
        ).scalar()
        # Another producer of the same command may have sealed it in between: then there is none.
        if open_id is not None:
            return OpenSubmission(open_id, profile, force, is_resumed=True, urgent=urgent)


def list_sources(connection: Connection, submission_id: UUID) -> set[Location]:
    """Return the sources of a submission's recordings."""
    rows = connection.execute(
        select(Recording.source_root, Recording.source_path).where(
            Recording.submission_id == submission_id
        )
    )
    return {Location(root, bytes(path)) for root, path in rows}


def add_recordings(
    connection: Connection,
    submission: OpenSubmission,
    batch: Sequence[NewRecording | QuarantinedRecording],
    *,
    capacity: int,
) -> AddResult:
    """Add recordings with their segments; at most ``capacity`` segments are marked as dispatched.

    Sources that the submission already has are left as they are. A segment whose decode key has a
    result is done at once, unless the submission is forced; a recording without open segments goes
    straight to its reduce.
    """
    _lock_open_submission(connection, submission.id)
    # A value and not SQL, so that the INSERTs are compiled once and not for every batch.
    now = connection.execute(select(func.now())).scalar_one()
    result = AddResult()
    sources = {item.source: item for item in batch}
    ids = _insert_recordings(connection, submission.id, list(sources.values()), now)
    new_recordings = [(identifier, sources[source]) for source, identifier in ids.items()]
    result.recordings = len(new_recordings)
    result.quarantined_recordings = sum(
        isinstance(item, QuarantinedRecording) for _, item in new_recordings
    )
    _insert_segments(connection, submission, new_recordings, result, now, capacity=capacity)
    return result


def replace_plan(
    connection: Connection,
    submission: OpenSubmission,
    recording_id: UUID,
    item: NewRecording,
    *,
    capacity: int,
) -> AddResult:
    """Plan a recording anew that has no segments any more, as :func:`add_recordings` does."""
    now = connection.execute(select(func.now())).scalar_one()
    connection.execute(
        update(Recording)
        .where(Recording.id == recording_id)
        .values(
            state=RecordingState.PLANNED,
            ended_at=None,
            error_code=None,
            error_message=None,
            **NO_REDUCE_LEASE,
            reduce_attempts=0,
            reduce_dispatches=0,
            **_audio_values(item),
        )
    )
    result = AddResult(recordings=1)
    _insert_segments(connection, submission, [(recording_id, item)], result, now, capacity=capacity)
    return result


def _insert_segments(
    connection: Connection,
    submission: OpenSubmission,
    recordings: Sequence[tuple[UUID, NewRecording | QuarantinedRecording]],
    result: AddResult,
    now: datetime,
    *,
    capacity: int,
) -> None:
    """Insert the segments of new recordings and start them; ``result`` is filled in."""
    rows = [
        row
        for recording_id, item in recordings
        if isinstance(item, NewRecording)
        for row in _segment_values(recording_id, item, submission)
    ]
    if not submission.force:
        _use_cached_results(connection, rows, now)
    open_rows = [row for row in rows if row["state"] == SegmentState.PENDING]
    for row in open_rows[:capacity]:
        row["dispatched_at"], row["dispatches"] = now, 1
    if rows:
        connection.execute(insert(SegmentRow), rows)
    reduces = _start_recordings(connection, [recording_id for recording_id, _ in recordings])
    result.dispatches = [
        segment_dispatch({"urgent": False, **row, "submission_id": submission.id})
        for row in open_rows[:capacity]
    ] + reduces
    result.segments = len(rows)
    result.cached_segments = len(rows) - len(open_rows)
    result.waiting_segments = max(0, len(open_rows) - capacity)


def _lock_open_submission(connection: Connection, submission_id: UUID) -> None:
    """Keep the submission open until this commit, or refuse: a wait for it may have ended."""
    state = connection.execute(
        select(Submission.state).where(Submission.id == submission_id).with_for_update(read=True)
    ).scalar()  # None where it was sealed, and all of it erased.
    if state != SubmissionState.OPEN:
        raise BadRequest(
            ErrorCode.OPTION_INVALID,
            f"submission {submission_id}",
            "another producer with the same command has sealed it",
            "Run the command again: what is known is not decoded twice.",
        )


def add_notices(connection: Connection, submission_id: UUID, notices: Iterable[Notice]) -> None:
    """Add findings; the same finding again changes nothing."""
    rows = [
        {
            "submission_id": submission_id,
            "code": notice.code,
            "subject": _storable(notice.subject)[:SUBJECT_MAX],
            "message": _storable(notice.message),
        }
        for notice in notices
    ]
    if rows:
        connection.execute(upsert(NoticeRow).on_conflict_do_nothing(), rows)


def seal_submission(connection: Connection, submission_id: UUID) -> None:
    """Note that the last recording is in; only now can a wait for its end be over."""
    connection.execute(
        update(Submission)
        .where(Submission.id == submission_id, Submission.state == SubmissionState.OPEN)
        .values(state=SubmissionState.SEALED, sealed_at=func.now())
    )


def _insert_recordings(
    connection: Connection,
    submission_id: UUID,
    batch: Sequence[NewRecording | QuarantinedRecording],
    now: datetime,
) -> dict[Location, UUID]:
    rows = [_recording_values(submission_id, item, now) for item in batch]
    if not rows:
        return {}
    statement = (
        upsert(Recording)
        .on_conflict_do_nothing()
        .returning(Recording.source_root, Recording.source_path, Recording.id)
    )
    return {Location(r, bytes(p)): i for r, p, i in connection.execute(statement, rows)}


def _recording_values(
    submission_id: UUID, item: NewRecording | QuarantinedRecording, now: datetime
) -> dict[str, Any]:
    # The producer has reported it; here no value passes that a reader could fail on.
    call, omitted_fields = omit_out_of_bounds(_storable_call(item.call), now)
    # Every row of one INSERT names the same columns, hence the Nones.
    values: dict[str, Any] = dict.fromkeys((*_AUDIO_COLUMNS, "error_code", "error_message"))
    values |= {
        "id": uuid4(),
        "submission_id": submission_id,
        "source_root": item.source.root,
        "source_path": item.source.path,
        "name": item.source.name,
        "flags": [],
        **{item.name: getattr(call, item.name) for item in fields(call)},
    }
    if isinstance(item, QuarantinedRecording):
        values |= {
            "state": RecordingState.QUARANTINED,
            "error_code": item.code,
            "error_message": _storable(item.message),
            "ended_at": now,
        }
    else:
        values |= {"state": RecordingState.PLANNED, "ended_at": None, **_audio_values(item)}
    values["flags"] = [*values["flags"], *map(omitted_field_flag, omitted_fields)]
    return values


def _audio_values(item: NewRecording) -> dict[str, Any]:
    return {
        "audio_root": item.audio.root,
        "audio_path": item.audio.path,
        **asdict(item.format),
        "duration_ms": item.duration_ms,
        "size_bytes": item.size_bytes,
        "content_digest": item.content_digest,
        "flags": list(item.flags),
    }


def _storable_call(call: CallInfo) -> CallInfo:
    """Return a call whose texts Postgres takes; endless nesting is left to the bounds."""
    texts = {name: _storable(getattr(call, name)) for name in TEXT_FIELDS}
    try:
        attributes = _storable(call.attributes)
    except RecursionError:
        attributes = call.attributes
    return replace(call, **texts, attributes=attributes)


def _segment_values(
    recording_id: UUID, item: NewRecording, submission: OpenSubmission
) -> list[dict[str, Any]]:
    return [
        {
            "id": uuid4(),
            "recording_id": recording_id,
            "kind": SegmentKind.PLAN,
            "channel": segment.channel,
            "index": segment.index,
            "start_ms": segment.span.start_ms,
            "end_ms": segment.span.end_ms,
            "pcm_digest": segment.pcm_digest,
            "decode_key": submission.profile.decode_key(segment.pcm_digest, item.format.rate_hz),
            "force": submission.force,
            **({"urgent": True} if submission.urgent else {}),
            "state": SegmentState.PENDING,
            "result_key": None,
            "ended_at": None,
            "dispatch_token": uuid4(),
            "dispatched_at": None,
            "dispatches": 0,
        }
        for segment in item.segments
    ]


def _use_cached_results(connection: Connection, rows: list[dict[str, Any]], now: datetime) -> None:
    """Mark as done every row whose words are stored, and lock those results."""
    keys = {row["decode_key"] for row in rows}
    if not keys:
        return
    cached_keys = set(
        connection.scalars(
            select(ResultRow.decode_key)
            .where(ResultRow.decode_key.in_(keys))
            .with_for_update(read=True, key_share=True)
        )
    )
    for row in rows:
        if row["decode_key"] in cached_keys:
            row["state"] = SegmentState.DONE
            row["result_key"] = row["decode_key"]
            row["ended_at"] = now


def _start_recordings(connection: Connection, recording_ids: list[UUID]) -> list[Dispatch]:
    """Count the open segments of new recordings; those without any ask for their reduce."""
    if not recording_ids:
        return []
    # Looked up by their ids: see schema.store.work.segments.
    planned_conditions = (
        Recording.id.in_(recording_ids),
        Recording.state + "" == RecordingState.PLANNED,
    )
    connection.execute(
        update(Recording).where(*planned_conditions).values(open_segments=OPEN_SEGMENTS)
    )
    rows = connection.execute(
        update(Recording)
        .where(*planned_conditions, Recording.open_segments == 0)
        .values(
            state=RecordingState.STITCHING,
            reduce_dispatch_token=func.gen_random_uuid(),
            reduce_dispatched_at=func.now(),
        )
        .returning(*REDUCE_RETURNING)
    )
    return [reduce_dispatch(row) for row in rows.mappings()]


def _storable(value: Any) -> Any:
    """Return text or JSON that Postgres takes: no NUL and no lone surrogate, both escaped."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(item) for item in value]
    return value
