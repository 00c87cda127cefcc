"""The files of a drop folder's submission: the content of each, and where it lies now."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, and_, case, select, update

from schema.records import Location
from schema.tables import Recording


class FolderFile(NamedTuple):
    """When a file was added; its size and digest, which one that was refused has not."""

    added_at_ns: int
    size_bytes: int | None = None
    content_digest: str | None = None


def list_folder_files(connection: Connection, submission_id: UUID) -> dict[Location, FolderFile]:
    """Return the files of a submission, by source."""
    rows = connection.execute(
        select(
            Recording.source_root,
            Recording.source_path,
            Recording.created_at,
            Recording.size_bytes,
            Recording.content_digest,
        ).where(Recording.submission_id == submission_id)
    )
    return {
        Location(root, bytes(path)): FolderFile(
            int(created_at.timestamp() * 10**6) * 1_000, size, digest
        )
        for root, path, created_at, size, digest in rows
    }


def record_move(
    connection: Connection, submission_id: UUID, old_location: Location, new_location: Location
) -> None:
    """Note that a recording's file was moved: workers read it there, and people see its name."""
    is_source = and_(
        Recording.audio_root == old_location.root, Recording.audio_path == old_location.path
    )
    connection.execute(
        update(Recording)
        .where(
            Recording.submission_id == submission_id,
            Recording.source_root == old_location.root,
            Recording.source_path == old_location.path,
        )
        .values(
            source_root=new_location.root,
            source_path=new_location.path,
            name=new_location.name,
            audio_root=case((is_source, new_location.root), else_=Recording.audio_root),
            audio_path=case((is_source, new_location.path), else_=Recording.audio_path),
        )
    )
