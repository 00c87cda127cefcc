"""A server that stands still is given up; connections that fell are noticed and replaced."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from ops.local.servers import PostgresServer
from schema.store.connection import create_ledger_engine
from schema.store.ledger import Cursor, Ledger, is_transient


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    directory: Path = tmp_path_factory.mktemp("frozen")
    with PostgresServer(directory, durable=False) as server:
        yield server


@pytest.fixture
def engine(server: PostgresServer) -> Iterator[Engine]:
    engine = create_ledger_engine(server.url, answer_s=1)
    yield engine
    server.thaw()
    engine.dispose()


def test_a_frozen_server_is_not_waited_for(engine: Engine, server: PostgresServer):
    with engine.connect() as connection:
        connection.execute(text("select 1"))
        server.freeze()

        with pytest.raises(OperationalError, match="no answer for 1 s") as caught:
            connection.execute(text("select 1"))

    assert is_transient(caught.value)
    assert caught.value.connection_invalidated


def test_once_it_goes_on_so_does_the_same_engine(engine: Engine, server: PostgresServer):
    with engine.connect() as connection:
        connection.execute(text("select 1"))
    server.freeze()
    with pytest.raises(OperationalError), engine.connect() as connection:
        connection.execute(text("select 1"))

    server.thaw()

    with engine.connect() as connection:
        assert connection.scalar(text("select 1")) == 1


def test_a_statement_that_takes_too_long_is_ended_by_the_server(engine: Engine):
    with engine.connect() as connection, pytest.raises(OperationalError) as caught:
        connection.execute(text("select pg_sleep(60)"))

    assert caught.value.orig.sqlstate == "57014"
    assert not caught.value.connection_invalidated


def backend(cursor: Cursor) -> int:
    return cursor.execute("select pg_backend_pid() as pid").fetchone()["pid"]


@pytest.fixture
def fallen(ledger: Ledger) -> int:
    """The backend of a pooled connection that was just used, and then cut off."""
    ledger.engine.dispose()
    pid = ledger.run_statement(backend)
    other = create_ledger_engine(ledger.engine.url.render_as_string(hide_password=False))
    with other.connect() as connection:
        connection.execute(text("select pg_terminate_backend(:pid, 5000)"), {"pid": pid})
    other.dispose()
    return pid


def test_a_statement_on_a_connection_that_fell_is_tried_on_another(ledger: Ledger, fallen: int):
    assert ledger.run_statement(backend) != fallen


def test_a_statement_that_is_interrupted_costs_its_connection_and_says_by_what(ledger: Ledger):
    def be_interrupted(cursor: Cursor) -> None:
        cursor.connection.pgconn.send_query(b"select 1")
        raise InterruptedError("by a time limit")

    before = ledger.run_statement(backend)
    with pytest.raises(InterruptedError, match="time limit"):
        ledger.run_statement(be_interrupted)
    assert ledger.run_statement(backend) != before


def test_a_read_which_is_not_tried_again_finds_a_connection_that_was_idle_replaced(
    ledger: Ledger, fallen: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("schema.store.connection._TRUST_S", 0.0)
    with ledger.connect() as connection:
        assert connection.scalar(text("select pg_backend_pid()")) != fallen


def test_a_connection_in_use_a_moment_ago_costs_no_round_trip_to_be_asked(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    pings = []
    monkeypatch.setattr(ledger.engine.dialect, "do_ping", pings.append)
    for _ in range(3):
        ledger.run_statement(backend)
    assert pings == []
