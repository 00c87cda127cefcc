"""The spool kept clean: copies that no recording will be read from any more."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path

#: A copy this young may belong to a recording that is about to be committed: making one, and
#: reusing one, sets its time.
_YOUNG_S = 3_600.0


def tidy(spool: Path, in_use: Callable[[], Collection[bytes]], now_s: float) -> int:
    """Remove old copies that are not ``in_use``, and what killed producers left; how many.

    ``in_use`` is asked after the spool was listed: what is committed meanwhile is young. It
    returns paths below the spool. ``now_s`` is the time of day, as files' times are.
    """
    old = [path for path in _copies(spool) if _is_old(path, now_s)]
    if not old:
        return 0
    kept = in_use()
    removed = 0
    for path in old:
        if os.fsencode(path.relative_to(spool)) in kept or not _is_old(path, now_s):
            continue
        # Another user's copy is another reducer's to remove.
        with suppress(FileNotFoundError, PermissionError):
            path.unlink()
            removed += 1
    return removed


def _copies(spool: Path) -> Iterator[Path]:
    yield from spool.glob("??/*.flac")
    yield from spool.glob("??/*.partial")


def _is_old(path: Path, now_s: float) -> bool:
    try:
        return now_s - path.stat().st_mtime > _YOUNG_S
    except FileNotFoundError:
        return False
