"""The ledger's tables. What the states mean and how rows move between them: :mod:`schema.states`.

Times of day are ``timestamptz`` and always the server's ``now()``; times in audio are integer
milliseconds. Text states are checked by the database, and so is every rule that a race could
break: one recording per source and submission, one live decode per decode key, one transcript per
version.

An index with ``postgresql_concurrently`` is made by no migration, whose transaction would keep
workers waiting: ``producer migrate`` builds it afterwards, beside whoever works.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import (
    JSON,
    REAL,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    MetaData,
    Sequence,
    UniqueConstraint,
    false,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from schema.states import EventState, RecordingState, SegmentKind, SegmentState, SubmissionState

_NOW = func.now()


class Base(DeclarativeBase):
    """Every table of the ledger, with constraint names that migrations can rely on."""

    metadata = MetaData(
        naming_convention={
            "pk": "%(table_name)s_pk",
            "fk": "%(table_name)s_%(column_0_name)s_fk",
            "uq": "%(table_name)s_%(column_0_N_name)s_uq",
            "ix": "%(table_name)s_%(column_0_N_name)s_ix",
            "ck": "%(table_name)s_%(constraint_name)s_ck",
        }
    )
    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy reads it from the class)
        datetime: TIMESTAMP(timezone=True),
        dict[str, Any]: JSONB,
        list[Any]: JSONB,
    }


#: SQL: what waits for a worker, and for a reducer, as the sweep alone says it. Statistics are older
#: than a backlog, and a planner that believes nothing is pending would walk any index of what is,
#: all of it, for each row that it looks up. So written, an index is taken for the sweep's own
#: queries, and no other one is.
SEGMENT_WAITS = "state || '' = 'pending'"
REDUCE_WAITS = "state || '' = 'stitching'"

#: SQL: when the sweep may send a pending segment again depends on how often it was sent. The turn
#: counts that, up to a cap; 0 was never sent or is to be sent anew, and -1 waits for the end of a
#: pause. Since is when it was sent, or when its pause ends. An index begins with both, so that of a
#: million that wait those alone are read that are due: :mod:`schema.store.work.sweep`.
TURNS_MAX = 10
SEGMENT_TURN = (
    f"(greatest(least(dispatches, {TURNS_MAX}), 1) * (dispatched_at is not null)::integer"
    " - (dispatched_at is null and next_attempt_at is not null)::integer)"
)
SEGMENT_SINCE = "coalesce(dispatched_at, next_attempt_at, '-infinity'::timestamp with time zone)"

#: The same of a recording's reduce.
REDUCE_TURN = (
    f"(greatest(least(reduce_dispatches, {TURNS_MAX}), 1)"
    " * (reduce_dispatched_at is not null)::integer)"
)
REDUCE_SINCE = "coalesce(reduce_dispatched_at, '-infinity'::timestamp with time zone)"

#: SQL: what the sweep gives up, by :data:`schema.store.work.segments.ATTEMPTS_MAX` and the like.
#: Numbers, since an index of them cannot be asked for with parameters.
SEGMENT_EXHAUSTED = "state in ('pending', 'leased') and (attempts >= 20 or strikes >= 3)"
REDUCE_EXHAUSTED = f"{REDUCE_WAITS} and reduce_attempts >= 5"


def _one_of(column: str, values: type[StrEnum]) -> str:
    return f"{column} in ({', '.join(repr(value.value) for value in values)})"


def _index(name: str, *columns: Any, where: str | None = None, **options: Any) -> Index:
    return Index(name, *columns, postgresql_where=None if where is None else text(where), **options)


def _concurrent_index(name: str, *columns: Any, **options: Any) -> Index:
    """Return an index that is built beside whoever works."""
    return _index(name, *columns, postgresql_concurrently=True, **options)


class Submission(Base):
    """What one ``producer submit`` handed in."""

    __tablename__ = "submissions"
    __table_args__ = (
        CheckConstraint(_one_of("state", SubmissionState), name="state"),
        # The same command again, after its producer was killed, finds what it began.
        _index("submissions_open_key_uq", "key", unique=True, where="state='open'"),
        Index("submissions_created_at_ix", "created_at"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    key: Mapped[str]
    state: Mapped[str] = mapped_column(default=SubmissionState.OPEN)
    #: What was handed in, as people read it.
    title: Mapped[str]
    profile: Mapped[dict[str, Any]]
    force: Mapped[bool] = mapped_column(default=False)
    #: Goes before all that is not.
    urgent: Mapped[bool] = mapped_column(server_default=text("false"))
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    sealed_at: Mapped[datetime | None]
    #: Who is told when its recordings, and all of it, have ended.
    receiver_id: Mapped[UUID | None] = mapped_column(ForeignKey("receivers.id"))


class NoticeRow(Base):
    """A finding about a submission that concerns no recording of it."""

    __tablename__ = "notices"
    __table_args__ = (UniqueConstraint("submission_id", "code", "subject"),)

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    submission_id: Mapped[UUID] = mapped_column(ForeignKey("submissions.id", ondelete="CASCADE"))
    code: Mapped[str]
    subject: Mapped[str]
    message: Mapped[str]


class Recording(Base):
    """One audio file handed in once: one call, whatever other file has the same content."""

    __tablename__ = "recordings"
    __table_args__ = (
        # By digest: a path may be longer than an index entry.
        Index(
            "recordings_source_uq",
            "submission_id",
            "source_root",
            text("sha256(source_path)"),
            unique=True,
        ),
        CheckConstraint(_one_of("state", RecordingState), name="state"),
        CheckConstraint("open_segments >= 0", name="open_segments"),
        Index("recordings_content_digest_ix", "content_digest"),
        Index("recordings_call_id_ix", "call_id"),
        _index("recordings_stitching_ix", "reduce_dispatched_at", where="state='stitching'"),
        # For the sweep alone: what is due, in order, and what is given up.
        _concurrent_index(
            "recordings_due_ix", text(REDUCE_TURN), text(REDUCE_SINCE), where=REDUCE_WAITS
        ),
        _concurrent_index("recordings_exhausted_ix", "id", where=REDUCE_EXHAUSTED),
        # For figures alone: what was lately handed in, the oldest that is open, and what is under
        # way or lately ended.
        _concurrent_index("recordings_created_at_ix", "created_at"),
        _concurrent_index(
            "recordings_open_ix", "created_at", where="state in ('planned', 'running')"
        ),
        _concurrent_index("recordings_ended_at_ix", "ended_at", where="state<>'planned'"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    submission_id: Mapped[UUID] = mapped_column(ForeignKey("submissions.id", ondelete="CASCADE"))
    state: Mapped[str] = mapped_column(default=RecordingState.PLANNED)
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    ended_at: Mapped[datetime | None]

    #: The file handed in; ``name`` is its path as people read it.
    source_root: Mapped[str]
    source_path: Mapped[bytes]
    name: Mapped[str]
    #: The file that workers read: the source, or its copy in the spool. None at the door.
    audio_root: Mapped[str | None]
    audio_path: Mapped[bytes | None]
    container: Mapped[str | None]
    encoding: Mapped[str | None]
    rate_hz: Mapped[int | None]
    channels: Mapped[int | None]
    frames: Mapped[int | None] = mapped_column(BigInteger)
    duration_ms: Mapped[int | None]
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    content_digest: Mapped[str | None]
    flags: Mapped[list[Any]] = mapped_column(default=list)

    call_id: Mapped[str | None]
    started_at: Mapped[datetime | None]
    direction: Mapped[str | None]
    line: Mapped[str | None]
    agent: Mapped[str | None]
    customer: Mapped[str | None]
    attributes: Mapped[dict[str, Any]] = mapped_column(default=dict)

    #: Segments neither done nor failed. Whoever takes it to zero asks for the reduce; a counter,
    #: since a count of rows in the same statement would not see a finish that commits meanwhile.
    open_segments: Mapped[int] = mapped_column(default=0)

    #: When a reducer ordered the voices that its segments lack, which it does once.
    voices_ordered_at: Mapped[datetime | None]

    #: The reduce's dispatch and lease, as a segment has them.
    reduce_dispatch_token: Mapped[UUID | None]
    reduce_dispatched_at: Mapped[datetime | None]
    reduce_dispatches: Mapped[int] = mapped_column(default=0)
    reduce_attempts: Mapped[int] = mapped_column(default=0)
    reduce_owner: Mapped[str | None]
    reduce_token: Mapped[UUID | None]
    reduce_expires_at: Mapped[datetime | None]


class SegmentRow(Base):
    """A slice of one channel of a recording, planned or to be repaired: the unit of work."""

    __tablename__ = "segments"
    __table_args__ = (
        UniqueConstraint(
            "recording_id", "kind", "channel", "index", postgresql_nulls_not_distinct=True
        ),
        CheckConstraint(_one_of("state", SegmentState), name="state"),
        CheckConstraint(_one_of("kind", SegmentKind), name="kind"),
        # Two decodes of one key never run at a time: the second claim fails here, and its segment
        # is given the first one's result.
        _index("segments_live_decode_uq", "decode_key", unique=True, where="state='leased'"),
        _index("segments_pending_decode_ix", "decode_key", where="state='pending'"),
        # Whoever reads it says the second condition, though it always holds. Statistics
        # are older than a backlog, and a planner that believes nothing is pending would walk this
        # index, all of it, where a key could be looked up in the other. Sweeps of before revision
        # 0010 read this one, and who counts what waits; what is due is found in the one below.
        _index("segments_pending_ix", "dispatched_at", where="state='pending' and dispatches >= 0"),
        # For sweeps of before revision 0010.
        _concurrent_index(
            "segments_urgent_ix", "dispatched_at", where="state='pending' and urgent"
        ),
        _concurrent_index(
            "segments_due_ix",
            "urgent",
            text(SEGMENT_TURN),
            text(SEGMENT_SINCE),
            "start_ms",
            where=SEGMENT_WAITS,
        ),
        _concurrent_index("segments_exhausted_ix", "recording_id", "id", where=SEGMENT_EXHAUSTED),
        # Whoever decodes by another key than was planned, see below: few, and seldom any.
        _concurrent_index("segments_decoding_ix", "decoding_key", where="decoding_key is not null"),
        _index("segments_leased_ix", "lease_expires_at", where="state='leased'"),
        Index("segments_result_key_ix", "result_key"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    recording_id: Mapped[UUID] = mapped_column(ForeignKey("recordings.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(default=SegmentKind.PLAN)
    #: From 0; None is the mean of all channels.
    channel: Mapped[int | None]
    #: A plan's counts from 0; a repair's is its place, in grid steps, so that the constraint above
    #: refuses a second repair of one place.
    index: Mapped[int]
    start_ms: Mapped[int]
    end_ms: Mapped[int]
    pcm_digest: Mapped[str]
    decode_key: Mapped[str]
    #: The key it is decoded by while it is leased, where that is another: by a fallback, or by
    #: another version. One that was put back may keep it until its next claim.
    decoding_key: Mapped[str | None]
    #: Decode even where a result is known.
    force: Mapped[bool] = mapped_column(default=False)
    #: Its submission's: the sweep looks for these among all that waits.
    urgent: Mapped[bool] = mapped_column(server_default=text("false"))
    #: Of a repair alone: why it was ordered, the stretch whose words it may replace (what lies
    #: around it in the span is context), and the language to decode as, where not the profile's.
    reason: Mapped[str | None]
    core_start_ms: Mapped[int | None]
    core_end_ms: Mapped[int | None]
    language: Mapped[str | None]

    state: Mapped[str] = mapped_column(default=SegmentState.PENDING)
    result_key: Mapped[str | None] = mapped_column(ForeignKey("results.decode_key"))
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    ended_at: Mapped[datetime | None]

    #: Claims, but for those given back by a worker that shut down in order.
    attempts: Mapped[int] = mapped_column(default=0)
    #: Attempts that raised, or that took a child process with them while its parent lived.
    strikes: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[datetime | None]

    dispatch_token: Mapped[UUID] = mapped_column(default=uuid4)
    dispatched_at: Mapped[datetime | None]
    dispatches: Mapped[int] = mapped_column(default=0)

    lease_owner: Mapped[str | None]
    lease_token: Mapped[UUID | None]
    leased_at: Mapped[datetime | None]
    lease_expires_at: Mapped[datetime | None]


class ResultRow(Base):
    """The words of one decode key: decoded once, used by every segment with that key."""

    __tablename__ = "results"
    # For the sweep: what came lately, which others may wait for; and what is sealed.
    __table_args__ = (
        _concurrent_index("results_created_at_ix", "created_at", "decode_key"),
        _concurrent_index("results_sealed_ix", "created_at", where="seal_key is not null"),
    )

    decode_key: Mapped[str] = mapped_column(primary_key=True)
    #: JSON as text: nobody asks the database what is in it, and every finish writes one.
    body: Mapped[dict[str, Any]] = mapped_column(JSON)
    #: The key that its texts are sealed to (:mod:`schema.seal`); null where they are clear.
    seal_key: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)


class VoicesRow(Base):
    """The voices of a segment, biometric data: erased with the transcript made of them.

    The same samples have the same key, whichever segment they were heard in.
    """

    __tablename__ = "voices"
    __table_args__ = (Index("voices_key_ix", "key"), Index("voices_created_at_ix", "created_at"))

    segment_id: Mapped[UUID] = mapped_column(
        ForeignKey("segments.id", ondelete="CASCADE"), primary_key=True
    )
    key: Mapped[str]
    #: :meth:`schema.voices.Voices.to_bytes`.
    body: Mapped[bytes]
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)


#: As Alembic compares it with the server's.
_NEXT_POSITION = text("nextval('transcript_positions')")
Sequence("transcript_positions", metadata=Base.metadata)


class Transcript(Base):
    """One stitched transcript of a recording; a later reduce adds a version."""

    __tablename__ = "transcripts"
    __table_args__ = (
        UniqueConstraint("recording_id", "version"),
        _concurrent_index("transcripts_created_at_ix", "created_at", "id"),
        _concurrent_index("transcripts_position_ix", "position", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    recording_id: Mapped[UUID] = mapped_column(ForeignKey("recordings.id", ondelete="CASCADE"))
    version: Mapped[int]
    language: Mapped[str | None]
    flags: Mapped[list[Any]]
    speech_ms: Mapped[int]
    worded_ms: Mapped[int]
    #: What nobody decoded: ``[[channel, speaker, start_ms, end_ms, code], ...]``.
    gaps: Mapped[list[Any]] = mapped_column(default=list, server_default=text("'[]'::jsonb"))
    #: Each segment's core: ``[[channel, index, start_ms, end_ms, speech_ms, worded_ms], ...]``.
    coverage: Mapped[list[Any]] = mapped_column(default=list, server_default=text("'[]'::jsonb"))
    #: What was decoded again: :meth:`schema.transcript.Repair.to_json` of each.
    repairs: Mapped[list[Any]] = mapped_column(default=list, server_default=text("'[]'::jsonb"))
    #: Where its flags are: :meth:`schema.transcript.FlaggedPlace.to_json` of each; null where a
    #: reducer before revision 0015 stored it.
    places: Mapped[list[Any] | None] = mapped_column(JSONB)
    #: How speakers were told: :class:`schema.transcript.SpeakersFrom`; null is by their channels.
    speakers_from: Mapped[str | None]
    #: :meth:`schema.redaction.Redaction.to_json`; null where nothing protects the call.
    redaction: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    #: ``[[channel, language], ...]``.
    languages: Mapped[list[Any]] = mapped_column(default=list, server_default=text("'[]'::jsonb"))
    #: :meth:`schema.transcript.Talk.to_json`; null where a reducer before revision 0008 stored it.
    talk: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    #: When the row was written, which is after its transaction locked the table: see
    #: :mod:`schema.store.read.changes`.
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    #: Its place in the order of storing, which no clock moves; taken under that lock, too. 0 where
    #: revision 0012 met it.
    position: Mapped[int] = mapped_column(BigInteger, server_default=_NEXT_POSITION)


class RetentionRunRow(Base):
    """A run of retention: what it erased, and that it came to its end."""

    __tablename__ = "purges"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    #: Calls before this moment may go.
    cutoff: Mapped[datetime] = mapped_column("before")
    #: Not all of them: those of a line, say. Which, no row tells.
    has_filters: Mapped[bool] = mapped_column("narrowed", server_default=false())
    began_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    #: Null while it runs, and where it was broken off.
    ended_at: Mapped[datetime | None]
    recordings: Mapped[int] = mapped_column(server_default="0")
    results: Mapped[int] = mapped_column(server_default="0")
    copies: Mapped[int] = mapped_column(server_default="0")
    #: Old ones that were still being transcribed when it ended.
    unfinished_recordings: Mapped[int] = mapped_column("spared", server_default="0")


class UtteranceRow(Base):
    """One speaker's consecutive words, as people read them."""

    __tablename__ = "utterances"
    __table_args__ = (
        # See migration 0006 for the function.
        _concurrent_index(
            "utterances_words_ix", text("search_words(text)"), postgresql_using="gin"
        ),
    )

    transcript_id: Mapped[UUID] = mapped_column(
        ForeignKey("transcripts.id", ondelete="CASCADE"), primary_key=True
    )
    index: Mapped[int] = mapped_column(primary_key=True)
    channel: Mapped[int | None]
    speaker: Mapped[str]
    start_ms: Mapped[int]
    end_ms: Mapped[int]
    text: Mapped[str]
    #: How sure its speaker is, 0..1; null where a channel tells.
    speaker_confidence: Mapped[float | None] = mapped_column(REAL)
    #: ``[[text, start_ms, end_ms, confidence], ...]``: rows a word would be 50 million a night.
    words: Mapped[list[Any]]


class SeamRow(Base):
    """How two neighbouring segments were joined, and what was dropped on both sides."""

    __tablename__ = "seams"
    __table_args__ = (
        UniqueConstraint("transcript_id", "channel", "index", postgresql_nulls_not_distinct=True),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    transcript_id: Mapped[UUID] = mapped_column(ForeignKey("transcripts.id", ondelete="CASCADE"))
    channel: Mapped[int | None]
    index: Mapped[int]
    rule: Mapped[str]
    at_ms: Mapped[int]
    confidence: Mapped[float]
    dropped_left: Mapped[list[Any]]
    dropped_right: Mapped[list[Any]]


class ReceiverRow(Base):
    """A URL that is told of what has ended, and how it fares."""

    __tablename__ = "receivers"
    __table_args__ = (UniqueConstraint("url"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    #: It may hold a secret of the receiver's: nothing but the host is ever shown.
    url: Mapped[str]
    host: Mapped[str]
    #: Since the first of an unbroken row of failures; asked again at ``next_attempt_at``.
    failing_since: Mapped[datetime | None]
    failures: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[datetime | None]


class EventRow(Base):
    """What a receiver is to be told: that a recording has ended, or a whole submission.

    Of a recording a trigger writes it (migration 0007), in the transaction that ends the recording:
    so no end goes untold, whichever version of ours, or whoever, brought it about.
    """

    __tablename__ = "events"
    __table_args__ = (
        CheckConstraint(_one_of("state", EventState), name="state"),
        _index("events_waiting_ix", "receiver_id", "next_attempt_at", where="state='waiting'"),
        Index("events_submission_id_ix", "submission_id"),
        _index("events_unsummed_ix", "submission_id", where="not summed"),
        Index("events_recording_id_ix", "recording_id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    receiver_id: Mapped[UUID] = mapped_column(ForeignKey("receivers.id"))
    submission_id: Mapped[UUID] = mapped_column(ForeignKey("submissions.id", ondelete="CASCADE"))
    #: None where a whole submission has ended.
    recording_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("recordings.id", ondelete="CASCADE")
    )
    #: How it ended, kept here since a retry may change it: the same event always says the same.
    recording_state: Mapped[str | None]
    error_code: Mapped[str | None]
    ended_at: Mapped[datetime | None]
    #: Of a submission: its recordings by state.
    counts: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    #: Whether an event of the whole submission has taken this one into account.
    is_counted: Mapped[bool] = mapped_column("summed", server_default=text("false"))

    state: Mapped[str] = mapped_column(server_default=EventState.WAITING)
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    #: While it is being sent, when it is taken for lost and sent again.
    next_attempt_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    delivered_at: Mapped[datetime | None]
    #: Why the last attempt failed.
    error: Mapped[str | None]


class HoldRow(Base):
    """A call, or all calls of a line, that may not be erased, and why; what was let go stays."""

    __tablename__ = "holds"
    __table_args__ = (CheckConstraint("(call_id is null) <> (line is null)", name="one_of"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    call_id: Mapped[str | None]
    line: Mapped[str | None]
    reason: Mapped[str]
    held_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    released_at: Mapped[datetime | None]


class ErasureRow(Base):
    """A recording that was erased: a digest under a key that the register alone has, no name."""

    __tablename__ = "erasures"

    digest: Mapped[str] = mapped_column(primary_key=True)
    erased_at: Mapped[datetime] = mapped_column(server_default=_NOW)
