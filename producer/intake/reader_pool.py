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

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")

#: Jobs handed to a child at once: enough that a pipe's round trip costs nothing per job, and few
#: enough that little is done again after a death.
_CHUNK_JOBS = 16
#: What a child may map beyond what its interpreter and libraries do.
_MEMORY_BYTES = 4 * 1024**3
#: Importing numpy from a cold network disk takes seconds; more than this is a broken host.
_START_S = 120.0

_CHILD_CODE = "import sys, producer.intake.reader_pool as pool; pool.run_child(int(sys.argv[1]))"


class Tick:
    """Nothing was done for a while: whoever iterates can do something else."""


@dataclass(frozen=True, slots=True)
class ReaderDied(Generic[JobT]):
    """A job that a child did not survive, and how that ended, as a clause."""

    job: JobT
    cause: str


@dataclass(slots=True, eq=False)
class _Child(Generic[JobT]):
    """A child process, the jobs it still has, and until when the first of them may take."""

    process: subprocess.Popen[bytes]
    connection: Connection
    jobs: deque[JobT] = field(default_factory=deque)
    is_started: bool = False
    deadline_s: float = 0.0


def run_jobs(
    work: Callable[[JobT], ResultT],
    jobs: Iterable[JobT],
    limit_s: Callable[[JobT], float],
    max_children: int | None = None,
    tick_s: float = float("inf"),
) -> Iterator[ResultT | ReaderDied[JobT] | Tick]:
    """Yield what ``work`` returns for each job, in order of completion.

    A :class:`Tick` is yielded whenever nothing was done for ``tick_s`` seconds.

    ``work``, a picklable callable, runs in up to ``max_children`` processes, one per core unless
    given. A job that takes longer than ``limit_s`` of it, in seconds, is given up. Jobs are taken
    from their iterator as children become free, and no child outlives the iteration.

    Raises:
        Exception: what ``work`` raised; the rest of the jobs is abandoned.
    """
    pool = _ReaderPool(work, limit_s, max_children or len(os.sched_getaffinity(0)))
    try:
        yield from pool.results(iter(jobs), tick_s)
    finally:
        pool.close()


def run_child(handle: int) -> None:
    """Be a child: answer jobs on the socket ``handle`` until it closes."""
    connection = Connection(handle)
    work = connection.recv()
    _limit_memory()
    connection.send(None)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            for job in connection.recv():
                connection.send(_run_job(work, job))


def _run_job(work: Callable[[JobT], ResultT], job: JobT) -> tuple[ResultT | None, Exception | None]:
    try:
        return work(job), None
    except Exception as error:  # it is raised again, by the parent
        return None, error


def _limit_memory() -> None:
    """Let a decoder that a file tricks into allocating fail, instead of the host."""
    with open("/proc/self/statm", "rb") as file:
        mapped_bytes = int(file.read().split()[0]) * resource.getpagesize()
    limit_bytes = mapped_bytes + _MEMORY_BYTES
    _, hard_limit = resource.getrlimit(resource.RLIMIT_AS)
    if hard_limit != resource.RLIM_INFINITY:
        limit_bytes = min(limit_bytes, hard_limit)
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, hard_limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class _ReaderPool(Generic[JobT, ResultT]):
    """The parent's side."""

    def __init__(
        self, work: Callable[[JobT], ResultT], limit_s: Callable[[JobT], float], max_children: int
    ) -> None:
        self._work = work
        self._limit_s = limit_s
        self._max_children = max_children
        self._children: list[_Child[JobT]] = []
        #: What dead children left undone.
        self._retries: deque[list[JobT]] = deque()

    def results(
        self, jobs: Iterator[JobT], tick_s: float
    ) -> Iterator[ResultT | ReaderDied[JobT] | Tick]:
        """Yield every job's result; children are started as there is work for them."""
        while True:
            self._assign_jobs(jobs)
            busy = [child for child in self._children if child.jobs]
            if not busy:
                return
            timeout_s = max(0.0, min(child.deadline_s for child in busy) - time.monotonic())
            ready_connections = wait([child.connection for child in busy], min(timeout_s, tick_s))
            if not ready_connections and tick_s < timeout_s:
                yield Tick()
            for child in busy:
                if child.connection in ready_connections:
                    yield from self._receive(child)
                # An answer may have come while whoever iterates was busy with another's.
                elif time.monotonic() > child.deadline_s and not child.connection.poll():
                    yield self._discard_child(child, "it took too long")

    def close(self) -> None:
        """End every child, at once, and wait until it is gone."""
        for child in self._children:
            _kill(child)
        self._children.clear()

    def _assign_jobs(self, jobs: Iterator[JobT]) -> None:
        """Give each idle child a chunk, starting more while there is work."""
        while True:
            child = next((child for child in self._children if not child.jobs), None)
            if child is None and len(self._children) >= self._max_children:
                return
            chunk = self._retries.popleft() if self._retries else list(islice(jobs, _CHUNK_JOBS))
            if not chunk:
                return
            if child is None:
                child = self._start_child()
            child.jobs.extend(chunk)
            self._set_deadline(child)
            # A child that died while idle is noticed when its answer is awaited.
            with suppress(BrokenPipeError, ConnectionResetError):
                child.connection.send(chunk)

    def _start_child(self) -> _Child[JobT]:
        parent_socket, child_socket = socket.socketpair()
        with child_socket:
            process = subprocess.Popen(
                [sys.executable, "-c", _CHILD_CODE, str(child_socket.fileno())],
                pass_fds=[child_socket.fileno()],
                stdin=subprocess.DEVNULL,
                # Decoders write warnings, into the middle of an operator's progress bar.
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                # Ctrl-C is the parent's to handle.
                process_group=0,
            )
        child: _Child[JobT] = _Child(process, Connection(parent_socket.detach()))
        self._children.append(child)
        with suppress(BrokenPipeError, ConnectionResetError):
            child.connection.send(self._work)
        return child

    def _set_deadline(self, child: _Child[JobT]) -> None:
        if child.jobs:
            limit_s = self._limit_s(child.jobs[0]) + (0.0 if child.is_started else _START_S)
            child.deadline_s = time.monotonic() + limit_s

    def _receive(self, child: _Child[JobT]) -> Iterator[ResultT | ReaderDied[JobT]]:
        try:
            answer = child.connection.recv()
        except (EOFError, OSError):
            yield self._discard_child(child, _exit_cause(child.process))
            return
        if answer is None:
            child.is_started = True
        else:
            result, error = answer
            if error is not None:
                raise error
            child.jobs.popleft()
            yield result
        self._set_deadline(child)

    def _discard_child(self, child: _Child[JobT], cause: str) -> ReaderDied[JobT]:
        """Remove a child that died or hangs; what it had not begun is left for others."""
        self._children.remove(child)
        _kill(child)
        if not child.is_started:
            raise Misconfigured(
                ErrorCode.AUDIO_READER_DIED,
                "the process that reads recordings",
                f"it cannot start: {cause}",
                f"Try: {sys.executable} -c 'import producer.intake.examine'",
            )
        culprit, *unfinished_jobs = child.jobs
        if unfinished_jobs:
            self._retries.append(unfinished_jobs)
        return ReaderDied(culprit, cause)


def _kill(child: _Child[JobT]) -> None:
    child.connection.close()
    child.process.kill()
    child.process.wait()


def _exit_cause(process: subprocess.Popen[bytes]) -> str:
    """Say how a child ended; it closed its socket, so it has."""
    status = process.wait()
    if status < 0:
        return f"its reader was killed by signal {-status}"
    return f"its reader exited with status {status}"
