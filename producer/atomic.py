"""Files that appear at their path only once they are whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_write(path: Path, *, durable: bool = False, keep_empty: bool = True) -> Iterator[Path]:
    """Yield where to write a file that appears at ``path`` as the scope ends without an error.

    ``durable``: its bytes and its name are on the disk then. An empty file appears only if
    ``keep_empty``. One process writes one file of a suffix at a time to a directory.

    Raises:
        OSError: the file cannot be written.
    """
    # A short name, for a file system's limit; libsndfile tells the format by the suffix.
    partial = path.with_name(f".partial-{os.getpid()}{path.suffix}")
    try:
        yield partial
        if not (keep_empty or partial.stat().st_size):
            return
        if durable:
            _sync(partial)
        partial.replace(path)
        if durable:
            _sync(path.parent)
    finally:
        with suppress(OSError):
            partial.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
