"""Connections to Postgres whose every wait ends, even if the server never answers.

A pooler in transaction mode, such as pgbouncer, lends one client's server session to the next
between two transactions. So the state of a session gets lost there: prepared statements, and time
limits that were set when it began. Each connection checks for a pooler: behind one nothing is
prepared, and limits are the login's or are set in each transaction.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

import psycopg
from psycopg.abc import Buffer
from psycopg.types.datetime import TimestamptzBinaryLoader, TimestamptzLoader
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import InvalidatePoolError

from schema.errors import ErrorCode, Misconfigured
from schema.urls import engine_url

#: A connection that was in use this long ago is not asked whether it still stands: asking costs a
#: busy worker as many round trips as its work, and a transaction on one that fell is tried again.
_TRUST_S = 10.0

#: What a person waits for: a statement over millions of rows, but no server that stands still.
PEOPLE_ANSWER_S = 900

#: How a pooler says that it does not know how to set limits when a session begins.
_NO_OPTIONS = "unsupported startup parameter"

T = TypeVar("T")


def limits_ms(lease_s: int, answer_s: int) -> dict[str, int]:
    """Return how long the server lets a session of ours wait, by the server's names, in ms.

    No statement waits longer than half a lease for a lock, and the locks of a process that stands
    still in a transaction are free after a lease.
    """
    return {
        "idle_in_transaction_session_timeout": lease_s * 1_000,
        "lock_timeout": _half_lease_s(lease_s) * 1_000,
        "statement_timeout": answer_s * 1_000,
    }


def _half_lease_s(lease_s: int) -> int:
    return max(lease_s // 2, 3)


def create_ledger_engine(url: str, *, lease_s: int = 60, answer_s: int = 60) -> Engine:
    """Create the engine of one process.

    A dead network must not hold a worker longer than a lease: connections give up in 10 s, TCP
    finds a dead peer in half a lease, and :func:`limits_ms` are in force. A server that takes what
    it is sent and does not answer is given up after ``answer_s``.
    """
    half_lease_s = _half_lease_s(lease_s)
    limits = limits_ms(lease_s, answer_s)
    engine = create_engine(
        engine_url(url),
        pool_size=2,
        max_overflow=2,
        # An error must not carry what people said into a log.
        hide_parameters=True,
        connect_args={
            "connect_timeout": 10,
            "keepalives_idle": half_lease_s // 3,
            "keepalives_interval": max(half_lease_s // 6, 1),
            "keepalives_count": 4,
            "tcp_user_timeout": half_lease_s * 1000,
            "application_name": "callscribe",
            # From a server in SQL_ASCII the driver would read bytes, and no message could be read.
            "client_encoding": "utf8",
            "options": " ".join(f"-c {name}={value}" for name, value in limits.items()),
        },
    )

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
        connection = _open_connection(arguments, options)
        connection.answer_s = answer_s
        _detect_pooler(connection, limits)
        connection.adapters.register_loader("timestamptz", _ClampedTimestampLoader)
        connection.adapters.register_loader("timestamptz", _ClampedBinaryTimestampLoader)
        return connection

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        driver = connection.connection.driver_connection
        # SQLAlchemy's own first look at a server has none.
        if isinstance(driver, BoundedConnection):
            driver.set_limits()

    _ping_idle_connections(engine)
    return engine


def _open_connection(arguments: Any, options: Mapping[str, Any]) -> BoundedConnection:
    try:
        return BoundedConnection.connect(*arguments, **options)
    except psycopg.OperationalError as error:
        if _NO_OPTIONS not in str(error):
            raise
    pooler_options = {name: value for name, value in options.items() if name != "options"}
    return BoundedConnection.connect(*arguments, **pooler_options)


_SESSION = """
select pg_backend_pid(), (select array_agg(name || '=' || setting) from pg_settings
                           where name = any(%s))
"""


def _detect_pooler(connection: BoundedConnection, limits: Mapping[str, int]) -> None:
    """Note whether a pooler lies in between: it gives clients another process id.

    Behind one, note also whether the session has the limits that were requested, or those of the
    login. The limit of a statement must be ours: a longer one lets it block others, a shorter one
    ends statements that may take minutes.
    """
    connection.autocommit = True
    row = connection.execute(_SESSION, (list(limits),)).fetchone()
    connection.autocommit = False
    pid, settings = row or (0, [])
    connection.is_pooled = pid != connection.info.backend_pid
    if not connection.is_pooled:
        return
    connection.prepare_threshold = None
    pairs = (setting.partition("=") for setting in settings)
    session_ms = {name: int(value) for name, _, value in pairs}
    are_short = all(0 < session_ms[name] <= limit for name, limit in limits.items())
    if not (are_short and session_ms["statement_timeout"] == limits["statement_timeout"]):
        connection.limits_ms = dict(limits)


def is_pooled(engine: Engine) -> bool:
    """Tell whether a pooler lies between us and the server."""
    with engine.connect() as connection:
        return cast(BoundedConnection, connection.connection.driver_connection).is_pooled


def sets_limits(engine: Engine) -> bool:
    """Tell whether limits are set in each transaction, since the login has none of ours."""
    with engine.connect() as connection:
        return bool(cast(BoundedConnection, connection.connection.driver_connection).limits_ms)


def refuse_pooler(engine: Engine, task: str) -> None:
    """Refuse to do what takes a session of its own.

    Raises:
        Misconfigured: a pooler lies between us and the server.
    """
    if is_pooled(engine):
        raise Misconfigured(
            ErrorCode.SETTING_MISSING,
            "CALLSCRIBE_DATABASE_URL",
            f"it leads to a pooler (pgbouncer), and {task} takes a session of its own",
            "Give this command the URL of Postgres itself.",
        )


class _ClampedTimestampLoader(TimestamptzLoader):
    """Reads a moment that Python has no name for as the nearest that it has, in any zone.

    A moment of the year 1, or of 9999, has no value in some zones, and one such row would fail a
    query of many. Readers leave out a call's start that is not plausible (:mod:`schema.bounds`).
    """

    def load(self, data: Buffer) -> datetime:
        try:
            return _clamp(super().load(data))
        except psycopg.DataError:
            text = bytes(data)
            is_early = text.startswith(b"-") or text.endswith(b"BC") or text.startswith(b"000")
            return _EARLIEST if is_early else _LATEST


class _ClampedBinaryTimestampLoader(TimestamptzBinaryLoader):
    """The same of a moment in binary."""

    def load(self, data: Buffer) -> datetime:
        try:
            return _clamp(super().load(data))
        except psycopg.DataError:
            return _EARLIEST if bytes(data)[0] & 0x80 else _LATEST


#: A year within what Python can tell, so that every zone has them.
_EARLIEST = datetime(2, 1, 1, tzinfo=UTC)
_LATEST = datetime(9998, 12, 31, tzinfo=UTC)


def _clamp(moment: datetime) -> datetime:
    return _EARLIEST if moment.year < _EARLIEST.year else min(moment, _LATEST)


@contextmanager
def unlimited_session(engine: Engine) -> Iterator[Connection]:
    """Yield a connection of its own, in no transaction, whose statements may take hours.

    Its settings and locks end with it.

    Raises:
        Misconfigured: a pooler lies between us and the server.
    """
    refuse_pooler(engine, "a statement that may take hours")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.detach()
        cast(BoundedConnection, connection.connection.dbapi_connection).answer_s = math.inf
        connection.execute(text("set lock_timeout = 0"))
        connection.execute(text("set statement_timeout = 0"))
        yield connection


@contextmanager
def unlimited_transaction(engine: Engine) -> Iterator[Connection]:
    """Yield a connection in a transaction whose statements may take hours, through a pooler too."""
    with engine.begin() as connection:
        driver = cast(BoundedConnection, connection.connection.driver_connection)
        answer_s, driver.answer_s = driver.answer_s, math.inf
        try:
            connection.execute(text("set local statement_timeout = 0"))
            yield connection
        finally:
            driver.answer_s = answer_s


def _ping_idle_connections(engine: Engine) -> None:
    """Do as ``pool_pre_ping`` does, but only for connections that nobody used for a while."""

    @event.listens_for(engine, "checkin")
    def _note(_raw: Any, record: Any) -> None:
        record.info["used_s"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _ping(raw: Any, record: Any, _proxy: Any) -> None:
        used_s = record.info.get("used_s")  # None where the connection is new
        if used_s is None or time.monotonic() - used_s < _TRUST_S:
            return
        try:
            engine.dialect.do_ping(raw)
        except psycopg.Error as error:
            raise InvalidatePoolError from error


class BoundedConnection(psycopg.Connection[Any]):
    """A connection whose every wait ends: neither TCP nor libpq notices a process that is frozen.

    The server's own ``statement_timeout`` ends what merely takes too long, and answers so; a
    little later this one assumes that there is nobody to answer.
    """

    answer_s: float = 60.0
    #: A pooler lies between us and the server.
    is_pooled: bool = False
    #: What is to be set in each transaction, since the session has no such limits.
    limits_ms: Mapping[str, int] | None = None

    _GRACE_S = 1.0

    def set_limits(self) -> None:
        """Set the limits of the transaction that begins, where the session has none."""
        if self.limits_ms is not None and not self.autocommit:
            calls = ", ".join(
                f"set_config('{name}', '{value}', true)" for name, value in self.limits_ms.items()
            )
            self.execute(f"select {calls}".encode())

    def wait(self, gen: Generator[Any, Any, T], *arguments: Any, **options: Any) -> T:
        """Wait for an answer, as every statement does.

        Raises:
            OperationalError: none came in time; the connection is closed.
        """
        bounded_gen = self._with_deadline(gen, time.monotonic() + self.answer_s + self._GRACE_S)
        return super().wait(bounded_gen, *arguments, **options)

    def _with_deadline(
        self, gen: Generator[Any, Any, T], deadline_s: float
    ) -> Generator[Any, Any, T]:
        """Pass on what psycopg's loop and protocol tell each other, until the deadline.

        The loop reports several times a second that nothing is ready.
        """
        try:
            wait_flags = next(gen)
            while True:
                ready = yield wait_flags
                if not ready and time.monotonic() > deadline_s:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"no answer for {self.answer_s:.0f} s")
                wait_flags = gen.send(ready)
        except StopIteration as end:
            result: T = end.value
            return result
