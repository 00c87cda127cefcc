"""Transcripts in the order in which they were stored: none missed, and none twice.

A transaction may commit after one that began later, so that the latest time seen is no place to go
on from. But a transcript's ``created_at`` is taken while its transaction holds its lock on the
table. So once everybody who held one at a moment has ended, all that was stored before that moment
can be seen, and whatever is stored from then on has a later time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, exists, select, text, tuple_
from sqlalchemy.orm import aliased

from schema.errors import BadRequest, ErrorCode
from schema.store.read import StoredTranscript, summaries, transcript
from schema.tables import Recording, Transcript


@dataclass(frozen=True, slots=True)
class Place:
    """A transcript's place in the order in which transcripts were stored."""

    stored_at: datetime
    transcript_id: UUID
    recording_id: UUID


def now(connection: Connection) -> datetime:
    """Return the moment by the clock that transcripts are stored by.

    Raises:
        BadRequest: the server is a standby, which does not know what is being stored.
    """
    moment, is_standby = connection.execute(
        text("select clock_timestamp(), pg_is_in_recovery()")
    ).one()
    if is_standby:
        raise BadRequest(
            ErrorCode.OPTION_INVALID,
            "ledger",
            "it is a standby, which does not know what is being stored",
            "Set CALLSCRIBE_DATABASE_URL to the primary.",
        )
    found: datetime = moment
    return found


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
    *,
    since: datetime | None,
    after: Place | None,
    until: datetime,
    submission: UUID | None,
    limit: int,
) -> list[Place]:
    """Return the next of the latest transcripts of recordings, stored in ``since <= t < until``."""
    newer = aliased(Transcript)
    query = (
        select(Transcript.created_at, Transcript.id, Transcript.recording_id)
        .where(
            Transcript.created_at < until,
            ~exists().where(
                newer.recording_id == Transcript.recording_id, newer.version > Transcript.version
            ),
        )
        .order_by(Transcript.created_at, Transcript.id)
        .limit(limit)
    )
    if since is not None:
        query = query.where(Transcript.created_at >= since)
    if after is not None:
        place = tuple_(Transcript.created_at, Transcript.id)
        query = query.where(place > tuple_(after.stored_at, after.transcript_id))
    if submission is not None:
        query = query.join(Recording, Transcript.recording_id == Recording.id).where(
            Recording.submission_id == submission
        )
    return [Place(*row) for row in connection.execute(query)]


def stored_before(
    connection: Connection, recording_id: UUID, until: datetime
) -> StoredTranscript | None:
    """Return a recording's latest transcript, whole, unless that is no longer before ``until``.

    None, too, where the recording has been erased. The connection is in no transaction yet: it
    sees one moment.
    """
    connection.execute(text("set transaction isolation level repeatable read, read only"))
    for recording in summaries(connection, Recording.id == recording_id):
        found = transcript(connection, recording)
        if found is not None and found.stored_at is not None and found.stored_at < until:
            return found
    return None
