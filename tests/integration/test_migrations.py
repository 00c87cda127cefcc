"""The migrations make exactly the tables that the code declares, and can be undone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect, text

from ops.local.servers import PostgresServer
from schema.errors import ErrorCode, Misconfigured
from schema.migrate import alembic_config, migrate, require_current
from schema.store.connection import create_ledger_engine
from schema.tables import Base


@pytest.fixture
def engine(postgres_server: PostgresServer) -> Iterator[Engine]:
    engine = create_ledger_engine(postgres_server.create_database("migrations"))
    yield engine
    engine.dispose()
    postgres_server.drop_database("migrations")


def test_migrations_equal_the_models(engine: Engine):
    migrate(engine)

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_migrating_again_changes_nothing(engine: Engine):
    assert migrate(engine) == migrate(engine)


def test_words_are_compressed_fast_where_the_server_can(engine: Engine):
    migrate(engine)

    with engine.connect() as connection:
        known = connection.scalar(
            text("select enumvals from pg_settings where name = 'default_toast_compression'")
        )
        used = connection.scalar(
            text(
                "select attcompression from pg_attribute where attname = 'body'"
                " and attrelid = 'results'::regclass"
            )
        )
    assert used == ("l" if "lz4" in known else "")


def test_migrations_can_be_undone(engine: Engine):
    migrate(engine)

    config = alembic_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")

    assert inspect(engine).get_table_names() == ["alembic_version"]


def test_an_outdated_ledger_is_refused_with_the_remedy(engine: Engine):
    with pytest.raises(Misconfigured, match="producer migrate") as caught:
        require_current(engine)

    assert caught.value.code is ErrorCode.LEDGER_OUTDATED
