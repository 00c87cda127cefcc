"""A drop folder: files are handed in as they are complete, for as long as anyone drops them.

Nobody says when a file is complete, so it is taken once neither its size nor its time of change has
moved for a while. One that then cannot be read may still be written by someone who pauses: it is
left until it has not moved for much longer, and only then quarantined. What was taken is in the
ledger, in a submission that stays open; the same command again goes on with it, and takes no file
twice.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from producer.walk import Found

#: What those who copy call a file that is not whole yet.
_UNFINISHED = (b".part", b".partial", b".tmp", b".temp", b".filepart", b".crdownload", b".download")

#: How much longer than a readable file one that cannot be read is waited for.
PATIENCE = 60


class Look(NamedTuple):
    """How a file looked: bytes, and when it was changed, ns (0 where nobody tells)."""

    size_bytes: int
    changed_ns: int


@dataclass(slots=True)
class Settling:
    """Which files have not moved for how long. ``clock`` counts seconds."""

    settle_s: float
    clock: Callable[[], float] = time.monotonic
    _since: dict[bytes, tuple[Look, float]] = field(default_factory=dict)
    _given_up_on: dict[bytes, Look] = field(default_factory=dict)

    def settled(self, found: Iterable[Found]) -> Iterator[tuple[Found, bool]]:
        """Yield files that can be taken, and whether their time of grace is over as well.

        ``found`` is all that is there and was not taken.
        """
        now_s = self.clock()
        seen = {}
        for file in found:
            look = None if file.path.endswith(_UNFINISHED) else look_at(file)
            if look is None:
                continue
            before, since_s = self._since.get(file.path, (look, now_s))
            seen[file.path] = (look, since_s if before == look else now_s)
            still_s = now_s - seen[file.path][1]
            if still_s < self.settle_s:
                continue
            is_over = still_s >= PATIENCE * self.settle_s
            # What could not be read is not read again while it looks as it did.
            if self._given_up_on.get(file.path) != look or is_over:
                yield file, is_over
        self._since = seen
        # Of what went away nothing is kept: a folder is watched for years.
        for path in self._given_up_on.keys() - seen.keys():
            del self._given_up_on[path]

    def put_off(self, path: bytes) -> None:
        """Leave a file that cannot be read until it has changed, or its time of grace is over."""
        self._given_up_on[path] = self._since[path][0]

    def forget(self, path: bytes) -> None:
        """Let go of a file that was taken."""
        self._since.pop(path, None)
        self._given_up_on.pop(path, None)

    @property
    def waiting(self) -> int:
        """How many files are there and not taken."""
        return len(self._since)


def look_at(file: Found) -> Look | None:
    """Return how a file looks now, or None where it is gone."""
    if file.key is not None:
        return Look(file.size_bytes or 0, 0)
    try:
        now = os.stat(file.path)
    except OSError:
        return None
    return Look(now.st_size, now.st_mtime_ns)
