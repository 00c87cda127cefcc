"""Fixtures shared by all tests: one private Postgres and one private Redis per session.

They start when a test first asks for one. Where their binaries are missing such tests are
skipped, except in CI, where a skipped test would pass for a good one.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from ops.local.process import ServerError
from ops.local.servers import PostgresServer, RedisServer

# No timed assertions: a busy machine is no failure.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@contextmanager
def required(*missing: type[Exception]) -> Iterator[None]:
    """Skip a test whose program is missing, but in CI, where it fails."""
    try:
        yield
    except missing as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


def wait_for_port(port: int, timeout_s: float = 20.0) -> None:
    """Wait until somebody listens on a port of loopback."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.05)
    raise TimeoutError(f"nobody listens on port {port}")


@contextmanager
def _served(kind: type[Any], directory: Path, **options: Any) -> Iterator[Any]:
    """Run a server; its directory, some 40 MB of it, does not outlive it."""
    try:
        server = kind(directory, **options)
    except ServerError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    try:
        with server:
            yield server
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A running Postgres; make a database of your own with ``create_database``."""
    with _served(PostgresServer, tmp_path_factory.mktemp("postgres"), durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A running Redis; ``url`` is what Celery takes, ``client_url`` what redis-py takes."""
    with _served(RedisServer, tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_url(postgres_server: PostgresServer) -> str:
    """An empty database that all tests of the session share."""
    return postgres_server.url


@pytest.fixture(scope="session")
def redis_url(redis_server: RedisServer) -> str:
    """A broker that all tests of the session share, as settings.redis_url wants it."""
    return redis_server.url
