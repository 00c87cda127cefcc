"""Behind a pooler that lends sessions by the transaction, nothing of one client reaches another."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, text

from ops.local.pooler import Pooler
from ops.local.process import ProcessError
from ops.local.servers import PostgresServer
from producer.cli.doctor import CheckVerdict, _pooler
from producer.erasure.traces import list_traces
from schema.errors import Misconfigured
from schema.migrate import migrate_ledger
from schema.roles import Role, create_roles, limit_logins
from schema.settings import Settings
from schema.store.connection import (
    create_ledger_engine,
    is_pooled,
    limits_ms,
    sets_limits,
    unlimited_session,
)
from schema.store.erasure import retention
from schema.store.erasure.traces import Needle
from schema.store.ledger import Cursor, Ledger
from schema.store.work import segments
from tests.conftest import required
from tests.factories import added, recording, result, transcribed, utterance

DATABASE = PostgresServer.DATABASE


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    with PostgresServer(tmp_path_factory.mktemp("pooled"), durable=False) as server:
        engine = create_ledger_engine(server.url)
        migrate_ledger(engine)
        engine.dispose()
        yield server


def pooler_of(server: PostgresServer, directory: Path, **options: Any) -> Pooler:
    with required(ProcessError):
        return Pooler(directory, server, **options)


@pytest.fixture(scope="module")
def pooler(server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pooler]:
    """Two sessions of the server, whoever comes."""
    with pooler_of(server, tmp_path_factory.mktemp("pooler"), sessions=2) as pooler:
        yield pooler


@pytest.fixture
def engine(pooler: Pooler) -> Iterator[Engine]:
    engine = create_ledger_engine(pooler.url)
    yield engine
    engine.dispose()


@pytest.fixture
def pooled(engine: Engine, server: PostgresServer) -> Ledger:
    direct = create_ledger_engine(server.url)
    with direct.begin() as connection:
        connection.execute(text("truncate submissions, purges, holds, receivers cascade"))
    direct.dispose()
    return Ledger(engine)


def settings_in_force(ledger: Ledger) -> dict[str, int]:
    query = text("select name, setting::int from pg_settings where name = any(:names)")
    names = {"names": list(limits_ms(60, 60))}
    return dict(ledger.transact(lambda c: c.execute(query, names).all()))


def test_a_server_alone_is_not_taken_for_a_pooler(server: PostgresServer):
    engine = create_ledger_engine(server.url)

    assert not is_pooled(engine)
    assert not sets_limits(engine)
    assert settings_in_force(Ledger(engine)) == limits_ms(60, 60)
    engine.dispose()


def test_parameters_of_one_client_reach_no_statement_of_another(pooler: Pooler):
    """Of statements that differ in their types alone, by four clients over two sessions."""

    def ask(client: int) -> int:
        ledger = Ledger(create_ledger_engine(pooler.url))
        wrong = 0
        for number in range(60):
            value = client * 1_000 + number
            casts = ("int", "text", "bigint", "numeric", "float8")
            cast = casts[(client + number) % len(casts)]

            def single(cursor: Cursor, cast: str = cast, value: int = value) -> Any:
                row = cursor.execute(f"select %s::{cast} as v", (value,)).fetchone()
                return row["v"]

            def transact(connection: Any, cast: str = cast, value: int = value) -> Any:
                return connection.scalar(text(f"select cast(:v as {cast})"), {"v": value})

            wrong += int(float(ledger.run_statement(single)) != value)
            wrong += int(float(ledger.transact(transact)) != value)
        ledger.close()
        return wrong

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == [0, 0, 0, 0]


def test_no_statement_is_prepared_on_a_session_that_others_get(engine: Engine):
    assert is_pooled(engine)
    ledger = Ledger(engine)
    for _ in range(20):
        ledger.run_statement(lambda c: c.execute("select %s::int as v", (1,)).fetchone())

    query = text("select count(*) from pg_prepared_statements")
    assert ledger.transact(lambda c: c.scalar(query)) == 0


def test_limits_are_set_in_each_transaction_where_the_login_has_none(
    pooled: Ledger, pooler: Pooler
):
    shown = "select current_setting('lock_timeout') as shown"

    assert sets_limits(pooled.engine)
    assert settings_in_force(pooled) == limits_ms(60, 60)
    assert pooled.run_statement(lambda c: c.execute(shown).fetchone()) == {"shown": "30s"}
    # And they stay in no session.
    with psycopg.connect(pooler.url, autocommit=True) as connection:
        assert connection.execute(shown).fetchone() == ("0",)


def test_limits_of_the_login_cost_no_round_trip(server: PostgresServer, tmp_path: Path):
    owner = create_ledger_engine(server.url)
    with owner.begin() as connection:
        create_roles(connection)
        for login, role in (("fleet_w", Role.WORKER), ("people_p", Role.PRODUCER)):
            connection.execute(text(f"create role {login} login"))
            connection.execute(text(f"grant {role} to {login}"))
        assert limit_logins(connection, lease_s=20) == []
    owner.dispose()

    with pooler_of(server, tmp_path, users=("fleet_w", "people_p")) as pooler:
        for login, answer_s in (("fleet_w", 20), ("people_p", 900)):
            engine = create_ledger_engine(
                pooler.database_url(DATABASE, login), lease_s=20, answer_s=answer_s
            )
            assert is_pooled(engine)
            assert not sets_limits(engine)
            assert settings_in_force(Ledger(engine)) == limits_ms(20, answer_s)
            engine.dispose()


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_pooler_that_takes_no_options_serves_as_well(
    server: PostgresServer, tmp_path: Path, mode: str
):
    with pooler_of(server, tmp_path, mode=mode, ignores_options=False) as pooler:
        engine = create_ledger_engine(pooler.url)
        ledger = Ledger(engine)
        assert is_pooled(engine)
        assert settings_in_force(ledger) == limits_ms(60, 60)
        engine.dispose()


def test_what_takes_a_session_of_its_own_asks_for_the_server_itself(pooled: Ledger):
    for refused in (
        lambda: migrate_ledger(pooled.engine),
        lambda: retention.vacuum_tables(pooled.engine),
        lambda: unlimited_session(pooled.engine).__enter__(),
    ):
        with pytest.raises(Misconfigured, match="pooler") as caught:
            refused()
        assert "URL of Postgres itself" in caught.value.remedy


def test_work_goes_all_the_way_and_traces_are_searched(pooled: Ledger):
    gone = transcribed(pooled, utterance("agent", "hello there"))
    (dispatch,) = added(pooled, recording("a")).dispatches
    held = pooled.run_statement(
        lambda c: segments.claim_segment(c, dispatch.message, owner="w", lease_s=60)
    )
    assert pooled.run_statement(lambda c: segments.renew_lease(c, held, lease_s=60))
    pooled.run_statement(lambda c: segments.finish_segment(c, held, result("hi")))

    settings = Settings(database_url="postgresql://", redis_url="redis://localhost")
    assert list_traces(settings, pooled, [Needle("id", str(gone))])


def test_the_doctor_says_where_limits_come_from(pooled: Ledger, server: PostgresServer):
    finding = _pooler(pooled)

    assert finding.verdict is CheckVerdict.WARN
    assert "producer migrate --roles" in finding.remedy
    direct = Ledger(create_ledger_engine(server.url))
    assert _pooler(direct).verdict is CheckVerdict.OK
    direct.close()
