"""Two ledgers and one Redis: whose namespace it is, is kept, met and named."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from ops.local.servers import PostgresServer, RedisServer
from producer.cli import doctor
from producer.cli.doctor import CheckResult, CheckVerdict
from producer.submit.enqueue import celery_app
from schema.errors import ErrorCode, Misconfigured
from schema.migrate import migrate_ledger
from schema.namespace import KEY_LIFETIME_S, Namespace, SharedFlag
from schema.settings import Settings
from schema.store.connection import create_ledger_engine
from schema.store.identity import LedgerIdentity, read_identity
from schema.store.ledger import Ledger
from schema.wire import KEY_TYPES
from tests.integration.command import Producer

KEY = "callscribe:ledger"


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.client_url, decode_responses=True) as client:
        client.flushall()
        yield client
        client.flushall()


@pytest.fixture(scope="module")
def neighbour(postgres_server: PostgresServer) -> Iterator[Ledger]:
    """Another database of the same cluster."""
    url = postgres_server.create_database("neighbour")
    ledger = Ledger(create_ledger_engine(url))
    migrate_ledger(ledger.engine)
    yield ledger
    ledger.close()
    postgres_server.drop_database("neighbour")


@pytest.fixture
def lives(redis_server: RedisServer, client: redis.Redis) -> Iterator[Callable[..., Namespace]]:
    """What a process sees whose ledger this is, and whose Redis the test's, or none."""
    apps = []

    def make(ledger: Ledger, *, owned_flag: SharedFlag | None = None, **changes: Any) -> Namespace:
        told = {"database_url": "postgresql://", "redis_url": redis_server.url, **changes}
        settings = Settings(**told)
        apps.append(celery_app(settings))
        return Namespace(apps[-1], ledger, settings, owned_flag=owned_flag)

    yield make
    for app in apps:
        app.close()


def identity_of(ledger: Ledger) -> LedgerIdentity:
    with ledger.connect() as connection:
        return read_identity(connection)


def refused(look: Callable[[], None]) -> Misconfigured:
    with pytest.raises(Misconfigured) as caught:
        look()
    assert caught.value.code is ErrorCode.NAMESPACE_TAKEN
    return caught.value


def test_a_database_and_its_neighbour_in_one_cluster_are_two_ledgers(
    ledger: Ledger, neighbour: Ledger
):
    here, there = identity_of(ledger), identity_of(neighbour)
    assert here.cluster == there.cluster
    assert here.database != there.database
    assert identity_of(ledger) == here


def test_a_sweep_keeps_its_namespace_for_two_minutes(client: redis.Redis, ledger: Ledger, lives):
    namespace = lives(ledger)

    namespace.keep()

    assert client.keys() == [KEY]
    assert client.get(KEY) == str(identity_of(ledger))
    assert KEY_LIFETIME_S == 120
    assert 0 < client.pttl(KEY) <= KEY_LIFETIME_S * 1000
    client.pexpire(KEY, 1_000)
    namespace.keep()
    assert client.pttl(KEY) > 1_000


def test_another_ledgers_sweep_and_whoever_looks_are_refused_and_told_how_long_to_wait(
    client: redis.Redis, ledger: Ledger, neighbour: Ledger, lives
):
    lives(ledger).keep()
    client.pexpire(KEY, 97_500)
    second = lives(neighbour)

    for look in (second.check, second.keep):
        message = str(refused(look))
        assert "namespace callscribe" in message
        assert "CALLSCRIBE_NAMESPACE" in message
        assert "wait 98 s" in message or "wait 97 s" in message
    assert client.get(KEY) == str(identity_of(ledger))
    assert client.pttl(KEY) <= 97_500
    lives(ledger).check()


def test_a_key_that_expired_is_the_next_ones(
    client: redis.Redis, ledger: Ledger, neighbour: Ledger, lives
):
    lives(ledger).keep()
    client.delete(KEY)

    lives(neighbour).check()
    lives(neighbour).keep()

    refused(lives(ledger).check)


def test_fleets_of_two_namespaces_live_beside_each_other(
    client: redis.Redis, ledger: Ledger, neighbour: Ledger, lives
):
    lives(ledger).keep()
    other = lives(neighbour, namespace="night")

    other.check()
    other.keep()

    assert set(client.keys()) == {KEY, "night:ledger"}
    lives(ledger).check()


@pytest.mark.parametrize(
    ("written", "lasts_ms"),
    [
        ("1:2", None),
        ("1:2", 3_600_000),
        ("hush", 60_000),
        ("1:2:3", 60_000),
        ("-1:2", 60_000),
        (f"{'9' * 40}:2", 60_000),
        ("", 60_000),
    ],
)
def test_what_no_sweep_wrote_stops_nobody_and_is_replaced(
    client: redis.Redis, ledger: Ledger, lives, written: str, lasts_ms: int | None
):
    client.set(KEY, written, px=lasts_ms)

    lives(ledger).check()
    lives(ledger).keep()

    assert client.get(KEY) == str(identity_of(ledger))


def test_a_key_of_another_type_stops_nobody_and_is_replaced(
    client: redis.Redis, ledger: Ledger, lives
):
    client.lpush(KEY, "1:2")
    lives(ledger).check()
    lives(ledger).keep()
    assert client.get(KEY) == str(identity_of(ledger))


@pytest.mark.parametrize("kind", ["string", "list", "set", "hash", "zset", "stream"])
def test_a_sweep_deletes_what_is_of_another_type_than_ours_and_leaves_the_rest(
    client: redis.Redis, ledger: Ledger, lives, kind: str
):
    write = {
        "string": lambda key: client.set(key, "x"),
        "list": lambda key: client.rpush(key, "x"),
        "set": lambda key: client.sadd(key, "x"),
        "hash": lambda key: client.hset(key, "x", "y"),
        "zset": lambda key: client.zadd(key, {"x": 1.0}),
        "stream": lambda key: client.xadd(key, {"x": "y"}),
    }[kind]
    for key in (*KEY_TYPES, "another's"):
        write(f"callscribe:{key}")

    lives(ledger).keep()

    left = {key.removeprefix("callscribe:") for key in client.scan_iter()}
    # A string that never expires is none of ours: a mutex would be kept for ever.
    same = {key for key, of in KEY_TYPES.items() if of == kind and of != "string"}
    assert left == {*same, "another's", "ledger"}


def test_a_key_that_somebody_wrote_over_ends_nobody_who_was_there_and_is_taken_back(
    client: redis.Redis, ledger: Ledger, lives
):
    sweep, worker = lives(ledger), lives(ledger)
    sweep.keep()
    worker.check()
    client.set(KEY, "1:1", px=110_000)

    worker.check()
    refused(lives(ledger).check)
    sweep.keep()

    assert client.get(KEY) == str(identity_of(ledger))
    lives(ledger).check()


def test_a_child_knows_what_its_predecessor_met(client: redis.Redis, ledger: Ledger, lives):
    flag = SimpleNamespace(value=False)
    lives(ledger).keep()
    lives(ledger, owned_flag=flag).check()
    client.set(KEY, "1:1", px=110_000)

    lives(ledger, owned_flag=flag).check()

    assert flag.value


def test_of_sweeps_that_begin_at_once_one_ledgers_have_it(
    client: redis.Redis, ledger: Ledger, neighbour: Ledger, lives
):
    """Ten of each, at one moment: whoever was refused is of the other ledger, all ten of it."""
    sweeps = [(each, lives(each)) for each in (ledger, neighbour) * 5]
    begin = threading.Barrier(len(sweeps))
    refusals: list[str] = []

    def keep(of: Ledger, namespace: Namespace) -> None:
        namespace.identity()
        begin.wait()
        try:
            namespace.keep()
        except Misconfigured:
            refusals.append(str(identity_of(of)))

    threads = [threading.Thread(target=keep, args=each) for each in sweeps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(refusals) == 5
    assert set(refusals) == {str(identity_of(ledger)), str(identity_of(neighbour))} - {
        client.get(KEY)
    }


def test_a_redis_or_a_ledger_that_is_away_stops_nobody(client: redis.Redis, ledger: Ledger, lives):
    lives(ledger, redis_url="redis://127.0.0.1:1/0").check()
    lives(ledger, redis_url="redis://127.0.0.1:1/0").keep()
    away = Ledger(create_ledger_engine("postgresql://127.0.0.1:1/none"), retry_for_s=0.1)
    client.set(KEY, "1:2", px=60_000)

    lives(away).check()
    lives(away).keep()

    assert client.get(KEY) == "1:2"


def test_a_sweep_goes_on_keeping_while_the_ledger_is_away(
    client: redis.Redis, ledger: Ledger, lives, monkeypatch: pytest.MonkeyPatch
):
    namespace = lives(ledger)
    namespace.keep()
    client.pexpire(KEY, 1_000)
    away = Ledger(create_ledger_engine("postgresql://127.0.0.1:1/none"), retry_for_s=0.1)
    monkeypatch.setattr(namespace, "_ledger", away)

    namespace.keep()

    assert client.pttl(KEY) > 1_000


def test_a_watch_ends_when_another_ledgers_sweep_is_met(
    client: redis.Redis, ledger: Ledger, neighbour: Ledger, lives
):
    """Of one that began before anybody kept the namespace."""
    namespace = lives(ledger, sweep_s=1)
    stop = threading.Event()
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            lives(neighbour).keep()
        namespace.check()

    assert namespace.watch(stop, look)
    assert looks == 2
    stop.set()
    assert not namespace.watch(stop, look)


@pytest.fixture
def at_redis(producer: Producer, redis_server: RedisServer, client, monkeypatch) -> Producer:
    monkeypatch.setenv("CALLSCRIBE_REDIS_URL", redis_server.url)
    return producer


def test_a_submit_hands_nothing_in_where_another_ledgers_fleet_lives(
    at_redis: Producer, client: redis.Redis, ledger: Ledger, neighbour: Ledger, lives, tmp_path
):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    submit = ("submit", str(tmp_path / "a.wav"))
    lives(neighbour).keep()

    for options in ((), ("--watch",)):
        ran = at_redis(*submit, *options)
        assert ran.code == 6
        assert "namespace.taken" in ran.err
        assert "CALLSCRIBE_NAMESPACE" in ran.err
    assert at_redis("status").code == 4  # there is no submission
    assert client.keys() == [KEY]

    client.delete(KEY)
    lives(ledger).keep()
    assert "namespace.taken" not in at_redis(*submit).err


def examined(app: Any, settings: Settings, ledger: Ledger) -> dict[str, CheckResult]:
    return {each.check: each for each in doctor.examine_host(settings, ledger, app)}


def test_the_doctor_says_whose_namespace_it_is(
    redis_server: RedisServer, client: redis.Redis, ledger: Ledger, neighbour: Ledger, lives
):
    settings = Settings(database_url="postgresql://", redis_url=redis_server.url)
    with celery_app(settings) as app:
        nobodys = examined(app, settings, ledger)["namespace"]
        lives(ledger).keep()
        ours = examined(app, settings, ledger)["namespace"]
        theirs = examined(app, settings, neighbour)
        away = Ledger(create_ledger_engine("postgresql://127.0.0.1:1/none"), retry_for_s=0.1)
        unknown = examined(app, settings, away)["namespace"]

    assert (nobodys.verdict, nobodys.detail) == (
        CheckVerdict.OK,
        "callscribe, in which no sweep runs now",
    )
    assert (ours.verdict, ours.detail) == (
        CheckVerdict.OK,
        "callscribe, used by this ledger's sweep",
    )
    assert theirs["namespace"].verdict is CheckVerdict.FAIL
    assert "CALLSCRIBE_NAMESPACE" in theirs["namespace"].remedy
    assert "another fleet's" in theirs["workers"].detail
    assert unknown.verdict is CheckVerdict.WARN
