"""Bring a ledger to this version's tables. A deploy step, never done by a worker that starts."""

from __future__ import annotations

import time
from itertools import count

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg.errors import LockNotAvailable
from sqlalchemy import Connection, Engine, Index, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.schema import CreateIndex, DropIndex

from schema.errors import ErrorCode, Misconfigured, Transient
from schema.roles import create_roles, grant, limit_logins
from schema.store.checks import check_database
from schema.store.connection import refuse_pooler, unlimited_session
from schema.tables import Base

#: Keys of advisory locks: one migration at a time, whoever else tries, and one build of indexes.
_LOCK = 0x63616C6C
_BUILD_LOCK = 0x696E6478

_POLL_S = 0.2
#: How often a migration asks for the locks that it needs, and the pause between.
_TRIES = 10
_PAUSE_S = 1.0


def alembic_config() -> Config:
    """Return Alembic's configuration, without a file."""
    config = Config()
    config.set_main_option("script_location", "schema:migrations")
    config.set_main_option("path_separator", "os")
    return config


def migrate_ledger(engine: Engine, *, roles: bool = False, lease_s: int = 60) -> str:
    """Apply every migration that is missing; return the revision reached.

    The roles of :mod:`schema.roles`, where they exist, are given their rights anew: on new
    tables, too. ``roles`` creates those that are missing, and gives their logins the time limits of
    a fleet of such a lease. Large indexes come last, built while
    workers go on, however long that takes; one whose build was broken off is built anew.

    A lock on a table that somebody reads is tried again and again, and never waited for long:
    others would have to wait behind us.

    Raises:
        Transient: a session keeps a table locked that has to change; it is named.
    """
    refuse_pooler(engine, "a migration")
    with engine.connect() as connection:
        check_database(connection, migrates=True)
    for attempt in count(1):
        try:
            revision = _upgrade(engine, roles=roles, lease_s=lease_s)
        except OperationalError as error:
            if not isinstance(error.orig, LockNotAvailable):
                raise
            if attempt == _TRIES:
                raise _lock_timeout(engine) from error
            time.sleep(_PAUSE_S)
        else:
            break
    _build_indexes(engine)
    return revision


def _upgrade(engine: Engine, *, roles: bool, lease_s: int) -> str:
    config = alembic_config()
    with engine.begin() as connection:
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        config.attributes["connection"] = connection
        # A newer release's tables are ones of which we know nothing.
        if _is_newer(revision := current_revision(connection)):
            raise outdated_ledger(revision)
        command.upgrade(config, "head")
        if roles:
            create_roles(connection)
            limit_logins(connection, lease_s)
        grant(connection)
        return current_revision(connection) or ""


_LOCK_HOLDERS = text("""
    select distinct a.pid, a.usename, a.application_name, a.xact_start,
           date_trunc('second', now() - a.xact_start)::text as lasts
      from pg_locks l join pg_stat_activity a using (pid)
     where l.granted and l.pid <> pg_backend_pid() and l.locktype = 'relation'
       and l.relation in (select to_regclass(name) from unnest(cast(:tables as text[])) name)
     order by a.xact_start
""")


def _lock_timeout(engine: Engine) -> Transient:
    """Return the error of a migration that waited too long for others' transactions."""
    tables = [table.name for table in Base.metadata.sorted_tables]
    with engine.connect() as connection:
        holder = connection.execute(_LOCK_HOLDERS, {"tables": tables}).first()
    cause, end = "sessions keep tables that the migration changes", ""
    if holder is not None:
        name = f" ({holder.application_name})" if holder.application_name else ""
        cause += f": first process {holder.pid} of {holder.usename}{name}, for {holder.lasts}"
        end = f", or end it: select pg_terminate_backend({holder.pid})"
    return Transient(
        ErrorCode.LEDGER_UNREACHABLE, "ledger", cause, f"Let it end{end}. Then migrate again."
    )


def _build_indexes(engine: Engine) -> None:
    """Build what is missing of the indexes that no transaction can build beside workers."""
    with unlimited_session(engine) as connection:
        # Tried and not waited for: the build waits for every transaction, this one's wait, too.
        while not connection.scalar(_TRY_LOCK, {"key": _BUILD_LOCK}):
            time.sleep(_POLL_S)
        for index in missing_indexes(connection):
            _build_index(connection, index)


_TRY_LOCK = text("select pg_try_advisory_lock(:key)")
_IS_VALID = text("select indisvalid from pg_index where indexrelid = to_regclass(:name)")


def concurrent_indexes() -> list[Index]:
    """Return the indexes that are built beside workers, not in a migration's transaction."""
    return [
        index
        for table in Base.metadata.sorted_tables
        for index in sorted(table.indexes, key=lambda index: str(index.name))
        if index.dialect_options["postgresql"]["concurrently"]
    ]


def missing_indexes(connection: Connection) -> list[Index]:
    """Return those of them that are not there, or whose build was broken off."""
    return [
        index
        for index in concurrent_indexes()
        if not connection.scalar(_IS_VALID, {"name": index.name})
    ]


def _build_index(connection: Connection, index: Index) -> None:
    """Build an index under no lock that a reader or a writer waits for."""
    # A build that was broken off leaves an index of the name that is not valid.
    connection.execute(DropIndex(index, if_exists=True))
    connection.execute(CreateIndex(index))
    # The planner knows nothing of what an expression yields until then.
    connection.execute(text(f"analyze {index.table}"))


def current_revision(connection: Connection) -> str | None:
    """Return the revision of a ledger, or None where there is none yet."""
    return MigrationContext.configure(connection).get_current_revision()


def head_revision() -> str | None:
    """Return the revision that this code needs."""
    return _scripts().get_current_head()


def require_current(engine: Engine) -> None:
    """Raise Misconfigured unless the ledger has the tables that this code needs."""
    with engine.connect() as connection:
        check_database(connection)
        revision = current_revision(connection)
    if revision != head_revision():
        raise outdated_ledger(revision)


def outdated_ledger(revision: str | None) -> Misconfigured:
    """Return the error of a ledger at another revision than this code's, with what to do."""
    remedy = "Use the producer of the release that migrated it, or a newer one."
    return Misconfigured(
        ErrorCode.LEDGER_OUTDATED,
        "ledger",
        f"its revision is {revision or 'none'}, this version needs {head_revision()}",
        remedy if _is_newer(revision) else "Run: producer migrate",
    )


def _is_newer(revision: str | None) -> bool:
    known_revisions = {script.revision for script in _scripts().walk_revisions()}
    return revision is not None and revision not in known_revisions


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(alembic_config())
