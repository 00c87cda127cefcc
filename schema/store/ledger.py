"""The connection to the ledger, and transactions that are tried again as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import stamina
from sqlalchemy import Connection, Engine, create_engine, func, select
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from schema.errors import ErrorCode, Transient
from schema.settings import Settings
from schema.states import SegmentState
from schema.tables import Recording, SegmentRow

T = TypeVar("T")

#: Moments, not mistakes: serialization failure, deadlock, lock not available, connection loss,
#: server shutting down or starting, too many clients.
_RETRIED_STATES = ("40001", "40P01", "55P03", "08", "57P0", "53300")

#: How long one transaction is tried before the caller hears of it.
_RETRY_FOR_S = 20.0

#: SQL: take one open segment off the recording of each row of the CTE ``ended`` (recording_id);
#: the one that takes off the last asks for the reduce. An UPDATE sees the row as the last
#: committed writer left it, so two that end together count right without a further lock.
CLOSE_ONE = """
    update recordings r
       set open_segments = r.open_segments - 1,
           state = case when r.open_segments = 1 then 'stitching' else 'running' end,
           reduce_dispatch_token = case when r.open_segments = 1 then gen_random_uuid() end,
           reduce_dispatched_at = case when r.open_segments = 1 then now() end
      from ended
     where r.id = ended.recording_id
 returning r.id as recording_id, r.submission_id, r.reduce_dispatch_token, r.duration_ms
"""

#: SQL: the open segments of the recording in an UPDATE, where its counter begins or begins anew.
#: No worker has any of them yet, so that they are all pending.
OPEN_SEGMENTS = (
    select(func.count())
    .where(SegmentRow.recording_id == Recording.id, SegmentRow.state == SegmentState.PENDING)
    .scalar_subquery()
)


class Ledger:
    """Postgres, as one process uses it: one or two connections, and whole-transaction retries."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @classmethod
    def open(cls, settings: Settings) -> Ledger:
        """Prepare a ledger; connects only when it is first asked something."""
        return cls(create_ledger_engine(settings.database_url.get_secret_value()))

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    def transact(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in one transaction, all of it again when the moment was bad.

        Every transaction of ours is conditional on what it finds, so that one whose COMMIT got no
        answer may be repeated.

        Raises:
            Transient: the ledger stayed out of reach.
        """
        return self._retried(lambda: self._once(work))

    def single(self, work: Callable[[Connection], T]) -> T:
        """Run ``work``, which is one statement, without the round trips of BEGIN and COMMIT."""
        return self._retried(lambda: self._once_autocommit(work))

    def _once(self, work: Callable[[Connection], T]) -> T:
        with self.engine.begin() as connection:
            return work(connection)

    def _once_autocommit(self, work: Callable[[Connection], T]) -> T:
        with self.engine.connect() as connection:
            return work(connection.execution_options(isolation_level="AUTOCOMMIT"))

    def _retried(self, attempt: Callable[[], T]) -> T:
        try:
            for tries in stamina.retry_context(
                on=is_passing, attempts=None, timeout=_RETRY_FOR_S, wait_max=2.0
            ):
                with tries:
                    return attempt()
        except DBAPIError as error:
            if not is_passing(error):
                raise
            raise Transient(
                ErrorCode.LEDGER_UNREACHABLE,
                "ledger",
                f"no answer for {_RETRY_FOR_S:.0f} s ({_reason(error)})",
                "Is Postgres up, and CALLSCRIBE_DATABASE_URL right?",
            ) from error
        raise AssertionError("unreachable: the context returns or raises")

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Yield a connection for reads that may be lost: they are not tried again.

        Raises:
            Transient: the ledger is out of reach.
        """
        try:
            with self.engine.connect() as connection:
                yield connection
        except (OperationalError, InterfaceError) as error:
            raise Transient(
                ErrorCode.LEDGER_UNREACHABLE,
                "ledger",
                _reason(error),
                "Is Postgres up, and CALLSCRIBE_DATABASE_URL right?",
            ) from error


def create_ledger_engine(url: str) -> Engine:
    """Create the engine of one process.

    A dead network must not hold a worker longer than a lease: connections give up in 10 s, TCP
    probes find a dead peer within 30 s, and no statement waits on a lock for ever.
    """
    return create_engine(
        url,
        pool_size=2,
        max_overflow=2,
        pool_pre_ping=True,
        # An error must not carry what people said into a log.
        hide_parameters=True,
        connect_args={
            "connect_timeout": 10,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 4,
            "tcp_user_timeout": 30_000,
            "application_name": "callscribe",
            "options": "-c idle_in_transaction_session_timeout=60s -c lock_timeout=30s",
        },
    )


def is_passing(error: Exception) -> bool:
    """Return whether the same transaction may succeed if tried again."""
    if not isinstance(error, DBAPIError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    if state is None:
        # A connection that could not be made, or broke without a word: no SQLSTATE at all.
        return isinstance(error, OperationalError | InterfaceError)
    return str(state).startswith(_RETRIED_STATES)


def _reason(error: DBAPIError) -> str:
    """Return the first line of what the server or driver said; never the URL or parameters."""
    return str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else "no reason given"
