"""A fleet behind passwords, with and without TLS: it works, and no password is ever said."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import numpy as np
import psycopg
import pytest
import soundfile
from sqlalchemy import make_url

from ops.local.process import Child
from ops.local.servers import RedisServer
from ops.local.stack import ROOT, Stack, producer_command, worker_command
from producer.cli.doctor import CheckVerdict
from producer.cli.exit_codes import ExitCode
from producer.submit.enqueue import celery_app
from schema.roles import Role
from schema.settings import Settings
from tests.acceptance.conftest import FAST_RECOVERY, wait_for
from tests.acceptance.nullworker import WORD
from tests.tlsproxy import TlsProxy

LOGINS = {Role.WORKER: "app_worker", Role.PRODUCER: "app_producer"}


class GuardedStack(Stack):
    """A stack whose servers want passwords, and whose logins have the least rights.

    ``passwords`` are all that may never be read anywhere.
    """

    def __init__(self, directory: Path, *, tls: bool) -> None:
        self.calls = directory / "calls"
        self.calls.mkdir()
        super().__init__(
            directory / "state",
            models=directory / "models",
            roots={"calls": self.calls},
            workers=1,
            durable=False,
            worker_module="tests.acceptance.nullworker",
            tell=lambda _: None,
        )
        self.redis = RedisServer(self.state / "redis", tcp=True, log=self.logs / "redis.log")
        redis = urlsplit(self.redis.url)
        self.proxy = TlsProxy(directory, redis.port) if tls else None
        self._redis_password = redis.password
        self._logins = {
            name: secrets.token_urlsafe(24) for name in ("callscribe", *LOGINS.values())
        }
        self.passwords = {*self._logins.values(), self._redis_password}
        self.environment |= {**FAST_RECOVERY, "FLOWER_UNAUTHENTICATED_API": "true"}

    def redis_url(self, **changes: Any) -> str:
        """Return what clients are told, or the same with another password or host."""
        password = changes.get("password", self._redis_password)
        if self.proxy is None:
            host = changes.get("host", f"127.0.0.1:{urlsplit(self.redis.url).port}")
            return f"redis://:{password}@{host}/0"
        host = changes.get("host", f"127.0.0.1:{self.proxy.port}")
        return f"rediss://:{password}@{host}/0?ssl_ca_certs={self.proxy.ca}"

    def database_url(self, login: str, **changes: Any) -> str:
        url = make_url(self.postgres.url).set(username=login, password=self._logins[login])
        return url.set(**changes).render_as_string(hide_password=False)

    def _start(self) -> None:
        self.environment["CALLSCRIBE_REDIS_URL"] = self.redis_url()
        super()._start()

    def _migrate(self) -> None:
        """Migrate as the owner of the database; everything else has a login of its role."""
        owner = {"CALLSCRIBE_DATABASE_URL": self.database_url("callscribe")}
        assert self.producer("migrate", "--roles", environment=owner).returncode == ExitCode.OK
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            for role, login in LOGINS.items():
                connection.execute(
                    f"create role {login} login password '{self._logins[login]}' in role {role}"
                )
            (file,) = connection.execute("show hba_file").fetchone()
            with open(file, "r+") as rules:
                kept = rules.read()
                rules.seek(0)
                rules.write(f"local all {','.join(LOGINS.values())} scram-sha-256\n{kept}")
            connection.execute("select pg_reload_conf()")
        self.environment["CALLSCRIBE_DATABASE_URL"] = self.database_url(LOGINS[Role.WORKER])

    def producer(
        self, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``producer``; what it says is kept among the logs."""
        login = {"CALLSCRIBE_DATABASE_URL": self.database_url(LOGINS[Role.PRODUCER])}
        done = subprocess.run(
            producer_command(*arguments),
            env={**self.environment, **login, **(environment or {})},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        log = f"{' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        (self.logs / f"producer-{uuid4()}.log").write_text(log)
        return done

    def page(self, path: str) -> str:
        """Return a page of Flower's."""
        text = fetched(f"{self.flower_url}{path}")
        (self.logs / f"flower-{uuid4()}.log").write_text(f"{path}\n{text}")
        return text


@pytest.fixture(scope="module", params=["password", "password and TLS"])
def stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GuardedStack]:
    directory = tmp_path_factory.mktemp("guarded")
    stack = GuardedStack(directory, tls=request.param == "password and TLS")
    with ExitStack() as running:
        if stack.proxy:
            running.enter_context(stack.proxy)
        running.enter_context(stack)
        wait_for(lambda: answers(stack.flower_url))
        yield stack


def fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - Flower's own address
        text: str = answer.read().decode()
    return text


def answers(url: str) -> bool:
    with suppress(OSError):
        return bool(fetched(f"{url}/healthcheck"))
    return False


@pytest.fixture
def call(stack: GuardedStack) -> Path:
    """A call like no other, below a root."""
    path = stack.calls / f"{uuid4()}.wav"
    noise = np.random.default_rng(uuid4().int).integers(-8_000, 8_000, 8_000)
    soundfile.write(path, noise.astype(np.int16), 8_000)
    return path


def examined(stack: GuardedStack, **environment: str) -> dict[str, dict[str, str]]:
    """Return what ``producer doctor`` found, by check."""
    said = stack.producer("doctor", "--json", environment=environment)
    return {found["check"]: found for found in json.loads(said.stdout)}


def test_a_call_is_transcribed(stack: GuardedStack, call: Path, tmp_path: Path):
    assert stack.producer("submit", str(call), "--wait").returncode == ExitCode.OK
    assert stack.producer("export", "--out", str(tmp_path)).returncode == ExitCode.OK

    (text,) = [path.read_text() for path in tmp_path.rglob("*.txt")]
    assert WORD in text


def test_doctor_finds_everything(stack: GuardedStack):
    found = examined(stack)

    assert found["redis"]["verdict"] == CheckVerdict.OK
    assert found["ledger"]["verdict"] == CheckVerdict.OK
    assert "asr0@" in found["workers"]["detail"]


@pytest.mark.parametrize("stack", ["password"], indirect=True)
def test_doctor_tells_a_wrong_password_from_a_server_that_is_away(stack: GuardedStack):
    wrong, away = {"password": secret(stack)}, {"host": "nowhere.invalid:1"}

    refused, unanswered = (
        examined(stack, CALLSCRIBE_REDIS_URL=stack.redis_url(**changes))["redis"]
        for changes in (wrong, away)
    )

    assert refused["detail"] == "it refuses the password"
    assert unanswered["detail"] == "its host name is not known"


def test_the_sweep_sends_what_a_producer_could_not(stack: GuardedStack, call: Path):
    wrong = {"CALLSCRIBE_REDIS_URL": stack.redis_url(password=secret(stack))}

    said = stack.producer("submit", str(call), environment=wrong)
    assert "Redis takes no messages: it refuses the password" in " ".join(said.stderr.split())

    assert stack.producer("watch").returncode == ExitCode.OK


def test_flower_shows_the_fleet_and_the_queues(stack: GuardedStack, call: Path):
    stack.producer("submit", str(call), "--wait")
    workers = json.loads(stack.page("/api/workers?refresh=1"))
    tasks = json.loads(stack.page("/api/tasks"))

    assert {name.partition("@")[0] for name in workers} == {"asr0", "reducer"}
    for name, worker in workers.items():
        scheme = "rediss" if stack.proxy else "redis"
        assert worker["stats"]["broker"]["url"].startswith(f"{scheme}://:**@127.0.0.1")
        assert worker["conf"]["broker_url"].startswith(f"{scheme}://:********@127.0.0.1")
        assert name in stack.page(f"/worker/{name}")
    for task in tasks:
        assert task in stack.page(f"/task/{task}")
        stack.page(f"/api/task/info/{task}")
    assert "segments" in stack.page("/broker")
    queues = json.loads(stack.page("/api/queues/length"))
    assert {queue["name"]: queue["messages"] for queue in queues["active_queues"]} == {
        "segments": 0,
        "reduce": 0,
    }
    for path in ("/", "/workers", "/tasks", "/metrics"):
        assert stack.page(path)


def test_events_hold_no_password(stack: GuardedStack, call: Path):
    with captured_events(stack) as events:
        stack.producer("submit", str(call), "--wait")
        wait_for(lambda: {"task-sent", "task-succeeded"} <= {event["type"] for event in events})
        wait_for(lambda: any(event["type"] == "worker-heartbeat" for event in events))

    said = json.dumps(events)
    assert not [password for password in stack.passwords if password in said]


@contextmanager
def captured_events(stack: GuardedStack) -> Iterator[list[dict[str, Any]]]:
    """Yield a list that grows by each event of Celery's."""
    events: list[dict[str, Any]] = []
    settings = Settings(database_url="postgresql://", redis_url=stack.redis_url())

    with celery_app(settings) as app, app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": events.append})
        thread = threading.Thread(target=receiver.capture)
        thread.start()
        try:
            wait_for(lambda: events)
            yield events
        finally:
            receiver.should_stop = True
            thread.join()


#: What is run where a URL is wrong; None is a worker.
DOCTOR, DOCTOR_JSON, STATUS, WORKER = ["doctor"], ["doctor", "--json"], ["status"], None


@pytest.mark.parametrize("stack", ["password"], indirect=True)
def test_what_goes_wrong_is_said_without_a_password(stack: GuardedStack, call: Path):
    submit = ["submit", str(call)]
    redis = {
        stack.redis_url(password=secret(stack)): [DOCTOR, WORKER],
        stack.redis_url(password=secret(stack), host="127.0.0.1:1"): [submit, WORKER],
        stack.redis_url(password=f"{secret(stack)}/{secret(stack)}"): [STATUS, WORKER],
        stack.redis_url(password=f"{secret(stack)}#{secret(stack)}"): [STATUS],
    }
    login = LOGINS[Role.PRODUCER]
    database = {
        stack.database_url(login, password=secret(stack)): [DOCTOR, submit, WORKER],
        f"postgresql://me:{secret(stack)}@127.0.0.1:1/calls": [DOCTOR_JSON, STATUS],
        f"postgresql://me:{secret(stack)}@nowhere.invalid/calls": [STATUS],
        f"postgresql://me:{secret(stack)}@{secret(stack)}@db/calls": [STATUS, WORKER],
        f"postgresql:{secret(stack)}": [STATUS],
    }

    for url, commands in redis.items():
        for command in commands:
            _try(stack, command, {"CALLSCRIBE_REDIS_URL": url})
    for url, commands in database.items():
        for command in commands:
            _try(stack, command, {"CALLSCRIBE_DATABASE_URL": url})

    nothing_was_said(stack)


def _try(stack: GuardedStack, command: list[str] | None, environment: Mapping[str, str]) -> None:
    if command is WORKER:
        _try_a_worker(stack, environment)
    else:
        stack.producer(*command, environment=environment)


def _try_a_worker(stack: GuardedStack, environment: Mapping[str, str]) -> None:
    """Start a worker that cannot work, and end it once it has said why."""
    told = ("Cannot connect", "leases_not_returned")
    worker = Child(
        "wrong",
        worker_command("wrong", "tests.acceptance.nullworker"),
        stack.logs / f"wrong-{uuid4()}.log",
        environment={**stack.environment, **environment},
        directory=ROOT,
    )
    with worker:
        wait_for(lambda: not worker.running or any(word in worker.output() for word in told))
        worker.kill_tree(signal.SIGKILL)


def test_servers_that_go_away_and_come_back_are_spoken_of_without_a_password(
    stack: GuardedStack, call: Path
):
    reducer = stack.fleet[1]

    stack.redis.stop()
    stack.postgres.stop()
    for command in (["doctor"], ["status"], ["submit", str(call)]):
        assert stack.producer(*command).returncode != ExitCode.OK
    for path in ("/broker", "/api/workers?refresh=1", "/api/queues/length"):
        with suppress(OSError):
            stack.page(path)
    wait_for(lambda: "sweep_failed" in reducer.output())
    wait_for(lambda: "Connection to broker lost" in reducer.output())
    stack.postgres.start()
    stack.redis.start()

    wait_for(lambda: len(json.loads(stack.page("/api/workers?refresh=1"))) == 2)
    assert stack.producer("submit", str(call), "--wait").returncode == ExitCode.OK
    nothing_was_said(stack)


def secret(stack: GuardedStack) -> str:
    """Return a password that is wrong, and no less secret."""
    password = secrets.token_urlsafe(24)
    stack.passwords.add(password)
    return password


def nothing_was_said(stack: GuardedStack) -> None:
    """Check every log, all that was printed, Flower's pages, and the command lines."""
    said = {str(path): path.read_text(errors="replace") for path in stack.logs.iterdir()}
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            said[str(process)] = (process / "cmdline").read_text(errors="replace")
    leaks = [name for name, text in said.items() if any(p in text for p in stack.passwords)]
    assert leaks == []
    banner = said[str(stack.logs / "asr0.log")]
    assert "://:**@127.0.0.1" in banner, "the banner was looked at"


def test_the_passwords_on_disk_are_for_their_owner_alone(stack: GuardedStack):
    holding = [
        path
        for path in stack.state.rglob("*")
        if path.is_file() and any(p.encode() in path.read_bytes() for p in stack.passwords)
    ]

    assert [path.name for path in holding] == ["redis.conf"]
    assert all(os.stat(path).st_mode & 0o077 == 0 for path in holding)
