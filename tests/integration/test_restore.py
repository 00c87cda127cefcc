"""The drill of ops/docs/operate/backup.md: a ledger dumped in mid-work, restored and resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import redis
from sqlalchemy import text

from ops.local.binaries import find_postgres
from ops.local.servers import PostgresServer, RedisServer
from producer.submit.enqueue import celery_app
from schema.migrate import migrate_ledger
from schema.publish import Publisher
from schema.records import CallInfo, Location, Notice
from schema.settings import Settings
from schema.states import SegmentState
from schema.store.connection import create_ledger_engine
from schema.store.intake import submissions
from schema.store.ledger import Ledger
from schema.store.read.progress import list_submission_ids
from schema.store.work import segments
from schema.store.work.sweep import sweep
from schema.wire import Dispatch, QueueLengths
from tests.factories import added, recording, result, submission, transcribed, utterance

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
    migrate_ledger(opened[0].engine)
    yield opened[0], opened[1]
    for ledger, name in zip(opened, (LOST, RESTORED), strict=True):
        ledger.close()
        postgres_server.drop_database(name)


def claimed(ledger: Ledger, dispatch: Dispatch, lease_s: int = 60) -> segments.Claim:
    return ledger.run_statement(
        lambda c: segments.claim_segment(c, dispatch.message, owner="dead", lease_s=lease_s)
    )


def states(ledger: Ledger) -> list[str]:
    with ledger.connect() as connection:
        return list(connection.scalars(text("select state from segments order by start_ms")))


def dumped(url: str, path: Path, form: str = "custom") -> Path:
    command = [client("pg_dump"), f"--format={form}", f"--file={path}", url]
    subprocess.run(command, check=True)
    return path


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    (tmp_path / "spool" / "ab").mkdir(parents=True)
    return tmp_path / "spool"


def erased_call(ledger: Ledger, spool: Path, copy: str) -> UUID:
    """Take a call with a name, a path, an id, words, a notice and a copy to its transcript."""
    (spool / "ab" / copy).write_bytes(b"what was said, as audio")
    mine = replace(
        recording("pcm", call=CallInfo(call_id="ACD-20431", agent="Ann Smith")),
        source=Location("calls", b"acme/ann-smith-20431.wav"),
        audio=Location("spool", f"ab/{copy}".encode()),
    )
    to = submission(ledger)
    notice = Notice("audio.flag", "/srv/calls/acme/ann-smith-20431.wav", "it begins late")
    ledger.transact(lambda c: submissions.add_notices(c, to.id, [notice]))
    said = "my card number is four one one one"
    return transcribed(ledger, utterance("agent", said), item=mine, to=to, said=said.split())


#: What must be nowhere, in the forms in which a table, a file and a message have it.
SECRETS = (
    b"ACD-20431",
    b"ann-smith",
    b"Ann Smith",
    b"ann-smith".hex().encode(),
    b"card number",
    b'"card", "number"',
    b'"card","number"',
)


def secrets_in(data: bytes) -> list[bytes]:
    return [secret for secret in SECRETS if secret in data]


def everything_in_redis(server: RedisServer) -> bytes:
    with redis.from_url(server.client_url) as connection:
        return b"\n".join(connection.dump(key) or b"" for key in connection.scan_iter())


def test_what_was_erased_is_nowhere_and_a_dump_of_before_does_not_bring_it_back(
    ledgers: tuple[Ledger, Ledger],
    postgres_server: PostgresServer,
    redis_server: RedisServer,
    spool: Path,
    tmp_path: Path,
):
    """Every table, the spool, Redis and a dump are searched; the other call stays."""
    lost, restored = ledgers
    gone = erased_call(lost, spool, "copy-of-ann")
    kept = transcribed(lost, utterance("agent", "other words"), call=CallInfo(call_id="ACD-1"))
    waiting = recording("x")
    dispatches = added(lost, waiting).dispatches
    # While a submission is open it may be about to use a copy.
    lost.transact(lambda c: [submissions.seal_submission(c, i) for i in list_submission_ids(c, 10)])
    before = dumped(postgres_server.database_url(LOST), tmp_path / "before.dump")
    plain = dumped(postgres_server.database_url(LOST), tmp_path / "before.sql", "plain")
    # Each of these is found while it is there: so the search would find what is left.
    assert set(secrets_in(plain.read_bytes())) >= set(SECRETS[:5])
    environment = {
        "CALLSCRIBE_REDIS_URL": redis_server.url,
        "CALLSCRIBE_ERASURES": str(tmp_path / "register.jsonl"),
        "CALLSCRIBE_SPOOL": str(spool),
    }

    erased = run(lost, environment, "forget", "--call", "ACD-20431", "--yes", "--json")
    assert (erased["recordings"], erased["copies"], erased["traces"]) == (1, 1, [])
    run(lost, environment, "hold", "ACD-1", "--reason", "claim 77", "--json")
    Publisher(celery_app(load_settings_of(lost, environment))).publish(dispatches)

    after = dumped(postgres_server.database_url(LOST), tmp_path / "after.sql", "plain")
    assert secrets_in(after.read_bytes()) == []
    assert list((spool / "ab").iterdir()) == []
    assert everything_in_redis(redis_server)
    assert secrets_in(everything_in_redis(redis_server)) == []
    assert secrets_in((tmp_path / "register.jsonl").read_bytes()) == []

    # The ledger is lost, and with it the copies; the dump of before has the call.
    target = postgres_server.database_url(RESTORED)
    subprocess.run([client("pg_restore"), "--no-owner", f"--dbname={target}", before], check=True)
    migrate_ledger(restored.engine)
    (spool / "ab" / "copy-of-ann").write_bytes(b"of a backup of the spool")
    back = dumped(target, tmp_path / "back.sql", "plain")
    assert set(secrets_in(back.read_bytes())) >= set(SECRETS[:5])

    said = run(restored, environment, "restored", "--json")
    assert (said["applied"], said["erased"], said["held"]) == (False, 1, 1)
    done = run(restored, environment, "restored", "--yes", "--json")

    assert (done["applied"], done["erased"], done["held"]) == (True, 1, 1)
    assert secrets_in(dumped(target, tmp_path / "right.sql", "plain").read_bytes()) == []
    assert list((spool / "ab").iterdir()) == []
    with restored.connect() as connection:
        ids = set(connection.scalars(text("select id from recordings")))
    assert gone not in ids
    assert kept in ids
    assert len(ids) == 2
    # The hold that was placed after the dump holds: retention and forget spare the call.
    spared = run(restored, environment, "forget", "--recording", str(kept), "--yes", "--json", rc=3)
    assert spared["held"] == [str(kept)]
    assert run(restored, environment, "forget", "--check", "ACD-20431", "--json") == []


def load_settings_of(ledger: Ledger, environment: dict[str, str]) -> Settings:
    return Settings(
        database_url=ledger.engine.url.render_as_string(hide_password=False),
        redis_url=environment["CALLSCRIBE_REDIS_URL"],
    )


def run(ledger: Ledger, environment: dict[str, str], *arguments: str, rc: int = 0) -> Any:
    """Run a command as an operator does; return the JSON that it prints."""
    url = ledger.engine.url.render_as_string(hide_password=False)
    ran = subprocess.run(
        [sys.executable, "-c", "from producer.cli.main import main; main()", *arguments],
        env={**os.environ, **environment, "CALLSCRIBE_DATABASE_URL": url},
        capture_output=True,
        check=False,
    )
    assert ran.returncode == rc, ran.stderr.decode()
    return json.loads(ran.stdout)


def test_what_the_dump_holds_is_taken_up_without_anyones_help(
    ledgers: tuple[Ledger, Ledger], postgres_server: PostgresServer, tmp_path: Path
):
    lost, restored = ledgers
    done, running, waiting = added(lost, recording("a", "b", "c")).dispatches
    held = claimed(lost, done)
    lost.run_statement(lambda c: segments.finish_segment(c, held, result("hello")))
    late = claimed(lost, running)
    dump = tmp_path / "callscribe.dump"
    dumped(postgres_server.database_url(LOST), dump)
    # After the dump: work that it does not know of, in a ledger that is lost.
    lost.run_statement(lambda c: segments.finish_segment(c, late, result("there")))

    target = postgres_server.database_url(RESTORED)
    subprocess.run([client("pg_restore"), "--no-owner", f"--dbname={target}", dump], check=True)
    migrate_ledger(restored.engine)

    assert states(restored) == [SegmentState.DONE, SegmentState.LEASED, SegmentState.PENDING]
    with restored.connect() as connection:
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
        lambda c: sweep(c, queue_lengths=QueueLengths(0, 0), high_water=100, interval_s=15)
    )
    assert {d.message.id for d in swept.dispatches} == {running.message.id, waiting.message.id}

    # What was in Redis from before is stale, whoever gets it; what was sent again is claimed.
    assert claimed(restored, waiting) is None
    for dispatch in swept.dispatches:
        claim = claimed(restored, dispatch)
        restored.run_statement(lambda c, h=claim: segments.finish_segment(c, h, result("again")))
    assert set(states(restored)) == {SegmentState.DONE}
