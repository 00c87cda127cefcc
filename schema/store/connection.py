"""Connections to Postgres that nobody waits on for ever, whatever became of the other end.

A pooler in transaction mode, as pgbouncer is run, lends the server's session of one client to the
next between two transactions. So whatever is a session's own goes astray there: statements that
were prepared, and time limits that were set when it began. Each connection is asked whether it is
such a one: then nothing is prepared, and limits are the login's own or are set in each transaction.
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
_TRUSTED_S = 10.0

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
        "lock_timeout": _dead_s(lease_s) * 1_000,
        "statement_timeout": answer_s * 1_000,
    }


def _dead_s(lease_s: int) -> int:
    return max(lease_s // 2, 3)


def create_ledger_engine(url: str, *, lease_s: int = 60, answer_s: int = 60) -> Engine:
    """Create the engine of one process.

    A dead network must not hold a worker longer than a lease: connections give up in 10 s, TCP
    finds a dead peer in half a lease, no statement waits longer than that for a lock, and the
    locks of a process that stands still in a transaction are free after a lease. A server that
    takes what it is sent and does not answer is given up after ``answer_s``.
    """
    dead_s = _dead_s(lease_s)
    limits = limits_ms(lease_s, answer_s)
    engine = create_engine(
        engine_url(url),
        pool_size=2,
        max_overflow=2,
        # An error must not carry what people said into a log.
        hide_parameters=True,
        connect_args={
            "connect_timeout": 10,
            "keepalives_idle": dead_s // 3,
            "keepalives_interval": max(dead_s // 6, 1),
            "keepalives_count": 4,
            "tcp_user_timeout": dead_s * 1000,
            "application_name": "callscribe",
            # Of a server in SQL_ASCII the driver would make bytes: nobody could be told so.
            "client_encoding": "utf8",
            "options": " ".join(f"-c {name}={value}" for name, value in limits.items()),
        },
    )

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
        connection = _connected(arguments, options)
        connection.answer_s = answer_s
        _look_for_pooler(connection, limits)
        connection.adapters.register_loader("timestamptz", _AnyMoment)
        connection.adapters.register_loader("timestamptz", _AnyBinaryMoment)
        return connection

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        driver = connection.connection.driver_connection
        # SQLAlchemy's own first look at a server has none.
        if isinstance(driver, BoundedConnection):
            driver.set_limits()

    _ping_idle_connections(engine)
    return engine


def _connected(arguments: Any, options: Mapping[str, Any]) -> BoundedConnection:
    try:
        return BoundedConnection.connect(*arguments, **options)
    except psycopg.OperationalError as error:
        if _NO_OPTIONS not in str(error):
            raise
    without = {name: value for name, value in options.items() if name != "options"}
    return BoundedConnection.connect(*arguments, **without)


_SESSION = """
select pg_backend_pid(), (select array_agg(name || '=' || setting) from pg_settings
                           where name = any(%s))
"""


def _look_for_pooler(connection: BoundedConnection, limits: Mapping[str, int]) -> None:
    """Note whether a pooler lies in between: it tells clients a process id that is none.

    And whether the limits hold that the server was asked for as the session began, or that the
    login has. A statement's must be ours: a longer one lets it hold up others, a shorter one ends
    what is meant to take minutes.
    """
    connection.autocommit = True
    row = connection.execute(_SESSION, (list(limits),)).fetchone()
    connection.autocommit = False
    pid, settings = row or (0, [])
    connection.is_pooled = pid != connection.info.backend_pid
    if not connection.is_pooled:
        return
    connection.prepare_threshold = None
    found = {name: int(value) for name, _, value in (each.partition("=") for each in settings)}
    are_short = all(0 < found[name] <= limit for name, limit in limits.items())
    if not (are_short and found["statement_timeout"] == limits["statement_timeout"]):
        connection.limits_ms = dict(limits)


def is_pooled(engine: Engine) -> bool:
    """Tell whether a pooler lies between us and the server."""
    with engine.connect() as connection:
        return cast(BoundedConnection, connection.connection.driver_connection).is_pooled


def sets_limits(engine: Engine) -> bool:
    """Tell whether limits are set in each transaction, since the login has none of ours."""
    with engine.connect() as connection:
        return bool(cast(BoundedConnection, connection.connection.driver_connection).limits_ms)


def refuse_pooler(engine: Engine, what: str) -> None:
    """Refuse to do what takes a session of its own.

    Raises:
        Misconfigured: a pooler lies between us and the server.
    """
    if is_pooled(engine):
        raise Misconfigured(
            ErrorCode.SETTING_MISSING,
            "CALLSCRIBE_DATABASE_URL",
            f"it leads to a pooler (pgbouncer), and {what} takes a session of its own",
            "Give this command the URL of Postgres itself.",
        )


class _AnyMoment(TimestamptzLoader):
    """Reads a moment that Python has no name for as the nearest that it has, in any zone.

    One of the year 1, or of 9999, cannot be told in every zone, and one row of it would end
    whatever reads many. Who shows a call's beginning leaves such a one out (:mod:`schema.bounds`).
    """

    def load(self, data: Buffer) -> datetime:
        """Return the moment."""
        try:
            return _within(super().load(data))
        except psycopg.DataError:
            text = bytes(data)
            is_early = text.startswith(b"-") or text.endswith(b"BC") or text.startswith(b"000")
            return _FIRST if is_early else _LAST


class _AnyBinaryMoment(TimestamptzBinaryLoader):
    """The same of a moment in binary."""

    def load(self, data: Buffer) -> datetime:
        """Return the moment."""
        try:
            return _within(super().load(data))
        except psycopg.DataError:
            return _FIRST if bytes(data)[0] & 0x80 else _LAST


#: A year within what Python can tell, so that every zone has them.
_FIRST = datetime(2, 1, 1, tzinfo=UTC)
_LAST = datetime(9998, 12, 31, tzinfo=UTC)


def _within(moment: datetime) -> datetime:
    return _FIRST if moment.year < _FIRST.year else min(moment, _LAST)


@contextmanager
def unbounded(engine: Engine) -> Iterator[Connection]:
    """Yield a connection of its own, in no transaction, whose statements may take hours.

    Its settings, and whatever it locks, go with it.

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
def patient(engine: Engine) -> Iterator[Connection]:
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
        if used_s is None or time.monotonic() - used_s < _TRUSTED_S:
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
        bounded = self._bounded(gen, time.monotonic() + self.answer_s + self._GRACE_S)
        return super().wait(bounded, *arguments, **options)

    def _bounded(self, gen: Generator[Any, Any, T], deadline_s: float) -> Generator[Any, Any, T]:
        """Pass on what psycopg's loop and protocol tell each other, until the deadline.

        The loop reports several times a second that nothing is ready.
        """
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > deadline_s:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"no answer for {self.answer_s:.0f} s")
                wanted = gen.send(ready)
        except StopIteration as end:
            result: T = end.value
            return result
