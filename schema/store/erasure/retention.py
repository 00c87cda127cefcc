"""What retention erased, and when: a row for each run, which outlives what it erased.

A row names no recording: their number and the cutoff are all that may be kept.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, Engine, func, insert, text, update

from schema.store.connection import unlimited_session
from schema.store.erasure.forget import ErasureResult
from schema.tables import Base, RetentionRunRow

#: All but the table of the runs. Children come first.
_VACUUMED_TABLES = tuple(
    table.name
    for table in reversed(Base.metadata.sorted_tables)
    if table.name != RetentionRunRow.__tablename__
)

#: Before it, only a table's owner may vacuum it.
_MAINTAIN_SINCE = (17,)


def begin_run(connection: Connection, cutoff: datetime, *, has_filters: bool) -> int:
    """Note that a run of retention begins; return its id."""
    statement = (
        insert(RetentionRunRow)
        .values(cutoff=cutoff, has_filters=has_filters)
        .returning(RetentionRunRow.id)
    )
    return connection.execute(statement).scalar_one()


def add_to_run(connection: Connection, run_id: int, result: ErasureResult) -> None:
    """Add to a run what it has erased, in the transaction that erases it."""
    connection.execute(
        update(RetentionRunRow)
        .where(RetentionRunRow.id == run_id)
        .values(
            recordings=RetentionRunRow.recordings + result.recordings,
            results=RetentionRunRow.results + result.results,
            copies=RetentionRunRow.copies + result.copies,
        )
    )


def end_run(connection: Connection, run_id: int, unfinished_recordings: int) -> None:
    """Note that a run has ended, and how many recordings it left to a later one."""
    connection.execute(
        update(RetentionRunRow)
        .where(RetentionRunRow.id == run_id)
        .values(ended_at=func.clock_timestamp(), unfinished_recordings=unfinished_recordings)
    )


def vacuum_tables(engine: Engine) -> list[str]:
    """Free the space of erased rows; return the tables that this login may not vacuum.

    As gently as autovacuum: nobody waits for it. Tables on which autovacuum runs are skipped.
    Takes minutes for a large ledger.
    """
    with unlimited_session(engine) as connection:
        refused_tables = _find_refused_tables(connection)
        connection.execute(text("set vacuum_cost_delay = '2ms'"))
        for table in _VACUUMED_TABLES:
            if table not in refused_tables:
                connection.execute(text(f"vacuum (analyze, skip_locked) {table}"))
    return refused_tables


def _find_refused_tables(connection: Connection) -> list[str]:
    may_vacuum = "pg_has_role(relowner, 'usage')"
    if (connection.dialect.server_version_info or ()) >= _MAINTAIN_SINCE:
        may_vacuum += " or has_table_privilege(oid, 'maintain')"
    query = text(
        f"select relname from pg_class where not ({may_vacuum})"
        " and oid = any(select to_regclass(name) from unnest(cast(:names as text[])) name)"
        " order by relname"
    )
    return list(connection.scalars(query, {"names": list(_VACUUMED_TABLES)}))
