"""What people and exports ask of the ledger. Nothing here changes a row."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    String,
    TextClause,
    cast,
    func,
    select,
    text,
)

from schema.bounds import call_moment
from schema.errors import BadRecording, BadRequest, ErrorCode
from schema.records import HEADLESS, AudioFormat, CallInfo, Location
from schema.settings import SPOOL_ROOT
from schema.span import Span
from schema.states import TERMINAL, RecordingState, SegmentKind, SegmentState, SubmissionState
from schema.tables import (
    NoticeRow,
    Recording,
    SeamRow,
    SegmentRow,
    Submission,
    Transcript,
    UtteranceRow,
)
from schema.talk import talk_of
from schema.transcript import Coverage, Gap, Repair, Seam, SeamRule, Talk, Utterance
from schema.words import Word


@dataclass(frozen=True, slots=True)
class Waiting:
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
    sealed: bool
    recordings: dict[str, int]
    segments: dict[str, int]
    audio_ms: int
    done_ms: int
    distinct_results: int
    flags: dict[str, int]
    notices: int
    waiting: tuple[Waiting, ...]
    repairs: dict[str, int] = field(default_factory=dict)
    urgent: bool = False

    @property
    def total(self) -> int:
        """Recordings handed in."""
        return sum(self.recordings.values())

    @property
    def ended(self) -> int:
        """Recordings on which no more work will be done."""
        return sum(count for state, count in self.recordings.items() if state in TERMINAL)

    @property
    def finished(self) -> bool:
        """Whether a wait for this submission ends."""
        return self.sealed and self.ended == self.total

    def count(self, *states: RecordingState) -> int:
        """Return how many recordings are in any of these states."""
        return sum(self.recordings.get(state, 0) for state in states)


#: Of an id so much names it; less is a slip, such as a variable of a script that is empty.
ID_MIN = 4


def check_id(subject: str, prefix: str) -> None:
    """Make sure that the beginning of an id is long enough to be meant.

    Raises:
        BadRequest: it is not.
    """
    if len(prefix.strip()) < ID_MIN:
        cause = f"an id is named by {ID_MIN} of its characters or more"
        raise BadRequest(ErrorCode.NOT_FOUND, subject, cause, "Ids: producer status --all")


def find_submission(connection: Connection, prefix: str | None) -> UUID:
    """Return the submission whose id starts with ``prefix``; the latest one for None.

    Raises:
        BadRequest: there is none, or the prefix fits several.
    """
    if prefix is not None:
        check_id(f"submission {prefix}".strip(), prefix)
    query = select(Submission.id).order_by(Submission.created_at.desc()).limit(2)
    if prefix is None:
        found = connection.scalars(query.limit(1)).all()
    else:
        text_id = cast(Submission.id, String)
        found = connection.scalars(
            query.where(text_id.startswith(prefix.lower(), autoescape=True))
        ).all()
    if len(found) == 1:
        return found[0]
    cause = "fits several submissions" if found else "there is no such submission"
    raise BadRequest(
        ErrorCode.NOT_FOUND,
        f"submission {prefix or ''}".strip(),
        cause,
        "List them: producer status --all",
    )


def submission_ids(connection: Connection, limit: int) -> list[UUID]:
    """Return the latest submissions, newest first."""
    query = select(Submission.id).order_by(Submission.created_at.desc()).limit(limit)
    return list(connection.scalars(query))


def progress(connection: Connection, submission_id: UUID) -> Progress:
    """Return how far a submission is."""
    submission = (
        connection.execute(select(Submission).where(Submission.id == submission_id))
        .mappings()
        .one()
    )
    mine = Recording.submission_id == submission_id
    every = connection.execute(
        select(
            SegmentRow.kind,
            SegmentRow.state,
            func.count(),
            func.sum(SegmentRow.end_ms - SegmentRow.start_ms),
        )
        .join(Recording, SegmentRow.recording_id == Recording.id)
        .where(mine)
        .group_by(SegmentRow.kind, SegmentRow.state)
    ).all()
    segments = [row[1:] for row in every if row.kind == SegmentKind.PLAN]
    audio = {state: int(audio_ms) for state, _, audio_ms in segments}
    return Progress(
        id=submission_id,
        title=submission["title"],
        profile=submission["profile"]["name"],
        created_at=submission["created_at"],
        sealed=submission["state"] == SubmissionState.SEALED,
        recordings=_counts(
            connection, select(Recording.state, func.count()).where(mine).group_by(Recording.state)
        ),
        segments={state: count for state, count, _ in segments},
        audio_ms=sum(audio.values()),
        done_ms=audio.get(SegmentState.DONE, 0),
        distinct_results=connection.scalar(
            select(func.count(func.distinct(SegmentRow.result_key)))
            .join(Recording, SegmentRow.recording_id == Recording.id)
            .where(mine)
        )
        or 0,
        flags=_named_counts(connection, _FLAGS, submission_id),
        notices=connection.scalar(
            select(func.count()).where(NoticeRow.submission_id == submission_id)
        )
        or 0,
        waiting=_waiting(connection, submission_id),
        repairs={state: count for kind, state, count, _ in every if kind == SegmentKind.REPAIR},
        urgent=submission["urgent"],
    )


def _waiting(connection: Connection, submission_id: UUID) -> tuple[Waiting, ...]:
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
    return tuple(Waiting(count, str(code), message or "") for count, code, message in rows)


def _list_of(value: str) -> str:
    """Return the SQL of a JSON list; where no release wrote it and it is none, of an empty one."""
    return f"case when jsonb_typeof({value}) = 'array' then {value} else '[]' end"


_FLAGS = text(
    f"""
    select split_part(flag, ':', 1) as name, count(distinct r.id)
      from recordings r
      left join lateral (
           select t.flags from transcripts t
            where t.recording_id = r.id order by t.version desc limit 1) latest on true
     cross join lateral jsonb_array_elements_text(
           {_list_of("coalesce(latest.flags, r.flags)")}) flag
     where r.submission_id = :id
     group by 1 order by 1
    """
)


def _counts(connection: Connection, query: Select[str, int]) -> dict[str, int]:
    return {name: int(count) for name, count in connection.execute(query)}


def _named_counts(connection: Connection, query: TextClause, submission_id: UUID) -> dict[str, int]:
    rows = connection.execute(query, {"id": submission_id})
    return {name: int(count) for name, count in rows}


@dataclass(frozen=True, slots=True)
class Quality:
    """What the latest transcripts of a submission say of themselves, summed up.

    ``seams`` counts seams by rule, and ``repairs`` what was decoded once more by what it came to;
    of ``speech_ms``, words cover ``worded_ms``.
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

_SEAMS = text(
    f"""
    select s.rule, count(*) {_LATEST} join seams s on s.transcript_id = latest.id
     where r.submission_id = :id
     group by 1 order by 2 desc, 1
    """
)

_REPAIRS = text(
    f"""
    select repair ->> 'outcome', count(*) {_LATEST}
     cross join lateral jsonb_array_elements({_list_of("latest.repairs")}) repair
     where r.submission_id = :id
     group by 1 order by 1
    """
)

_COVERED = text(
    f"""
    select coalesce(sum(latest.speech_ms), 0), coalesce(sum(latest.worded_ms), 0) {_LATEST}
     where r.submission_id = :id
    """
)


def quality(connection: Connection, submission_id: UUID) -> Quality:
    """Return what the latest transcripts of a submission say of themselves."""
    speech_ms, worded_ms = connection.execute(_COVERED, {"id": submission_id}).one()
    return Quality(
        seams=_named_counts(connection, _SEAMS, submission_id),
        repairs=_named_counts(connection, _REPAIRS, submission_id),
        speech_ms=int(speech_ms),
        worded_ms=int(worded_ms),
    )


_TALKS = text(
    f"""
    select r.id, latest.talk {_LATEST}
     where r.submission_id = :id and latest.talk is not null
    """
)


def talks(connection: Connection, submission_id: UUID) -> dict[UUID, Talk]:
    """Return who talked how much in a submission's recordings, by their latest transcripts.

    Without those that an older reducer stored: their figures are in no table.
    """
    rows = connection.execute(_TALKS, {"id": submission_id})
    found = {}
    for recording_id, talk in rows:
        with suppress(*MALFORMED):
            found[recording_id] = Talk.from_json(talk)
    return found


@dataclass(frozen=True, slots=True)
class RecordingSummary:
    """One recording of a submission: how it stands, and why."""

    id: UUID
    name: str
    state: RecordingState
    call: CallInfo
    duration_ms: int | None
    channels: int | None
    flags: tuple[str, ...]
    error_code: str | None
    error_message: str | None


def recordings(
    connection: Connection, submission_id: UUID, states: frozenset[RecordingState] | None = None
) -> list[RecordingSummary]:
    """Return a submission's recordings by name, all or those in some states."""
    chosen = Recording.submission_id == submission_id
    if states is not None:
        chosen &= Recording.state.in_(states)
    return summaries(connection, chosen)


def summaries(connection: Connection, chosen: ColumnElement[bool]) -> list[RecordingSummary]:
    """Return the recordings that a condition chooses, by name."""
    query = select(Recording).where(chosen).order_by(Recording.name)
    return [_summary(row) for row in connection.execute(query).mappings()]


def _summary(row: RowMapping) -> RecordingSummary:
    return RecordingSummary(
        id=row["id"],
        name=row["name"],
        state=RecordingState(row["state"]),
        call=CallInfo(
            call_id=row["call_id"],
            started_at=call_moment(row["started_at"]),
            direction=row["direction"],
            line=row["line"],
            agent=row["agent"],
            customer=row["customer"],
            attributes=row["attributes"],
        ),
        duration_ms=row["duration_ms"],
        channels=row["channels"],
        flags=tuple(row["flags"]),
        error_code=row["error_code"],
        error_message=row["error_message"],
    )


def source(connection: Connection, recording_id: UUID) -> tuple[Location, AudioFormat | None]:
    """Return where the file lies, or lay, that a recording was handed in as.

    And how it is read, if it has no header that says so, and workers read it in place.
    """
    row = connection.execute(
        select(
            Recording.source_root,
            Recording.source_path,
            Recording.audio_root,
            Recording.audio_path,
            Recording.container,
            Recording.encoding,
            Recording.rate_hz,
            Recording.channels,
            Recording.frames,
        ).where(Recording.id == recording_id)
    ).one()
    source = Location(row.source_root, bytes(row.source_path))
    if row.container != HEADLESS or (row.audio_root, bytes(row.audio_path)) != (
        source.root,
        source.path,
    ):
        return source, None
    audio = AudioFormat(row.container, row.encoding, row.rate_hz, row.channels, row.frames)
    return source, audio


def copies_in_use(connection: Connection) -> set[bytes]:
    """Return the paths below the spool that workers may still read, a retry included."""
    rows = connection.scalars(
        select(Recording.audio_path).where(
            Recording.audio_root == SPOOL_ROOT,
            Recording.state.not_in([RecordingState.DONE, RecordingState.CANCELLED]),
        )
    )
    return {bytes(path) for path in rows if path is not None}


@dataclass(frozen=True, slots=True)
class NoticeSummary:
    """A finding about a submission, as it was stored."""

    code: str
    subject: str
    message: str


def notices(connection: Connection, submission_id: UUID) -> list[NoticeSummary]:
    """Return the findings about a submission, in the order they were made."""
    rows = connection.execute(
        select(NoticeRow.code, NoticeRow.subject, NoticeRow.message)
        .where(NoticeRow.submission_id == submission_id)
        .order_by(NoticeRow.id)
    )
    return [NoticeSummary(*row) for row in rows]


@dataclass(frozen=True, slots=True)
class StoredTranscript:
    """The latest transcript of a recording, whole.

    ``segments`` says of each planned segment what of its speech the words cover, ``languages`` of
    each channel what it is in.
    """

    recording: RecordingSummary
    version: int
    language: str | None
    flags: tuple[str, ...]
    speech_ms: int
    worded_ms: int
    utterances: tuple[Utterance, ...]
    seams: tuple[Seam, ...]
    gaps: tuple[Gap, ...] = ()
    segments: tuple[Coverage, ...] = ()
    repairs: tuple[Repair, ...] = ()
    languages: tuple[tuple[int | None, str | None], ...] = ()
    stored_at: datetime | None = None
    stored_talk: Talk | None = None

    @property
    def talk(self) -> Talk:
        """Who talked how much: as the reducer stored it, or an older one would have."""
        return self.stored_talk or talk_of(self.utterances, self.recording.duration_ms or 0)

    @property
    def coverage(self) -> float | None:
        """The share of speech that words cover, or None without speech."""
        return round(self.worded_ms / self.speech_ms, 3) if self.speech_ms else None


#: What reading a row raises that somebody else wrote.
MALFORMED = (ValueError, TypeError, LookupError, AttributeError, OverflowError)


def transcript(connection: Connection, recording: RecordingSummary) -> StoredTranscript | None:
    """Return a recording's latest transcript, or None where there is none.

    Raises:
        BadRecording: it is not as this release writes transcripts.
    """
    row = (
        connection.execute(
            select(Transcript)
            .where(Transcript.recording_id == recording.id)
            .order_by(Transcript.version.desc())
            .limit(1)
        )
        .mappings()
        .one_or_none()
    )
    if row is None:
        return None
    try:
        return _stored_transcript(connection, recording, row)
    except MALFORMED as error:
        raise BadRecording(
            ErrorCode.TRANSCRIPT_UNREADABLE,
            recording.name,
            f"version {row['version']} of its transcript is not as this release writes them",
            "Export it with the release that stored it, or hand its file in again.",
        ) from error


def _stored_transcript(
    connection: Connection, recording: RecordingSummary, row: RowMapping
) -> StoredTranscript:
    return StoredTranscript(
        recording=recording,
        version=row["version"],
        language=row["language"],
        flags=_texts(row["flags"]),
        speech_ms=row["speech_ms"],
        worded_ms=row["worded_ms"],
        utterances=_utterances(connection, row["id"]),
        seams=_seams(connection, row["id"]),
        gaps=tuple(
            Gap(channel, speaker, Span(start_ms, end_ms), code)
            for channel, speaker, start_ms, end_ms, code in row["gaps"]
        ),
        segments=tuple(map(Coverage.from_json, row["coverage"])),
        repairs=tuple(map(Repair.from_json, row["repairs"])),
        languages=tuple((channel, language) for channel, language in row["languages"]),
        stored_at=row["created_at"],
        stored_talk=Talk.from_json(row["talk"]) if row["talk"] else None,
    )


def _utterances(connection: Connection, transcript_id: UUID) -> tuple[Utterance, ...]:
    rows = connection.execute(
        select(UtteranceRow)
        .where(UtteranceRow.transcript_id == transcript_id)
        .order_by(UtteranceRow.index)
    ).mappings()
    utterances = tuple(
        Utterance(row["channel"], row["speaker"], row["text"], _words(row["words"])) for row in rows
    )
    if not all(utterance.words for utterance in utterances):
        raise ValueError("an utterance has no words")
    return utterances


def _seams(connection: Connection, transcript_id: UUID) -> tuple[Seam, ...]:
    rows = connection.execute(
        select(SeamRow)
        .where(SeamRow.transcript_id == transcript_id)
        .order_by(SeamRow.channel.nulls_first(), SeamRow.index)
    ).mappings()
    return tuple(
        Seam(
            channel=row["channel"],
            index=row["index"],
            rule=SeamRule(row["rule"]),
            at_ms=row["at_ms"],
            confidence=row["confidence"],
            dropped_left=_words(row["dropped_left"]),
            dropped_right=_words(row["dropped_right"]),
        )
        for row in rows
    )


def _texts(values: Any) -> tuple[str, ...]:
    if not (isinstance(values, list) and all(isinstance(value, str) for value in values)):
        raise ValueError("it is no list of texts")
    return tuple(values)


def _words(values: list[Any]) -> tuple[Word, ...]:
    words = tuple(Word.from_json(value) for value in values)
    for word in words:
        if not (isinstance(word.text, str) and isinstance(word.start_ms + word.end_ms, int)):
            raise TypeError("it is no word")
    return words
