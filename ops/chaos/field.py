"""A whole fleet to be hurt: what it is told, what is done to it, and what it made of it.

Workers obey orders (:mod:`ops.chaos.worker`), so that a fault hits a decode and not the moment
after it. The first worker's clock is right and it takes one message at a time; the second one's is
a day ahead throughout, since times are the server's and no host's, and it reads ahead.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar
from uuid import UUID, uuid4

import redis
from celery import Celery
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from ops.chaos.disk import SmallDisk
from ops.chaos.network import Network
from ops.local.process import Child, children_of
from ops.local.stack import Part, Stack, producer_command
from producer.intake.examine import Job, examine
from schema.profile import load_profile
from schema.publish import Publisher
from schema.settings import Settings
from schema.store.connection import create_ledger_engine
from schema.store.dispatches import segment_dispatch
from schema.store.intake import submissions
from schema.store.ledger import Ledger
from schema.store.read import recordings
from schema.store.read.progress import read_progress
from schema.store.read.transcripts import read_transcript
from schema.wire import BROKER_SETTINGS, SEGMENTS_QUEUE, Dispatch, key_prefix, queue_keys

#: Short, so that a dead worker's segments come back soon; long enough for a busy machine.
LEASE_S = 6
_SWEEP_S = 1
_DAY_S = 24 * 3600

#: Short segments, so that a minute of speech makes many, with seams between them.
PROFILE = """
name = "short segments"
[plan]
segment_s = 14
overlap_s = 3
search_s = 5
min_tail_s = 5
[decode]
model = "whisper-tiny.en"
language = "en"
[render]
speakers = ["agent", "customer"]
"""

#: A recording's words: (speaker, text, start_ms, end_ms) of each.
Words = list[tuple[str, str, int, int]]

_POLL_S = 0.05

T = TypeVar("T")


def wait_for(condition: Callable[[], T], timeout_s: float = 90.0, what: str = "it") -> T:
    """Poll until a condition holds; return what it returned.

    Raises:
        TimeoutError: it did not come true.
    """
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come true in {timeout_s:.0f} s")
        time.sleep(_POLL_S)
    return value


class Field:
    """A fleet of obedient workers with servers of its own, and recordings to transcribe."""

    def __init__(
        self,
        directory: Path,
        *,
        models: Path,
        workers: int = 2,
        profile: str = PROFILE,
        network: Network | None = None,
        own: Callable[[str], Mapping[str, str]] = lambda _: {},
        flower: bool = False,
        metrics: bool = False,
        together: int = 1,
        pooled: bool = False,
    ) -> None:
        """Prepare a fleet in a directory; ``own`` gives a worker's own variables by its name.

        Each worker decodes so many segments ``together``. ``pooled``: behind pgbouncer.
        """
        self.network = network
        self.disk = _small_disk(directory / "state" / "postgres")
        self.calls = directory / "calls"
        self.calls.mkdir(parents=True)
        self.profile = directory / "profile.toml"
        self.profile.write_text(profile)
        self.orders = directory / "orders"
        self.orders.mkdir()
        self.stack = Stack(
            directory / "state",
            models=models,
            roots={"calls": self.calls},
            workers=workers,
            durable=False,
            worker_module="ops.chaos.worker",
            flower=flower,
            metrics=metrics,
            listen=_listeners(network),
            pooled=pooled,
            tell=lambda _: None,
        )
        for index in range(workers):
            name = f"asr{index}"
            odd = {
                "CALLSCRIBE_NODE": name,
                "CHAOS_CLOCK_S": str(index * _DAY_S),
                "CALLSCRIBE_READ_AHEAD": str(index % 2),
            }
            self.stack.parts[name] = self._part(name, network, {**odd, **own(name)})
        self.stack.environment.update(
            CALLSCRIBE_LEASE_S=str(LEASE_S),
            CALLSCRIBE_SWEEP_S=str(_SWEEP_S),
            CALLSCRIBE_SHUTDOWN_S="2",
            CALLSCRIBE_TOGETHER=str(together),
            CHAOS_ORDERS=str(self.orders),
        )
        self.ledger = Ledger(create_ledger_engine(self.stack.postgres.url))
        self._submitting: subprocess.Popen[str] | None = None
        self.celery = Celery(broker=self.stack.redis.url, set_as_current=False)
        self.celery.conf.update(BROKER_SETTINGS)

    def _part(self, name: str, network: Network | None, own: dict[str, str]) -> Part:
        """Return what a worker has of its own, perhaps a host."""
        if network is None:
            return Part(own)
        postgres, redis = (network.address(name, service) for service in ("postgres", "redis"))
        servers = {
            "CALLSCRIBE_DATABASE_URL": self.stack.postgres.url_at(postgres),
            "CALLSCRIBE_REDIS_URL": self.stack.redis.url_at(redis),
        }
        return Part(own | servers, network.prefix(name))

    def __enter__(self) -> Self:
        self.stack.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.heal()
        self.celery.close()
        self.ledger.close()
        self.stack.stop()
        if self.disk is not None:
            self.disk.unmount()

    # What it is told.

    def producer(self, *arguments: str) -> subprocess.Popen[str]:
        """Start ``producer ... --json``."""
        return subprocess.Popen(
            [*producer_command(*arguments), "--json"],
            env=self.stack.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def submit(self, *options: str, directory: Path | None = None) -> UUID:
        """Submit all recordings, to be decoded whatever is known; return the submission.

        Raises:
            RuntimeError: the producer failed; the message says what it said.
        """
        command = self.submit_command(*options, directory=directory)
        with self.producer(*command) as producer:
            self._submitting = producer
            out, err = producer.communicate(timeout=240)
        if producer.returncode not in (0, 3):
            raise RuntimeError(f"producer ended with {producer.returncode}: {err}")
        return UUID(json.loads(out)["submission"])

    def plan(self, *names: str) -> UUID:
        """Put recordings in the ledger as a producer would, and send no message for them."""
        settings = Settings(
            database_url=self.stack.environment["CALLSCRIBE_DATABASE_URL"],
            redis_url=self.stack.environment["CALLSCRIBE_REDIS_URL"],
            roots=self.stack.environment["CALLSCRIBE_ROOTS"],
        )
        profile = load_profile(str(self.profile))
        jobs = [Job(os.fsencode(self.calls / name)) for name in names]
        found = [examine(job, settings, profile) for job in jobs]

        def add(connection: Connection) -> UUID:
            opened = submissions.open_submission(
                connection, str(uuid4()), "calls", profile, force=True
            )
            submissions.add_recordings(connection, opened, found, capacity=0)
            submissions.seal_submission(connection, opened.id)
            return opened.id

        return self.ledger.transact(add)

    def dispatches(self, submission: UUID | None = None) -> list[Dispatch]:
        """Return the latest message of every segment once more, or of a submission's."""
        query = text(
            "select s.*, r.submission_id from segments s join recordings r on r.id = s.recording_id"
            " where coalesce(r.submission_id = :submission, true)"
        )
        chosen = {"submission": submission}
        rows = self.ledger.transact(lambda c: c.execute(query, chosen).mappings().all())
        return [segment_dispatch(row) for row in rows]

    def submit_hasty(self, *names: str) -> UUID:
        """Submit recordings whose decodes may last no longer than 20 s, until one was killed.

        Usual limits are as long as models take to load. The ledger must hold no other recordings.
        """
        limit = self.order("limit", "20")
        submission = self.plan(*names)
        self.publisher.publish(self.dispatches(submission))
        wait_for(lambda: self.scalar("select sum(strikes) from segments") == 1, what="the kill")
        limit.unlink()
        return submission

    def forget(self) -> None:
        """Empty the ledger and Redis."""
        self.ledger.transact(lambda c: c.execute(text("truncate submissions cascade")))
        with self.redis as client:
            client.flushall()

    def kill_producer(self) -> None:
        """Kill the submit that is under way, if any."""
        if self._submitting is not None:
            self._submitting.kill()

    def submit_command(self, *options: str, directory: Path | None = None) -> list[str]:
        """Return the arguments of such a submit."""
        where = str(directory or self.calls)
        return ["submit", where, "--profile", str(self.profile), "--force", *options]

    def order(self, name: str, says: str = "") -> Path:
        """Put an order for the workers in place; remove the file to withdraw it."""
        path = self.orders / name
        path.write_text(says)
        return path

    @contextmanager
    def held(self, *names: str) -> Iterator[None]:
        """Let no decode of these workers, or of any, begin its work while this lasts."""
        orders = [self.order(f"hold.{name}") for name in names] or [self.order("hold")]
        try:
            yield
        finally:
            for order in orders:
                order.unlink(missing_ok=True)

    def fail_over(self) -> None:
        """Kill Postgres; its standby takes over."""
        self.stack.fail_over()
        self.ledger.close()
        self.ledger = Ledger(create_ledger_engine(self.stack.postgres.url))

    # What is asked of it.

    def scalar(self, query: str, **parameters: Any) -> Any:
        """Return the one value of a query."""
        return self.ledger.transact(lambda c: c.scalar(text(query), parameters))

    def leases(self) -> dict[UUID, str]:
        """Return the owner of each leased segment."""
        query = text("select id, lease_owner from segments where state = 'leased'")
        rows = self.ledger.transact(lambda c: c.execute(query).all())
        return {row.id: row.lease_owner for row in rows}

    def wait_until_all_decode(self) -> dict[UUID, str]:
        """Wait until every worker has a segment; return the leases."""
        workers = len(self.workers)

        def leases_of_all() -> dict[UUID, str]:
            leases = self.leases()
            # By owner: one of them may hold two, while the child of the other is still starting.
            return leases if len(set(leases.values())) == workers else {}

        return wait_for(leases_of_all, what="a decode by every worker")

    def is_finished(self, submission: UUID) -> bool:
        """Tell whether nothing more will happen to a submission."""
        return self.ledger.transact(lambda c: read_progress(c, submission)).is_finished

    def wait(self, submission: UUID, timeout_s: float = 180.0) -> None:
        """Wait until a submission is finished."""
        wait_for(lambda: self.is_finished(submission), timeout_s, "the submission's end")

    def words(self, submission: UUID) -> dict[str, Words]:
        """Return the words of each recording of a submission, by file name."""
        return self.ledger.transact(lambda c: dict(_words(c, submission)))

    # Who is there to be hurt.

    @property
    def workers(self) -> list[Child]:
        """The parents that decode."""
        return [child for child in self.stack.fleet if child.name.startswith("asr")]

    @property
    def reducer(self) -> Child:
        """The parent that stitches and sweeps."""
        return next(child for child in self.stack.fleet if child.name == "reducer")

    def child_of(self, worker: Child) -> int:
        """Return the process that works for a parent, and not the one that reads ahead for it."""
        return max(wait_for(lambda: children_of(worker.pid), what="a child"))

    def logged(self, event: str) -> int:
        """Return how often an event is in the logs of all parts."""
        needle = f'"event": "{event}"'
        return sum(log.read_text(errors="replace").count(needle) for log in self._logs())

    def _logs(self) -> Iterator[Path]:
        return self.stack.logs.glob("*.log")

    @property
    def redis(self) -> redis.Redis:
        """A new connection to Redis."""
        return redis.Redis.from_url(self.stack.redis.client_url, socket_timeout=5)

    @property
    def publisher(self) -> Publisher:
        """A way to send messages of our own."""
        return Publisher(self.celery)

    def queue_length(self) -> int:
        """Return how many segment messages wait in Redis."""
        with self.redis as client:
            return sum(client.llen(key_prefix() + key) for key in queue_keys(SEGMENTS_QUEUE))

    # What is done to it.

    def kill_child(self, worker: Child) -> int:
        """Kill the process that works for a parent; return its id."""
        pid = self.child_of(worker)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return pid

    def kill(self, worker: Child) -> None:
        """Kill a parent and its child at one stroke, as when their host is lost."""
        worker.kill_tree(signal.SIGKILL)
        worker.wait(10)

    def lose_redis_data(self) -> None:
        """Restart Redis without anything that it had written down."""
        server = self.stack.redis
        server.stop(immediate=True)
        for leftover in server.directory.glob("appendonly*"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        server.start()

    def configure_redis(self, **settings: str) -> None:
        """Change settings of the running Redis."""
        with self.redis as client:
            for name, value in settings.items():
                client.config_set(name.replace("_", "-"), value)

    @contextmanager
    def locked(self, table: str) -> Iterator[None]:
        """Hold a lock that nobody's transaction on a table gets past; ours may be lost."""
        connection = self.ledger.engine.connect()
        connection.execute(text(f"lock table {table} in access exclusive mode"))
        try:
            yield
        finally:
            with suppress(DBAPIError):
                connection.close()

    def blocked(self) -> int:
        """Return how many sessions wait for a lock."""
        query = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
        return int(self.scalar(query))

    def heal(self) -> None:
        """Withdraw every order, undo what was done, and start again what has died."""
        for order in self.orders.iterdir():
            order.unlink(missing_ok=True)
        if self.disk is not None:
            self.disk.free()
        if self.network is not None:
            self.network.mend()
        for server in (self.stack.postgres, self.stack.redis):
            server.thaw()
            if not server.running:
                server.start()
        self.configure_redis(maxmemory="0")
        for child in self.stack.fleet:
            child.kill_tree(signal.SIGCONT)
            if not child.running:
                child.start()


def _small_disk(directory: Path) -> SmallDisk | None:
    """Give Postgres a disk that can be filled, where that may be done."""
    try:
        return SmallDisk(directory)
    except OSError:
        return None


def _listeners(network: Network | None) -> dict[str, list[str]]:
    if network is None:
        return {}
    return {service: network.addresses(service) for service in ("postgres", "redis")}


def _words(connection: Any, submission: UUID) -> Iterator[tuple[str, Words]]:
    for recording in recordings.list_recordings(connection, submission):
        transcript = read_transcript(connection, recording)
        if transcript is not None:
            yield (
                Path(recording.name).name,
                [
                    (utterance.speaker, word.text, word.start_ms, word.end_ms)
                    for utterance in transcript.utterances
                    for word in utterance.words
                ],
            )
