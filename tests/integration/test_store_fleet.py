"""What an operator watches, as the ledger has it."""

from __future__ import annotations

from uuid import uuid4

import pytest
from sqlalchemy import Connection, text

from schema.errors import BadRecording, ErrorCode, Transient
from schema.store.intake.cancel import cancel_submission
from schema.store.ledger import Ledger
from schema.store.read.fleet import LedgerFigures, read_figures
from schema.store.work import segments
from schema.store.work.segments import Claim, FailureKind
from schema.wire import Dispatch
from tests.factories import added, quarantined, recording, result, submission


def seen(ledger: Ledger) -> LedgerFigures:
    return ledger.transact(read_figures)


def claimed(ledger: Ledger, dispatch: Dispatch) -> Claim:
    claim = ledger.run_statement(
        lambda c: segments.claim_segment(c, dispatch.message, owner="host:boot", lease_s=60)
    )
    assert claim is not None
    return claim


def changed(ledger: Ledger, statement: str) -> None:
    ledger.transact(lambda c: c.execute(text(statement)))


def test_an_empty_ledger_has_a_zero_for_all(ledger: Ledger):
    found = seen(ledger)

    assert dict(found.open_segments) == {"pending": 0, "leased": 0}
    assert dict(found.hour_segments) == {"done": 0, "failed": 0}
    assert (found.oldest_pending_s, found.expired_leases, found.hour_audio_ms) == (0, 0, 0)
    assert set(found.day_recordings.values()) == {0}
    assert found.waiting_segments == {}


def test_what_waits_what_runs_and_what_is_done(ledger: Ledger):
    dispatches = added(ledger, recording("a", "b", "c"), quarantined()).dispatches
    claimed(ledger, dispatches[0])
    done = claimed(ledger, dispatches[1])
    ledger.run_statement(lambda c: segments.finish_segment(c, done, result("hello")))

    found = seen(ledger)

    assert dict(found.open_segments) == {"pending": 1, "leased": 1}
    assert dict(found.hour_segments) == {"done": 1, "failed": 0}
    assert found.hour_audio_ms == 10_000
    assert found.day_recordings["running"] == 1
    assert found.day_recordings["quarantined"] == 1


def test_a_failure_counts_among_the_last_hours_and_a_cancelled_segment_does_not(ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches
    error = BadRecording(ErrorCode.AUDIO_CHANGED, "x", "changed")
    claim = claimed(ledger, dispatch)
    ledger.transact(
        lambda c: segments.fail_segment(c, claim, error.code, "changed", FailureKind.PERMANENT)
    )
    withdrawn = submission(ledger)
    added(ledger, recording("b"), to=withdrawn)
    ledger.transact(lambda c: cancel_submission(c, withdrawn.id))

    found = seen(ledger)

    assert dict(found.hour_segments) == {"done": 0, "failed": 1}
    assert found.day_recordings["cancelled"] == 1


def test_what_waits_for_its_next_attempt_is_told_by_its_reason(ledger: Ledger):
    dispatches = added(ledger, recording("a"), recording("b")).dispatches
    claim = claimed(ledger, dispatches[0])
    error = Transient(ErrorCode.STORAGE_UNREACHABLE, "x", "away")
    ledger.transact(
        lambda c: segments.fail_segment(c, claim, error.code, "away", FailureKind.RETRY_LATER)
    )

    found = seen(ledger)

    assert dict(found.waiting_segments) == {"storage.unreachable": 1}
    assert found.open_segments["pending"] == 2


def test_the_age_of_the_oldest_recording_that_waits(ledger: Ledger):
    added(ledger, recording("a"), recording("b"))
    changed(ledger, "update recordings set created_at = now() - interval '2 hours'")
    added(ledger, recording("c"))

    assert seen(ledger).oldest_pending_s == pytest.approx(7_200, abs=60)


def test_a_lease_that_expired_and_that_nobody_took_up(ledger: Ledger):
    for dispatch in added(ledger, recording("a"), recording("b")).dispatches:
        claimed(ledger, dispatch)
    assert seen(ledger).expired_leases == 0
    changed(
        ledger,
        "update segments set lease_expires_at = now() - interval '1 s'"
        " where id = (select min(id::text)::uuid from segments)",
    )

    assert seen(ledger).expired_leases == 1


def test_what_is_long_past_is_left_out(ledger: Ledger):
    old = submission(ledger)
    dispatches = added(ledger, recording("a"), to=old).dispatches
    claim = claimed(ledger, dispatches[0])
    ledger.run_statement(lambda c: segments.finish_segment(c, claim, result("hello")))
    changed(
        ledger,
        "update submissions set state = 'sealed', sealed_at = now() - interval '9 days'",
    )
    changed(ledger, "update recordings set created_at = now() - interval '9 days'")
    changed(ledger, "update segments set ended_at = now() - interval '9 days'")

    found = seen(ledger)

    assert set(found.day_recordings.values()) == {0}
    assert (found.hour_segments["done"], found.hour_audio_ms) == (0, 0)


_READ = text(
    "select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::bigint"
    " from pg_stat_user_tables where relname in ('recordings', 'segments')"
)


def rows_read(ledger: Ledger) -> int:
    with ledger.engine.connect() as connection:
        autocommit = connection.execution_options(isolation_level="AUTOCOMMIT")
        autocommit.execute(text("select pg_stat_force_next_flush()"))
        autocommit.execute(text("select 1"))
        return int(autocommit.scalar(_READ) or 0)


def by_indexes(connection: Connection) -> LedgerFigures:
    """Look as in a large ledger: a table of a few pages would be read whole."""
    connection.execute(text("set local enable_seqscan = off"))
    return read_figures(connection)


def test_what_ended_in_a_submission_that_is_never_sealed_is_not_read(ledger: Ledger):
    """A drop folder's ledger of years costs no more than one of days."""
    folder = submission(ledger)
    added(ledger, *(recording(str(uuid4())) for _ in range(200)), to=folder)
    changed(
        ledger,
        "update segments set state = 'done', result_key = null,"
        " ended_at = now() - interval '9 days'",
    )
    changed(
        ledger,
        "update recordings set state = 'done', open_segments = 0,"
        " created_at = now() - interval '9 days', ended_at = now() - interval '9 days'",
    )
    added(ledger, recording("new"), to=folder)
    before = rows_read(ledger)

    found = ledger.transact(by_indexes)

    assert rows_read(ledger) - before < 50
    assert found.open_segments["pending"] == 1
    assert found.day_recordings["planned"] == 1
    assert found.hour_segments["done"] == 0


def test_the_oldest_that_waits_is_found_behind_older_ones_of_which_nothing_does(ledger: Ledger):
    (running,) = added(ledger, recording("a")).dispatches
    claimed(ledger, running)
    changed(ledger, "update recordings set created_at = now() - interval '9 hours'")
    added(ledger, recording("b"))

    assert seen(ledger).oldest_pending_s < 3_600
