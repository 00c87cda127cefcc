"""Bring a ledger to this version's tables. A deploy step, never done by a worker that starts."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from schema.errors import ErrorCode, Misconfigured
from schema.roles import create_roles, grant

#: One migration at a time, whoever else tries: the key of a Postgres advisory lock.
_LOCK = 0x63616C6C


def alembic_config() -> Config:
    """Return Alembic's configuration, without a file."""
    config = Config()
    config.set_main_option("script_location", "schema:migrations")
    config.set_main_option("path_separator", "os")
    return config


def migrate(engine: Engine, *, roles: bool = False) -> str:
    """Apply every migration that is missing; return the revision reached.

    The roles of :mod:`schema.roles`, where they exist, are given their rights anew: on new
    tables, too. ``roles`` creates those that are missing.
    """
    config = alembic_config()
    with engine.begin() as connection:
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        if roles:
            create_roles(connection)
        grant(connection)
        return current_revision(connection) or ""


def current_revision(connection: Connection) -> str | None:
    """Return the revision of a ledger, or None where there is none yet."""
    return MigrationContext.configure(connection).get_current_revision()


def head_revision() -> str | None:
    """Return the revision that this code needs."""
    return ScriptDirectory.from_config(alembic_config()).get_current_head()


def require_current(engine: Engine) -> None:
    """Raise Misconfigured unless the ledger has the tables that this code needs."""
    with engine.connect() as connection:
        found = current_revision(connection)
    if found != head_revision():
        raise Misconfigured(
            ErrorCode.LEDGER_OUTDATED,
            "ledger",
            f"its revision is {found or 'none'}, this version needs {head_revision()}",
            "Run: producer migrate",
        )
