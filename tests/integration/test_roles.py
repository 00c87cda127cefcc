"""Each role does all that its processes do, and nothing else, in a real Postgres."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import Connection, Engine, make_url, text

from ops.local.servers import PostgresServer
from producer.purge import purge
from producer.stream import stream
from schema.errors import ErrorCode, Misconfigured
from schema.migrate import migrate, require_current
from schema.phrases import parse_query
from schema.records import Notice
from schema.roles import GRANTS, Role, create_roles
from schema.span import Span
from schema.states import RecordingState
from schema.store import forget, intake, notify, purges, read, reduce, work
from schema.store.cancel import cancel
from schema.store.connection import create_ledger_engine
from schema.store.figures import figures
from schema.store.ledger import Ledger
from schema.store.repair import order_repairs
from schema.store.search import Filters, search
from schema.store.sweep import sweep
from schema.store.work import Fate
from schema.tables import Base
from schema.transcript import Draft, PlannedRepair, RepairReason, Seam, SeamRule, Utterance
from schema.wire import Queued
from schema.words import Word
from tests.factories import PROFILE, added, quarantined, recording, result, submission


@pytest.fixture(scope="module")
def owner(postgres_server: PostgresServer) -> Iterator[Engine]:
    """A migrated ledger of its own with roles, and a login in each."""
    engine = create_ledger_engine(postgres_server.create_database("roles"))
    with engine.begin() as connection:  # as careful owners have it
        connection.execute(text("alter default privileges revoke execute on functions from public"))
    migrate(engine, roles=True)
    with engine.begin() as connection:
        for role in Role:
            connection.execute(text(f"create role login_{role} login in role {role}"))
    yield engine
    with engine.begin() as connection:
        for role in Role:
            connection.execute(text(f"drop role login_{role}"))
    engine.dispose()
    postgres_server.drop_database("roles")


Login = Callable[[Role], Ledger]


@pytest.fixture
def login(owner: Engine, postgres_server: PostgresServer) -> Iterator[Login]:
    """Return the ledger as a login in a role sees it."""
    url = make_url(postgres_server.database_url("roles"))
    opened: dict[Role, Ledger] = {}

    def log_in(role: Role) -> Ledger:
        named = url.set(username=f"login_{role}").render_as_string(hide_password=False)
        return opened.setdefault(role, Ledger(create_ledger_engine(named)))

    yield log_in
    for ledger in opened.values():
        ledger.close()
    tables = ", ".join(table for table in GRANTS if table != "alembic_version")
    with owner.begin() as connection:
        connection.execute(text(f"truncate {tables}"))


def transcribed(producer: Ledger, worker: Ledger) -> None:
    """Take two recordings, one of them bad, from intake to transcript."""
    target = submission(producer)
    dispatches = added(producer, recording("good"), recording("bad"), to=target).dispatches
    notice = Notice("path.loop", "calls/loop", "leads back")
    producer.transact(lambda c: intake.add_notices(c, target.id, [notice]))
    producer.transact(lambda c: intake.seal(c, target.id))
    ends = []
    for dispatch, ending in zip(dispatches, (_finish, _fail), strict=True):
        claim = worker.single(lambda c, d=dispatch: work.claim(c, d.message, owner="w", lease_s=60))
        assert worker.single(lambda c, h=claim: work.renew(c, h, lease_s=60))
        ends.append(ending(worker, claim))
        worker.transact(lambda c, h=claim: work.settle_twins(c, h.decode_key, decoded=True))
    for end in ends:
        _reduce(worker, end)


def _finish(worker: Ledger, claim: work.Claim) -> work.Ended:
    return worker.single(lambda c: work.finish(c, claim, result("hi")))


def _fail(worker: Ledger, claim: work.Claim) -> work.Ended:
    code, fate = ErrorCode.AUDIO_CHANGED, Fate.FOR_GOOD
    return worker.transact(lambda c: work.fail(c, claim, code, "changed", fate))


def _reduce(worker: Ledger, end: work.Ended) -> None:
    message = end.reduce.message
    held = worker.single(lambda c: reduce.claim_reduce(c, message, owner="r", lease_s=60))
    segments = worker.transact(lambda c: reduce.ended_segments(c, held.recording_id))
    utterance = Utterance(0, "agent", "hi", (Word("hi", 0, 500, 0.9),))
    seam = Seam(0, 0, SeamRule.MIDPOINT, 250, 0.5, (), ())
    draft = Draft("en", (), 500, 500, (utterance,), (seam,))
    worker.transact(lambda c: reduce.store_transcript(c, held, segments, draft))


def test_a_producer_may_cancel_and_forget(login: Login, owner: Engine):
    producer, worker = login(Role.PRODUCER), login(Role.WORKER)
    transcribed(producer, worker)
    unfinished = submission(producer)
    added(producer, recording("unfinished"), to=unfinished)

    cancelled = producer.transact(lambda c: cancel(c, unfinished.id))
    with producer.reading() as connection:
        every = [
            r.id
            for s in read.submission_ids(connection, 10)
            for r in read.recordings(connection, s)
        ]
    forgotten = producer.transact(lambda c: forget.forget(c, every, lambda _: None))

    refused = purges.vacuum(producer.engine)

    assert cancelled.recordings == 1
    assert forgotten.recordings == len(every) == 3
    # Before Postgres 17 nobody but the owner may.
    is_old = producer.engine.dialect.server_version_info < (17,)
    assert len(refused) == (len(Base.metadata.sorted_tables) - 1 if is_old else 0)
    with owner.connect() as connection:
        left = connection.scalar(text("select count(*) from recordings"))
    assert left == 0


def test_a_recording_goes_all_the_way_under_least_rights(login: Login):
    producer, worker = login(Role.PRODUCER), login(Role.WORKER)
    require_current(producer.engine)

    transcribed(producer, worker)

    with login(Role.READER).reading() as connection:
        (found,) = read.submission_ids(connection, 10)
        assert read.progress(connection, found).finished
        done = read.recordings(connection, found, frozenset({RecordingState.DONE}))
        assert [read.transcript(connection, r).utterances[0].text for r in done] == ["hi"]
        assert len(read.notices(connection, found)) == 1
        assert search(connection, parse_query("hi"), Filters(), limit=10)
        assert len(connection.execute(text("select * from talk_calls")).all()) == 2
        assert connection.execute(text("select * from talk_speakers")).all() == []
    streamed: list[read.StoredTranscript] = []
    assert stream(login(Role.READER), streamed.append).recordings == len(streamed) == 2


def test_a_receiver_is_told_under_least_rights(login: Login):
    producer, worker = login(Role.PRODUCER), login(Role.WORKER)
    url = "https://crm.example/hook?token=hush"

    def opened(connection: Connection) -> intake.OpenSubmission:
        receiver = notify.receiver_of(connection, url, "crm.example")
        return intake.open_submission(
            connection, "key", "calls", PROFILE, force=False, receiver=receiver
        )

    target = producer.transact(opened)
    (dispatch,) = added(producer, recording("good"), quarantined(), to=target).dispatches
    producer.transact(lambda c: intake.seal(c, target.id))
    claim = worker.single(lambda c: work.claim(c, dispatch.message, owner="w", lease_s=60))
    _reduce(worker, _finish(worker, claim))
    assert worker.transact(notify.sum_up) == 1
    worker.transact(notify.give_up)
    deliveries = worker.transact(
        lambda c: notify.claim_events(c, room=9, each=9, busy=(), lease_s=60)
    )
    worker.transact(lambda c: notify.refused(c, deliveries[0], "HTTP 500"))
    worker.transact(lambda c: notify.delivered(c, deliveries[1]))

    assert len(deliveries) == 3
    for role in (Role.PRODUCER, Role.READER):
        with login(role).reading() as connection:
            told = notify.notified(connection, target.id)
        assert told == notify.Notified("crm.example", {"waiting": 2, "delivered": 1}, "HTTP 500")
    with (
        pytest.raises(Misconfigured) as caught,
        login(Role.READER).reading() as connection,
    ):
        connection.execute(text("select url from receivers"))
    assert caught.value.code == ErrorCode.LEDGER_FORBIDDEN


def test_a_reader_is_enough_to_watch_the_fleet(login: Login):
    producer = login(Role.PRODUCER)
    transcribed(producer, login(Role.WORKER))
    purge(producer, datetime(2020, 1, 1, tzinfo=UTC), [].append, lambda _: None)

    found = login(Role.READER).transact(figures)

    assert dict(found.hour_segments) == {"done": 1, "failed": 1}
    assert found.purged.recordings == 0


def test_a_reducer_orders_repairs_under_least_rights(login: Login):
    worker = login(Role.WORKER)
    (dispatch,) = added(login(Role.PRODUCER), recording("a")).dispatches
    claim = worker.single(lambda c: work.claim(c, dispatch.message, owner="w", lease_s=60))
    message = _finish(worker, claim).reduce.message
    held = worker.single(lambda c: reduce.claim_reduce(c, message, owner="r", lease_s=60))
    place = PlannedRepair(0, Span(0, 10_000), Span(4_000, 6_000), RepairReason.SPEECH)

    (ordered,) = worker.transact(lambda c: order_repairs(c, held, [place]))
    claim = worker.single(lambda c: work.claim(c, ordered.message, owner="w", lease_s=60))
    _reduce(worker, _finish(worker, claim))

    with login(Role.READER).reading() as connection:
        (found,) = read.submission_ids(connection, 10)
        assert [r.state for r in read.recordings(connection, found)] == [RecordingState.DONE]


def test_what_is_known_and_what_failed_are_taken_up_under_least_rights(login: Login):
    producer = login(Role.PRODUCER)
    transcribed(producer, login(Role.WORKER))

    again = added(producer, recording("good"))
    with producer.reading() as connection:
        first = read.submission_ids(connection, 10)[-1]
    retried = producer.transact(lambda c: reduce.retry_failed(c, first))

    assert (again.known_segments, retried) == (1, (1, 1))


def test_a_worker_sweeps_and_returns_its_leases(login: Login):
    worker = login(Role.WORKER)
    first, _ = added(login(Role.PRODUCER), recording("a"), recording("b")).dispatches
    worker.single(lambda c: work.claim(c, first.message, owner="w", lease_s=60))

    returned = worker.transact(lambda c: work.return_leases(c, "w", died=True))
    worker.transact(lambda c: reduce.return_reduces(c, "w", died=True))
    swept = worker.transact(lambda c: sweep(c, queued=Queued(0, 0), high_water=100, interval_s=15))
    worker.transact(read.copies_in_use)

    assert len(returned) == 1
    assert swept is not None


def test_a_producer_may_erase_and_lock_out_new_work(login: Login):
    producer = login(Role.PRODUCER)
    transcribed(producer, login(Role.WORKER))

    def erase(connection: Connection) -> None:
        connection.execute(text("lock table submissions in share row exclusive mode"))
        for table in ("notices", "segments", "recordings", "submissions", "results"):
            connection.execute(text(f"delete from {table}"))

    producer.transact(erase)

    with producer.reading() as connection:
        assert connection.scalar(text("select count(*) from transcripts")) == 0


EVERYWHERE = [
    statement.format(table)
    for table in GRANTS
    for statement in ("drop table {}", "truncate {} cascade", "alter table {} add column x int")
]

FORBIDDEN = {
    Role.WORKER: [
        *EVERYWHERE,
        *(f"delete from {table}" for table in GRANTS),
        "update submissions set title = 'x'",
        "update alembic_version set version_num = 'x'",
        "update transcripts set language = 'x'",
        "insert into recordings default values",
        "insert into submissions default values",
        "insert into segments (id, result_key) values (gen_random_uuid(), 'x')",
        "insert into segments (id, lease_token) values (gen_random_uuid(), gen_random_uuid())",
        "lock table submissions in share row exclusive mode",
    ],
    Role.PRODUCER: [
        *EVERYWHERE,
        *(f"delete from {table}" for table in ("transcripts", "utterances", "alembic_version")),
        "delete from purges",
        "insert into results default values",
        "update results set body = '{}'",
        "update transcripts set language = 'x'",
    ],
    Role.READER: [
        *EVERYWHERE,
        *(f"delete from {table}" for table in GRANTS),
        *(f"insert into {table} default values" for table in GRANTS),
        "update recordings set state = 'done'",
        "select from talk_calls for update",
        "select from recordings for update",
    ],
}


@pytest.mark.parametrize(
    ("role", "statement"), [(role, s) for role, every in FORBIDDEN.items() for s in every]
)
def test_everything_else_is_refused(login: Login, role: Role, statement: str):
    ledger = login(role)

    with pytest.raises(Misconfigured) as caught:
        ledger.transact(lambda c: c.execute(text(statement)))

    assert caught.value.code is ErrorCode.LEDGER_FORBIDDEN


def test_a_refusal_is_one_line_without_the_statement(login: Login):
    with (
        pytest.raises(Misconfigured, match="permission denied for table submissions") as caught,
        login(Role.WORKER).reading() as connection,
    ):
        connection.execute(text("update submissions set title = 'hush'"))

    assert "hush" not in str(caught.value)


def test_making_roles_again_changes_nothing(owner: Engine):
    with owner.begin() as connection:
        assert create_roles(connection) == []
    assert migrate(owner, roles=True) == migrate(owner)


def test_migrating_grants_what_is_missing_and_takes_what_is_too_much(owner: Engine, login: Login):
    with owner.begin() as connection:
        connection.execute(text(f"grant all on submissions to {Role.READER}"))
        connection.execute(text(f"revoke all on results from {Role.WORKER}"))

    migrate(owner)

    reader, worker = login(Role.READER), login(Role.WORKER)
    with pytest.raises(Misconfigured):
        reader.transact(lambda c: c.execute(text("delete from submissions")))
    assert worker.transact(lambda c: c.execute(text("select from results")).all()) == []


def test_a_server_without_roles_is_migrated_all_the_same(owner: Engine, monkeypatch):
    monkeypatch.setattr("schema.roles.existing_roles", lambda _: [])

    assert migrate(owner)
