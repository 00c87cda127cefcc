"""Recordings as people and exports see them. Nothing here changes a row."""

from __future__ import annotations

from dataclasses import dataclass, fields
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, RowMapping, String, cast, select
from sqlalchemy.orm import InstrumentedAttribute

from schema.bounds import plausible_start
from schema.errors import BadRequest, ErrorCode
from schema.records import RAW_CONTAINER, AudioFormat, CallInfo, Location
from schema.settings import SPOOL_ROOT
from schema.states import RecordingState
from schema.tables import Recording

#: The beginning of an id must have so many characters; fewer are a slip, such as an empty variable.
ID_MIN = 4


def check_id_prefix(subject: str, prefix: str) -> None:
    """Make sure that the beginning of an id is long enough to be meant.

    Raises:
        BadRequest: it is not.
    """
    if len(prefix.strip()) < ID_MIN:
        cause = f"an id is named by {ID_MIN} of its characters or more"
        raise BadRequest(ErrorCode.NOT_FOUND, subject, cause, "Ids: producer status --all")


def id_starts_with(column: InstrumentedAttribute[UUID], prefix: str) -> ColumnElement[bool]:
    """Return the condition that an id begins with a text, in either case."""
    return cast(column, String).startswith(prefix.lower(), autoescape=True)


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


def list_recordings(
    connection: Connection, submission_id: UUID, states: frozenset[RecordingState] | None = None
) -> list[RecordingSummary]:
    """Return a submission's recordings by name, all or those in some states."""
    condition = Recording.submission_id == submission_id
    if states is not None:
        condition &= Recording.state.in_(states)
    return select_recordings(connection, condition)


def select_recordings(
    connection: Connection, condition: ColumnElement[bool]
) -> list[RecordingSummary]:
    """Return the recordings that a condition chooses, by name."""
    query = select(Recording).where(condition).order_by(Recording.name)
    return [_summary(row) for row in connection.execute(query).mappings()]


def _summary(row: RowMapping) -> RecordingSummary:
    call = {item.name: row[item.name] for item in fields(CallInfo)}
    return RecordingSummary(
        id=row["id"],
        name=row["name"],
        state=RecordingState(row["state"]),
        call=CallInfo(**call | {"started_at": plausible_start(row["started_at"])}),
        duration_ms=row["duration_ms"],
        channels=row["channels"],
        flags=tuple(row["flags"]),
        error_code=row["error_code"],
        error_message=row["error_message"],
    )


def read_source(connection: Connection, recording_id: UUID) -> tuple[Location, AudioFormat | None]:
    """Return the location of the file that a recording was submitted as.

    And how it is read, if it has no header that says so, and workers read it in place.
    """
    query = select(Recording.__table__).where(Recording.id == recording_id)
    row = connection.execute(query).one()
    source = Location(row.source_root, bytes(row.source_path))
    if row.container != RAW_CONTAINER or (row.audio_root, bytes(row.audio_path)) != (
        source.root,
        source.path,
    ):
        return source, None
    return source, AudioFormat.from_row(row._mapping)


def list_used_copies(connection: Connection) -> set[bytes]:
    """Return the paths below the spool that workers may still read, a retry included."""
    rows = connection.scalars(
        select(Recording.audio_path).where(
            Recording.audio_root == SPOOL_ROOT,
            Recording.state.not_in([RecordingState.DONE, RecordingState.CANCELLED]),
        )
    )
    return {bytes(path) for path in rows if path is not None}
