"""Connections to Postgres that nobody waits on for ever, whatever became of the other end."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

import psycopg
from psycopg.abc import Buffer
from psycopg.types.datetime import TimestamptzBinaryLoader, TimestamptzLoader
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import InvalidatePoolError

#: A connection that was in use this long ago is not asked whether it still stands: asking costs a
#: busy worker as many round trips as its work, and a transaction on one that fell is tried again.
_TRUSTED_S = 10.0

T = TypeVar("T")


def create_ledger_engine(url: str, *, lease_s: int = 60, answer_s: int = 60) -> Engine:
    """Create the engine of one process.

    A dead network must not hold a worker longer than a lease: connections give up in 10 s, TCP
    finds a dead peer in half a lease, no statement waits longer than that for a lock, and the
    locks of a process that stands still in a transaction are free after a lease. A server that
    takes what it is sent and does not answer is given up after ``answer_s``.
    """
    dead_s = max(lease_s // 2, 3)
    engine = create_engine(
        url,
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
            "options": f"-c idle_in_transaction_session_timeout={lease_s}s"
            f" -c lock_timeout={dead_s}s -c statement_timeout={answer_s}s",
        },
    )

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
        connection = BoundedConnection.connect(*arguments, **options)
        connection.answer_s = answer_s
        connection.adapters.register_loader("timestamptz", _AnyMoment)
        connection.adapters.register_loader("timestamptz", _AnyBinaryMoment)
        return connection

    _ping_idle_connections(engine)
    return engine


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
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.detach()
        cast(BoundedConnection, connection.connection.dbapi_connection).answer_s = math.inf
        connection.execute(text("set lock_timeout = 0"))
        connection.execute(text("set statement_timeout = 0"))
        yield connection


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

    _GRACE_S = 1.0

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
