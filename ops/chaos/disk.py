"""A disk that can be filled: a small file system in memory, for a server to keep its data on."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

#: Room for a new Postgres and what a drill writes.
_SIZE_BYTES = 512 * 1024**2


class SmallDisk:
    """A file system of its own at a directory.

    Raises:
        OSError: nothing may be mounted here, say without root.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE_BYTES}", "tmpfs", str(directory)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise OSError(f"nothing can be mounted: {done.stderr.strip()}")
        self._directory = directory
        self._filler = directory / "filler"

    def fill(self) -> None:
        """Leave no room."""
        with self._filler.open("wb", buffering=0) as filler:
            free = os.statvfs(self._directory)
            os.posix_fallocate(filler.fileno(), 0, free.f_bavail * free.f_bsize)

    def free(self) -> None:
        """Give the room back."""
        self._filler.unlink(missing_ok=True)

    def unmount(self) -> None:
        """Remove it, with all that is on it."""
        subprocess.run(["umount", "--lazy", str(self._directory)], check=True)
