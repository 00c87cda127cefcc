"""An incremental export misses no transcript and writes none twice, whatever is being stored."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from uuid import UUID

import pytest
from sqlalchemy import Connection, text

from producer import stream as module
from producer.export import to_jsonl
from producer.stream import stream
from schema.errors import Transient
from schema.store import since as store
from schema.store.ledger import Ledger
from schema.store.read import StoredTranscript
from tests.factories import added, recording, reduced_again, submission, transcribed, utterance

_BEGIN = text(
    "insert into transcripts (id, recording_id, version, flags, speech_ms, worded_ms)"
    " values (gen_random_uuid(), :id, 1, '[]', 0, 0)"
)


def to(written: list[str]) -> Callable[[StoredTranscript], None]:
    return lambda found: written.append(to_jsonl(found))


def lines(ledger: Ledger, since: datetime | None = None, **options) -> tuple[list[str], datetime]:
    """Return the recordings that an export writes, and where the next one goes on."""
    written: list[str] = []
    streamed = stream(ledger, to(written), since=since, **options)
    assert streamed.recordings == len(written)
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in written)
    return [json.loads(line)["recording"] for line in written], streamed.until


def untranscribed(ledger: Ledger) -> UUID:
    (dispatch,) = added(ledger, recording("pcm")).dispatches
    with ledger.reading() as connection:
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

    until = stream(ledger, to(written)).until

    document = json.loads(written[0])
    assert document["utterances"][0]["text"] == "我要退款"
    assert datetime.fromisoformat(document["stored_at"]) < until


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

        real = store.writers
        monkeypatch.setattr(store, "writers", writers)
        written, until = lines(ledger)

    assert asked == [1, 1, 1, 0]
    assert written == [str(slow)]
    assert lines(ledger, until)[0] == []


def test_one_that_is_stored_for_ever_is_said(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_PATIENCE_S", 0.0)
    with ledger.engine.connect() as worker:
        worker.execute(_BEGIN, {"id": untranscribed(ledger)})

        with pytest.raises(Transient, match="in the storing"):
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

    stream(ledger, to(written), since=until)

    assert [json.loads(line)["version"] for line in written] == [3]


def test_one_that_gets_a_newer_transcript_meanwhile_is_left_to_the_next_export(ledger: Ledger):
    first, second = transcribed(ledger), transcribed(ledger)
    written: list[str] = []

    def write(found: StoredTranscript) -> None:
        written.append(str(found.recording.id))
        reduced_again(ledger, second)

    until = stream(ledger, write).until

    assert written == [str(first)]
    assert lines(ledger, until)[0] == [str(second)]


def test_one_that_is_erased_meanwhile_is_left_out(ledger: Ledger):
    first, _second = transcribed(ledger), transcribed(ledger)
    written: list[str] = []

    def write(found: StoredTranscript) -> None:
        written.append(str(found.recording.id))
        ledger.transact(lambda c: c.execute(text("delete from recordings")))

    stream(ledger, write)

    assert written == [str(first)]


def test_pages_leave_nothing_out(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_PAGE", 2)
    every = [str(transcribed(ledger)) for _ in range(5)]
    same_time = text("update transcripts set created_at = '2026-05-01'")
    ledger.transact(lambda c: c.execute(same_time))

    assert sorted(lines(ledger)[0]) == sorted(every)


def test_an_export_may_be_of_one_submission(ledger: Ledger):
    mine = submission(ledger)
    wanted = transcribed(ledger, to=mine)
    transcribed(ledger)

    assert lines(ledger, submission=mine.id)[0] == [str(wanted)]
