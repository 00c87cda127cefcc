"""Servers that are not the Redis that was meant, and users who may not do what they must."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from ops.local.binaries import find_redis
from ops.local.process import Child
from ops.local.servers import RedisServer
from ops.local.sockets import free_port
from producer.cli.doctor import CheckVerdict, _redis
from producer.submit.enqueue import celery_app
from schema.publish import Publisher
from schema.settings import Settings
from schema.wire import SEGMENTS_QUEUE, TRANSCRIBE_SEGMENT, Dispatch, Message
from tests.conftest import wait_for_port

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("broker"), tcp=True) as server:
        yield server


def settings_of(url: str) -> Settings:
    return Settings(database_url="postgresql://", redis_url=url)


def examined(url: str) -> tuple[CheckVerdict, str]:
    """Return what the doctor and what a submit say of a server."""
    settings = settings_of(url)
    with celery_app(settings) as app:
        # A person waits for a server that may come back; this does not.
        app.conf.broker_transport_options |= {"max_retries": 1, "interval_start": 0}
        finding = _redis(app, settings)
        publisher = Publisher(app)
        publisher.queue_lengths()
        publisher.publish([DISPATCH])
    submitted = " ".join(publisher.failure or ())
    return finding.verdict, f"{finding.detail} {finding.remedy} | {submitted}"


DISPATCH = Dispatch(
    TRANSCRIBE_SEGMENT,
    SEGMENTS_QUEUE,
    Message.from_kwargs({"v": 1, "id": "0" * 32, "token": "0" * 32}),
    "recording",
    60,
    90,
)


def login(server: RedisServer, login: str) -> str:
    return re.sub(r"redis://[^@]*@", f"redis://{login}@", server.url)


@pytest.fixture
def admin(server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.client_url) as client:
        yield client
        client.config_set("maxmemory", "0")


def documented_user() -> list[str]:
    """Return the words of the ACL line that ops/docs/operate/security.md has."""
    text = (ROOT / "ops" / "docs" / "operate" / "security.md").read_text()
    (line,) = re.findall(r"ACL SETUSER callscribe ([^`]*)```", text)
    return [word.replace(">PASSWORD", ">hush") for word in line.split()]


def test_the_documented_user_may_do_all_that_a_producer_does(
    server: RedisServer, admin: redis.Redis
):
    admin.execute_command("ACL", "SETUSER", "callscribe", *documented_user())

    verdict, said = examined(login(server, "callscribe:hush"))

    assert verdict is not CheckVerdict.FAIL, said
    assert said.endswith("| ")


@pytest.mark.parametrize("refused", ["FLUSHALL", "CONFIG GET maxmemory", "KEYS *", "SHUTDOWN"])
def test_and_nothing_that_ends_a_server_or_looks_into_others_keys(
    server: RedisServer, admin: redis.Redis, refused: str
):
    admin.execute_command("ACL", "SETUSER", "callscribe", *documented_user())
    url = login(server, "callscribe:hush")

    with redis.Redis.from_url(url) as client:
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command(*refused.split())
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.get("another's")


def test_a_missing_right_is_named(server: RedisServer, admin: redis.Redis):
    admin.execute_command(
        *("ACL", "SETUSER", "few", "reset", "on", ">hush", "~callscribe:*", "&*", "+@connection"),
        *("+@transaction", "+info", "+llen"),
    )
    _, said = examined(login(server, "few:hush"))
    assert "no right to sadd" in said
    admin.execute_command("ACL", "SETUSER", "few", "-llen")
    verdict, said = examined(login(server, "few:hush"))
    assert verdict is CheckVerdict.FAIL
    assert said.startswith("this user has no right to llen")


@pytest.mark.parametrize(
    ("lacking", "named"),
    [
        ("-time", "to time"),
        ("-psubscribe", "to psubscribe"),
        ("resetchannels", "a channel"),
        ("-eval", "to eval"),
    ],
)
def test_a_right_that_workers_alone_need_is_named_by_the_doctor(
    server: RedisServer, admin: redis.Redis, lacking: str, named: str
):
    admin.execute_command("ACL", "SETUSER", "callscribe", *documented_user(), lacking)

    verdict, said = examined(login(server, "callscribe:hush"))

    assert verdict is CheckVerdict.FAIL
    assert named in said


def test_a_wrong_password_a_missing_database_and_a_full_memory_are_named(
    server: RedisServer, admin: redis.Redis
):
    assert "refuses the password" in examined(login(server, ":wrong"))[1]
    assert "database of that number" in examined(server.url.replace("/0", "/99"))[1]
    admin.config_set("maxmemory", "1")
    assert "memory is full" in examined(server.url)[1]


def test_a_replica_is_named(server: RedisServer, admin: redis.Redis):
    admin.replicaof("127.0.0.1", free_port())
    try:
        verdict, said = examined(server.url)
    finally:
        admin.replicaof("NO", "ONE")

    assert verdict is CheckVerdict.FAIL
    assert said.startswith("it is a replica")
    assert "Name the primary" in said.partition("|")[2]


@pytest.mark.parametrize(
    ("options", "cause"),
    [(["--cluster-enabled", "yes"], "Cluster"), (["--sentinel"], "Sentinel")],
    ids=["cluster", "sentinel"],
)
def test_a_cluster_and_a_sentinel_are_named(tmp_path: Path, options: list[str], cause: str):
    # A cluster listens 10,000 above as well.
    port = next(port for port in iter(free_port, None) if port < 55_000)
    configuration = tmp_path / "redis.conf"
    configuration.write_text(f"port {port}\ndir {tmp_path}\nbind 127.0.0.1\n")
    with Child("redis", [find_redis(), str(configuration), *options], tmp_path / "log"):
        wait_for_port(port)
        verdict, said = examined(f"redis://127.0.0.1:{port}/0")

    assert verdict is CheckVerdict.FAIL
    assert cause in said.partition("|")[0]
    assert said.partition("|")[2].strip()


def test_what_is_no_redis_and_where_nobody_listens_are_named(postgres_tcp: int):
    assert "no Redis" in examined(f"redis://127.0.0.1:{postgres_tcp}/0")[1]
    _, said = examined(f"redis://127.0.0.1:{free_port()}/0")
    assert said.count("nobody listens") == 2


@pytest.fixture
def postgres_tcp() -> Iterator[int]:
    """A server that speaks another language: it answers each line as HTTP does."""
    import socket
    import threading

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer:
                    peer.recv(1_024)
                    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        yield listener.getsockname()[1]
