"""Whether a worker of this host lives and takes work: for the probes of whatever runs it.

A worker's parent writes a file on this host every few seconds, from the loop that also receives
messages; a probe reads it. Nothing of it goes through Redis: whoever writes there could have every
worker restarted, and a Redis that is away is no fault of a worker's.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from schema.settings import Settings
from schema.wire import REDUCE_QUEUE, SEGMENTS_QUEUE

#: How often the file is written, and how old it may be.
HEARTBEAT_S = 5
_AGE_MAX_S = 60.0


class HeartbeatFile:
    """The file in which a worker reports to the probes of its own host and user."""

    def __init__(self, settings: Settings, name: str) -> None:
        server = urlsplit(settings.redis_url.get_secret_value())
        # The same name may serve another fleet on this host. No password goes into the digest.
        address = server.netloc.rpartition("@")[2]
        fleet = "\0".join((address, server.path, settings.namespace, name))
        directory = Path(tempfile.gettempdir()) / f"callscribe-alive-{os.geteuid()}"
        self._path = directory / hashlib.sha256(fleet.encode()).hexdigest()[:24]
        self._name = name

    def write(self, queues: Collection[str] | None) -> None:
        """Write that this process lives, and its queues; None without Redis.

        Raises:
            OSError: the directory is another user's, or cannot be written to.
        """
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        _check_private(self._path.parent)
        note = {"pid": os.getpid(), "at_s": time.monotonic(), "queues": queues and sorted(queues)}
        partial = self._path.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(note))
        partial.replace(self._path)

    def remove(self) -> None:
        """Remove the file: this worker ends."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def problem(self) -> str | None:
        """Return what is wrong with the worker of this name, or None."""
        try:
            _check_private(self._path.parent)
            note = json.loads(self._path.read_text())
            pid, at_s, queues = int(note["pid"]), float(note["at_s"]), note["queues"]
        except (OSError, ValueError, KeyError, TypeError):
            return f"no worker {self._name} of this user runs on this host"
        if not Path(f"/proc/{pid}").exists() or at_s > time.monotonic():
            return f"worker {self._name} has ended"
        if queues is None:
            return None  # It waits for Redis; a restart would not help.
        if (age_s := time.monotonic() - at_s) > _AGE_MAX_S:
            return f"worker {self._name} has not moved for {age_s:.0f} s: start it again"
        if not {SEGMENTS_QUEUE, REDUCE_QUEUE} & set(queues):
            return f"worker {self._name} takes work from no queue: start it again"
        return None


def _check_private(directory: Path) -> None:
    """Raise OSError unless a directory, in a place where anybody may write, is this user's."""
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise PermissionError(f"{directory} is not this user's")
