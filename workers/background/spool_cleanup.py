"""Remove spool copies that no recording will be read from any more."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path

from schema.storage.beneath import OutsideError, act_below, open_directory

#: A copy this young may belong to a recording that is about to be committed: making one, and
#: reusing one, sets its time.
_YOUNG_S = 3_600.0

_DIRECTORY_LETTERS = 2
_SUFFIXES = (b".flac", b".partial")


def remove_unused_copies(spool: Path, in_use: Callable[[], Collection[bytes]], now_s: float) -> int:
    """Remove old copies that are not ``in_use``, also unfinished ones; return how many.

    ``in_use`` returns paths below the spool. It is called after the spool was listed: what is
    committed meanwhile is young. ``now_s`` is the time of day, as files' times are. Nothing is
    listed or removed to which a link leads out of the spool.
    """
    root = os.fsencode(spool)
    old_paths = [path for path in _list_copies(root) if _is_old(root, path, now_s)]
    if not old_paths:
        return 0
    used_paths = in_use()
    removed = 0
    for path in old_paths:
        if path in used_paths or not _is_old(root, path, now_s):
            continue
        # Another user's copy is another reducer's to remove.
        with suppress(FileNotFoundError, PermissionError, OutsideError):
            act_below(root, path, lambda directory, name: os.unlink(name, dir_fd=directory))
            removed += 1
    return removed


def _list_copies(spool: bytes) -> Iterator[bytes]:
    for directory in sorted(os.listdir(spool)):
        if len(directory) != _DIRECTORY_LETTERS:
            continue
        with (
            suppress(OSError, OutsideError),  # a file, a link out, or gone
            open_directory(spool, directory) as descriptor,
        ):
            for name in _list_names(descriptor):
                if name.endswith(_SUFFIXES):
                    yield os.path.join(directory, name)


def _list_names(directory: int) -> list[bytes]:
    # By a descriptor that may be read: one that only leads the way may not.
    readable = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return [os.fsencode(name) for name in os.listdir(readable)]
    finally:
        os.close(readable)


def _is_old(spool: bytes, path: bytes, now_s: float) -> bool:
    try:
        status = act_below(
            spool, path, lambda folder, name: os.stat(name, dir_fd=folder, follow_symlinks=False)
        )
    except (FileNotFoundError, OutsideError):
        return False
    return now_s - status.st_mtime > _YOUNG_S
