"""What the benchmarks stand on: private servers, an empty ledger, made-up calls, workers."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from uuid import uuid4

import redis
from celery import Celery
from sqlalchemy import text

from ops.local.bootstrap import ROOT
from ops.local.bootstrap import environment as base_environment
from ops.local.process import Child, ProcessError, family
from ops.local.servers import PostgresServer, RedisServer, redis_client_url
from producer.submit.enqueue import celery_app
from schema.migrate import migrate_ledger
from schema.profile import PROFILES, Profile
from schema.publish import Publisher
from schema.records import AudioFormat, CallInfo, Location, NewRecording, PlannedSegment
from schema.settings import Settings
from schema.span import Span
from schema.store.intake import submissions
from schema.store.intake.submissions import OpenSubmission
from schema.store.ledger import Ledger
from schema.tables import Base
from schema.wire import Dispatch

#: As many as ``producer submit`` commits at a time.
BATCH = 100
_SEGMENT_MS = 300_000
_RATE_HZ = 8_000
_POLL_S = 0.05
_READY_TIMEOUT_S = 90.0
#: To fill a ledger takes longer than any statement of a fleet.
_ANSWER_S = 3_600


@dataclass
class Bed:
    """A running Postgres and Redis with an empty ledger, used by nobody else."""

    directory: Path
    postgres: PostgresServer
    redis: RedisServer
    settings: Settings
    ledger: Ledger
    celery: Celery
    publisher: Publisher
    environment: dict[str, str] = field(default_factory=dict)

    def child(self, name: str, command: Sequence[str], own: Mapping[str, str] = {}) -> Child:
        """Return a program that is told where the servers are, ready to start."""
        log = self.directory / "logs" / f"{name}.log"
        environment = {**self.environment, **own}
        # Killed, not asked: a worker that is asked waits for a segment to end.
        return Child(
            name, command, log, environment=environment, directory=ROOT, on_our_death=signal.SIGKILL
        )

    def wait_for_workers(self, workers: Sequence[Child]) -> None:
        """Wait until each worker, named as its process, answers."""
        expected = {worker.name for worker in workers}

        def all_answer() -> bool:
            for worker in workers:
                if not worker.running:
                    raise ProcessError(worker.describe_end())
            replies = self.celery.control.ping(timeout=1.0)
            return expected <= {node.partition("@")[0] for reply in replies for node in reply}

        wait_until(all_answer, _READY_TIMEOUT_S)

    def empty(self) -> None:
        """Empty the ledger and Redis."""
        tables = ", ".join(table.name for table in Base.metadata.sorted_tables)
        self.ledger.transact(lambda c: c.execute(text(f"truncate {tables}")))
        with redis.Redis.from_url(redis_client_url(self.redis.url)) as client:
            client.flushall()

    def fill(
        self,
        recordings: int,
        *,
        segments: int = 1,
        to: OpenSubmission | None = None,
        room: int = 1 << 30,
    ) -> list[Dispatch]:
        """Add made-up recordings; return the messages of up to ``room`` segments, not yet sent."""
        target = to or new_submission(self.ledger)
        dispatches: list[Dispatch] = []
        for batch in batches(calls(recordings, segments)):
            left = max(0, room - len(dispatches))
            dispatches += self.add(target, batch, left)
        return dispatches

    def add(self, to: OpenSubmission, batch: Sequence[NewRecording], room: int) -> list[Dispatch]:
        """Add one batch, in a transaction."""
        added = self.ledger.transact(
            lambda c: submissions.add_recordings(c, to, batch, capacity=room)
        )
        return added.dispatches


@contextmanager
def open_bed(**settings: str) -> Iterator[Bed]:
    """Start servers that write to disk as in production; ``settings`` are ours, in lower case."""
    # Asked to end, we clean up.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with (
        tempfile.TemporaryDirectory(prefix="callscribe-bench-") as scratch,
        PostgresServer(Path(scratch) / "postgres") as postgres,
        RedisServer(Path(scratch) / "redis") as broker,
    ):
        directory = Path(scratch)
        (directory / "calls").mkdir()
        ours = {
            "database_url": postgres.url,
            "redis_url": broker.url,
            "roots": f"calls={directory / 'calls'}",
            "spool": str(directory / "spool"),
            **settings,
        }
        environment = {f"CALLSCRIBE_{name.upper()}": value for name, value in ours.items()}
        kept = {k: v for k, v in base_environment().items() if not k.startswith(("PG", "CALLSC"))}
        read = Settings.model_validate(ours)
        ledger = Ledger.open(read, answer_s=_ANSWER_S)
        migrate_ledger(ledger.engine)
        app = celery_app(read)
        try:
            yield Bed(
                directory,
                postgres,
                broker,
                read,
                ledger,
                app,
                Publisher(app),
                {**kept, **environment},
            )
        finally:
            app.close()
            ledger.close()


def new_submission(ledger: Ledger, profile: Profile = PROFILES["call"]) -> OpenSubmission:
    """Open a submission that no other is."""
    return ledger.transact(
        lambda c: submissions.open_submission(c, uuid4().hex, "benchmark", profile, force=False)
    )


def calls(recordings: int, segments: int = 1) -> Iterator[NewRecording]:
    """Yield made-up mono calls of ``segments`` segments each, no two with the same samples."""
    run = uuid4().hex
    for number in range(recordings):
        location = Location("calls", f"{run}/call-{number:08}.wav".encode())
        yield NewRecording(
            source=location,
            audio=location,
            format=AudioFormat("WAV", "PCM_16", _RATE_HZ, 1, segments * _SEGMENT_MS * 8),
            duration_ms=segments * _SEGMENT_MS,
            size_bytes=segments * _SEGMENT_MS * 16,
            content_digest=_digest(run, number),
            call=CallInfo(call_id=f"{number:08}", agent="Ann", attributes={"team": "north"}),
            flags=(),
            segments=tuple(
                PlannedSegment(0, index, _span(index), _digest(run, number, index))
                for index in range(segments)
            ),
        )


def _span(index: int) -> Span:
    return Span(index * _SEGMENT_MS, (index + 1) * _SEGMENT_MS)


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def batches(items: Iterator[NewRecording]) -> Iterator[list[NewRecording]]:
    """Yield recordings as many at a time as a submit commits."""
    while batch := list(islice(items, BATCH)):
        yield batch


def wait_until(condition: Callable[[], bool], timeout_s: float) -> None:
    """Poll until a condition holds.

    Raises:
        ProcessError: it did not in time.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise ProcessError(f"what was waited for did not come in {timeout_s:.0f} s")
        time.sleep(_POLL_S)


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the processor time that processes and all that came of them have used so far."""
    ticks = 0
    for member in set().union(*map(family, pids)):
        with suppress(OSError):  # it has just ended
            fields = Path(f"/proc/{member}/stat").read_text("utf-8", "replace").rpartition(")")[2]
            ticks += sum(map(int, fields.split()[11:15]))  # own, and of children that ended
    return ticks / os.sysconf("SC_CLK_TCK")


def tree_bytes(pid: int) -> int:
    """Return the resident memory of a process and all that came of it; shared pages count twice."""
    total = 0
    for member in family(pid):
        with suppress(OSError):  # it has just ended
            pages = Path(f"/proc/{member}/statm").read_text().split()[1]
            total += int(pages) * os.sysconf("SC_PAGE_SIZE")
    return total
