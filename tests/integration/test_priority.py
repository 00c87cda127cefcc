"""What is urgent overtakes a backlog, wherever it is, and keeps its place until it has ended."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from schema.span import Span
from schema.store.intake import submissions
from schema.store.intake.cancel import cancel_submission
from schema.store.intake.submissions import OpenSubmission
from schema.store.ledger import Ledger
from schema.store.work import reduces, segments
from schema.store.work.repairs import order_repairs
from schema.store.work.segments import FailureKind
from schema.store.work.sweep import SweepResult, sweep
from schema.transcript import PlannedRepair, RepairReason
from schema.wire import Dispatch, Priority, QueueLengths
from tests.factories import PROFILE, added, recording, result, submission, unique

HIGH_WATER = 100
FULL = QueueLengths(segments=HIGH_WATER, reduces=0, urgent=0)
EMPTY = QueueLengths(0, 0)


def urgent(ledger: Ledger) -> OpenSubmission:
    return ledger.transact(
        lambda c: submissions.open_submission(
            c, unique("key"), "calls", PROFILE, force=False, urgent=True
        )
    )


def swept(ledger: Ledger, queued: QueueLengths = EMPTY) -> SweepResult:
    done = ledger.transact(
        lambda c: sweep(c, queue_lengths=queued, high_water=HIGH_WATER, interval_s=15)
    )
    assert done is not None
    return done


def age(ledger: Ledger) -> None:
    for statement in (
        "update segments set dispatched_at = dispatched_at - interval '1 hour',"
        " lease_expires_at = lease_expires_at - interval '1 hour', next_attempt_at = null",
        "update recordings set reduce_dispatched_at = reduce_dispatched_at - interval '1 hour'",
    ):
        ledger.transact(lambda c, s=statement: c.execute(text(s)))


def claimed(ledger: Ledger, dispatch: Dispatch) -> segments.Claim:
    held = ledger.run_statement(
        lambda c: segments.claim_segment(c, dispatch.message, owner="w", lease_s=60)
    )
    assert held is not None
    return held


def finished(ledger: Ledger, dispatch: Dispatch) -> segments.EndResult:
    held = claimed(ledger, dispatch)
    return ledger.run_statement(lambda c: segments.finish_segment(c, held, result("hi")))


def priorities(dispatches: list[Dispatch]) -> list[Priority]:
    return [dispatch.priority for dispatch in dispatches]


def test_its_segments_go_before_others(ledger: Ledger):
    assert priorities(added(ledger, recording("a", "b"), to=urgent(ledger)).dispatches) == [
        Priority.URGENT,
        Priority.URGENT,
    ]
    assert priorities(added(ledger, recording("c")).dispatches) == [Priority.NORMAL]


def test_the_same_command_again_goes_on_as_urgently(ledger: Ledger):
    def opened() -> OpenSubmission:
        return ledger.transact(
            lambda c: submissions.open_submission(c, "key", "t", PROFILE, force=False, urgent=True)
        )

    first, second = opened(), opened()

    assert second.is_resumed
    assert (second.id, second.urgent) == (first.id, True)


def test_a_lost_message_is_sent_again_as_urgently_into_a_full_queue(ledger: Ledger):
    added(ledger, recording("backlog"))
    (lost,) = added(ledger, recording("a"), to=urgent(ledger)).dispatches
    age(ledger)

    (again,) = swept(ledger, FULL).dispatches

    assert (again.message.id, again.priority) == (lost.message.id, Priority.URGENT)


def test_what_had_no_room_is_sent_before_the_backlog(ledger: Ledger):
    added(ledger, *(recording(f"b{i}") for i in range(HIGH_WATER)), room=0)
    added(ledger, recording("a"), to=urgent(ledger), room=0)

    dispatches = swept(ledger).dispatches

    assert len(dispatches) == HIGH_WATER
    assert priorities(dispatches[:2]) == [Priority.URGENT, Priority.NORMAL]


def test_many_urgent_calls_do_not_grow_the_queue_beyond_the_high_water(ledger: Ledger):
    added(ledger, *(recording(f"b{i}") for i in range(50)), room=0)
    target = urgent(ledger)
    added(ledger, *(recording(f"a{i}") for i in range(150)), to=target, room=0)

    sent = swept(ledger).dispatches
    age(ledger)
    full = QueueLengths(segments=len(sent), reduces=0, urgent=len(sent))
    more = swept(ledger, full).dispatches

    assert priorities(sent) == [Priority.URGENT] * HIGH_WATER
    assert more == []


def test_urgent_calls_without_workers_do_not_grow_the_queue(ledger: Ledger):
    sent = len(added(ledger, *(recording(str(i)) for i in range(20)), to=urgent(ledger)).dispatches)

    for _ in range(5):
        age(ledger)
        sent += len(swept(ledger, QueueLengths(sent, 0, urgent=sent)).dispatches)

    assert sent == 20


def test_what_was_lost_with_a_worker_and_what_is_retried_stay_urgent(ledger: Ledger):
    target = urgent(ledger)
    (dispatch,) = added(ledger, recording("a"), to=target).dispatches
    held = claimed(ledger, dispatch)
    code = "engine.failed"
    ledger.transact(lambda c: segments.fail_segment(c, held, code, "once", FailureKind.STRIKE))
    age(ledger)
    (after_a_strike,) = swept(ledger, FULL).dispatches
    held = claimed(ledger, after_a_strike)
    end = ledger.transact(
        lambda c: segments.fail_segment(c, held, code, "for good", FailureKind.PERMANENT)
    )
    claim = ledger.run_statement(
        lambda c: reduces.claim_reduce(c, end.reduce.message, owner="r", lease_s=60)
    )
    ledger.transact(lambda c: c.execute(text("update recordings set state = 'failed'")))
    ledger.transact(lambda c: reduces.retry_failed_segments(c, target.id))
    (after_a_retry,) = swept(ledger, FULL).dispatches

    assert claim is not None
    assert after_a_strike.priority is after_a_retry.priority is Priority.URGENT


def test_its_reduces_go_before_others_whoever_asks_for_them(ledger: Ledger):
    (normal,) = added(ledger, recording("n")).dispatches
    (dispatch,) = added(ledger, recording("a"), to=urgent(ledger)).dispatches
    assert finished(ledger, normal).reduce.priority is Priority.NORMAL
    asked = [finished(ledger, dispatch).reduce]
    age(ledger)
    asked += [d for d in swept(ledger).dispatches if d.message.id == asked[0].message.id]
    message = asked[-1].message
    ledger.run_statement(lambda c: reduces.claim_reduce(c, message, owner="r", lease_s=60))
    asked += ledger.transact(lambda c: reduces.return_reduces(c, "r", child_died=True))
    # Of a recording whose words are known there is nothing but its reduce.
    asked += added(ledger, recording("a"), to=urgent(ledger)).dispatches

    assert [d.task for d in asked] == ["reduce_recording"] * 4
    assert priorities(asked) == [Priority.URGENT] * 4


def test_its_repairs_are_as_urgent_when_they_are_sent_again(ledger: Ledger):
    (dispatch,) = added(ledger, recording("a"), to=urgent(ledger)).dispatches
    end = finished(ledger, dispatch)
    held = ledger.run_statement(
        lambda c: reduces.claim_reduce(c, end.reduce.message, owner="r", lease_s=60)
    )
    place = PlannedRepair(0, Span(1_000, 9_000), Span(3_000, 6_000), RepairReason.SEAM)
    ledger.transact(lambda c: order_repairs(c, held, [place]))
    age(ledger)

    (again,) = swept(ledger, FULL).dispatches

    assert "repair" in again.label
    assert again.priority is Priority.URGENT


@pytest.mark.parametrize("is_begun", [False, True])
def test_words_that_a_backlog_wants_as_well_are_decoded_once_and_first(
    ledger: Ledger, is_begun: bool
):
    (normal,) = added(ledger, recording("same")).dispatches
    begun = claimed(ledger, normal) if is_begun else None
    (dispatch,) = added(ledger, recording("same"), to=urgent(ledger)).dispatches
    if begun is None:
        begun = claimed(ledger, dispatch)
        mine_is_a_twin = False
    else:
        twin = ledger.run_statement(
            lambda c: segments.claim_segment(c, dispatch.message, owner="x", lease_s=60)
        )
        assert twin is None, "another decodes it right now"
        mine_is_a_twin = True

    end = ledger.run_statement(lambda c: segments.finish_segment(c, begun, result("hi")))
    assert end.has_waiting_duplicates
    (other,) = ledger.transact(
        lambda c: segments.finish_waiting_duplicates(c, begun.decode_key, just_decoded=True)
    )

    mine, theirs = (other, end.reduce) if mine_is_a_twin else (end.reduce, other)
    assert (mine.priority, theirs.priority) == (Priority.URGENT, Priority.NORMAL)


def test_a_message_that_an_older_sweep_sent_as_if_it_were_not_urgent_does_its_work(ledger: Ledger):
    added(ledger, recording("a"), to=urgent(ledger), room=0)
    older = text(
        "update segments set dispatch_token = gen_random_uuid(), dispatched_at = now(),"
        " dispatches = dispatches + 1 returning *"
    )
    row = ledger.transact(lambda c: c.execute(older).mappings().one())
    message = Dispatch("t", "q", segments.Message(row["id"], row["dispatch_token"]), "", 1, 1)

    assert message.priority is Priority.NORMAL
    assert finished(ledger, message).reduce.priority is Priority.URGENT


def test_cancelling_others_leaves_it_be(ledger: Ledger):
    backlog = submission(ledger)
    added(ledger, recording("same"), to=backlog)
    added(ledger, recording("same"), to=urgent(ledger))

    cancelled = ledger.transact(lambda c: cancel_submission(c, backlog.id))

    assert priorities(cancelled.dispatches) == [Priority.URGENT]
