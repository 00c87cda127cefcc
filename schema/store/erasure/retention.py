"""What retention erased, and when: a row for each run, which outlives what it erased.

A row names no recording: how many went, and before which moment, is all that may be kept.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, Engine, func, insert, text, update

from schema.store.connection import unbounded
from schema.store.erasure.forget import Forgotten
from schema.tables import Base, Purge

#: All but our own: whatever a new table keeps of a recording goes with it. Children come first.
_ERASED_FROM = tuple(
    table.name
    for table in reversed(Base.metadata.sorted_tables)
    if table.name != Purge.__tablename__
)

#: Before it, only a table's owner may vacuum it.
_MAINTAIN_SINCE = (17,)


def begin(connection: Connection, before: datetime, *, narrowed: bool) -> int:
    """Note that a run begins, which erases (some of the) calls before a moment; return its id."""
    made = insert(Purge).values(before=before, narrowed=narrowed).returning(Purge.id)
    return connection.execute(made).scalar_one()


def add(connection: Connection, purge: int, forgotten: Forgotten) -> None:
    """Count in what a run has erased, in the transaction that erases it."""
    connection.execute(
        update(Purge)
        .where(Purge.id == purge)
        .values(
            recordings=Purge.recordings + forgotten.recordings,
            results=Purge.results + forgotten.results,
            copies=Purge.copies + forgotten.copies,
        )
    )


def end(connection: Connection, purge: int, spared: int) -> None:
    """Note that a run has come to its end, and how many recordings it left to a later one."""
    connection.execute(
        update(Purge)
        .where(Purge.id == purge)
        .values(ended_at=func.clock_timestamp(), spared=spared)
    )


def vacuum(engine: Engine) -> list[str]:
    """Give the room of erased rows to new ones; return the tables that this login may not vacuum.

    As gently as autovacuum: nobody waits for it. A table that autovacuum is at is left to it.
    Takes minutes for a large ledger.
    """
    with unbounded(engine) as connection:
        refused = _refused(connection)
        connection.execute(text("set vacuum_cost_delay = '2ms'"))
        for table in _ERASED_FROM:
            if table not in refused:
                connection.execute(text(f"vacuum (analyze, skip_locked) {table}"))
    return refused


def _refused(connection: Connection) -> list[str]:
    may = "pg_has_role(relowner, 'usage')"
    if (connection.dialect.server_version_info or ()) >= _MAINTAIN_SINCE:
        may += " or has_table_privilege(oid, 'maintain')"
    query = text(
        f"select relname from pg_class where not ({may})"
        " and oid = any(select to_regclass(name) from unnest(cast(:names as text[])) name)"
        " order by relname"
    )
    return list(connection.scalars(query, {"names": list(_ERASED_FROM)}))
