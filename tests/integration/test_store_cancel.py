"""Cancelled work ends where it stands, and nobody else's with it."""

from __future__ import annotations

import pytest
from sqlalchemy import select, text

from schema.errors import BadRequest, ErrorCode, LeaseLost
from schema.states import RecordingState, SegmentState
from schema.store.intake import submissions
from schema.store.intake.cancel import CancelResult, cancel_submission
from schema.store.ledger import Ledger
from schema.store.read.progress import read_progress
from schema.store.work import reduces, segments
from schema.store.work.sweep import sweep
from schema.tables import Recording, SegmentRow
from schema.transcript import Draft
from schema.wire import QueueLengths
from tests.factories import added, quarantined, recording, result, submission

DRAFT = Draft("en", (), 0, 0, (), ())


def cancelled(ledger: Ledger, to: submissions.OpenSubmission) -> CancelResult:
    return ledger.transact(lambda c: cancel_submission(c, to.id))


def claimed(ledger: Ledger, dispatch):
    return ledger.run_statement(
        lambda c: segments.claim_segment(c, dispatch.message, owner="w", lease_s=60)
    )


def states(ledger: Ledger, column) -> list[str]:
    with ledger.connect() as connection:
        return sorted(connection.scalars(select(column)))


def test_what_waits_and_what_runs_ends_and_what_is_done_stays(ledger: Ledger):
    mine = submission(ledger)
    first, second, _third = added(ledger, recording("a", "b", "c"), to=mine).dispatches
    done = claimed(ledger, first)
    ledger.run_statement(lambda c: segments.finish_segment(c, done, result("kept")))
    claimed(ledger, second)

    ended = cancelled(ledger, mine)

    assert (ended.recordings, ended.segments, ended.dispatches) == (1, 2, [])
    assert states(ledger, Recording.state) == [RecordingState.CANCELLED]
    assert states(ledger, SegmentRow.state) == ["done", "failed", "failed"]
    with ledger.connect() as connection:
        assert read_progress(connection, mine.id).is_finished


def test_a_worker_at_it_can_neither_renew_nor_store(ledger: Ledger):
    mine = submission(ledger)
    (dispatch,) = added(ledger, recording("a"), to=mine).dispatches
    held = claimed(ledger, dispatch)

    cancelled(ledger, mine)

    assert not ledger.run_statement(lambda c: segments.renew_lease(c, held, lease_s=60))
    with pytest.raises(LeaseLost):
        ledger.run_statement(lambda c: segments.finish_segment(c, held, result("late")))


def test_a_reducer_at_it_cannot_store(ledger: Ledger):
    mine = submission(ledger)
    (reducing,) = added(ledger, recording(), to=mine).dispatches
    held = ledger.run_statement(
        lambda c: reduces.claim_reduce(c, reducing.message, owner="r", lease_s=60)
    )

    cancelled(ledger, mine)

    with pytest.raises(LeaseLost):
        ledger.transact(lambda c: reduces.store_transcript(c, held, (), DRAFT))


def test_its_messages_wake_a_worker_for_nothing_and_the_sweep_sends_none(ledger: Ledger):
    mine = submission(ledger)
    waiting, _ = added(ledger, recording("a", "b"), to=mine).dispatches

    cancelled(ledger, mine)

    assert claimed(ledger, waiting) is None
    ledger.transact(lambda c: c.execute(text("update segments set dispatched_at = null")))
    empty = QueueLengths(0, 0)
    swept = ledger.transact(lambda c: sweep(c, queue_lengths=empty, high_water=9, interval_s=1))
    assert swept.dispatches == []


def test_another_submission_that_waited_for_the_same_decode_is_woken(ledger: Ledger):
    mine = submission(ledger)
    (dispatch,) = added(ledger, recording("same"), to=mine).dispatches
    (joined,) = added(ledger, recording("same")).dispatches
    claimed(ledger, dispatch)
    assert claimed(ledger, joined) is None, "it joins the decode in flight"

    (woken,) = cancelled(ledger, mine).dispatches

    assert woken.message.id == joined.message.id
    held = claimed(ledger, woken)
    ledger.run_statement(lambda c: segments.finish_segment(c, held, result("survives")))
    assert states(ledger, Recording.state) == [RecordingState.CANCELLED, RecordingState.STITCHING]


def test_what_has_ended_keeps_its_end(ledger: Ledger):
    mine = submission(ledger)
    (reducing,) = added(ledger, quarantined(), recording(), to=mine).dispatches
    held = ledger.run_statement(
        lambda c: reduces.claim_reduce(c, reducing.message, owner="r", lease_s=60)
    )
    ledger.transact(lambda c: reduces.store_transcript(c, held, (), DRAFT))

    assert cancelled(ledger, mine).recordings == 0
    assert states(ledger, Recording.state) == [RecordingState.DONE, RecordingState.QUARANTINED]


def test_a_producer_still_at_it_is_refused(ledger: Ledger):
    mine = submission(ledger)

    cancelled(ledger, mine)

    with pytest.raises(BadRequest, match="sealed"):
        added(ledger, recording("a"), to=mine)


def test_a_retry_takes_up_nothing_that_was_cancelled(ledger: Ledger):
    mine = submission(ledger)
    added(ledger, recording("a"), to=mine)
    cancelled(ledger, mine)

    assert ledger.transact(lambda c: reduces.retry_failed_segments(c, mine.id)) == (0, 0)
    with ledger.connect() as connection:
        row = connection.execute(select(SegmentRow.state, SegmentRow.error_code)).one()
    assert tuple(row) == (SegmentState.FAILED, ErrorCode.CANCELLED)


def test_who_waited_for_a_decode_by_another_key_than_planned_is_woken(ledger: Ledger):
    """A host without the planned model decoded by a smaller one, whose key the other was given."""
    mine, others = submission(ledger), submission(ledger)
    (falls_back,) = added(ledger, recording("a"), to=mine).dispatches
    (planned,) = added(ledger, recording("b"), to=others).dispatches
    held = claimed(ledger, falls_back)
    with ledger.connect() as connection:
        query = select(SegmentRow.decode_key).where(SegmentRow.id == planned.message.id)
        key = connection.scalar(query)
    ledger.transact(lambda c: segments.claim_decode_key(c, held, key))
    assert claimed(ledger, planned) is None

    (woken,) = cancelled(ledger, mine).dispatches

    assert woken.message.id == planned.message.id
    assert claimed(ledger, woken) is not None
