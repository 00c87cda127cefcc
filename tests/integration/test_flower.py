"""Flower as it is deployed: it asks everyone, on every page, and does nothing to a fleet."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from ops.flower import alive
from ops.local.bootstrap import ROOT
from ops.local.process import Child
from ops.local.servers import RedisServer
from ops.local.sockets import free_port
from schema.wire import SEGMENTS_QUEUE, key_prefix

CONFIGURATION = ROOT / "ops" / "flower" / "flowerconfig.py"
LOGIN = "operator:secret"
PAGES = ("/", "/workers", "/tasks", "/broker", "/api/workers", "/api/tasks")
#: Those that Flower by itself leaves open.
OPEN_PAGES = ("/metrics", "/healthcheck")


def command(*options: str) -> list[str]:
    flower = [sys.executable, "-m", "celery", "-A", "workers.app", "flower"]
    return [*flower, f"--conf={CONFIGURATION}", *options]


def environment(redis_url: str, **settings: str) -> dict[str, str]:
    """Return Flower's environment, which has no ledger."""
    inherited = {
        k: v for k, v in os.environ.items() if not k.startswith(("FLOWER_", "CALLSCRIBE_"))
    }
    return inherited | {"CALLSCRIBE_REDIS_URL": redis_url} | settings


@pytest.fixture(scope="module")
def flower(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Flower that runs."""
    with answering(
        tmp_path_factory.mktemp("flower"), environment(redis_url, FLOWER_BASIC_AUTH=LOGIN)
    ) as url:
        yield url


@contextmanager
def answering(directory: Path, settings: dict[str, str]) -> Iterator[str]:
    """Run a Flower with such an environment; the address at which it answers."""
    port = free_port()
    settings = settings | {"FLOWER_DB": str(directory / "state")}
    child = Child("flower", command(f"--port={port}"), directory / "log", environment=settings)
    with child:
        url = f"http://127.0.0.1:{port}"
        while child.running and status(f"{url}/healthcheck", LOGIN) is None:
            child.wait(0.2)
        assert child.running, child.describe_end()
        yield url


def status(url: str, login: str = "", method: str = "GET") -> int | None:
    """Return what Flower answers, or None where it does not."""
    request = urllib.request.Request(url, method=method)  # noqa: S310 - Flower's own address
    if login:
        request.add_header("Authorization", f"Basic {b64encode(login.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except urllib.error.URLError:
        return None


def body(url: str) -> str:
    """Return a page, asked for with the login."""
    request = urllib.request.Request(url)  # noqa: S310 - Flower's own address
    request.add_header("Authorization", f"Basic {b64encode(LOGIN.encode()).decode()}")
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return answer.read().decode()


@pytest.mark.parametrize("page", PAGES + OPEN_PAGES)
def test_every_page_asks_for_a_login(flower: str, page: str):
    assert status(f"{flower}{page}") == 401
    assert status(f"{flower}{page}", "operator:guessed") == 401
    assert status(f"{flower}{page}", LOGIN) == 200


def test_the_broker_page_has_our_queues_before_any_worker_was_looked_at(flower: str):
    page = body(f"{flower}/broker")

    assert "segments" in page
    assert "reduce" in page
    assert "No queue data" not in page


def test_it_shows_the_fleet_of_its_namespace(redis_server: RedisServer, tmp_path: Path):
    """Segments wait in both namespaces, and it counts its own."""
    with redis.Redis.from_url(redis_server.client_url) as client:
        client.lpush(key_prefix("night") + SEGMENTS_QUEUE, *[b"{}"] * 4321)
        client.lpush(key_prefix() + SEGMENTS_QUEUE, *[b"{}"] * 1234)
        settings = environment(
            redis_server.url, FLOWER_BASIC_AUTH=LOGIN, CALLSCRIBE_NAMESPACE="night"
        )
        with answering(tmp_path, settings) as flower:
            page = body(f"{flower}/broker")
        client.flushall()

    assert "4321" in page
    assert "1234" not in page


@pytest.mark.parametrize(
    "action",
    ["worker/shutdown/gpu0@host", "task/revoke/1f3a", "task/send-task/transcribe_segment"],
)
def test_nothing_is_done_to_a_fleet_even_with_a_login(flower: str, action: str):
    assert status(f"{flower}/api/{action}", LOGIN, "POST") == 403


def test_the_probe_tells_whether_it_answers(flower: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FLOWER_BASIC_AUTH", f"{LOGIN},another:person")
    assert alive.main(f"{flower}/healthcheck") == 0

    monkeypatch.setenv("FLOWER_BASIC_AUTH", "operator:guessed")
    assert alive.main(f"{flower}/healthcheck") == 1
    assert alive.main(f"http://127.0.0.1:{free_port()}/healthcheck") == 1


@pytest.mark.parametrize(
    ("settings", "options"),
    [({}, ()), ({"FLOWER_OPEN": "yes"}, ("--address=0.0.0.0",))],
    ids=["by default", "on all addresses"],
)
def test_it_does_not_start_without_a_login(
    redis_url: str, tmp_path: Path, settings: dict[str, str], options: tuple[str, ...]
):
    done = subprocess.run(
        command(f"--port={free_port()}", *options),
        env={**environment(redis_url, **settings), "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert "FLOWER_BASIC_AUTH" in done.stderr
