"""The migrations make exactly the tables that the code declares, and can be undone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect, text

from ops.local.servers import PostgresServer
from producer.cli.doctor import CheckVerdict, _ledger
from schema.errors import ErrorCode, Misconfigured, Transient
from schema.migrate import (
    alembic_config,
    concurrent_indexes,
    current_revision,
    head_revision,
    migrate_ledger,
    require_current,
)
from schema.search_query import parse_query
from schema.store.connection import create_ledger_engine
from schema.store.ledger import Ledger
from schema.store.read.search import Filters, search_utterances
from schema.store.work.events import find_or_add_receiver
from schema.tables import Base
from tests.factories import transcribed, utterance


@pytest.fixture
def engine(postgres_server: PostgresServer) -> Iterator[Engine]:
    engine = create_ledger_engine(postgres_server.create_database("migrations"))
    yield engine
    engine.dispose()
    postgres_server.drop_database("migrations")


def test_migrations_equal_the_models(engine: Engine):
    migrate_ledger(engine)

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_migrating_again_changes_nothing(engine: Engine):
    assert migrate_ledger(engine) == migrate_ledger(engine)


def test_whoever_keeps_a_table_is_named_and_nobody_waits_behind_the_migration_for_long(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    migrate_ledger(engine)
    at_revision(engine, "0012")
    monkeypatch.setattr("schema.migrate._TRIES", 2)
    monkeypatch.setattr("schema.migrate._PAUSE_S", 0.0)

    with engine.connect() as reader:
        reader.execute(text("set application_name = 'report of the month'"))
        reader.execute(text("select from purges"))
        pid = reader.scalar(text("select pg_backend_pid()"))
        with pytest.raises(Transient) as caught:
            migrate_ledger(engine)
    assert "(report of the month)" in str(caught.value)
    assert f"pg_terminate_backend({pid})" in str(caught.value)

    assert migrate_ledger(engine) == head_revision()


def test_a_reader_who_ends_meanwhile_costs_a_migration_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    migrate_ledger(engine)
    at_revision(engine, "0012")
    reader = engine.connect()
    reader.execute(text("select from purges"))
    # Between two tries.
    monkeypatch.setattr("schema.migrate.time", SimpleNamespace(sleep=lambda _: reader.close()))

    assert migrate_ledger(engine) == head_revision()


def test_words_are_compressed_fast_where_the_server_can(engine: Engine):
    migrate_ledger(engine)

    with engine.connect() as connection:
        known = connection.scalar(
            text("select enumvals from pg_settings where name = 'default_toast_compression'")
        )
        used = connection.scalar(
            text(
                "select attcompression from pg_attribute where attname = 'body'"
                " and attrelid = 'results'::regclass"
            )
        )
    assert used == ("l" if "lz4" in known else "")


def test_migrations_can_be_undone(engine: Engine):
    migrate_ledger(engine)

    config = alembic_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")

    assert inspect(engine).get_table_names() == ["alembic_version"]


def test_a_newer_releases_ledger_is_left_alone_and_its_producer_asked_for(engine: Engine):
    migrate_ledger(engine)
    with engine.begin() as connection:
        connection.execute(text("update alembic_version set version_num = '9999'"))

    for attempt in (require_current, migrate_ledger):
        with pytest.raises(Misconfigured, match="the release that migrated it") as caught:
            attempt(engine)
        assert caught.value.code is ErrorCode.LEDGER_OUTDATED
    with engine.connect() as connection:
        assert current_revision(connection) == "9999"


def test_an_outdated_ledger_is_refused_with_the_remedy(engine: Engine):
    with pytest.raises(Misconfigured, match="producer migrate") as caught:
        require_current(engine)

    assert caught.value.code is ErrorCode.LEDGER_OUTDATED


def at_revision(engine: Engine, revision: str) -> None:
    """Go up or down to a revision, but for the indexes that are built beside workers."""
    config = alembic_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        is_up = (current_revision(connection) or "") < revision
        (command.upgrade if is_up else command.downgrade)(config, revision)


def valid_indexes(engine: Engine) -> set[str]:
    names = [str(index.name) for index in concurrent_indexes()]
    with engine.connect() as connection:
        query = text(
            "select indexrelid::regclass::text from pg_index"
            " where indisvalid and indexrelid::regclass::text = any(:names)"
        )
        return set(connection.scalars(query, {"names": names}))


_STORE = text(
    "insert into utterances select transcript_id, index + 1, channel, speaker, start_ms, end_ms,"
    " text, words from utterances order by index desc limit 1"
)


def building(engine: Engine) -> bool:
    progress = text(
        "select exists (select from pg_stat_progress_create_index"
        " where datname = current_database() and relid = 'utterances'::regclass)"
    )
    with engine.connect() as watcher:
        return bool(watcher.scalar(progress))


def test_large_indexes_are_built_while_a_worker_is_storing_a_transcript(engine: Engine):
    """The build waits for whoever writes; whoever writes waits for nobody."""
    at_revision(engine, "head")
    earlier = transcribed(Ledger(engine), utterance("agent", "said before"))
    at_revision(engine, "0005")
    at_revision(engine, "head")
    with engine.connect() as worker, ThreadPoolExecutor(1) as pool:
        worker.execute(_STORE)
        migrating = pool.submit(migrate_ledger, engine)
        while not (migrating.done() or building(engine)):
            pass
        worker.execute(_STORE)
        assert not migrating.done()
        worker.commit()
        migrating.result()

    assert len(valid_indexes(engine)) == len(concurrent_indexes())
    with engine.connect() as connection:
        hits = search_utterances(connection, parse_query("before"), Filters(), limit=10)
    assert [hit.recording_id for hit in hits] == [earlier] * 3


def test_an_index_whose_build_was_broken_off_is_built_anew(engine: Engine):
    migrate_ledger(engine)
    with engine.begin() as connection:
        connection.execute(
            text(
                "update pg_index set indisvalid = false"
                " where indexrelid = 'utterances_words_ix'::regclass"
            )
        )
    every = {str(index.name) for index in concurrent_indexes()}
    assert valid_indexes(engine) == every - {"utterances_words_ix"}
    warned = _ledger(Ledger(engine))

    migrate_ledger(engine)

    assert valid_indexes(engine) == every
    assert warned.verdict is CheckVerdict.WARN
    assert "utterances_words_ix" in warned.detail
    assert _ledger(Ledger(engine)).verdict is CheckVerdict.OK


def test_a_migration_that_is_undone_leaves_what_the_version_before_it_has(engine: Engine):
    migrate_ledger(engine)
    transcribed(Ledger(engine), utterance("agent", "stored and stored again"))
    at_revision(engine, "0005")

    with engine.begin() as worker:
        worker.execute(_STORE)
    migrate_ledger(engine)

    with engine.connect() as connection:
        assert len(search_utterances(connection, parse_query("stored"), Filters(), limit=10)) == 2


def test_a_worker_of_the_release_before_notifies_without_knowing_it(engine: Engine):
    """What it does to end a recording names neither receivers nor events."""
    at_revision(engine, "0006")
    ledger = Ledger(engine)
    with engine.begin() as connection:
        connection.execute(
            text(
                "insert into submissions (id, key, state, title, profile, force)"
                " values (gen_random_uuid(), 'key', 'open', 'calls', '{}', false)"
            )
        )
        connection.execute(
            text(
                "insert into recordings (id, submission_id, state, source_root, source_path, name,"
                " flags, attributes, open_segments, reduce_dispatches, reduce_attempts)"
                " select gen_random_uuid(), id, 'stitching', 'calls', 'a', 'a', '[]', '{}', 0, 0, 0"
                " from submissions"
            )
        )
    migrate_ledger(engine)
    with engine.begin() as connection:
        receiver = find_or_add_receiver(connection, "https://crm.example/", "crm.example")
        connection.execute(text("update submissions set receiver_id = :id"), {"id": receiver})
        connection.execute(text("set search_path = ''"))
        connection.execute(
            text("update public.recordings set state = 'done', ended_at = now(), error_code = null")
        )
        connection.execute(text("reset search_path"))

    with ledger.connect() as connection:
        found = connection.execute(text("select recording_state, state from events")).all()
    assert found == [("done", "waiting")]


def test_a_restore_and_autovacuum_which_have_no_search_path_can_use_the_index(engine: Engine):
    migrate_ledger(engine)
    transcribed(Ledger(engine), utterance("agent", "退款 now"))

    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("set search_path = ''"))
        connection.execute(text("analyze public.utterances"))
        connection.execute(text("reindex index public.utterances_words_ix"))
        words = connection.scalar(text("select public.search_words(text) from public.utterances"))
        connection.execute(text("reset search_path"))

    assert words == "'now':3 '款':2 '退':1"
