"""Retention erases old calls by their date, in bounded transactions, and nothing that is young."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import func, select, text

from producer.erasure.retention import run_retention
from schema.errors import BadRequest, ErrorCode
from schema.records import CallInfo
from schema.store.erasure import forget, retention
from schema.store.erasure.forget import ErasureResult
from schema.store.intake import submissions
from schema.store.intake.cancel import cancel_submission
from schema.store.ledger import Ledger
from schema.store.read.fleet import read_figures
from schema.store.read.progress import list_submission_ids
from schema.store.read.search import Filters
from schema.store.work import segments
from schema.tables import Recording
from tests.factories import added, quarantined, recording, submission, transcribed, utterance

DAY = timedelta(days=1)
NOW = datetime.now(UTC)


def purged(ledger: Ledger, before: datetime = NOW - 30 * DAY, **told) -> ErasureResult:
    return run_retention(ledger, before, [].append, told.pop("publish", lambda _: None), **told)


def names(ledger: Ledger) -> set[str | None]:
    with ledger.connect() as connection:
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


def test_what_is_being_transcribed_is_left_to_end_however_old_it_is(ledger: Ledger):
    mine = submission(ledger)
    waits, runs = (
        recording(name, call=CallInfo(call_id=name, started_at=NOW - 90 * DAY))
        for name in ("waits", "runs")
    )
    _, claimed = added(ledger, waits, runs, to=mine).dispatches
    ledger.run_statement(
        lambda c: segments.claim_segment(c, claimed.message, owner="w", lease_s=60)
    )
    ledger.transact(lambda c: c.execute(text("update recordings set created_at = '2020-01-01'")))
    with ledger.connect() as connection:
        old = forget.preview_retention(connection, NOW - 30 * DAY)

    assert (old.recordings, old.unfinished_recordings) == (0, 2)
    assert purged(ledger).recordings == 0
    assert names(ledger) == {"waits", "runs"}

    ledger.transact(lambda c: cancel_submission(c, mine.id))
    assert purged(ledger).recordings == 2


def test_a_quarantined_recording_goes_like_any_other(ledger: Ledger):
    added(ledger, quarantined())

    assert purged(ledger, before=NOW + DAY).recordings == 1


@pytest.mark.parametrize(
    ("filters", "gone"),
    [
        (Filters(line="billing"), {"billed", "billed lately"}),
        (Filters(since=NOW - 50 * DAY), {"billed lately", "sold"}),
        (Filters(until=NOW - 50 * DAY), {"billed"}),
        (Filters(since=NOW - 50 * DAY, line="billing"), {"billed lately"}),
        (Filters(speaker="ANN"), {"sold"}),
        (Filters(speaker="nobody"), set()),
    ],
)
def test_what_is_old_may_be_narrowed_as_a_search_is(
    ledger: Ledger, filters: Filters, gone: set[str]
):
    for name, line, days, speaker in (
        ("billed", "billing", 60, "agent"),
        ("billed lately", "billing", 40, "agent"),
        ("sold", "sales", 40, "Ann"),
        ("young", "billing", 10, "Ann"),
    ):
        info = CallInfo(call_id=name, line=line, started_at=NOW - days * DAY)
        transcribed(ledger, utterance(speaker, "hello"), call=info)
    before = NOW - 30 * DAY
    with ledger.connect() as connection:
        old = forget.preview_retention(connection, before, filters)

    assert old.recordings == purged(ledger, before, filters=filters).recordings == len(gone)
    assert names(ledger) == {"billed", "billed lately", "sold", "young"} - gone


def test_a_copy_that_may_not_be_removed_keeps_its_own_recording_alone(ledger: Ledger):
    old_and_ended(ledger, 120)
    spool = text(
        "update recordings set audio_root = 'spool', audio_path = convert_to(name, 'UTF8')"
        " where audio_root is not null"
    )
    ledger.transact(lambda c: c.execute(spool))
    ledger.transact(
        lambda c: [submissions.seal_submission(c, i) for i in list_submission_ids(c, 5)]
    )
    with ledger.connect() as connection:
        kept = connection.scalar(select(func.max(Recording.name)))

    def remove(path: bytes) -> None:
        if path == kept.encode():
            raise BadRequest(ErrorCode.FILE_UNREADABLE, kept, "this user may not remove it")

    done = run_retention(ledger, NOW - 30 * DAY, remove, lambda _: None)

    assert done.recordings == 119
    assert [error.subject for error in done.refusals] == [kept]
    with ledger.connect() as connection:
        assert connection.scalars(select(Recording.name)).all() == [kept]


def test_a_narrowed_run_does_not_pass_for_retention(ledger: Ledger):
    call(ledger, "old", started=31)

    purged(ledger, filters=Filters(line="billing"))
    with ledger.connect() as connection:
        assert read_figures(connection).last_retention is None
    purged(ledger)
    with ledger.connect() as connection:
        assert read_figures(connection).last_retention is not None


def test_what_would_go_is_counted_as_what_goes(ledger: Ledger):
    for days in (40, 50, 60):
        call(ledger, str(days), started=days)

    with ledger.connect() as connection:
        old = forget.preview_retention(connection, forget.compute_cutoff(connection, 45 * DAY))

    assert (old.recordings, old.audio_ms, old.unfinished_recordings) == (2, 20_000, 0)
    assert old.oldest_call_at == NOW - 60 * DAY
    assert purged(ledger, before=old.cutoff).recordings == old.recordings


def test_each_batch_is_erased_by_itself_and_the_next_purge_goes_on(ledger: Ledger):
    old_and_ended(ledger, 255)

    def break_off(done: int) -> None:
        raise KeyboardInterrupt(done)

    with pytest.raises(KeyboardInterrupt) as broken_off:
        purged(ledger, advance=break_off)
    assert broken_off.value.args == (100,)
    told: list[int] = []

    assert purged(ledger, advance=told.append).recordings == 155
    assert told == [100, 155]


def old_and_ended(ledger: Ledger, count: int) -> None:
    mine = submission(ledger)
    added(ledger, *(quarantined() for _ in range(5)), to=mine)
    added(ledger, *(recording(str(n)) for n in range(count - 5)), to=mine)
    ledger.transact(lambda c: cancel_submission(c, mine.id))
    ledger.transact(lambda c: c.execute(text("update recordings set created_at = '2020-01-01'")))


def runs(ledger: Ledger) -> list[tuple[bool, int, int, int]]:
    """Return whether each run came to its end, what it erased and what it spared."""
    query = text("select ended_at is not null, recordings, results, spared from purges order by id")
    with ledger.connect() as connection:
        return [tuple(row) for row in connection.execute(query)]


def test_the_ledger_keeps_what_each_run_erased(ledger: Ledger):
    call(ledger, "old", started=31)
    added(ledger, recording("a", call=CallInfo(started_at=NOW - 90 * DAY)))

    purged(ledger)
    purged(ledger)

    assert runs(ledger) == [(True, 1, 1, 1), (True, 0, 0, 1)]


def test_a_run_that_was_broken_off_is_counted_as_far_as_it_got(ledger: Ledger):
    old_and_ended(ledger, 150)

    def break_off(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        purged(ledger, advance=break_off)
    assert runs(ledger) == [(False, 100, 0, 0)]
    assert ledger.transact(read_figures).last_retention is None

    purged(ledger)
    found = ledger.transact(read_figures).last_retention

    assert runs(ledger)[1:] == [(True, 50, 0, 0)]
    assert (found.recordings, found.unfinished_recordings) == (50, 0)
    assert found.age_s < 3_600


def test_a_batch_that_is_not_erased_is_not_counted(ledger: Ledger):
    call(ledger, "old", started=31)
    query = text("update recordings set audio_root = 'spool', audio_path = 'x'")
    ledger.transact(lambda c: c.execute(query))
    ledger.transact(lambda c: c.execute(text("update submissions set state = 'sealed'")))

    def refuse(path: bytes) -> None:
        raise PermissionError(path)

    with pytest.raises(PermissionError):
        run_retention(ledger, NOW - 30 * DAY, refuse, lambda _: None)

    assert runs(ledger) == [(False, 0, 0, 0)]
    assert names(ledger) == {"old"}


def pages(ledger: Ledger) -> int:
    query = text("select pg_relation_size('utterances') / 8192")
    with ledger.connect() as connection:
        return connection.scalar(query)


def test_a_vacuum_gives_room_back(ledger: Ledger):
    long = (utterance("agent", f"word {n} " * 50, 1_000 * n) for n in range(200))
    found = transcribed(ledger, *long, call=CallInfo(started_at=NOW - 31 * DAY))
    assert pages(ledger) > 5
    assert purged(ledger).recordings == 1
    assert pages(ledger) > 5

    assert retention.vacuum_tables(ledger.engine) == []

    assert pages(ledger) == 0
    assert found not in names(ledger)


def test_who_waited_for_words_of_an_erased_call_is_sent_for(ledger: Ledger):
    old = recording("same", call=CallInfo(started_at=NOW - 90 * DAY))
    mine = submission(ledger)
    added(ledger, old, to=mine)
    added(ledger, recording("same"))
    ended = text("update recordings set state = 'failed' where submission_id = :id")
    ledger.transact(lambda c: c.execute(ended, {"id": mine.id}))
    sent: list = []

    purged(ledger, publish=sent.extend)

    assert len(sent) == 1
