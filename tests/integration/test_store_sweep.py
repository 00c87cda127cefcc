"""The sweep finds all that stalled, and never floods the queue."""

from __future__ import annotations

import pytest
from sqlalchemy import select, text, update

from schema.errors import ErrorCode, Misconfigured
from schema.states import RecordingState, SegmentState
from schema.store import reduce, work
from schema.store.ledger import Ledger
from schema.store.sweep import Swept, sweep
from schema.store.work import STRIKES_MAX
from schema.tables import Recording, SegmentRow
from schema.wire import Queued
from tests.factories import added, recording, result

EMPTY = Queued(0, 0)


def swept(ledger: Ledger, *, queued: int = 0, high_water: int = 100) -> Swept:
    waiting = Queued(queued, 0)
    done = ledger.transact(lambda c: sweep(c, queued=waiting, high_water=high_water, interval_s=15))
    assert done is not None
    return done


def age(ledger: Ledger, interval: str = "1 hour") -> None:
    """Let every message have been sent, and every lease have expired, some time ago."""
    for statement in (
        "update segments set dispatched_at = dispatched_at - cast(:age as interval),"
        " lease_expires_at = lease_expires_at - cast(:age as interval)",
        "update recordings"
        " set reduce_dispatched_at = reduce_dispatched_at - cast(:age as interval),"
        " reduce_expires_at = reduce_expires_at - cast(:age as interval)",
    ):
        ledger.transact(lambda c, s=statement: c.execute(text(s), {"age": interval}))


def claimed(ledger: Ledger, dispatch, owner: str = "w"):
    return ledger.single(lambda c: work.claim(c, dispatch.message, owner=owner, lease_s=60))


def test_a_fresh_ledger_has_nothing_to_sweep(ledger: Ledger):
    added(ledger, recording("a"))

    assert swept(ledger) == Swept()


def test_a_lost_message_is_sent_again_and_the_old_one_is_void(ledger: Ledger):
    (lost,) = added(ledger, recording("a")).dispatches
    age(ledger)

    (again,) = swept(ledger).dispatches

    assert again.message.id == lost.message.id
    assert claimed(ledger, lost) is None
    assert claimed(ledger, again) is not None


def test_what_had_no_room_is_sent_up_to_the_high_water(ledger: Ledger):
    added(ledger, *(recording(str(i)) for i in range(10)), room=0)

    assert len(swept(ledger, queued=0, high_water=4).dispatches) == 4
    assert len(swept(ledger, queued=4, high_water=4).dispatches) == 0
    assert len(swept(ledger, queued=0, high_water=100).dispatches) == 6


def test_a_backlog_without_workers_does_not_grow_the_queue(ledger: Ledger):
    sent = len(added(ledger, *(recording(str(i)) for i in range(20))).dispatches)

    for _ in range(5):
        age(ledger)
        sent += len(swept(ledger, queued=sent, high_water=1_000).dispatches)

    assert sent == 20


def test_a_row_is_sent_again_with_growing_patience(ledger: Ledger):
    added(ledger, recording("a"))
    age(ledger, "31 s")
    assert len(swept(ledger).dispatches) == 1
    age(ledger, "31 s")
    assert len(swept(ledger).dispatches) == 0
    age(ledger, "30 s")
    assert len(swept(ledger).dispatches) == 1


def test_the_segment_of_a_dead_worker_is_sent_again_even_to_a_full_queue(ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches
    claimed(ledger, dispatch, "dead")
    age(ledger)

    done = swept(ledger, queued=100, high_water=100)

    assert done.expired == 1
    heir = claimed(ledger, done.dispatches[0], "heir")
    assert heir is not None
    assert heir.attempt == 2


def test_poison_is_given_up_with_its_last_error(ledger: Ledger):
    (dispatch,) = added(ledger, recording("poison")).dispatches
    for _ in range(STRIKES_MAX):
        assert claimed(ledger, dispatch) is not None
        (dispatch,) = ledger.transact(lambda c: work.return_leases(c, "w", died=True))

    done = swept(ledger)

    assert done.given_up == 1
    assert [d.task for d in done.dispatches] == ["reduce_recording"]
    with ledger.reading() as connection:
        row = connection.execute(
            select(SegmentRow.state, SegmentRow.error_code, SegmentRow.error_message)
        ).one()
    assert row.state == SegmentState.FAILED
    assert row.error_code == ErrorCode.ATTEMPTS_EXHAUSTED
    assert "died while decoding" in row.error_message


def test_a_twin_left_behind_by_a_crash_is_settled(ledger: Ledger):
    first, _ = added(ledger, recording("same"), recording("same")).dispatches
    claim = claimed(ledger, first)
    ledger.single(lambda c: work.finish(c, claim, result("hi")))

    done = swept(ledger)

    assert done.settled == 1
    assert [d.task for d in done.dispatches] == ["reduce_recording"]


def test_a_lost_reduce_is_sent_again(ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches
    claim = claimed(ledger, dispatch)
    ledger.single(lambda c: work.finish(c, claim, result("hi")))
    age(ledger)

    (again,) = swept(ledger).dispatches
    held = ledger.single(lambda c: reduce.claim_reduce(c, again.message, owner="r", lease_s=60))

    assert held is not None
    segments = ledger.transact(lambda c: reduce.ended_segments(c, held.recording_id))
    assert [s.result.words[0].text for s in segments] == ["hi"]


def test_a_reduce_that_a_newer_release_must_do_waits_for_it_and_costs_no_attempt(ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches
    claim = claimed(ledger, dispatch)
    due = ledger.single(lambda c: work.finish(c, claim, result("hi"))).reduce
    newer = "update submissions set profile = jsonb_set(profile, '{render,wings}', '2')"
    ledger.transact(lambda c: c.execute(text(newer)))

    with pytest.raises(Misconfigured, match="does not know it"):
        ledger.single(lambda c: reduce.claim_reduce(c, due.message, owner="r", lease_s=60))

    with ledger.reading() as connection:
        row = connection.execute(
            select(Recording.state, Recording.reduce_attempts, Recording.reduce_owner)
        ).one()
    assert row == (RecordingState.STITCHING, 0, None)


def test_reduces_do_not_grow_their_queue_either(ledger: Ledger):
    added(ledger, *(recording() for _ in range(5)))
    age(ledger)

    done = ledger.transact(lambda c: sweep(c, queued=Queued(0, 3), high_water=100, interval_s=15))

    assert len(done.dispatches) == 2


def test_without_redis_nothing_is_dispatched_and_the_rest_is_done(ledger: Ledger):
    (dispatch,) = added(ledger, recording("a"), recording()).dispatches[:1]
    claimed(ledger, dispatch, "dead")
    ledger.transact(lambda c: c.execute(update(SegmentRow).values(strikes=STRIKES_MAX)))
    age(ledger)

    done = ledger.transact(lambda c: sweep(c, queued=None, high_water=100, interval_s=15))

    assert done.given_up == 1
    assert done.expired == 0
    assert len(done.dispatches) == 1, "the reduce that giving up made due"


def test_a_reduce_that_always_dies_is_given_up(ledger: Ledger):
    added(ledger, recording())
    ledger.transact(lambda c: c.execute(update(Recording).values(reduce_attempts=5)))

    assert swept(ledger).given_up == 1
    with ledger.reading() as connection:
        assert connection.scalars(select(Recording.state)).one() == RecordingState.FAILED


def test_only_one_sweep_runs_at_a_time(ledger: Ledger):
    added(ledger, recording("a"), room=0)

    with ledger.engine.begin() as connection:
        first = sweep(connection, queued=Queued(0, 0), high_water=10, interval_s=15)
        second = ledger.transact(
            lambda c: sweep(c, queued=Queued(0, 0), high_water=10, interval_s=15)
        )

    assert first is not None
    assert second is None
