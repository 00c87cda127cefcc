"""A migrated ledger that each test finds empty, and the command line over it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import structlog
from sqlalchemy import text

from ops.local.servers import PostgresServer
from producer.cli.main import main
from schema.migrate import migrate_ledger
from schema.store.connection import create_ledger_engine
from schema.store.ledger import Ledger
from schema.tables import Base
from tests.integration.command import Producer, Ran


@pytest.fixture(scope="session")
def _migrated(postgres_server: PostgresServer) -> Iterator[Ledger]:
    url = postgres_server.create_database("integration")
    ledger = Ledger(create_ledger_engine(url))
    migrate_ledger(ledger.engine)
    yield ledger
    ledger.close()
    postgres_server.drop_database("integration")


@pytest.fixture
def ledger(_migrated: Ledger) -> Ledger:
    tables = ", ".join(table.name for table in Base.metadata.sorted_tables)
    _migrated.transact(lambda c: c.execute(text(f"truncate {tables}")))
    return _migrated


@pytest.fixture
def producer(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, capsys, tmp_path) -> Producer:
    """The command line over the test's ledger."""
    url = ledger.engine.url.render_as_string(hide_password=False)
    monkeypatch.setenv("CALLSCRIBE_DATABASE_URL", url)
    monkeypatch.setenv("CALLSCRIBE_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.chdir(tmp_path)

    logging = structlog.get_config()

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["producer", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        structlog.configure(**logging)
        said = capsys.readouterr()
        return Ran(int(ended.value.code or 0), said.out, said.err)

    return run
