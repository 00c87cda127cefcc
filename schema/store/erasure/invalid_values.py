"""Values that an earlier release let into the ledger, found and put right."""

from __future__ import annotations

from sqlalchemy import Connection, text

from schema.bounds import AHEAD, EARLIEST
from schema.transcript import Flag

#: Of a recording ``r``: its call is said to have begun when none can have.
_ODD_DATE = """
    (r.started_at < :earliest or r.started_at > r.created_at + make_interval(secs => :ahead_s))
"""
_BOUNDS = {"earliest": EARLIEST, "ahead_s": AHEAD.total_seconds()}


def count_odd_dates(connection: Connection) -> int:
    """Return how many recordings say of their call that it began when none can have."""
    query = text(f"select count(*) from recordings r where {_ODD_DATE}")
    return int(connection.execute(query, _BOUNDS).scalar_one())


def mend_dates(connection: Connection) -> int:
    """Take such dates away, and flag their recordings; return how many there were.

    By when they were handed in they are searched, shown and erased from then on, as they were.
    """
    flag = f"{Flag.LEFT_OUT}:started_at"
    statement = text(
        f"""
        update recordings r
           set started_at = null,
               flags = case when r.flags @> to_jsonb(cast(:flag as text)) then r.flags
                            else r.flags || to_jsonb(cast(:flag as text)) end
         where {_ODD_DATE}
        """
    )
    return connection.execute(statement, {**_BOUNDS, "flag": flag}).rowcount
