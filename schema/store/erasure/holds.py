"""Calls that may not be erased: by their id, or all of a line, until they are released.

An erasure looks here in its own transaction, with a lock: a hold that is placed meanwhile either
waits for it, or is seen.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import (
    ColumnElement,
    Connection,
    Exists,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    text,
    update,
)

from schema.errors import BadRequest, ErrorCode
from schema.store.ledger import in_array
from schema.store.read.recordings import ID_MIN, id_starts_with
from schema.tables import HoldRow, Recording


@dataclass(frozen=True, slots=True)
class Hold:
    """Why a call, or all calls of a line, may not be erased, and since when."""

    id: UUID
    call_id: str | None
    line: str | None
    reason: str
    held_at: datetime
    released_at: datetime | None = None

    @property
    def subject(self) -> str:
        """What is held, in words."""
        return f"call {self.call_id}" if self.call_id is not None else f"line {self.line}"


def is_held() -> Exists:
    """Return the condition that a recording is held."""
    return exists().where(
        HoldRow.released_at.is_(None),
        or_(HoldRow.call_id == Recording.call_id, HoldRow.line == Recording.line),
    )


def insert_hold(
    connection: Connection,
    *,
    call_id: str | None = None,
    line: str | None = None,
    reason: str,
    hold_id: UUID | None = None,
    held_at: str | None = None,
) -> Hold:
    """Hold a call, or all calls of a line, those that are submitted later as well.

    Raises:
        ValueError: both are named, or neither.
    """
    if (call_id is None) == (line is None):
        raise ValueError("a hold is of a call or of a line")
    values: dict[str, Any] = {
        "id": hold_id or uuid4(),
        "call_id": call_id,
        "line": line,
        "reason": reason,
        "held_at": datetime.fromisoformat(held_at) if held_at else func.now(),
    }
    row = connection.execute(insert(HoldRow).values(**values).returning(HoldRow.__table__)).one()
    return _hold_of_row(row)


def list_active_holds(connection: Connection) -> list[Hold]:
    """Return the holds that are in force, the oldest first."""
    query = (
        select(HoldRow.__table__)
        .where(HoldRow.released_at.is_(None))
        .order_by(HoldRow.held_at, HoldRow.id)
    )
    return [_hold_of_row(row) for row in connection.execute(query)]


def mark_holds_released(connection: Connection, subject: str) -> list[Hold]:
    """Release the holds of a call or a line; where there are none, that whose id begins so.

    Raises:
        BadRequest: none is in force that it names, or it is the beginning of several ids.
    """
    has_subject = or_(HoldRow.call_id == subject, HoldRow.line == subject)
    holds = _release_where(connection, has_subject)
    if not holds and len(subject) >= ID_MIN:
        query = select(HoldRow.id).where(HoldRow.released_at.is_(None)).limit(2)
        ids = connection.scalars(query.where(id_starts_with(HoldRow.id, subject))).all()
        if len(ids) > 1:
            cause = "it is the beginning of several holds' ids"
            raise BadRequest(ErrorCode.NOT_FOUND, subject, cause, "Write more of it.")
        holds = _release_where(connection, in_array(HoldRow.id, ids))
    if not holds:
        raise BadRequest(
            ErrorCode.NOT_FOUND, subject, "nothing is held by this name", "See producer hold."
        )
    return holds


def _release_where(connection: Connection, condition: ColumnElement[bool]) -> list[Hold]:
    rows = connection.execute(
        update(HoldRow)
        .where(HoldRow.released_at.is_(None), condition)
        .values(released_at=func.now())
        .returning(HoldRow.__table__)
    )
    return [_hold_of_row(row) for row in rows]


def delete_released_holds(connection: Connection, calls: Collection[str]) -> None:
    """Delete released holds of calls: an erased call leaves no id."""
    connection.execute(
        delete(HoldRow).where(in_array(HoldRow.call_id, calls), HoldRow.released_at.is_not(None))
    )


def has_recordings(connection: Connection, *, call_id: str | None, line: str | None) -> bool:
    """Tell whether this call or line has any recording."""
    matches_subject = (
        Recording.call_id == call_id if call_id is not None else Recording.line == line
    )
    return bool(connection.scalar(select(exists().where(matches_subject))))


def delete_holds(connection: Connection, ids: Collection[UUID]) -> None:
    """Delete these holds, to be placed anew as they were."""
    connection.execute(delete(HoldRow).where(in_array(HoldRow.id, ids)))


def find_held_recordings(connection: Connection, recordings: Collection[UUID]) -> Sequence[UUID]:
    """Return which of these recordings are held; no hold changes until the commit."""
    connection.execute(text("lock table holds in share mode"))
    id_matches = in_array(Recording.id, recordings)
    return connection.scalars(select(Recording.id).where(id_matches, is_held())).all()


def _hold_of_row(row: Any) -> Hold:
    return Hold(row.id, row.call_id, row.line, row.reason, row.held_at, row.released_at)
