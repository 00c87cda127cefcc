"""Which ledger this is, of all that there are: one restored from a dump is another."""

from __future__ import annotations

from typing import NamedTuple, Self

from sqlalchemy import Connection, text

#: Any login may ask. A standby that is promoted keeps both numbers.
_IDENTITY = text("""
    select (select system_identifier from pg_control_system()) as cluster,
           (select oid from pg_database where datname = current_database()) as database
""")

#: Both numbers and the colon between them are no longer.
IDENTITY_MAX_CHARS = 31


class LedgerIdentity(NamedTuple):
    """A cluster of Postgres, by its system identifier, and a database in it, by its oid."""

    cluster: int
    database: int

    def __str__(self) -> str:
        return f"{self.cluster}:{self.database}"

    @classmethod
    def parse(cls, value: str) -> Self | None:
        """Return the identity that a string holds, or None where it holds none."""
        parts = value.split(":")
        if len(value) > IDENTITY_MAX_CHARS or len(parts) != len(cls._fields):
            return None
        if not all(part.isascii() and part.isdigit() for part in parts):
            return None
        return cls(*map(int, parts))


def read_identity(connection: Connection) -> LedgerIdentity:
    """Return the identity of the ledger that a connection leads to."""
    row = connection.execute(_IDENTITY).one()
    return LedgerIdentity(int(row.cluster), int(row.database))
