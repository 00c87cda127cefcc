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


def record_move(connection: Connection, submission_id: UUID, old: Location, new: Location) -> None:
    """Note that a recording's file was moved: workers read it there, and people see its name."""
    is_source = and_(Recording.audio_root == old.root, Recording.audio_path == old.path)
    connection.execute(
        update(Recording)
        .where(
            Recording.submission_id == submission_id,
            Recording.source_root == old.root,
            Recording.source_path == old.path,
        )
        .values(
            source_root=new.root,
            source_path=new.path,
            name=new.name,
            audio_root=case((is_source, new.root), else_=Recording.audio_root),
            audio_path=case((is_source, new.path), else_=Recording.audio_path),
        )
    )
