"""The private servers: what they keep, what they refuse, and that nothing of them is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
import redis
from celery import Celery

from ops.local.process import Busy, ServerError, at_home_in
from ops.local.servers import PostgresServer, RedisServer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def postgres(tmp_path):
    with PostgresServer(tmp_path / "postgres", durable=False) as server:
        yield server


@pytest.fixture
def redis_tcp(tmp_path):
    with RedisServer(tmp_path / "redis", tcp=True) as server:
        yield server


def execute(url, statement):
    with psycopg.connect(url, connect_timeout=5, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else None


def redis_call(url, *command):
    with redis.Redis.from_url(url, socket_timeout=5, decode_responses=True) as client:
        return client.execute_command(*command)


def test_postgres_listens_on_no_network(postgres):
    assert execute(postgres.url, "SHOW listen_addresses") == [("",)]


def test_postgres_socket_can_be_entered_by_nobody_else(postgres):
    host = execute(postgres.url, "SHOW unix_socket_directories")[0][0].strip('"')

    assert os.stat(host).st_mode & 0o077 == 0


@pytest.mark.parametrize("immediate", [False, True])
def test_postgres_keeps_its_data_and_address_over_a_restart(postgres, immediate):
    url = postgres.url
    execute(url, "CREATE TABLE kept AS SELECT 1 AS one")

    postgres.restart(immediate=immediate)

    assert postgres.url == url
    assert execute(url, "SELECT one FROM kept") == [(1,)]


def test_postgres_killed_outright_recovers(postgres):
    execute(postgres.url, "CREATE TABLE kept AS SELECT 1 AS one")

    postgres.kill()
    postgres.start()

    assert execute(postgres.url, "SELECT one FROM kept") == [(1,)]


def test_postgres_starts_although_its_old_process_id_is_a_strangers(postgres):
    postgres.kill()
    pid_file = postgres.directory / "data" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]))

        postgres.start()

        assert execute(postgres.url, "SELECT 1") == [(1,)]
        stranger.kill()


def test_frozen_postgres_answers_nobody_and_goes_on_when_thawed(postgres):
    with psycopg.connect(postgres.url) as connection:
        postgres.freeze()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(postgres.url, connect_timeout=2)
        postgres.thaw()

        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_frozen_postgres_can_be_stopped(postgres):
    postgres.freeze()
    postgres.stop()

    assert not postgres.running
    assert not at_home_in(postgres.directory / "data")


def test_databases_come_and_go(postgres):
    url = postgres.create_database("one")
    execute(url, "CREATE TABLE kept ()")
    postgres.drop_database("one")

    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        execute(url, "SELECT 1")


@pytest.mark.parametrize("kind", [PostgresServer, RedisServer])
def test_a_directory_has_one_server_at_a_time(tmp_path, kind):
    with kind(tmp_path) as server:
        with pytest.raises(Busy, match=str(os.getpid())):
            kind(tmp_path).start()
        kind(tmp_path).stop()

        assert server.running
        assert server._ping()


@pytest.mark.parametrize("kind", [PostgresServer, RedisServer])
def test_stopping_leaves_no_process_and_no_socket(tmp_path, kind):
    with kind(tmp_path) as server:
        pid = server.pid

    assert not Path(f"/proc/{pid}").exists()
    assert not list(tmp_path.rglob("*sock*")) + list(tmp_path.rglob(".s.PGSQL*"))


def test_data_of_another_version_is_refused(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "PG_VERSION").write_text("9\n")

    with pytest.raises(ServerError, match="made by Postgres 9"):
        PostgresServer(tmp_path)


def test_a_server_that_cannot_start_shows_its_log(postgres):
    postgres.stop()
    hba = postgres.directory / "data" / "pg_hba.conf"
    hba.write_text("nonsense\n")

    with pytest.raises(ServerError, match=r"(?s)pg_hba\.conf.*could not load"):
        postgres.start()


def test_a_long_directory_name_still_gives_a_socket(tmp_path):
    deep = tmp_path / ("long" * 30)

    with RedisServer(deep) as server:
        assert redis_call(server.client_url, "PING") is True


def test_redis_keeps_its_queue_when_killed(tmp_path):
    with RedisServer(tmp_path) as server:
        redis_call(server.client_url, "LPUSH", "queue", "message")
        time.sleep(1.5)  # it writes to disk every second

        server.kill()
        server.start()

        assert redis_call(server.client_url, "LLEN", "queue") == 1


def test_redis_never_evicts(redis_server):
    policy = redis_call(redis_server.client_url, "CONFIG", "GET", "maxmemory-policy")

    assert policy["maxmemory-policy"] == "noeviction"


def test_redis_listens_on_no_network(redis_server):
    assert redis_call(redis_server.client_url, "CONFIG", "GET", "port")["port"] == "0"
    socket = redis_call(redis_server.client_url, "CONFIG", "GET", "unixsocket")["unixsocket"]
    assert os.stat(Path(socket).parent).st_mode & 0o077 == 0


def test_redis_over_tcp_listens_on_this_machine_alone(redis_tcp):
    assert redis_call(redis_tcp.client_url, "CONFIG", "GET", "bind")["bind"] == "127.0.0.1"


def test_the_password_of_redis_is_for_its_owner_alone(redis_tcp):
    configuration = redis_tcp.directory / "redis.conf"

    assert "requirepass" in configuration.read_text()
    assert os.stat(configuration).st_mode & 0o077 == 0


def test_redis_over_tcp_wants_its_password(redis_tcp):
    assert redis_call(redis_tcp.client_url, "PING") is True
    without = redis_tcp.url.partition("@")[2]
    with pytest.raises(redis.AuthenticationError):
        redis_call(f"redis://{without}", "PING")


@pytest.mark.parametrize("tcp", [False, True])
def test_celery_reads_the_url_as_redis_py_does(tmp_path, tcp):
    with RedisServer(tmp_path, tcp=tcp) as server, Celery(broker=server.url) as app:
        app.send_task("anything", queue="segments")
        app.close()

        assert redis_call(server.client_url, "LLEN", "segments") == 1


SUPERVISOR = """
import sys, time
from pathlib import Path
from ops.local.servers import PostgresServer, RedisServer
state = Path(sys.argv[1])
with PostgresServer(state / "postgres", durable=False) as one, RedisServer(state / "redis") as two:
    print(one.pid, two.pid, flush=True)
    time.sleep(60)
"""


def test_servers_end_when_whoever_started_them_is_killed_outright(tmp_path):
    command = [sys.executable, "-c", SUPERVISOR, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as supervisor:
        pids = [int(pid) for pid in supervisor.stdout.readline().split()]
        supervisor.send_signal(signal.SIGKILL)

    deadline = time.monotonic() + 15
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "a server outlived its supervisor"
        time.sleep(0.05)
    with PostgresServer(tmp_path / "postgres", durable=False) as server:
        assert execute(server.url, "SELECT 1") == [(1,)]
