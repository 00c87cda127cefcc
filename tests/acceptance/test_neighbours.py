"""Two fleets on one Redis and database number: named by mistake, and apart on purpose."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
import soundfile
from sqlalchemy import text

from ops.chaos.oracle import broken
from ops.local.process import Child
from ops.local.servers import PostgresServer, RedisServer
from ops.local.stack import ROOT, producer_command, reducer_command, worker_command
from producer.submit.enqueue import celery_app
from schema.migrate import migrate_ledger
from schema.settings import Settings
from schema.store.connection import create_ledger_engine
from schema.store.ledger import Ledger
from schema.wire import SEGMENTS_QUEUE, key_prefix, queue_keys
from tests.acceptance.conftest import FAST_RECOVERY, wait_for

#: The module of a worker without models.
NULL = "tests.acceptance.nullworker"

#: How ``producer`` and workers end where their host is told wrongly.
MISCONFIGURED = 6


class Fleet:
    """A ledger of its own, and workers without models, on a Redis that others use as well."""

    def __init__(self, directory: Path, name: str, database_url: str, broker: RedisServer) -> None:
        self.name = name
        self.directory = directory / name
        self.calls = self.directory / "calls"
        self.calls.mkdir(parents=True)
        self.ledger = Ledger(create_ledger_engine(database_url))
        migrate_ledger(self.ledger.engine)
        self.environment = {
            "CALLSCRIBE_DATABASE_URL": database_url,
            "CALLSCRIBE_REDIS_URL": broker.url,
            "CALLSCRIBE_ROOTS": f"calls={self.calls}",
            "CALLSCRIBE_SHUTDOWN_S": "1",
            **FAST_RECOVERY,
        }

    def worker(self, name: str, **told: str) -> Child:
        """Return a worker that decodes, not started yet."""
        return self._child(name, worker_command(name, NULL), told)

    def reducer(self, name: str, **told: str) -> Child:
        """Return a worker that stitches and sweeps, not started yet."""
        return self._child(name, reducer_command(name, NULL), told)

    def _child(self, name: str, command: list[str], told: dict[str, str]) -> Child:
        log = self.directory / f"{name}.log"
        return Child(name, command, log, environment={**self.environment, **told}, directory=ROOT)

    def record(self, count: int) -> Path:
        """Make so many calls of a second each, unlike all others; return their directory."""
        batch = self.calls / str(sum(1 for _ in self.calls.iterdir()))
        batch.mkdir()
        noise = np.random.default_rng(int.from_bytes(os.urandom(8))).integers
        for index in range(count):
            samples = noise(-8_000, 8_000, 8_000).astype(np.int16)
            soundfile.write(batch / f"{index}.wav", samples, 8_000)
        return batch

    def producer(self, *arguments: str, **told: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            producer_command(*arguments),
            env={**os.environ, **self.environment, **told},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def submit(self, count: int, **told: str) -> None:
        done = self.producer("submit", str(self.record(count)), **told)
        assert done.returncode == 0, done.stderr

    def scalar(self, query: str) -> Any:
        return self.ledger.transact(lambda c: c.scalar(text(query)))

    def done(self) -> int:
        return int(self.scalar("select count(*) from recordings where state = 'done'"))

    def is_whole(self, recordings: int) -> None:
        """Check that so many recordings came to their one transcript, and nothing else is there."""
        wait_for(lambda: self.done() == recordings, timeout_s=120)
        assert self.scalar("select count(*) from recordings") == recordings
        assert self.scalar("select count(*) from transcripts") == recordings
        assert self.scalar("select count(*) from segments where state <> 'done'") == 0
        assert self.scalar("select coalesce(sum(strikes), 0) from segments") == 0
        assert broken(self.ledger) == {}

    def logged(self, event: str) -> int:
        needle = f'"event": "{event}"'
        return sum(log.read_text().count(needle) for log in self.directory.glob("*.log"))


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.client_url) as client:
        client.flushall()
        yield client
        client.flushall()


@pytest.fixture
def make_fleet(
    postgres_server: PostgresServer, redis_server: RedisServer, client: redis.Redis, tmp_path: Path
) -> Iterator[Callable[[str], Fleet]]:
    """Make a fleet with a database of its name."""
    with ExitStack() as fleets:

        def make(name: str) -> Fleet:
            url = postgres_server.create_database(name)
            fleets.callback(postgres_server.drop_database, name)
            fleet = Fleet(tmp_path, name, url, redis_server)
            fleets.callback(fleet.ledger.close)
            return fleet

        yield make


def kept(client: redis.Redis, namespace: str = "callscribe") -> bool:
    return bool(client.exists(key_prefix(namespace) + "ledger"))


#: What Celery and kombu have in Redis, some of it for a moment; but for ids, and with a sign for
#: the lists of other priorities. All but the last are those of releases before namespaces.
KEYS = {
    "HOST.celery.pidbox",
    "ID.reply.celery.pidbox",
    "_kombu.binding.celery.pidbox",
    "_kombu.binding.reply.celery.pidbox",
    "_kombu.binding.segments",
    "_kombu.binding_deadlines",
    "_kombu.binding_permanent.celery.pidbox",
    "_kombu.binding_permanent.reply.celery.pidbox",
    "_kombu.binding_permanent.segments",
    "reduce",
    "reduce-later",
    "segments",
    "segments-later",
    "unacked",
    "unacked_index",
    "unacked_mutex",
    "ledger",
}
#: Those that are there all the time.
STANDING = {"_kombu.binding.celery.pidbox", "_kombu.binding.segments", "ledger"}


def names_in(client: redis.Redis, prefix: str) -> set[str]:
    """Return the keys that are there, but for ids, and with what is before every name."""
    names = set()
    for key in client.scan_iter(count=1_000):
        name = re.sub(r"\x06\x16\d$", "-later", key.decode().removeprefix(prefix))
        name = re.sub(r"^.*@.*(?=\.celery\.pidbox)", "HOST", name)
        names.add(re.sub(r"^[0-9a-f-]{36}(?=\.)", "ID", name))
    return names


@pytest.mark.parametrize("namespace", ["callscribe", "night"])
def test_all_keys_are_in_the_namespace_and_otherwise_those_of_earlier_releases(
    make_fleet: Callable[[str], Fleet], client: redis.Redis, namespace: str
):
    fleet = make_fleet("first")
    fleet.environment["CALLSCRIBE_NAMESPACE"] = namespace
    found: set[str] = set()

    def seen() -> set[str]:
        found.update(names_in(client, key_prefix(namespace)))
        return found

    with fleet.worker("asr0"), fleet.reducer("reducer"):
        wait_for(lambda: kept(client, namespace))
        fleet.submit(20)
        wait_for(lambda: seen() and fleet.done() == 20)

    assert found - KEYS == set()
    assert found >= STANDING


def test_a_second_fleet_by_mistake_is_named_and_the_first_loses_nothing(
    make_fleet: Callable[[str], Fleet], client: redis.Redis
):
    first, second = make_fleet("first"), make_fleet("second")
    with first.worker("asr0"), first.reducer("reducer"):
        wait_for(lambda: kept(client))
        first.submit(20)
        for child in (second.worker("asr0"), second.reducer("reducer")):
            with child:
                assert child.wait(60)
                assert child.exit_code == MISCONFIGURED
                assert "namespace.taken" in child.output()
                assert "CALLSCRIBE_NAMESPACE" in child.output()
        sweep = second._child("sweep", [*worker_command("sweep", NULL)[:3], "sweep"], {})
        with sweep:
            assert sweep.wait(60)
            assert sweep.exit_code == MISCONFIGURED
        refused = second.producer("submit", str(second.record(1)))
        found = json.loads(second.producer("doctor", "--json").stdout)
        first.submit(5)
        first.is_whole(25)

    assert refused.returncode == MISCONFIGURED
    assert "CALLSCRIBE_NAMESPACE" in refused.stderr
    assert second.scalar("select count(*) from submissions") == 0
    (namespace,) = (each for each in found if each["check"] == "namespace")
    assert namespace["verdict"] == "fail"
    assert first.logged("namespace_taken") == 0


def test_a_fleet_that_began_unseen_leaves_when_it_meets_the_other(
    make_fleet: Callable[[str], Fleet], client: redis.Redis
):
    """The second one's worker runs before anybody keeps the namespace, and takes messages."""
    first, second = make_fleet("first"), make_fleet("second")
    eater = second.worker("asr0")
    with eater:
        wait_for(client.pubsub_numpat)  # its parent listens to commands
        first.submit(10)
        wait_for(lambda: second.logged("segment_not_claimed") == 10)
        with first.worker("asr0"), first.reducer("reducer"):
            assert eater.wait(60)
            first.is_whole(10)

    assert second.logged("namespace_taken") == 1
    assert first.logged("namespace_taken") == 0


def events_seen(redis_url: str, ledger: Ledger) -> set[str]:
    """Return the kinds of events that Flower would be shown within some seconds."""
    database_url = ledger.engine.url.render_as_string(hide_password=False)
    seen: set[str] = set()
    settings = Settings(database_url=database_url, redis_url=redis_url)
    with celery_app(settings) as app, app.connection_for_read() as connection:
        handlers = {"*": lambda event: seen.add(event["type"])}
        for _ in app.events.Receiver(connection, handlers).itercapture(limit=3, timeout=20):
            pass
    return seen


def test_a_fleet_does_all_with_the_rights_that_the_page_gives_it(
    make_fleet: Callable[[str], Fleet], tmp_path: Path
):
    page = (ROOT / "ops" / "docs" / "operate" / "security.md").read_text()
    (line,) = re.findall(r"ACL SETUSER callscribe ([^`]*)```", page)
    rights = [word.replace(">PASSWORD", ">hush") for word in line.split()]
    fleet = make_fleet("first")
    with (
        RedisServer(tmp_path / "redis", tcp=True) as server,
        redis.Redis.from_url(server.client_url) as admin,
    ):
        admin.execute_command("ACL", "SETUSER", "callscribe", *rights)
        url = re.sub("//[^@]*@", "//callscribe:hush@", server.url)
        fleet.environment["CALLSCRIBE_REDIS_URL"] = url
        with fleet.worker("asr0") as worker, fleet.reducer("reducer"):
            wait_for(lambda: kept(admin))
            fleet.submit(10)
            fleet.is_whole(10)
            told = json.loads(fleet.producer("doctor", "--json").stdout)
            watched = events_seen(url, fleet.ledger)
            users = {each["user"] for each in admin.client_list()}
            worker.stop()
        refused = admin.acl_log()

    checks = {each["check"]: each for each in told}
    assert "callscribe" in users
    # redis-py introduces itself by what Redis 6 does not know, and goes on without.
    assert [each["object"] for each in refused if each["object"] != "client"] == []
    assert "worker-heartbeat" in watched
    assert checks["redis"]["verdict"] != "fail"
    assert checks["workers"]["detail"].count("asr0@") == 1
    for log in fleet.directory.glob("*.log"):
        assert "NOPERM" not in log.read_text()
        assert "no permissions" not in log.read_text()


def test_two_fleets_on_purpose_transcribe_each_its_own(
    make_fleet: Callable[[str], Fleet], client: redis.Redis
):
    first, second = make_fleet("first"), make_fleet("second")
    night = {"CALLSCRIBE_NAMESPACE": "night"}
    second.environment.update(night)
    with (
        first.worker("asr0"),
        first.reducer("reducer"),
        second.worker("asr0"),
        second.reducer("reducer"),
    ):
        wait_for(lambda: kept(client) and kept(client, "night"))
        first.submit(20)
        second.submit(15)
        first.is_whole(20)
        second.is_whole(15)
        told = {
            fleet.name: {each["check"]: each for each in json.loads(done.stdout)}
            for fleet in (first, second)
            for done in [fleet.producer("doctor", "--json")]
        }

    assert told["first"]["namespace"]["detail"].startswith("callscribe, used by this ledger")
    assert told["second"]["namespace"]["detail"].startswith("night, used by this ledger")
    assert all(each["workers"]["detail"].count("asr0@") == 1 for each in told.values())
    for fleet in (first, second):
        assert fleet.logged("segment_not_claimed") == 0
        assert fleet.logged("reduce_not_claimed") == 0


def test_a_namespace_that_is_changed_part_by_part_loses_and_doubles_nothing(
    make_fleet: Callable[[str], Fleet], client: redis.Redis
):
    """Reducers, then workers, then producers; what lies in the old lists is sent again."""
    fleet = make_fleet("first")
    night = {"CALLSCRIBE_NAMESPACE": "night"}
    with fleet.reducer("old-reducer") as old_reducer, fleet.worker("old") as old:
        wait_for(lambda: kept(client))
        fleet.submit(60)
        wait_for(lambda: fleet.done() >= 1)
        old_reducer.stop()
        with fleet.reducer("new-reducer", **night):
            wait_for(lambda: kept(client, "night"))
            old.stop()
            # Of a producer that nobody has told yet: nobody is there to take these.
            fleet.submit(20)
            left = sum(client.llen(key_prefix() + key) for key in queue_keys(SEGMENTS_QUEUE))
            with fleet.worker("new", **night):
                fleet.submit(10, **night)
                fleet.is_whole(90)

    assert left >= 20
    assert fleet.scalar("select max(attempts) from segments") == 1
    assert fleet.logged("namespace_taken") == 0
