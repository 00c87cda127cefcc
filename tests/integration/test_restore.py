"""The drill of ops/docs/deployment.md: a ledger dumped in mid-work, restored and taken up again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from ops.local.binaries import find_postgres
from ops.local.servers import PostgresServer
from schema.migrate import migrate
from schema.states import SegmentState
from schema.store import work
from schema.store.connection import create_ledger_engine
from schema.store.ledger import Ledger
from schema.store.sweep import sweep
from schema.wire import Dispatch, Queued
from tests.factories import added, recording, result

LOST, RESTORED = "lost", "restored"


def client(name: str) -> Path:
    path = find_postgres(Path("/nonexistent")) / name
    if not os.access(path, os.X_OK):
        pytest.skip(f"{path} is missing: install Postgres' client")
    return path


@pytest.fixture
def ledgers(postgres_server: PostgresServer) -> Iterator[tuple[Ledger, Ledger]]:
    """A migrated ledger, and an empty database for its dump."""
    opened = [
        Ledger(create_ledger_engine(postgres_server.create_database(name)))
        for name in (LOST, RESTORED)
    ]
    migrate(opened[0].engine)
    yield opened[0], opened[1]
    for ledger, name in zip(opened, (LOST, RESTORED), strict=True):
        ledger.close()
        postgres_server.drop_database(name)


def claimed(ledger: Ledger, dispatch: Dispatch, lease_s: int = 60) -> work.Claim:
    return ledger.single(lambda c: work.claim(c, dispatch.message, owner="dead", lease_s=lease_s))


def states(ledger: Ledger) -> list[str]:
    with ledger.reading() as connection:
        return list(connection.scalars(text("select state from segments order by start_ms")))


def test_what_the_dump_holds_is_taken_up_without_anyones_help(
    ledgers: tuple[Ledger, Ledger], postgres_server: PostgresServer, tmp_path: Path
):
    lost, restored = ledgers
    done, running, waiting = added(lost, recording("a", "b", "c")).dispatches
    held = claimed(lost, done)
    lost.single(lambda c: work.finish(c, held, result("hello")))
    late = claimed(lost, running)
    dump = tmp_path / "callscribe.dump"
    subprocess.run(
        [
            client("pg_dump"),
            "--format=custom",
            f"--file={dump}",
            postgres_server.database_url(LOST),
        ],
        check=True,
    )
    # After the dump: work that it does not know of, in a ledger that is lost.
    lost.single(lambda c: work.finish(c, late, result("there")))

    target = postgres_server.database_url(RESTORED)
    subprocess.run([client("pg_restore"), "--no-owner", f"--dbname={target}", dump], check=True)
    migrate(restored.engine)

    assert states(restored) == [SegmentState.DONE, SegmentState.LEASED, SegmentState.PENDING]
    with restored.reading() as connection:
        kept = connection.scalar(text("select count(*) from results"))
    assert kept == 1

    # Time goes by: leases run out, and messages in Redis are taken for lost.
    restored.transact(
        lambda c: c.execute(
            text(
                "update segments set lease_expires_at = lease_expires_at - interval '1 day',"
                " dispatched_at = dispatched_at - interval '1 day'"
            )
        )
    )
    swept = restored.transact(
        lambda c: sweep(c, queued=Queued(0, 0), high_water=100, interval_s=15)
    )
    assert {d.message.id for d in swept.dispatches} == {running.message.id, waiting.message.id}

    # What was in Redis from before is stale, whoever gets it; what was sent again is claimed.
    assert claimed(restored, waiting) is None
    for dispatch in swept.dispatches:
        claim = claimed(restored, dispatch)
        restored.single(lambda c, h=claim: work.finish(c, h, result("again")))
    assert set(states(restored)) == {SegmentState.DONE}
