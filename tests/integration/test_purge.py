"""Retention erases old calls by their date, in bounded transactions, and nothing that is young."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import select, text

from producer.purge import purge
from schema.records import CallInfo
from schema.store import forget
from schema.store.forget import Forgotten
from schema.store.ledger import Ledger
from schema.tables import Recording
from tests.factories import added, quarantined, recording, submission, transcribed

DAY = timedelta(days=1)
NOW = datetime.now(UTC)


def purged(ledger: Ledger, before: datetime = NOW - 30 * DAY, **told) -> Forgotten:
    return purge(ledger, before, [].append, told.pop("publish", lambda _: None), **told)


def names(ledger: Ledger) -> set[str | None]:
    with ledger.reading() as connection:
        return set(connection.scalars(select(Recording.call_id)))


def call(ledger: Ledger, name: str, *, started: float | None = None, handed_in: float = 0) -> UUID:
    """Transcribe a call that started, and was submitted, so many days ago."""
    started_at = None if started is None else NOW - started * DAY
    found = transcribed(ledger, call=CallInfo(call_id=name, started_at=started_at))
    submit(ledger, found, handed_in)
    return found


def submit(ledger: Ledger, recording_id: UUID, days_ago: float) -> None:
    move = text("update recordings set created_at = :at where id = :id")
    at = NOW - days_ago * DAY
    ledger.transact(lambda c: c.execute(move, {"at": at, "id": recording_id}))


def test_a_calls_date_counts_and_where_nobody_knows_it_when_it_was_submitted(ledger: Ledger):
    call(ledger, "old", started=31)
    call(ledger, "young", started=29, handed_in=20)
    call(ledger, "old, undated", handed_in=31)
    call(ledger, "young, undated", handed_in=29)

    assert purged(ledger).recordings == 2
    assert names(ledger) == {"young", "young, undated"}


def test_a_call_whose_date_is_wrong_is_not_kept_for_ever(ledger: Ledger):
    call(ledger, "of the future", started=-10_000, handed_in=31)

    assert purged(ledger).recordings == 1


def test_what_is_being_transcribed_is_left_to_end_unless_it_is_stuck(ledger: Ledger):
    def under_way(name: str) -> UUID:
        item = recording("pcm", call=CallInfo(call_id=name, started_at=NOW - 90 * DAY))
        (dispatch,) = added(ledger, item).dispatches
        with ledger.reading() as connection:
            query = text("select recording_id from segments where id = :id")
            return connection.scalar(query, {"id": dispatch.message.id})

    under_way("handed in today")
    submit(ledger, under_way("handed in long ago"), 31)
    with ledger.reading() as connection:
        old = forget.count_older(connection, NOW - 30 * DAY)

    assert (old.recordings, old.spared) == (1, 1)
    assert purged(ledger).recordings == 1
    assert names(ledger) == {"handed in today"}


def test_a_quarantined_recording_goes_like_any_other(ledger: Ledger):
    added(ledger, quarantined())

    assert purged(ledger, before=NOW + DAY).recordings == 1


def test_what_would_go_is_counted_as_what_goes(ledger: Ledger):
    for days in (40, 50, 60):
        call(ledger, str(days), started=days)

    with ledger.reading() as connection:
        old = forget.count_older(connection, forget.ago(connection, 45 * DAY))

    assert (old.recordings, old.audio_ms, old.spared) == (2, 20_000, 0)
    assert old.first == NOW - 60 * DAY
    assert purged(ledger, before=old.before).recordings == old.recordings


def test_each_batch_is_erased_by_itself_and_the_next_purge_goes_on(ledger: Ledger):
    mine = submission(ledger)
    long_ago = CallInfo(started_at=NOW - 90 * DAY)
    added(ledger, *(quarantined() for _ in range(5)), to=mine)
    added(ledger, *(recording(str(n), call=long_ago) for n in range(250)), to=mine)
    ledger.transact(lambda c: c.execute(text("update recordings set created_at = '2020-01-01'")))

    def break_off(done: int) -> None:
        raise KeyboardInterrupt(done)

    with pytest.raises(KeyboardInterrupt) as broken_off:
        purged(ledger, advance=break_off)
    assert broken_off.value.args == (100,)
    told: list[int] = []

    assert purged(ledger, advance=told.append).recordings == 155
    assert told == [100, 155]


def test_who_waited_for_words_of_an_erased_call_is_sent_for(ledger: Ledger):
    old = recording("same", call=CallInfo(started_at=NOW - 90 * DAY))
    (first,) = added(ledger, old).dispatches
    added(ledger, recording("same"))
    with ledger.reading() as connection:
        query = text("select recording_id from segments where id = :id")
        recording_id = connection.scalar(query, {"id": first.message.id})
    submit(ledger, recording_id, 31)
    sent: list = []

    purged(ledger, publish=sent.extend)

    assert len(sent) == 1
