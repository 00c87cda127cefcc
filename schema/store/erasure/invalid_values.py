"""Values that an earlier release let into the ledger, found and put right."""

from __future__ import annotations

from sqlalchemy import Connection, text

from schema.bounds import EARLIEST, FUTURE_MAX
from schema.transcript import Flag

#: Whether the call of a recording ``r`` starts when none can have.
_ODD_DATE = """
    (r.started_at < :earliest or r.started_at > r.created_at + make_interval(secs => :ahead_s))
"""
_BOUNDS = {"earliest": EARLIEST, "ahead_s": FUTURE_MAX.total_seconds()}


def count_odd_dates(connection: Connection) -> int:
    """Return how many recordings have a call that starts when none can have."""
    query = text(f"select count(*) from recordings r where {_ODD_DATE}")
    return int(connection.execute(query, _BOUNDS).scalar_one())


def mend_dates(connection: Connection) -> int:
    """Clear such dates, and flag their recordings; return how many there were.

    They are searched, shown and erased by when they were submitted, as they were before.
    """
    flag = f"{Flag.OMITTED_FIELD}:started_at"
    statement = text(f"""
        update recordings r
           set started_at = null,
               flags = case when r.flags @> to_jsonb(cast(:flag as text)) then r.flags
                            else r.flags || to_jsonb(cast(:flag as text)) end
         where {_ODD_DATE}
    """)
    return connection.execute(statement, {**_BOUNDS, "flag": flag}).rowcount
