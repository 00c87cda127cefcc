"""A database that cannot be the ledger is named for what it is, whoever asks it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest

from ops.local.servers import PostgresServer
from ops.local.sockets import free_port
from producer.cli.doctor import CheckVerdict, examine_host
from producer.submit.enqueue import celery_app
from schema.errors import CallscribeError, ErrorCode
from schema.migrate import migrate_ledger, require_current
from schema.settings import Settings
from schema.store.checks import explain_failure
from schema.store.connection import create_ledger_engine
from schema.store.ledger import Ledger

ADDRESS = "127.0.0.5"
_numbers = count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    directory: Path = tmp_path_factory.mktemp("checked")
    with PostgresServer(directory, durable=False, addresses=[ADDRESS]) as server:
        yield server


@pytest.fixture
def database(server: PostgresServer) -> Callable[..., str]:
    """Make databases, and say something to each."""

    def make(*statements: str, how: str = "") -> str:
        name = f"checked{next(_numbers)}"
        with server.connect() as connection:
            connection.execute(f"create database {name} template template0 {how}".encode())
        url = server.database_url(name)
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.format(name=name).encode())
        return url

    return make


def said_by_all(url: str) -> set[str]:
    """Return what migrate, doctor and submit say of a database; each the cause and the remedy."""
    settings = Settings(database_url=url, redis_url="redis://127.0.0.1:1/0")
    ledger = Ledger(create_ledger_engine(url), retry_for_s=0.1)
    said = set()
    for ask in (migrate_ledger, require_current):
        with pytest.raises(CallscribeError) as caught, ledger.connect():
            ask(ledger.engine)
        said.add(f"{caught.value.cause}. {caught.value.remedy}")
    findings = examine_host(settings, ledger, celery_app(settings))
    finding = next(finding for finding in findings if finding.check == "ledger")
    assert finding.verdict is CheckVerdict.FAIL
    ledger.close()
    return said | {f"{finding.detail}. {finding.remedy}"}


@pytest.mark.parametrize(
    ("statements", "how", "cause"),
    [
        ([], "encoding 'SQL_ASCII' locale 'C'", "its encoding is SQL_ASCII"),
        ([], "encoding 'LATIN1' locale 'C'", "its encoding is LATIN1"),
        (["create table segments (x int)"], "", "a table segments of another application"),
        (
            [
                "create table alembic_version (version_num varchar(32))",
                "insert into alembic_version values ('ae1027a6acf')",
            ],
            "",
            "alembic_version is another application's",
        ),
    ],
    ids=["SQL_ASCII", "LATIN1", "foreign tables", "foreign alembic"],
)
def test_a_database_that_is_no_ledger_is_named_by_all_in_one_sentence(
    database: Callable[..., str], statements: list[str], how: str, cause: str
):
    (said,) = said_by_all(database(*statements, how=how))

    assert cause in said


def test_the_doctor_checks_nothing_in_a_ledger_without_tables(database: Callable[..., str]):
    url = database()
    settings = Settings(database_url=url, redis_url="redis://127.0.0.1:1/0")
    ledger = Ledger(create_ledger_engine(url), retry_for_s=0.1)
    results = {
        result.check: result for result in examine_host(settings, ledger, celery_app(settings))
    }
    ledger.close()

    for check in ("roles", "values", "notify"):
        assert results[check].detail == "not checked: the ledger has no tables yet"
        assert results[check].remedy == "Run: producer migrate."


def refused(url: str) -> CallscribeError:
    ledger = Ledger(create_ledger_engine(url), retry_for_s=0.1)
    with pytest.raises(CallscribeError) as caught, ledger.connect():
        migrate_ledger(ledger.engine)
    ledger.close()
    return caught.value


def test_a_server_that_is_read_only_is_not_migrated(database: Callable[..., str]):
    url = database("alter database {name} set default_transaction_read_only = on")

    error = refused(url)

    assert error.code is ErrorCode.LEDGER_UNFIT
    assert "read-only" in error.cause
    assert "target_session_attrs" in error.remedy


def test_a_login_that_may_make_no_tables_does_not_migrate(
    database: Callable[..., str], server: PostgresServer
):
    url = database("create role poor login", "revoke create on schema public from public")

    error = refused(url.replace(f"{server.USER}@", "poor@"))

    assert "may make no tables" in error.cause
    assert "owner" in error.remedy


def test_why_nobody_comes_in_is_said(server: PostgresServer, database: Callable[..., str]):
    with server.connect() as connection:
        connection.execute("create role crowded login connection limit 0")
    socket_url = server.url
    cases = {
        server.url_at(ADDRESS).replace(server.password, "wrong"): "refuses the password",
        socket_url.replace("/callscribe?", "/nowhere?"): "no database of that name",
        socket_url.replace("callscribe@", "crowded@"): "no connection left",
        socket_url.replace("callscribe@", "nobody@"): "no such login",
        f"postgresql://me@127.0.0.1:{free_port()}/x": "nobody listens there",
        "postgresql://me@nowhere.invalid/x": "host name is not known",
        f"{server.url_at(ADDRESS)}?sslmode=require": "speaks no TLS",
    }

    for url, cause in cases.items():
        error = refused(url)
        assert cause in error.cause, url
        assert error.remedy.endswith((".", "?", "NAME"))
        assert server.password not in str(error)


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("FATAL: the database system is starting up", "starting, stopping or recovering"),
        ("FATAL: sorry, too many clients already", "no connection left"),
        ("FATAL: query_wait_timeout", "no connection left"),
        ('FATAL: no pg_hba.conf entry for host "1", user "x", no encryption', "without TLS"),
        ('FATAL: no pg_hba.conf entry for host "1", user "x"', "lets this login not in"),
        ("session is read-only", "read-only"),
        ("connection timeout expired", "in time"),
        ("received invalid response to SSL negotiation: H", "no Postgres"),
        ("something new\nDETAIL: with a name", "something new"),
        ("", "no reason given"),
    ],
)
def test_what_a_server_says_is_read_for_its_cause(said: str, cause: str):
    found, remedy = explain_failure(said)

    assert cause in found
    assert "with a name" not in found
    assert remedy
