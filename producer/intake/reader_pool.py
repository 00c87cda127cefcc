"""Work done by child processes on input that may kill them: a child that dies costs one job.

Decoders are written in C and recordings are untrusted. Each child is a fresh interpreter with a
bounded address space. It is handed a few jobs at a time and answers each as it is done, so that
when it dies or hangs the culprit is known; the jobs behind it are done again by another child.

A child is no ``multiprocessing`` process: those import the parent's main module again, and share
its terminal's Ctrl-C. It ends when its end of a socket closes, whatever became of its parent.
"""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import Connection, wait
from typing import Generic, TypeVar

from schema.errors import ErrorCode, Misconfigured

Job = TypeVar("Job")
Result = TypeVar("Result")

#: Jobs handed to a child at once: enough that a pipe's round trip costs nothing per job, and few
#: enough that little is done again after a death.
_CHUNK = 16
#: What a child may map beyond what its interpreter and libraries do.
_MEMORY_BYTES = 4 * 1024**3
#: Importing numpy from a cold network disk takes seconds; more than this is a broken host.
_START_S = 120.0

_SERVE = "import sys; from producer.intake.reader_pool import serve; serve(int(sys.argv[1]))"


@dataclass(frozen=True, slots=True)
class Died(Generic[Job]):
    """A job that a child did not survive, and how that ended, as a clause."""

    job: Job
    cause: str


@dataclass(slots=True, eq=False)
class _Child(Generic[Job]):
    """A child process, the jobs it still has, and until when the first of them may take."""

    process: subprocess.Popen[bytes]
    connection: Connection
    jobs: deque[Job] = field(default_factory=deque)
    started: bool = False
    deadline: float = 0.0


def run(
    work: Callable[[Job], Result],
    jobs: Iterable[Job],
    limit_s: Callable[[Job], float],
    children: int | None = None,
    tick_s: float = float("inf"),
) -> Iterator[Result | Died[Job] | None]:
    """Yield what ``work`` returns for each job, in order of completion.

    None is yielded whenever nothing was done for ``tick_s`` seconds, so that whoever iterates can
    do something else meanwhile.

    ``work``, a picklable callable, runs in up to ``children`` processes, one per core unless
    given. A job that takes longer than ``limit_s`` of it, in seconds, is given up. Jobs are taken
    from their iterator as children become free, and no child outlives the iteration.

    Raises:
        Exception: what ``work`` raised; the rest of the jobs is abandoned.
    """
    crew = _Crew(work, limit_s, children or len(os.sched_getaffinity(0)))
    try:
        yield from crew.results(iter(jobs), tick_s)
    finally:
        crew.dismiss()


def serve(handle: int) -> None:
    """Be a child: answer jobs on the socket ``handle`` until it closes."""
    connection = Connection(handle)
    work = connection.recv()
    _limit_memory()
    connection.send(None)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            for job in connection.recv():
                connection.send(_attempt(work, job))


def _attempt(work: Callable[[Job], Result], job: Job) -> tuple[Result | None, Exception | None]:
    try:
        return work(job), None
    except Exception as error:  # it is raised again, by the parent
        return None, error


def _limit_memory() -> None:
    """Let a decoder that a file tricks into allocating fail, instead of the host."""
    with open("/proc/self/statm", "rb") as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    most = mapped + _MEMORY_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class _Crew(Generic[Job, Result]):
    """The parent's side."""

    def __init__(
        self, work: Callable[[Job], Result], limit_s: Callable[[Job], float], most: int
    ) -> None:
        self._work = work
        self._limit_s = limit_s
        self._most = most
        self._children: list[_Child[Job]] = []
        #: What dead children left undone.
        self._left: deque[list[Job]] = deque()

    def results(self, jobs: Iterator[Job], tick_s: float) -> Iterator[Result | Died[Job] | None]:
        """Yield every job's result; children are hired as there is work for them."""
        while True:
            self._hand_out(jobs)
            busy = [child for child in self._children if child.jobs]
            if not busy:
                return
            timeout_s = max(0.0, min(child.deadline for child in busy) - time.monotonic())
            ready = set(wait([child.connection for child in busy], min(timeout_s, tick_s)))
            if not ready and tick_s < timeout_s:
                yield None
            for child in busy:
                if child.connection in ready:
                    yield from self._answer(child)
                # An answer may have come while whoever iterates was busy with another's.
                elif time.monotonic() > child.deadline and not child.connection.poll():
                    yield self._bury(child, "it took too long")

    def dismiss(self) -> None:
        """End every child, at once, and wait until it is gone."""
        for child in self._children:
            _end(child)
        self._children.clear()

    def _hand_out(self, jobs: Iterator[Job]) -> None:
        """Give each idle child a chunk, hiring more while there is work."""
        while True:
            child = next((child for child in self._children if not child.jobs), None)
            if child is None and len(self._children) >= self._most:
                return
            chunk = self._left.popleft() if self._left else list(islice(jobs, _CHUNK))
            if not chunk:
                return
            if child is None:
                child = self._hire()
            child.jobs.extend(chunk)
            self._set_deadline(child)
            # A child that died while idle is noticed when its answer is awaited.
            with suppress(BrokenPipeError, ConnectionResetError):
                child.connection.send(chunk)

    def _hire(self) -> _Child[Job]:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", _SERVE, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # Decoders write warnings, into the middle of an operator's progress bar.
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                # Ctrl-C is the parent's to handle.
                process_group=0,
            )
        child: _Child[Job] = _Child(process, Connection(ours.detach()))
        self._children.append(child)
        with suppress(BrokenPipeError, ConnectionResetError):
            child.connection.send(self._work)
        return child

    def _set_deadline(self, child: _Child[Job]) -> None:
        if child.jobs:
            limit_s = self._limit_s(child.jobs[0]) + (0.0 if child.started else _START_S)
            child.deadline = time.monotonic() + limit_s

    def _answer(self, child: _Child[Job]) -> Iterator[Result | Died[Job]]:
        try:
            answer = child.connection.recv()
        except (EOFError, OSError):
            yield self._bury(child, _ending(child.process))
            return
        if answer is None:
            child.started = True
        else:
            result, error = answer
            if error is not None:
                raise error
            child.jobs.popleft()
            yield result
        self._set_deadline(child)

    def _bury(self, child: _Child[Job], cause: str) -> Died[Job]:
        """Remove a child that died or hangs; what it had not begun is left for others."""
        self._children.remove(child)
        _end(child)
        if not child.started:
            raise Misconfigured(
                ErrorCode.AUDIO_READER_DIED,
                "the process that reads recordings",
                f"it cannot start: {cause}",
                f"Try: {sys.executable} -c 'import producer.intake.examine'",
            )
        culprit, *rest = child.jobs
        if rest:
            self._left.append(rest)
        return Died(culprit, cause)


def _end(child: _Child[Job]) -> None:
    child.connection.close()
    child.process.kill()
    child.process.wait()


def _ending(process: subprocess.Popen[bytes]) -> str:
    """Say how a child ended; it closed its socket, so it has."""
    status = process.wait()
    if status < 0:
        return f"its reader was killed by signal {-status}"
    return f"its reader exited with status {status}"
