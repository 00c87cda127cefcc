"""Each role does all that its processes do, and nothing else, in a real Postgres."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial

import numpy as np
import pytest
from sqlalchemy import Connection, Engine, make_url, text

from ops.local.servers import PostgresServer
from producer.cli import doctor
from producer.erasure.retention import run_retention
from producer.export.incremental import write_changes
from schema.errors import ErrorCode, Misconfigured
from schema.migrate import migrate_ledger, require_current
from schema.records import Notice
from schema.roles import GRANTS, Role, create_roles, find_excess_rights, rights_of
from schema.search_query import parse_query
from schema.span import Span
from schema.states import RecordingState
from schema.store.connection import create_ledger_engine
from schema.store.erasure import forget, holds, retention
from schema.store.erasure.invalid_values import mend_dates
from schema.store.intake import recheck, submissions
from schema.store.intake.cancel import cancel_submission
from schema.store.ledger import Ledger
from schema.store.read import recordings
from schema.store.read.fleet import read_figures
from schema.store.read.progress import list_notices, list_submission_ids, read_progress
from schema.store.read.search import Filters, search_utterances
from schema.store.read.transcripts import StoredTranscript, read_transcript
from schema.store.work import events as notify
from schema.store.work import reduces
from schema.store.work import segments as work
from schema.store.work.repairs import order_repairs
from schema.store.work.segments import FailureKind
from schema.store.work.sweep import sweep
from schema.store.work.voices import order_voices
from schema.tables import Base
from schema.transcript import Draft, PlannedRepair, RepairReason, Seam, SeamRule, Utterance
from schema.voices import Voices
from schema.wire import Dispatch, QueueLengths
from schema.words import Word
from tests.factories import PROFILE, added, quarantined, recording, result, submission


@pytest.fixture(scope="module")
def owner(postgres_server: PostgresServer) -> Iterator[Engine]:
    """A migrated ledger of its own with roles, and a login in each."""
    engine = create_ledger_engine(postgres_server.create_database("roles"))
    with engine.begin() as connection:  # as careful owners have it
        connection.execute(text("alter default privileges revoke execute on functions from public"))
    migrate_ledger(engine, roles=True)
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
    producer.transact(lambda c: submissions.add_notices(c, target.id, [notice]))
    producer.transact(lambda c: submissions.seal_submission(c, target.id))
    ends = []
    for dispatch, ending in zip(dispatches, (_finish, _fail), strict=True):
        claim = worker.run_statement(
            lambda c, d=dispatch: work.claim_segment(c, d.message, owner="w", lease_s=60)
        )
        assert worker.run_statement(lambda c, h=claim: work.renew_lease(c, h, lease_s=60))
        ends.append(ending(worker, claim))
        worker.transact(
            lambda c, h=claim: work.finish_waiting_duplicates(c, h.decode_key, just_decoded=True)
        )
    for end in ends:
        _reduce(worker, end)


def _opened_for_a_receiver(connection: Connection) -> submissions.OpenSubmission:
    url = "https://crm.example/hook?token=hush"
    receiver = notify.find_or_add_receiver(connection, url, "crm.example")
    return submissions.open_submission(
        connection, "key", "calls", PROFILE, force=False, receiver=receiver
    )


def _claimed(worker: Ledger, dispatch: Dispatch, owner: str = "w") -> work.Claim:
    return worker.run_statement(
        lambda c: work.claim_segment(c, dispatch.message, owner=owner, lease_s=60)
    )


def _repair(worker: Ledger, end: work.EndResult) -> Dispatch:
    message = end.reduce.message
    held = worker.run_statement(lambda c: reduces.claim_reduce(c, message, owner="r", lease_s=60))
    place = PlannedRepair(0, Span(0, 10_000), Span(4_000, 6_000), RepairReason.SPEECH)
    (ordered,) = worker.transact(lambda c: order_repairs(c, held, [place]))
    return ordered


def _hear_again(worker: Ledger, end: work.EndResult) -> work.EndResult:
    """Have the segments of a recording done again for their voices."""
    message = end.reduce.message
    held = worker.run_statement(lambda c: reduces.claim_reduce(c, message, owner="r", lease_s=60))
    segments = worker.transact(lambda c: reduces.read_ended_segments(c, held.recording_id))
    ids = [segment.id for segment in segments if segment.id is not None]
    (ordered,) = worker.transact(lambda c: order_voices(c, held, ids))
    claim = _claimed(worker, ordered)
    voices = Voices(np.array([0]), np.ones((1, 4), np.float32) / 2)
    return worker.run_statement(lambda c: work.finish_segment(c, claim, None, voices))


def _events(worker: Ledger) -> list[notify.Delivery]:
    return worker.transact(
        lambda c: notify.claim_events(c, limit=9, per_receiver=9, busy_receivers=(), lease_s=60)
    )


def _finish(worker: Ledger, claim: work.Claim) -> work.EndResult:
    return worker.run_statement(lambda c: work.finish_segment(c, claim, result("hi")))


def _fail(worker: Ledger, claim: work.Claim) -> work.EndResult:
    code, fate = ErrorCode.AUDIO_CHANGED, FailureKind.PERMANENT
    return worker.transact(lambda c: work.fail_segment(c, claim, code, "changed", fate))


def _reduce(worker: Ledger, end: work.EndResult) -> None:
    message = end.reduce.message
    held = worker.run_statement(lambda c: reduces.claim_reduce(c, message, owner="r", lease_s=60))
    segments = worker.transact(lambda c: reduces.read_ended_segments(c, held.recording_id))
    utterance = Utterance(0, "agent", "hi", (Word("hi", 0, 500, 0.9),))
    seam = Seam(0, 0, SeamRule.MIDPOINT, 250, 0.5, (), ())
    draft = Draft("en", (), 500, 500, (utterance,), (seam,))
    worker.transact(lambda c: reduces.store_transcript(c, held, segments, draft))


def test_a_producer_may_cancel_and_forget(login: Login, owner: Engine):
    producer, worker = login(Role.PRODUCER), login(Role.WORKER)
    transcribed(producer, worker)
    unfinished = submission(producer)
    added(producer, recording("unfinished"), to=unfinished)

    cancelled = producer.transact(lambda c: cancel_submission(c, unfinished.id))
    with producer.connect() as connection:
        every = [
            r.id
            for s in list_submission_ids(connection, 10)
            for r in recordings.list_recordings(connection, s)
        ]
    forgotten = producer.transact(lambda c: forget.erase_recordings(c, every, lambda _: None))

    refused = retention.vacuum_tables(producer.engine)

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

    with login(Role.READER).connect() as connection:
        (found,) = list_submission_ids(connection, 10)
        assert read_progress(connection, found).is_finished
        done = recordings.list_recordings(connection, found, frozenset({RecordingState.DONE}))
        assert [read_transcript(connection, r).utterances[0].text for r in done] == ["hi"]
        assert len(list_notices(connection, found)) == 1
        assert search_utterances(connection, parse_query("hi"), Filters(), limit=10)
        assert len(connection.execute(text("select * from talk_calls")).all()) == 2
        assert connection.execute(text("select * from talk_speakers")).all() == []
    streamed: list[StoredTranscript] = []
    assert write_changes(login(Role.READER), streamed.append).recordings == len(streamed) == 2


def test_a_receiver_is_told_under_least_rights(login: Login):
    producer, worker = login(Role.PRODUCER), login(Role.WORKER)
    target = producer.transact(_opened_for_a_receiver)
    (dispatch,) = added(producer, recording("good"), quarantined(), to=target).dispatches
    producer.transact(lambda c: submissions.seal_submission(c, target.id))
    _reduce(worker, _finish(worker, _claimed(worker, dispatch)))
    assert worker.transact(notify.add_submission_events) == 1
    worker.transact(notify.give_up_events)
    deliveries = _events(worker)
    worker.transact(lambda c: notify.record_refusal(c, deliveries[0], "HTTP 500"))
    worker.transact(lambda c: notify.record_delivery(c, deliveries[1]))

    assert len(deliveries) == 3
    for role in (Role.PRODUCER, Role.READER):
        with login(role).connect() as connection:
            told = notify.read_notification_status(connection, target.id)
        assert told == notify.NotificationStatus(
            "crm.example", {"waiting": 2, "delivered": 1}, "HTTP 500"
        )
    with (
        pytest.raises(Misconfigured) as caught,
        login(Role.READER).connect() as connection,
    ):
        connection.execute(text("select url from receivers"))
    assert caught.value.code == ErrorCode.LEDGER_FORBIDDEN


def test_a_receiver_is_told_of_no_submission_but_its_own(login: Login):
    """Whatever a worker's login adds to the events, which is what the sweep adds them by."""
    producer, worker = login(Role.PRODUCER), login(Role.WORKER)
    mine = producer.transact(_opened_for_a_receiver)
    others = submission(producer)

    def forge(connection: Connection) -> None:
        connection.execute(
            text(
                "insert into events (receiver_id, submission_id, counts, summed)"
                " select b.receiver_id, s.id, '{}', true from submissions b, submissions s"
                " where b.id = :mine and s.id = any(:every)"
            ),
            {"mine": mine.id, "every": [mine.id, others.id]},
        )

    worker.transact(forge)

    (event,) = _events(worker)
    assert str(mine.id) in event.body.decode()


def test_the_doctor_says_what_a_role_may_beyond_its_work(login: Login, owner: Engine):
    producer = login(Role.PRODUCER)
    assert doctor._roles(producer).verdict is doctor.CheckVerdict.OK
    with owner.begin() as connection:
        connection.execute(text(f"grant update (url) on receivers to {Role.WORKER}"))
        connection.execute(text(f"grant temporary on database roles to {Role.READER}"))

    found = doctor._roles(producer)

    with owner.begin() as connection:
        connection.execute(text(f"revoke temporary on database roles from {Role.READER}"))
    migrate_ledger(owner)
    assert found.verdict is doctor.CheckVerdict.WARN
    assert f"{Role.WORKER} may update receivers.url" in found.detail
    assert f"{Role.READER} may make temporary tables" in found.detail
    assert "Run producer migrate" in found.remedy


def test_a_reader_is_enough_to_watch_the_fleet(login: Login):
    producer = login(Role.PRODUCER)
    transcribed(producer, login(Role.WORKER))
    run_retention(producer, datetime(2020, 1, 1, tzinfo=UTC), [].append, lambda _: None)

    found = login(Role.READER).transact(read_figures)

    assert dict(found.hour_segments) == {"done": 1, "failed": 1}
    assert found.last_retention.recordings == 0


def test_a_reducer_orders_repairs_under_least_rights(login: Login):
    worker = login(Role.WORKER)
    (dispatch,) = added(login(Role.PRODUCER), recording("a")).dispatches

    ordered = _repair(worker, _finish(worker, _claimed(worker, dispatch)))
    _reduce(worker, _finish(worker, _claimed(worker, ordered)))

    with login(Role.READER).connect() as connection:
        (found,) = list_submission_ids(connection, 10)
        assert [r.state for r in recordings.list_recordings(connection, found)] == [
            RecordingState.DONE
        ]


def test_what_is_known_and_what_failed_are_taken_up_under_least_rights(login: Login):
    producer = login(Role.PRODUCER)
    transcribed(producer, login(Role.WORKER))

    again = added(producer, recording("good"))
    with producer.connect() as connection:
        first = list_submission_ids(connection, 10)[-1]
    retried = producer.transact(lambda c: reduces.retry_failed_segments(c, first))

    assert (again.cached_segments, retried) == (1, (1, 1))


def test_a_worker_sweeps_and_returns_its_leases(login: Login):
    worker = login(Role.WORKER)
    first, _ = added(login(Role.PRODUCER), recording("a"), recording("b")).dispatches
    worker.run_statement(lambda c: work.claim_segment(c, first.message, owner="w", lease_s=60))

    returned = worker.transact(lambda c: work.return_leases(c, "w", child_died=True))
    worker.transact(lambda c: reduces.return_reduces(c, "w", child_died=True))
    swept = worker.transact(
        lambda c: sweep(c, queue_lengths=QueueLengths(0, 0), high_water=100, interval_s=15)
    )
    worker.transact(recordings.list_used_copies)

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

    with producer.connect() as connection:
        assert connection.scalar(text("select count(*) from transcripts")) == 0


EVERYWHERE = [
    *(
        statement.format(table)
        for table in GRANTS
        for statement in ("drop table {}", "truncate {} cascade", "alter table {} add column x int")
    ),
    "create table x (x int)",
    "create temporary table x (x int)",
    "select lo_create(0)",
    "select lo_creat(-1)",
    "select lo_from_bytea(0, 'x')",
    "select setval('transcript_positions', 1)",
]

FORBIDDEN = {
    Role.WORKER: [
        *EVERYWHERE,
        *(f"delete from {table}" for table in GRANTS if table != "voices"),
        "update submissions set title = 'x'",
        "update alembic_version set version_num = 'x'",
        "update transcripts set language = 'x'",
        "update utterances set text = 'x'",
        "update receivers set url = 'http://127.0.0.1/'",
        "update receivers set host = 'x'",
        "update events set receiver_id = gen_random_uuid()",
        "update submissions set receiver_id = null",
        "update submissions set profile = '{}'",
        "update recordings set audio_root = 'calls', audio_path = 'x'",
        "update recordings set source_path = 'x', name = 'x'",
        "update recordings set call_id = 'x'",
        "update recordings set line = 'x'",
        "update recordings set started_at = now()",
        "update recordings set attributes = '{}'",
        "update segments set decode_key = 'x'",
        "update segments set pcm_digest = 'x'",
        "update segments set recording_id = gen_random_uuid()",
        "update results set decode_key = 'x'",
        "insert into transcripts (id, created_at) values (gen_random_uuid(), '2001-01-01')",
        "insert into events (receiver_id, submission_id, recording_id)"
        " values (gen_random_uuid(), gen_random_uuid(), gen_random_uuid())",
        "insert into notices (code, subject, message) values ('x', 'x', 'x')",
        "insert into holds (line, reason) values ('x', 'x')",
        "insert into purges (before) values (now())",
        "insert into receivers (id, url, host) values (gen_random_uuid(), 'x', 'x')",
        "select from notices",
        "select from holds",
        "insert into recordings default values",
        "insert into submissions default values",
        "insert into segments (id, result_key) values (gen_random_uuid(), 'x')",
        "insert into segments (id, lease_token) values (gen_random_uuid(), gen_random_uuid())",
        "lock table submissions in share row exclusive mode",
    ],
    Role.PRODUCER: [
        *EVERYWHERE,
        "select nextval('transcript_positions')",
        *(f"delete from {table}" for table in ("transcripts", "utterances", "alembic_version")),
        "delete from purges",
        "insert into results default values",
        "update results set body = '{}'",
        "update transcripts set language = 'x'",
        "update receivers set url = 'http://127.0.0.1/'",
        "update recordings set call_id = 'x'",
        "update recordings set source_path = 'x', name = 'x'",
        "update submissions set receiver_id = null",
    ],
    Role.READER: [
        *EVERYWHERE,
        "select url from receivers",
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
        login(Role.WORKER).connect() as connection,
    ):
        connection.execute(text("update submissions set title = 'hush'"))

    assert "hush" not in str(caught.value)


def test_making_roles_again_changes_nothing(owner: Engine):
    with owner.begin() as connection:
        assert create_roles(connection) == []
    assert migrate_ledger(owner, roles=True) == migrate_ledger(owner)


def test_migrating_grants_what_is_missing_and_takes_what_is_too_much(owner: Engine, login: Login):
    with owner.begin() as connection:
        connection.execute(text(f"grant all on submissions to {Role.READER}"))
        connection.execute(text(f"revoke all on results from {Role.WORKER}"))

    migrate_ledger(owner)

    reader, worker = login(Role.READER), login(Role.WORKER)
    with pytest.raises(Misconfigured):
        reader.transact(lambda c: c.execute(text("delete from submissions")))
    assert worker.transact(lambda c: c.execute(text("select from results")).all()) == []


def test_rights_are_those_that_are_written_down(owner: Engine):
    """Of each role on each column, as Postgres itself answers."""
    query = text(
        """
        select c.relname as table, a.attname as column,
               has_column_privilege(:role, c.oid, a.attnum, :verb) as may
          from pg_class c join pg_attribute a on a.attrelid = c.oid
         where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and a.attnum > 0
        """
    )
    seen = set()
    with owner.connect() as connection:
        for role in Role:
            for verb in ("select", "insert", "update"):
                for row in connection.execute(query, {"role": role, "verb": verb}):
                    covered = rights_of(role, row.table).covers(verb, row.column)
                    assert row.may == covered, (role, verb, row.table, row.column)
                    seen.add(row.table)
    assert seen == set(GRANTS)


@pytest.fixture
def changed(owner: Engine) -> Iterator[Callable[[Role], set[str]]]:
    """Have Postgres note whose statements set which columns, whether or not they find a row."""
    with owner.begin() as connection:
        for statement in _NOTE:
            connection.execute(text(statement))
        for table in Base.metadata.sorted_tables:
            for column in table.columns:
                connection.execute(
                    text(
                        f'create trigger "{column.name}_set" before update of "{column.name}"'
                        f" on {table.name} for each statement"
                        f" execute function noted.note('{column.name}')"
                    )
                )

    def columns(role: Role) -> set[str]:
        with owner.connect() as connection:
            query = text("select place from noted.changes where login = :login")
            return set(connection.scalars(query, {"login": f"login_{role}"}))

    yield columns
    with owner.begin() as connection:
        connection.execute(text("set client_min_messages = error"))
        connection.execute(text("drop schema noted cascade"))


_NOTE = (
    "create schema noted",
    "grant usage on schema noted to public",
    "create table noted.changes (login text, place text, primary key (login, place))",
    """
    create function noted.note() returns trigger language plpgsql security definer as $$
    begin
        insert into noted.changes values (session_user, tg_table_name || '.' || tg_argv[0])
            on conflict do nothing;
        return null;
    end $$
    """,
    "grant execute on function noted.note() to public",
)


def granted(role: Role) -> set[str]:
    """Return the columns that a role may change."""
    return {
        f"{table.name}.{column.name}"
        for table in Base.metadata.sorted_tables
        for column in table.columns
        if rights_of(role, table.name).covers("update", column.name)
    }


def test_a_worker_may_change_what_its_work_changes_and_nothing_else(
    login: Login, changed: Callable[[Role], set[str]]
):
    producer, worker = login(Role.PRODUCER), login(Role.WORKER)

    whole_work(producer, worker)

    assert changed(Role.WORKER) == granted(Role.WORKER)


def whole_work(producer: Ledger, worker: Ledger) -> None:
    """Have a worker and a reducer change all that they ever change."""
    target = producer.transact(_opened_for_a_receiver)
    dispatches = added(producer, *(recording(each) for each in "abc"), to=target).dispatches
    producer.transact(lambda c: submissions.seal_submission(c, target.id))
    owners = ("w", "w", "dies")
    first, second, third = map(partial(_claimed, worker), dispatches, owners)
    worker.transact(lambda c: work.claim_decode_key(c, first, "another"))
    code = ErrorCode.STORAGE_UNREACHABLE
    worker.transact(lambda c: work.fail_segment(c, second, code, "x", FailureKind.STRIKE))
    worker.transact(lambda c: work.return_leases(c, "dies", child_died=True))
    ordered = _repair(worker, _hear_again(worker, _finish(worker, first)))
    _reduce(worker, _finish(worker, _claimed(worker, ordered)))
    worker.transact(lambda c: work.give_up_segment(c, third.segment_id, code, "x"))
    worker.transact(lambda c: work.give_up_segment(c, second.segment_id, code, "x"))
    worker.transact(
        lambda c: sweep(c, queue_lengths=QueueLengths(0, 0), high_water=100, interval_s=15)
    )
    worker.transact(notify.add_submission_events)
    worker.transact(notify.give_up_events)
    events = _events(worker)
    worker.transact(lambda c: notify.record_refusal(c, events[0], "HTTP 500"))
    worker.transact(lambda c: notify.record_delivery(c, events[0]))


def test_a_producer_may_change_what_its_commands_change_and_nothing_else(
    login: Login, changed: Callable[[Role], set[str]]
):
    producer, worker = login(Role.PRODUCER), login(Role.WORKER)

    transcribed(producer, worker)
    with producer.connect() as connection:
        (target,) = list_submission_ids(connection, 10)
        ids = [each.id for each in recordings.list_recordings(connection, target)]
    producer.transact(lambda c: recheck.replan_recording(c, ids[0], recording("anew"), capacity=9))
    producer.transact(lambda c: cancel_submission(c, target))
    producer.transact(lambda c: reduces.retry_failed_segments(c, target))
    producer.transact(mend_dates)
    producer.transact(lambda c: holds.insert_hold(c, line="sales", reason="x"))
    producer.transact(lambda c: holds.mark_holds_released(c, "sales"))
    item = recording("named")
    named = producer.transact(
        lambda c: submissions.open_submission(c, "named", item.source.name, PROFILE, force=False)
    )
    added(producer, item, to=named)
    with producer.connect() as connection:
        (gone,) = recordings.list_recordings(connection, named.id)
    producer.transact(lambda c: forget.erase_recordings(c, [gone.id], lambda _: None))
    run_retention(producer, datetime(2100, 1, 1, tzinfo=UTC), [].append, lambda _: None)

    # That right is a lock's alone.
    assert changed(Role.PRODUCER) == granted(Role.PRODUCER) - {"results.created_at"}


def test_a_ledger_whose_roles_may_more_is_named_and_narrowed(owner: Engine, login: Login):
    """As an earlier release granted it: the whole row."""
    with owner.begin() as connection:
        connection.execute(text(f"grant update on receivers, recordings to {Role.WORKER}"))
        connection.execute(text(f"grant insert on transcripts to {Role.WORKER}"))
        named = [each.cause for each in find_excess_rights(connection)]

    migrate_ledger(owner)

    assert len(named) == 1
    assert f"{Role.WORKER} may update" in named[0]
    with owner.connect() as connection:
        assert find_excess_rights(connection) == []
    with pytest.raises(Misconfigured):
        login(Role.WORKER).transact(lambda c: c.execute(text("update receivers set url = 'x'")))


@pytest.fixture
def plain_owner(postgres_server: PostgresServer) -> Iterator[Engine]:
    """A database whose owner is no superuser, as deployment.md makes it."""
    admin = create_ledger_engine(postgres_server.create_database("plain"))
    with admin.begin() as connection:
        connection.execute(text("create role plain_owner login createrole"))
        connection.execute(text("alter database plain owner to plain_owner"))
    url = make_url(postgres_server.database_url("plain")).set(username="plain_owner")
    engine = create_ledger_engine(url.render_as_string(hide_password=False))
    yield engine
    engine.dispose()
    admin.dispose()
    postgres_server.drop_database("plain")
    admin = create_ledger_engine(postgres_server.url)
    with admin.begin() as connection:
        connection.execute(text("drop role plain_owner"))
    admin.dispose()


def test_an_owner_takes_temporary_tables_away_and_names_what_a_superuser_must(
    owner: Engine, plain_owner: Engine
):
    del owner  # whose roles are the server's
    for _ in range(2):  # again, too, once nothing is left to be taken
        migrate_ledger(plain_owner, roles=True)

        with plain_owner.connect() as connection:
            (left,) = find_excess_rights(connection)
        assert "large objects" in left.cause
        assert "superuser" in left.remedy


def test_a_server_without_roles_is_migrated_all_the_same(owner: Engine, monkeypatch):
    monkeypatch.setattr("schema.roles.existing_roles", lambda _: [])

    assert migrate_ledger(owner)
