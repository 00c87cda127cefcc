"""When another server takes over, a process that is up goes there, and what was acknowledged is."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import text

from ops.local.pooler import Pooler
from ops.local.process import ProcessError
from ops.local.servers import PostgresServer
from ops.local.standby import Standby
from schema.errors import Transient
from schema.migrate import migrate_ledger
from schema.store.connection import create_ledger_engine
from schema.store.ledger import Ledger
from tests.conftest import required
from tests.factories import added, recording, submission

#: Loopback has room for two servers on Postgres' own port.
FIRST, SECOND = "127.0.0.2", "127.0.0.3"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[PostgresServer, Standby]]:
    """A migrated server, and a standby that follows it."""
    first = PostgresServer(tmp_path / "first", durable=False, addresses=[FIRST])
    with first:
        engine = create_ledger_engine(first.url)
        migrate_ledger(engine)
        engine.dispose()
        with Standby(tmp_path / "second", first, addresses=[SECOND]) as second:
            yield first, second


def both(first: PostgresServer, *order: str) -> str:
    """Return a URL that names both servers, in this order."""
    servers = ",".join(f"{address}:{PostgresServer.PORT}" for address in order or (FIRST, SECOND))
    login = f"{PostgresServer.USER}:{first.password}"
    return (
        f"postgresql://{login}@{servers}/{PostgresServer.DATABASE}"
        "?target_session_attrs=read-write&connect_timeout=2"
    )


class Writer(threading.Thread):
    """Hands in recordings, one a transaction, and keeps the names of what was acknowledged."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.ledger = Ledger(create_ledger_engine(url, lease_s=6), retry_for_s=60)
        self.to = submission(self.ledger)
        self.acknowledged: list[str] = []
        self.failures: list[Exception] = []
        self._stop_asked = threading.Event()

    def run(self) -> None:
        while not self._stop_asked.is_set():
            item = recording(str(uuid4()))
            try:
                added(self.ledger, item, to=self.to)
            except Transient as error:
                self.failures.append(error)
            else:
                self.acknowledged.append(item.source.name)

    def finish(self) -> None:
        self._stop_asked.set()
        self.join()
        self.ledger.close()

    def wait_for(self, count: int) -> None:
        wanted = len(self.acknowledged) + count
        while len(self.acknowledged) < wanted and self.is_alive():
            self.join(0.05)


def names(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [name for (name,) in connection.execute("select name from recordings")]


def test_nothing_acknowledged_is_lost_when_a_synchronous_standby_takes_over(
    pair: tuple[PostgresServer, Standby],
):
    first, second = pair
    second.synchronise()
    writer = Writer(both(first))
    writer.start()
    writer.wait_for(20)

    first.kill(signal.SIGKILL)
    second.promote()
    writer.wait_for(20)
    writer.finish()

    assert writer.failures == []
    stored = names(second.url)
    assert set(writer.acknowledged) <= set(stored)
    assert len(stored) == len(set(stored)), "none came twice"
    assert len(writer.acknowledged) >= 40


def test_what_an_asynchronous_standby_lacked_is_handed_in_by_the_same_command_again(
    pair: tuple[PostgresServer, Standby],
):
    first, second = pair
    ledger = Ledger(create_ledger_engine(first.url))
    to = submission(ledger, key="the same command")
    items = [recording(name) for name in "abc"]
    added(ledger, items[0], to=to)
    second.follow()
    second.stop()
    added(ledger, *items[1:], to=to)
    ledger.close()
    first.kill(signal.SIGKILL)
    second.start()
    second.promote()
    assert names(second.url) == [items[0].source.name], "the others are lost with the first server"

    again = Ledger(create_ledger_engine(second.url))
    to = submission(again, key="the same command")
    added(again, *items, to=to)
    again.close()

    assert sorted(names(second.url)) == sorted(item.source.name for item in items)


@pytest.mark.parametrize("how", ["transact", "single"])
def test_a_session_that_has_become_read_only_is_replaced(pair, how: str):
    """As after a failover behind one address: sessions of before stand, and new ones may write."""
    first, _ = pair
    ledger = Ledger(create_ledger_engine(first.url), retry_for_s=10)
    sessions = [ledger.engine.connect() for _ in range(2)]
    for session in sessions:
        session.execute(text("set default_transaction_read_only = on"))
        session.commit()
        session.close()
    write = "update submissions set title = title"

    if how == "transact":
        ledger.transact(lambda c: c.execute(text(write)))
    else:
        ledger.run_statement(lambda c: c.execute(write))

    assert ledger.transact(lambda c: c.scalar(text("show default_transaction_read_only"))) == "off"
    ledger.close()


def test_a_server_that_stays_read_only_is_named_as_such(pair):
    _, second = pair
    ledger = Ledger(create_ledger_engine(second.url), retry_for_s=1)

    with pytest.raises(Transient, match="read-only"):
        ledger.transact(lambda c: c.execute(text("update submissions set title = title")))
    ledger.close()


def test_a_pooler_that_leads_elsewhere_is_followed(pair, tmp_path: Path):
    first, second = pair
    second.synchronise()
    with required(ProcessError):
        pooler = Pooler(tmp_path / "pooler", first)
    with pooler:
        writer = Writer(pooler.url)
        writer.start()
        writer.wait_for(10)
        first.kill(signal.SIGKILL)
        second.promote()
        pooler.point_to(second)
        writer.wait_for(10)
        writer.finish()

    assert set(writer.acknowledged) <= set(names(second.url))
    assert len(writer.acknowledged) >= 20


def test_where_several_servers_stand_in_the_url_the_one_that_writes_is_taken(pair):
    first, _ = pair
    for order in ((FIRST, SECOND), (SECOND, FIRST)):
        engine = create_ledger_engine(both(first, *order))
        with engine.connect() as connection:
            assert not connection.scalar(text("select pg_is_in_recovery()"))
        engine.dispose()
