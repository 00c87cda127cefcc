"""An incremental export misses no transcript and writes none twice, whatever is being stored."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import Connection, text

from ops.local.servers import PostgresServer
from producer.export import incremental as module
from producer.export.formats import to_jsonl
from producer.export.incremental import write_changes
from schema.errors import Transient
from schema.migrate import migrate_ledger
from schema.store.connection import create_ledger_engine
from schema.store.ledger import Ledger
from schema.store.read import changes as store
from schema.store.read.changes import Watermark
from schema.store.read.transcripts import StoredTranscript
from tests.factories import added, recording, reduced_again, submission, transcribed, utterance

_BEGIN = text(
    "insert into transcripts (id, recording_id, version, flags, speech_ms, worded_ms)"
    " values (gen_random_uuid(), :id, 1, '[]', 0, 0)"
)


def to(written: list[str]) -> Callable[[StoredTranscript], None]:
    return lambda found: written.append(to_jsonl(found))


def lines(
    ledger: Ledger, since: datetime | Watermark | None = None, **options
) -> tuple[list[str], Watermark]:
    """Return the recordings that an export writes, and where the next one goes on."""
    written: list[str] = []
    streamed = write_changes(ledger, to(written), since=since, **options)
    assert streamed.recordings == len(written)
    assert all(line.splitlines(keepends=True) == [line] for line in written)
    return [json.loads(line)["recording"] for line in written], streamed.mark


def untranscribed(ledger: Ledger) -> UUID:
    (dispatch,) = added(ledger, recording("pcm")).dispatches
    with ledger.connect() as connection:
        query = text("select recording_id from segments where id = :id")
        return connection.scalar(query, {"id": dispatch.message.id})


def test_an_export_goes_on_where_the_last_one_ended(ledger: Ledger):
    first, second = (str(transcribed(ledger, utterance("agent", "hi\n\u2028"))) for _ in range(2))

    written, until = lines(ledger)
    again, later = lines(ledger, until)
    third = str(transcribed(ledger))

    assert (written, again) == ([first, second], [])
    assert lines(ledger, later)[0] == [third]
    assert lines(ledger)[0] == [first, second, third]


def test_a_line_says_all_that_json_says_and_when_it_was_stored(ledger: Ledger):
    transcribed(ledger, utterance("agent", "我要退款"))
    written: list[str] = []

    until = write_changes(ledger, to(written)).mark

    document = json.loads(written[0])
    assert document["utterances"][0]["text"] == "我要退款"
    assert datetime.fromisoformat(document["stored_at"]) < until.moment


def test_a_transcript_that_is_being_stored_is_waited_for(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    """Its time is before that of the next export, which would not look for it."""
    slow = untranscribed(ledger)
    with ledger.engine.connect() as worker:
        worker.execute(_BEGIN, {"id": slow})
        asked: list[int] = []

        def writers(connection: Connection) -> set[str]:
            found = real(connection)
            asked.append(len(found))
            if len(asked) == 3:
                worker.commit()
            return found

        real = store.list_open_writers
        monkeypatch.setattr(store, "list_open_writers", writers)
        written, until = lines(ledger)

    assert asked == [1, 1, 1, 0]
    assert written == [str(slow)]
    assert lines(ledger, until)[0] == []


def test_one_that_is_stored_for_ever_is_said(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_PATIENCE_S", 0.0)
    with ledger.engine.connect() as worker:
        worker.execute(_BEGIN, {"id": untranscribed(ledger)})

        with pytest.raises(Transient, match="still being stored"):
            lines(ledger)


def test_while_many_are_stored_none_is_missed_and_none_comes_twice(ledger: Ledger):
    chance = random.Random(7)
    pauses = {untranscribed(ledger): chance.uniform(0, 0.03) for _ in range(60)}

    def store_slowly(item: tuple[UUID, float]) -> None:
        def work(connection: Connection) -> None:
            connection.execute(text("select"))  # its transaction begins long before it stores
            connection.execute(text("select pg_sleep(:s)"), {"s": item[1]})
            connection.execute(_BEGIN, {"id": item[0]})
            connection.execute(text("select pg_sleep(:s)"), {"s": item[1]})

        ledger.transact(work)

    written: Counter[str] = Counter()
    exports, since = 0, None
    with ThreadPoolExecutor(3) as pool:
        storing = [pool.submit(store_slowly, item) for item in pauses.items()]
        while not all(future.done() for future in storing):
            found, since = lines(ledger, since)
            written.update(found)
            exports += 1
    written.update(lines(ledger, since)[0])

    assert written == Counter(map(str, pauses))
    assert exports > 1


def test_a_recording_with_a_newer_transcript_comes_again_with_that_alone(ledger: Ledger):
    once = transcribed(ledger, utterance("agent", "one"))
    until = lines(ledger)[1]
    reduced_again(ledger, once, utterance("agent", "two"))
    reduced_again(ledger, once, utterance("agent", "three"))
    written: list[str] = []

    write_changes(ledger, to(written), since=until)

    assert [json.loads(line)["version"] for line in written] == [3]


def test_one_that_gets_a_newer_transcript_meanwhile_is_left_to_the_next_export(ledger: Ledger):
    first, second = transcribed(ledger), transcribed(ledger)
    written: list[str] = []

    def write(found: StoredTranscript) -> None:
        written.append(str(found.recording.id))
        reduced_again(ledger, second)

    until = write_changes(ledger, write).mark

    assert written == [str(first)]
    assert lines(ledger, until)[0] == [str(second)]


def test_one_that_is_erased_meanwhile_is_left_out(ledger: Ledger):
    first, _second = transcribed(ledger), transcribed(ledger)
    written: list[str] = []

    def write(found: StoredTranscript) -> None:
        written.append(str(found.recording.id))
        ledger.transact(lambda c: c.execute(text("delete from recordings")))

    write_changes(ledger, write)

    assert written == [str(first)]


def test_pages_leave_nothing_out(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_PAGE", 2)
    every = [str(transcribed(ledger)) for _ in range(5)]
    same_time = text("update transcripts set created_at = '2026-05-01'")
    ledger.transact(lambda c: c.execute(same_time))

    assert sorted(lines(ledger)[0]) == sorted(every)


def test_a_database_clock_that_steps_back_hides_nothing_from_a_cursor(ledger: Ledger):
    transcribed(ledger)
    mark = lines(ledger)[1]
    later = str(transcribed(ledger))
    stored_at(ledger, later, mark.moment - timedelta(days=1))

    assert lines(ledger, mark)[0] == [later]
    assert lines(ledger, mark.moment)[0] == []


def test_the_first_transcript_ever_comes_behind_the_mark_of_an_empty_ledger(ledger: Ledger):
    mark = lines(ledger)[1]
    first = str(transcribed(ledger))

    assert lines(ledger, mark)[0] == [first]


def test_a_mark_without_a_position_goes_on_by_its_moment_and_then_by_position(ledger: Ledger):
    transcribed(ledger)
    mark = lines(ledger)[1]
    later = str(transcribed(ledger))

    written, following = lines(ledger, Watermark(mark.moment))

    assert written == [later]
    assert lines(ledger, following)[0] == []


def test_after_a_failover_what_has_a_position_of_before_is_written(ledger: Ledger):
    """The server that took over had lost the last positions, and gave them again."""
    old, kept, lost = (str(transcribed(ledger)) for _ in range(3))
    stored_at(ledger, old, datetime.now(UTC) - timedelta(hours=2))
    mark = lines(ledger)[1]
    before = replace(mark, history="of the server that was lost")
    new = str(transcribed(ledger))

    streamed = write_changes(ledger, to(written := []), since=before)

    assert streamed.may_repeat
    assert [json.loads(line)["recording"] for line in written] == [kept, lost, new]
    assert lines(ledger, streamed.mark)[0] == []


def test_a_restored_ledger_has_another_history(ledger: Ledger, postgres_server: PostgresServer):
    with ledger.connect() as connection:
        here = store.read_watermark(connection)
        again = store.read_watermark(connection)
    url = postgres_server.create_database("restored_history")
    try:
        other = Ledger(create_ledger_engine(url))
        migrate_ledger(other.engine)
        with other.connect() as connection:
            there = store.read_watermark(connection)
        other.close()
    finally:
        postgres_server.drop_database("restored_history")

    assert here.history == again.history != there.history


def stored_at(ledger: Ledger, recording_id: str, moment: datetime) -> None:
    statement = text("update transcripts set created_at = :moment where recording_id = :id")
    ledger.transact(lambda c: c.execute(statement, {"moment": moment, "id": recording_id}))


def test_an_export_may_be_of_one_submission(ledger: Ledger):
    mine = submission(ledger)
    wanted = transcribed(ledger, to=mine)
    transcribed(ledger)

    assert lines(ledger, submission=mine.id)[0] == [str(wanted)]
