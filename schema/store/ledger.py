"""The connection to the ledger, and transactions that are tried again as a whole."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import psycopg
import stamina
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow, dict_row
from sqlalchemy import ARRAY, ColumnElement, Connection, Engine, any_, func, literal, select
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.orm import InstrumentedAttribute

from schema.errors import ErrorCode, Misconfigured, Transient
from schema.settings import Settings
from schema.states import SegmentState
from schema.store.checks import explain_failure
from schema.store.connection import BoundedConnection, create_ledger_engine
from schema.store.dispatches import REDUCE_COLUMNS
from schema.tables import Recording, SegmentRow

T = TypeVar("T")

#: What :meth:`Ledger.run_statement` runs its statement on: psycopg's, whose rows are dictionaries.
Cursor = psycopg.Cursor[DictRow]

#: Moments, not mistakes: serialization failure, deadlock, lock not available, connection loss,
#: server shutting down, starting or too slow, full disk or too many clients, a transaction that
#: stood still because its process did, and a server that is read-only while it fails over.
_RETRIED_STATES = ("40001", "40P01", "55P03", "08", "57P0", "57014", "53", "25P03", "25006")

#: Of them those after which another server may be the primary, at the same address.
_FAILOVER_STATES = ("08", "57P", "25006")

_FORBIDDEN_STATE = "42501"

_ERRORS = (DBAPIError, psycopg.Error)

#: How long one transaction is tried before the caller hears of it; where a lease is shorter, no
#: longer than that, since by then the work may be another's.
_RETRY_FOR_S = 20.0

#: SQL: take one open segment off the recording of each row of the CTE ``finished_segment``
#: (recording_id); the one that takes off the last asks for the reduce. An UPDATE sees the row as
#: the last committed writer left it, so two that end together count right without a further lock.
END_SEGMENT_OF_RECORDING = f"""
    update recordings r
       set open_segments = r.open_segments - 1,
           state = case when r.open_segments = 1 then 'stitching' else 'running' end,
           reduce_dispatch_token = case when r.open_segments = 1 then gen_random_uuid() end,
           reduce_dispatched_at = case when r.open_segments = 1 then now() end
      from finished_segment
     where r.id = finished_segment.recording_id
 returning {REDUCE_COLUMNS},
           case when r.open_segments = 0 then (
               select sub.urgent from submissions sub where sub.id = r.submission_id) end as urgent
"""

#: Values in an UPDATE, and the same in SQL: no reducer has leased the recording.
NO_REDUCE_LEASE = {"reduce_owner": None, "reduce_token": None, "reduce_expires_at": None}
CLEAR_REDUCE_LEASE = ", ".join(f"{column} = null" for column in NO_REDUCE_LEASE)

#: SQL: the open segments of the recording in an UPDATE, where its counter begins or begins anew.
#: No worker has any of them yet, so that they are all pending. A filter and no condition: with one
#: a planner may read all that is pending, for each recording.
OPEN_SEGMENTS = (
    select(func.count().filter(SegmentRow.state == SegmentState.PENDING))
    .where(SegmentRow.recording_id == Recording.id)
    .scalar_subquery()
)


def in_array(column: InstrumentedAttribute[Any], values: Collection[Any]) -> ColumnElement[bool]:
    """Return ``column = any(values)``, for more values than a statement takes parameters."""
    return column == any_(literal(list(values), ARRAY(column.type)))


class Ledger:
    """Postgres, as one process uses it: one or two connections, and whole-transaction retries."""

    def __init__(self, engine: Engine, retry_for_s: float = _RETRY_FOR_S) -> None:
        self.engine = engine
        self._retry_for_s = retry_for_s

    @classmethod
    def open(cls, settings: Settings, *, answer_s: int | None = None) -> Ledger:
        """Prepare a ledger; connects only when it is first asked something.

        A statement may take ``answer_s``; unless given no longer than a lease.
        """
        url = settings.database_url.get_secret_value()
        lease_s = settings.lease_s
        engine = create_ledger_engine(url, lease_s=lease_s, answer_s=answer_s or lease_s)
        return cls(engine, min(_RETRY_FOR_S, lease_s))

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    def transact(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in one transaction, all of it again when the moment was bad.

        Every transaction of ours is conditional on what it finds, so that one whose COMMIT got no
        answer may be repeated.

        Raises:
            Transient: the ledger stayed out of reach.
            Misconfigured: this login may not do it.
        """
        return self._retry(lambda: self._run(work))

    def run_statement(self, work: Callable[[Cursor], T]) -> T:
        """Run ``work``, which is one statement, without the round trips of BEGIN and COMMIT.

        Straight on the driver: what a worker asks for each segment costs half of what it does
        through SQLAlchemy, which describes every answer anew.

        Raises:
            Transient: the ledger stayed out of reach.
            Misconfigured: this login may not do it.
        """
        return self._retry(lambda: self._run_autocommit(work))

    def _run(self, work: Callable[[Connection], T]) -> T:
        with self.engine.begin() as connection:
            return work(connection)

    def _run_autocommit(self, work: Callable[[Cursor], T]) -> T:
        pool_entry = self.engine.raw_connection()
        connection = cast(BoundedConnection, pool_entry.driver_connection)
        try:
            if connection.limits_ms is not None:
                return self._run_in_transaction(connection, work)
            connection.autocommit = True
            with connection.cursor(row_factory=dict_row) as cursor:
                return work(cursor)
        finally:
            if connection.info.transaction_status is TransactionStatus.IDLE:
                connection.autocommit = False
                pool_entry.close()
            else:  # It broke, or its user was interrupted, as by a time limit.
                pool_entry.invalidate()

    def _run_in_transaction(self, connection: BoundedConnection, work: Callable[[Cursor], T]) -> T:
        """Run one statement in a transaction that has limits, where the session has none."""
        with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
            connection.set_limits()
            return work(cursor)

    def _retry(self, attempt: Callable[[], T]) -> T:
        try:
            try:
                return attempt()
            except _ERRORS as error:
                if not is_transient(error):
                    raise
                self._replace_connections(error)
            # Only now: the bookkeeping of retries costs more than what a busy worker does itself.
            return self._retry_until_timeout(attempt)
        except _ERRORS as error:
            if _is_forbidden(error):
                raise _forbidden_error(error) from error
            if not is_transient(error):
                raise
            cause, remedy = explain_failure(_reason(error))
            cause = f"{cause} (tried for {self._retry_for_s:.0f} s)"
            raise Transient(ErrorCode.LEDGER_UNREACHABLE, "ledger", cause, remedy) from error

    def _retry_until_timeout(self, attempt: Callable[[], T]) -> T:
        for retry in stamina.retry_context(
            on=is_transient, attempts=None, timeout=self._retry_for_s, wait_max=2.0
        ):
            with retry:
                try:
                    return attempt()
                except _ERRORS as error:
                    self._replace_connections(error)
                    raise
        raise AssertionError("unreachable: the context returns or raises")

    def _replace_connections(self, error: Exception) -> None:
        """Connect anew before the next try, where the server is another one by now.

        After a failover old sessions may last, and lead to a server that stays read-only.
        """
        driver_error = _driver_error(error)
        if driver_error is not None and (driver_error.sqlstate or "").startswith(_FAILOVER_STATES):
            self.engine.dispose()

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """Yield a connection for reads that may be lost: they are not tried again.

        Raises:
            Transient: the ledger is out of reach.
            Misconfigured: this login may not do it.
        """
        try:
            with self.engine.connect() as connection:
                yield connection
        except ProgrammingError as error:
            if _is_forbidden(error):
                raise _forbidden_error(error) from error
            raise
        except (OperationalError, InterfaceError) as error:
            cause, remedy = explain_failure(_reason(error))
            raise Transient(ErrorCode.LEDGER_UNREACHABLE, "ledger", cause, remedy) from error


def is_transient(error: Exception) -> bool:
    """Return whether the same transaction may succeed if tried again."""
    driver_error = _driver_error(error)
    if driver_error is None:
        return False
    if driver_error.sqlstate is None:
        # A connection that could not be made, or broke without a word: no SQLSTATE at all.
        return isinstance(driver_error, psycopg.OperationalError | psycopg.InterfaceError)
    return driver_error.sqlstate.startswith(_RETRIED_STATES)


def _driver_error(error: Exception) -> psycopg.Error | None:
    """Return the driver's error, of which SQLAlchemy's may be made."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return original if isinstance(original, psycopg.Error) else None


def _is_forbidden(error: Exception) -> bool:
    driver_error = _driver_error(error)
    return driver_error is not None and driver_error.sqlstate == _FORBIDDEN_STATE


def _forbidden_error(error: Exception) -> Misconfigured:
    return Misconfigured(
        ErrorCode.LEDGER_FORBIDDEN,
        "ledger",
        _reason(error).partition("\n")[0] or "no reason given",
        "Use a login in the role that this process needs: ops/docs/operate/security.md.",
    )


def _reason(error: Exception) -> str:
    """Return the message of the server or driver; it never has the URL or parameters."""
    return str(_driver_error(error) or "").strip()
