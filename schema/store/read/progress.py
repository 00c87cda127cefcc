"""How far submissions are, and what came of them. Nothing here changes a row."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, Executable, func, select, text

from schema.errors import BadRequest, ErrorCode
from schema.records import Notice
from schema.states import TERMINAL, RecordingState, SegmentKind, SegmentState, SubmissionState
from schema.store.read.recordings import check_id_prefix, id_starts_with
from schema.store.read.transcripts import MALFORMED_ROW_ERRORS
from schema.tables import NoticeRow, Recording, SegmentRow, Submission
from schema.transcript import Flag, FlaggedPlace, Talk


@dataclass(frozen=True, slots=True)
class PostponedSegments:
    """Segments whose last attempt failed and that wait for their next, and the reason."""

    segments: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a submission is. Audio is counted per segment: a stereo call counts twice.

    ``segments`` and audio are those of the plan; ``repairs`` counts what was ordered beyond it, by
    state.
    """

    id: UUID
    title: str
    profile: str
    created_at: datetime
    is_sealed: bool
    recordings: dict[str, int]
    segments: dict[str, int]
    audio_ms: int
    done_ms: int
    distinct_results: int
    flags: dict[str, int]
    notices: int
    postponed_segments: tuple[PostponedSegments, ...]
    repairs: dict[str, int] = field(default_factory=dict)
    urgent: bool = False

    @property
    def total(self) -> int:
        """The number of recordings."""
        return sum(self.recordings.values())

    @property
    def ended_recordings(self) -> int:
        """The number of recordings on which no more work will be done."""
        return sum(count for state, count in self.recordings.items() if state in TERMINAL)

    @property
    def is_finished(self) -> bool:
        """Whether a wait for this submission ends."""
        return self.is_sealed and self.ended_recordings == self.total

    def count(self, *states: RecordingState) -> int:
        """Return how many recordings are in any of these states."""
        return sum(self.recordings.get(state, 0) for state in states)


def find_submission(connection: Connection, prefix: str | None) -> UUID:
    """Return the submission whose id starts with ``prefix``; the latest one for None.

    Raises:
        BadRequest: there is none, or the prefix fits several.
    """
    subject = f"submission {prefix or ''}".strip()
    query = select(Submission.id).order_by(Submission.created_at.desc()).limit(2)
    if prefix is None:
        query = query.limit(1)
    else:
        check_id_prefix(subject, prefix)
        query = query.where(id_starts_with(Submission.id, prefix))
    ids = connection.scalars(query).all()
    if len(ids) == 1:
        return ids[0]
    cause = "fits several submissions" if ids else "there is no such submission"
    raise BadRequest(ErrorCode.NOT_FOUND, subject, cause, "List them: producer status --all")


def list_submission_ids(connection: Connection, limit: int) -> list[UUID]:
    """Return the latest submissions, newest first."""
    query = select(Submission.id).order_by(Submission.created_at.desc()).limit(limit)
    return list(connection.scalars(query))


def read_progress(connection: Connection, submission_id: UUID) -> Progress:
    """Return how far a submission is."""
    query = select(Submission).where(Submission.id == submission_id)
    submission = connection.execute(query).mappings().one()
    of_submission = Recording.submission_id == submission_id
    by_state = select(Recording.state, func.count()).group_by(Recording.state)
    rows = connection.execute(
        select(
            SegmentRow.kind,
            SegmentRow.state,
            func.count(),
            func.sum(SegmentRow.end_ms - SegmentRow.start_ms),
        )
        .join(Recording, SegmentRow.recording_id == Recording.id)
        .where(of_submission)
        .group_by(SegmentRow.kind, SegmentRow.state)
    ).all()
    segments = [row[1:] for row in rows if row.kind == SegmentKind.PLAN]
    audio = {state: int(audio_ms) for state, _, audio_ms in segments}
    return Progress(
        id=submission_id,
        title=submission["title"],
        profile=submission["profile"]["name"],
        created_at=submission["created_at"],
        is_sealed=submission["state"] == SubmissionState.SEALED,
        recordings=_count_by_name(connection, by_state.where(of_submission), submission_id),
        segments={state: count for state, count, _ in segments},
        audio_ms=sum(audio.values()),
        done_ms=audio.get(SegmentState.DONE, 0),
        distinct_results=connection.scalar(
            select(func.count(func.distinct(SegmentRow.result_key)))
            .join(Recording, SegmentRow.recording_id == Recording.id)
            .where(of_submission)
        )
        or 0,
        flags=_count_by_name(connection, _FLAGS, submission_id),
        notices=connection.scalar(
            select(func.count()).where(NoticeRow.submission_id == submission_id)
        )
        or 0,
        postponed_segments=_read_postponed(connection, submission_id),
        repairs={state: count for kind, state, count, _ in rows if kind == SegmentKind.REPAIR},
        urgent=submission["urgent"],
    )


def _read_postponed(connection: Connection, submission_id: UUID) -> tuple[PostponedSegments, ...]:
    rows = connection.execute(
        select(func.count(), SegmentRow.error_code, func.max(SegmentRow.error_message))
        .join(Recording, SegmentRow.recording_id == Recording.id)
        .where(
            Recording.submission_id == submission_id,
            SegmentRow.state == SegmentState.PENDING,
            SegmentRow.error_code.is_not(None),
        )
        .group_by(SegmentRow.error_code)
        .order_by(SegmentRow.error_code)
    )
    return tuple(PostponedSegments(n, str(code), message or "") for n, code, message in rows)


def _sql_list(value: str) -> str:
    """Return the SQL of a JSON list; where no release wrote it and it is none, of an empty one."""
    return f"case when jsonb_typeof({value}) = 'array' then {value} else '[]' end"


_FLAGS = text(f"""
    select split_part(flag, ':', 1) as name, count(distinct r.id)
      from recordings r
      left join lateral (
           select t.flags from transcripts t
            where t.recording_id = r.id order by t.version desc limit 1) latest on true
     cross join lateral jsonb_array_elements_text(
           {_sql_list("coalesce(latest.flags, r.flags)")}) flag
     where r.submission_id = :id
     group by 1 order by 1
""")


def _count_by_name(
    connection: Connection, query: Executable, submission_id: UUID
) -> dict[str, int]:
    return {name: int(count) for name, count in connection.execute(query, {"id": submission_id})}


@dataclass(frozen=True, slots=True)
class Quality:
    """What the latest transcripts of a submission say of themselves, summed up.

    ``seams`` counts seams by rule, and ``repairs`` what was decoded once more by what it came to;
    of ``speech_ms``, words cover ``worded_ms``. Transcripts whose times are guesses count for
    neither.
    """

    seams: dict[str, int]
    repairs: dict[str, int]
    speech_ms: int
    worded_ms: int

    @property
    def coverage(self) -> float | None:
        """The share of speech that words cover, or None without speech."""
        return round(self.worded_ms / self.speech_ms, 3) if self.speech_ms else None


_LATEST = """
      from recordings r
     cross join lateral (
           select t.* from transcripts t
            where t.recording_id = r.id order by t.version desc limit 1) latest
"""

_SEAMS = text(f"""
    select s.rule, count(*) {_LATEST} join seams s on s.transcript_id = latest.id
     where r.submission_id = :id
     group by 1 order by 2 desc, 1
""")

_REPAIRS = text(f"""
    select repair ->> 'outcome', count(*) {_LATEST}
     cross join lateral jsonb_array_elements({_sql_list("latest.repairs")}) repair
     where r.submission_id = :id
     group by 1 order by 1
""")

_COVERAGE = text(f"""
    select coalesce(sum(latest.speech_ms), 0), coalesce(sum(latest.worded_ms), 0) {_LATEST}
     where r.submission_id = :id
       and not exists (
           select from jsonb_array_elements_text({_sql_list("latest.flags")}) flag
            where split_part(flag, ':', 1) = '{Flag.TIMES_GUESSED}')
""")


def read_quality(connection: Connection, submission_id: UUID) -> Quality:
    """Return what the latest transcripts of a submission say of themselves."""
    speech_ms, worded_ms = connection.execute(_COVERAGE, {"id": submission_id}).one()
    return Quality(
        seams=_count_by_name(connection, _SEAMS, submission_id),
        repairs=_count_by_name(connection, _REPAIRS, submission_id),
        speech_ms=int(speech_ms),
        worded_ms=int(worded_ms),
    )


_TALKS = text(f"""
    select r.id, latest.talk {_LATEST}
     where r.submission_id = :id and latest.talk is not null
""")


def read_talks(connection: Connection, submission_id: UUID) -> dict[UUID, Talk]:
    """Return who talked how much in a submission's recordings, by their latest transcripts.

    Without those that an older reducer stored: their figures are in no table.
    """
    rows = connection.execute(_TALKS, {"id": submission_id})
    talks = {}
    for recording_id, talk in rows:
        with suppress(*MALFORMED_ROW_ERRORS):
            talks[recording_id] = Talk.from_json(talk)
    return talks


@dataclass(frozen=True, slots=True)
class RecordingPlaces:
    """A recording, and where its latest transcript's flags are."""

    id: UUID
    name: str
    places: tuple[FlaggedPlace, ...]


_PLACES = text(f"""
    select r.id, r.name, latest.places {_LATEST}
     where r.submission_id = :id and jsonb_array_length({_sql_list("latest.places")}) > 0
     order by r.name, r.id limit :limit
""")


def list_places(
    connection: Connection, submission_id: UUID, *, limit: int | None = None
) -> list[RecordingPlaces]:
    """Return a submission's recordings of which something is to be listened to, by name.

    Without those that an older reducer stored: their flags have no places.
    """
    recordings = []
    for row in connection.execute(_PLACES, {"id": submission_id, "limit": limit}):
        with suppress(*MALFORMED_ROW_ERRORS):
            places = tuple(map(FlaggedPlace.from_json, row.places))
            recordings.append(RecordingPlaces(row.id, row.name, places))
    return recordings


def list_notices(connection: Connection, submission_id: UUID) -> list[Notice]:
    """Return the findings about a submission, in the order they were made."""
    rows = connection.execute(
        select(NoticeRow.code, NoticeRow.subject, NoticeRow.message)
        .where(NoticeRow.submission_id == submission_id)
        .order_by(NoticeRow.id)
    )
    return [Notice(*row) for row in rows]
