"""Transcripts in the order in which they were stored: none missed, and none twice.

A transcript's position is the next number of a sequence, which no clock moves. A transaction may
commit after one that took a later number, so that the latest position seen is no place to go on
from. But it takes its number while it holds its lock on the table. So once everybody who held one
at a moment has ended, all that has a position up to that of the moment can be seen, and whatever is
stored from then on has a later one. The same goes for ``created_at``, unless a clock steps back.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, exists, select, text, tuple_
from sqlalchemy.orm import aliased

from schema.errors import BadRequest, ErrorCode
from schema.store.read.recordings import StoredTranscript, summaries, transcript
from schema.tables import Recording, Transcript


@dataclass(frozen=True, slots=True)
class Mark:
    """How far transcripts have been stored, or exported: by the clock and by position.

    Positions of another ``history`` say nothing: a server that took over from one that was lost,
    or a dump that was restored, may give a position again. Both are None where nobody noted them.
    """

    moment: datetime
    position: int | None = None
    history: str | None = None


@dataclass(frozen=True, slots=True)
class Stretch:
    """Which transcripts are asked for: ``since <= stored < until``, ``after < position <= upto``.

    In the order of their times where ``since`` is given, else of their positions.
    """

    since: datetime | None = None
    until: datetime | None = None
    after: int | None = None
    upto: int | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """A transcript's place in the order in which transcripts were stored."""

    stored_at: datetime
    position: int
    transcript_id: UUID
    recording_id: UUID


#: Where a server took over, its log goes on under the next number.
_NOW = text(
    """
    select clock_timestamp() as moment, pg_is_in_recovery() as is_standby,
           (select case when is_called then last_value else 0 end
              from transcript_positions) as position,
           case when not pg_is_in_recovery() then concat_ws('/',
               (select system_identifier from pg_control_system()),
               left(pg_walfile_name(pg_current_wal_lsn()), 8),
               (select oid from pg_database where datname = current_database())) end as history
    """
)


def now(connection: Connection) -> Mark:
    """Return how far transcripts have been stored, those included whose transaction goes on.

    Raises:
        BadRequest: the server is a standby, which does not know what is being stored.
    """
    row = connection.execute(_NOW).one()
    if row.is_standby:
        raise BadRequest(
            ErrorCode.OPTION_INVALID,
            "ledger",
            "it is a standby, which does not know what is being stored",
            "Set CALLSCRIBE_DATABASE_URL to the primary.",
        )
    return Mark(row.moment, row.position, row.history)


_WRITERS = text(
    """
    select virtualtransaction from pg_locks
     where locktype = 'relation' and relation = to_regclass('transcripts')
       and database = (select oid from pg_database where datname = current_database())
       and mode = 'RowExclusiveLock' and granted
    """
)


def writers(connection: Connection) -> set[str]:
    """Return the transactions that may have stored transcripts which nobody sees yet."""
    return set(connection.scalars(_WRITERS))


def page(
    connection: Connection,
    stretch: Stretch,
    *,
    last: Place | None,
    submission: UUID | None,
    limit: int,
) -> list[Place]:
    """Return the next of the latest transcripts of recordings in a stretch, behind the ``last``."""
    newer = aliased(Transcript)
    by_time = stretch.since is not None
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
    if stretch.since is not None:
        query = query.where(Transcript.created_at >= stretch.since)
    if stretch.until is not None:
        query = query.where(Transcript.created_at < stretch.until)
    if stretch.after is not None:
        query = query.where(Transcript.position > stretch.after)
    if stretch.upto is not None:
        query = query.where(Transcript.position <= stretch.upto)
    if last is not None:
        place = last.stored_at if by_time else last.position
        query = query.where(tuple_(order, Transcript.id) > tuple_(place, last.transcript_id))
    if submission is not None:
        query = query.join(Recording, Transcript.recording_id == Recording.id).where(
            Recording.submission_id == submission
        )
    return [Place(*row) for row in connection.execute(query)]


def unchanged(connection: Connection, place: Place) -> StoredTranscript | None:
    """Return the transcript at a place, whole, unless its recording has a later one by now.

    None, too, where the recording has been erased. The connection is in no transaction yet: it
    sees one moment.
    """
    connection.execute(text("set transaction isolation level repeatable read, read only"))
    latest = (
        select(Transcript.id)
        .where(Transcript.recording_id == place.recording_id)
        .order_by(Transcript.version.desc())
        .limit(1)
    )
    if connection.scalar(latest) != place.transcript_id:
        return None
    for recording in summaries(connection, Recording.id == place.recording_id):
        return transcript(connection, recording)
    return None
