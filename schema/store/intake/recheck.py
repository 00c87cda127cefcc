"""Recordings whose sources are examined anew, and planned anew where more is in them.

A recording keeps its id, its call and its transcripts; its plan is replaced, and its next
transcript is a version more, as after a retry.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, case, delete, func, select, true

from schema.profile import Profile, stored_profile
from schema.records import AudioFormat, Location, NewRecording
from schema.states import TERMINAL, RecordingState
from schema.store.intake.submissions import AddResult, OpenSubmission, replace_plan
from schema.store.results import delete_unused_results, find_result_keys
from schema.tables import Recording, SegmentRow, Submission, Transcript
from schema.transcript import Flag

#: No work runs on these, and they were not cancelled.
_EXAMINED_STATES = TERMINAL - {RecordingState.CANCELLED}


@dataclass(frozen=True, slots=True)
class StoredRecording:
    """What the ledger keeps of a recording's source, and how it was read.

    ``duration_ms``, ``channels``, ``size_bytes`` and ``format`` are None of one that was
    quarantined. ``wordless_ms`` is how much of it sounds like speech, where its latest transcript
    says that nobody speaks; 0 of all others.
    """

    id: UUID
    submission_id: UUID
    source: Location
    state: RecordingState
    duration_ms: int | None
    channels: int | None
    size_bytes: int | None
    format: AudioFormat | None
    flags: tuple[str, ...]
    profile: Profile
    wordless_ms: int = 0


def _is_examined(since: datetime | None) -> ColumnElement[bool]:
    is_examined = Recording.state.in_(_EXAMINED_STATES) & (Recording.source_root != "")
    return is_examined & (Recording.created_at >= since if since else true())


def count_stored_recordings(connection: Connection, since: datetime | None) -> int:
    """Return how many recordings :func:`list_stored_recordings` has in all."""
    query = select(func.count()).select_from(Recording).where(_is_examined(since))
    return connection.execute(query).scalar_one()


def list_stored_recordings(
    connection: Connection, since: datetime | None, *, after_id: UUID | None, limit: int
) -> list[StoredRecording]:
    """Return recordings that have ended, in the order of their ids and after ``after_id``.

    If ``since`` is given, only those that were submitted since then.
    """
    is_after = Recording.id > after_id if after_id else true()
    latest = (
        select(Transcript.speech_ms, Transcript.flags)
        .where(Transcript.recording_id == Recording.id)
        .order_by(Transcript.version.desc())
        .limit(1)
        .lateral()
    )
    says_no_speech = latest.c.flags.contains([Flag.NO_SPEECH])
    wordless_ms = case((says_no_speech, latest.c.speech_ms), else_=0)
    query = (
        select(Recording.__table__, Submission.profile, wordless_ms.label("wordless_ms"))
        .join(Submission, Submission.id == Recording.submission_id)
        .outerjoin(latest, true())
        .where(_is_examined(since), is_after)
        .order_by(Recording.id)
        .limit(limit)
    )
    profiles: dict[UUID, Profile] = {}
    recordings = []
    for row in connection.execute(query):
        if row.submission_id not in profiles:
            profiles[row.submission_id] = stored_profile(row.profile)
        recordings.append(_stored_recording(row, profiles[row.submission_id]))
    return recordings


def _stored_recording(row: Any, profile: Profile) -> StoredRecording:
    return StoredRecording(
        id=row.id,
        submission_id=row.submission_id,
        source=Location(row.source_root, bytes(row.source_path)),
        state=RecordingState(row.state),
        duration_ms=row.duration_ms,
        channels=row.channels,
        size_bytes=row.size_bytes,
        format=None if row.container is None else AudioFormat.from_row(row._mapping),
        flags=tuple(row.flags),
        profile=profile,
        wordless_ms=row.wordless_ms,
    )


def replan_recording(
    connection: Connection, recording_id: UUID, item: NewRecording, *, capacity: int
) -> AddResult:
    """Replace a recording's plan; at most ``capacity`` segments are marked as dispatched.

    What was decoded of it and is used nowhere else is deleted. A recording on which work is under
    way, or that is gone, is left as it is: nothing is added then.
    """
    state = connection.scalar(
        select(Recording.state).where(Recording.id == recording_id).with_for_update()
    )
    if state is None or state not in _EXAMINED_STATES:
        return AddResult()
    submission = _submission_of(connection, recording_id)
    result_keys = find_result_keys(connection, [recording_id])
    connection.execute(delete(SegmentRow).where(SegmentRow.recording_id == recording_id))
    result = replace_plan(connection, submission, recording_id, item, capacity=capacity)
    delete_unused_results(connection, result_keys)
    return result


def _submission_of(connection: Connection, recording_id: UUID) -> OpenSubmission:
    row = connection.execute(
        select(Submission.id, Submission.profile, Submission.urgent)
        .join(Recording, Recording.submission_id == Submission.id)
        .where(Recording.id == recording_id)
    ).one()
    profile = stored_profile(row.profile)
    return OpenSubmission(row.id, profile, force=False, is_resumed=True, urgent=row.urgent)
