"""What a worker notes of its tasks while it is measured, and how fast that was."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple


class Ran(NamedTuple):
    """When a task began and ended, by the monotonic clock, which all processes share."""

    begun_s: float
    ended_s: float


class Times:
    """A file that gets a line a task."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def add(self, begun_s: float, ended_s: float) -> None:
        """Note one task."""
        os.write(self._file, f"{begun_s:.6f} {ended_s:.6f}\n".encode())


def parse_times(lines: str) -> list[Ran]:
    """Return what was noted."""
    return [Ran(*map(float, line.split())) for line in lines.splitlines()]


def steady(ran: Sequence[Ran], since_s: float) -> tuple[float, list[float]]:
    """Return the rate of the tasks that ended after a moment, and their durations in seconds.

    Raises:
        ValueError: too few of them did to tell.
    """
    late = [task for task in ran if task.ended_s > since_s]
    if len(late) < 2:
        raise ValueError("all was done before the last message was sent: ask for more tasks")
    passed_s = max(task.ended_s for task in late) - min(task.ended_s for task in late)
    return (len(late) - 1) / passed_s, [task.ended_s - task.begun_s for task in late]
