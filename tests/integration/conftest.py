"""A migrated ledger that each test finds empty."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from ops.local.servers import PostgresServer
from schema.migrate import migrate
from schema.store.connection import create_ledger_engine
from schema.store.ledger import Ledger
from schema.tables import Base


@pytest.fixture(scope="session")
def _migrated(postgres_server: PostgresServer) -> Iterator[Ledger]:
    url = postgres_server.create_database("integration")
    ledger = Ledger(create_ledger_engine(url))
    migrate(ledger.engine)
    yield ledger
    ledger.close()
    postgres_server.drop_database("integration")


@pytest.fixture
def ledger(_migrated: Ledger) -> Ledger:
    tables = ", ".join(table.name for table in Base.metadata.sorted_tables)
    _migrated.transact(lambda c: c.execute(text(f"truncate {tables}")))
    return _migrated
