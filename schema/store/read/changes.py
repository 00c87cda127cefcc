"""Transcripts in the order in which they were stored: none missed, and none twice.

A transcript's position is the next number of a sequence, which no clock moves. A transaction may
commit after one that took a later number, so that the latest position seen is no place to go on
from. But it takes its number while it holds its lock on the table. So once everybody who held one
at a moment has ended, all that has a position up to that of the moment can be seen, and what is
stored from then on has a later one. The same goes for ``created_at``, unless a clock steps back.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, exists, select, text, tuple_
from sqlalchemy.orm import aliased

from schema.errors import BadRequest, ErrorCode
from schema.store.read.recordings import select_recordings
from schema.store.read.transcripts import StoredTranscript, read_transcript
from schema.tables import Recording, Transcript


@dataclass(frozen=True, slots=True)
class Watermark:
    """How far transcripts have been stored, or exported: by the clock and by position.

    Positions of another ``history`` say nothing: a server that took over from one that was lost,
    or a dump that was restored, may give a position again. Both are None of an older release.
    """

    moment: datetime
    position: int | None = None
    history: str | None = None


@dataclass(frozen=True, slots=True)
class TranscriptRange:
    """A range of transcripts: ``since <= stored < until``, ``after < position <= upto``.

    In the order of their times where ``since`` is given, else of their positions.
    """

    since: datetime | None = None
    until: datetime | None = None
    after_position: int | None = None
    upto_position: int | None = None


@dataclass(frozen=True, slots=True)
class TranscriptPosition:
    """Where a transcript is in the order in which transcripts were stored."""

    stored_at: datetime
    position: int
    transcript_id: UUID
    recording_id: UUID


#: Where a server took over, its log goes on under the next number.
_READ_WATERMARK = text("""
    select clock_timestamp() as moment, pg_is_in_recovery() as is_standby,
           (select case when is_called then last_value else 0 end
              from transcript_positions) as position,
           case when not pg_is_in_recovery() then concat_ws('/',
               (select system_identifier from pg_control_system()),
               left(pg_walfile_name(pg_current_wal_lsn()), 8),
               (select oid from pg_database where datname = current_database())) end as history
""")


def read_watermark(connection: Connection) -> Watermark:
    """Return how far transcripts have been stored, those included whose transaction goes on.

    Raises:
        BadRequest: the server is a standby, which does not know what is being stored.
    """
    row = connection.execute(_READ_WATERMARK).one()
    if row.is_standby:
        raise BadRequest(
            ErrorCode.OPTION_INVALID,
            "ledger",
            "it is a standby, which does not know what is being stored",
            "Set CALLSCRIBE_DATABASE_URL to the primary.",
        )
    return Watermark(row.moment, row.position, row.history)


_OPEN_WRITERS = text("""
    select virtualtransaction from pg_locks
     where locktype = 'relation' and relation = to_regclass('transcripts')
       and database = (select oid from pg_database where datname = current_database())
       and mode = 'RowExclusiveLock' and granted
""")


def list_open_writers(connection: Connection) -> set[str]:
    """Return the transactions that may have stored transcripts which nobody sees yet."""
    return set(connection.scalars(_OPEN_WRITERS))


def list_positions(
    connection: Connection,
    transcript_range: TranscriptRange,
    *,
    last_position: TranscriptPosition | None,
    submission: UUID | None,
    limit: int,
) -> list[TranscriptPosition]:
    """Return the positions of the latest transcripts of recordings in a range, after the last."""
    newer = aliased(Transcript)
    by_time = transcript_range.since is not None
    order = Transcript.created_at if by_time else Transcript.position
    query = (
        select(Transcript.created_at, Transcript.position, Transcript.id, Transcript.recording_id)
        .where(
            ~exists().where(
                newer.recording_id == Transcript.recording_id, newer.version > Transcript.version
            )
        )
        .order_by(order, Transcript.id)
        .limit(limit)
    )
    if transcript_range.since is not None:
        query = query.where(Transcript.created_at >= transcript_range.since)
    if transcript_range.until is not None:
        query = query.where(Transcript.created_at < transcript_range.until)
    if transcript_range.after_position is not None:
        query = query.where(Transcript.position > transcript_range.after_position)
    if transcript_range.upto_position is not None:
        query = query.where(Transcript.position <= transcript_range.upto_position)
    if last_position is not None:
        last_order = last_position.stored_at if by_time else last_position.position
        last_key = tuple_(last_order, last_position.transcript_id)
        query = query.where(tuple_(order, Transcript.id) > last_key)
    if submission is not None:
        query = query.join(Recording, Transcript.recording_id == Recording.id).where(
            Recording.submission_id == submission
        )
    return [TranscriptPosition(*row) for row in connection.execute(query)]


def read_if_latest(connection: Connection, position: TranscriptPosition) -> StoredTranscript | None:
    """Return the transcript at a position, whole, unless its recording has a later one by now.

    None, too, where the recording has been erased. The connection is in no transaction yet: it
    sees one moment.
    """
    connection.execute(text("set transaction isolation level repeatable read, read only"))
    latest = (
        select(Transcript.id)
        .where(Transcript.recording_id == position.recording_id)
        .order_by(Transcript.version.desc())
        .limit(1)
    )
    if connection.scalar(latest) != position.transcript_id:
        return None
    for recording in select_recordings(connection, Recording.id == position.recording_id):
        return read_transcript(connection, recording)
    return None
