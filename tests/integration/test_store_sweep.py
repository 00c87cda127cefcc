"""The sweep finds all that stalled, and never floods the queue."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text, update

from schema.errors import ErrorCode, LeaseLost, Misconfigured, Transient
from schema.settings import Settings
from schema.states import RecordingState, SegmentState
from schema.store.connection import create_ledger_engine
from schema.store.ledger import Ledger
from schema.store.work import reduces
from schema.store.work import segments as work
from schema.store.work.segments import ATTEMPTS_MAX, STRIKES_MAX
from schema.store.work.sweep import SweepResult, sweep
from schema.tables import REDUCE_EXHAUSTED, SEGMENT_EXHAUSTED, Recording, SegmentRow
from schema.transcript import Draft
from schema.wire import Dispatch, QueueLengths
from tests.factories import added, recording, result, submission
from workers.background.sweeper import Sweeper

EMPTY = QueueLengths(0, 0)
DRAFT = Draft("en", (), 0, 0, (), ())


@dataclass
class Redis:
    """Holds what it is sent, and hands out nothing."""

    sent: list[Dispatch] = field(default_factory=list)

    def publish(self, dispatches: list[Dispatch]) -> int:
        self.sent += dispatches
        return len(dispatches)

    def queue_lengths(self) -> QueueLengths:
        return QueueLengths(len(self.sent), 0)


def swept(ledger: Ledger, *, queued: int = 0, high_water: int = 100) -> SweepResult:
    waiting = QueueLengths(queued, 0)
    done = ledger.transact(
        lambda c: sweep(c, queue_lengths=waiting, high_water=high_water, interval_s=15)
    )
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
    return ledger.run_statement(
        lambda c: work.claim_segment(c, dispatch.message, owner=owner, lease_s=60)
    )


def test_a_fresh_ledger_has_nothing_to_sweep(ledger: Ledger):
    added(ledger, recording("a"))

    assert swept(ledger) == SweepResult()


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

    assert done.expired_leases == 1
    heir = claimed(ledger, done.dispatches[0], "heir")
    assert heir is not None
    assert heir.attempt == 2


def test_poison_is_given_up_with_its_last_error(ledger: Ledger):
    (dispatch,) = added(ledger, recording("poison")).dispatches
    for _ in range(STRIKES_MAX):
        assert claimed(ledger, dispatch) is not None
        (dispatch,) = ledger.transact(lambda c: work.return_leases(c, "w", child_died=True))

    done = swept(ledger)

    assert done.given_up_count == 1
    assert [d.task for d in done.dispatches] == ["reduce_recording"]
    with ledger.connect() as connection:
        row = connection.execute(
            select(SegmentRow.state, SegmentRow.error_code, SegmentRow.error_message)
        ).one()
    assert row.state == SegmentState.FAILED
    assert row.error_code == ErrorCode.ATTEMPTS_EXHAUSTED
    assert "died while decoding" in row.error_message


def test_a_twin_left_behind_by_a_crash_is_settled(ledger: Ledger):
    first, _ = added(ledger, recording("same"), recording("same")).dispatches
    claim = claimed(ledger, first)
    ledger.run_statement(lambda c: work.finish_segment(c, claim, result("hi")))

    done = swept(ledger)

    assert done.finished_duplicates == 1
    assert [d.task for d in done.dispatches] == ["reduce_recording"]


def test_a_lost_reduce_is_sent_again(ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches
    claim = claimed(ledger, dispatch)
    ledger.run_statement(lambda c: work.finish_segment(c, claim, result("hi")))
    age(ledger)

    (again,) = swept(ledger).dispatches
    held = ledger.run_statement(
        lambda c: reduces.claim_reduce(c, again.message, owner="r", lease_s=60)
    )

    assert held is not None
    segments = ledger.transact(lambda c: reduces.read_ended_segments(c, held.recording_id))
    assert [s.result.words[0].text for s in segments] == ["hi"]


def test_a_reduce_that_a_newer_release_must_do_waits_for_it_and_costs_no_attempt(ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches
    claim = claimed(ledger, dispatch)
    due = ledger.run_statement(lambda c: work.finish_segment(c, claim, result("hi"))).reduce
    newer = "update submissions set profile = jsonb_set(profile, '{render,wings}', '2')"
    ledger.transact(lambda c: c.execute(text(newer)))

    with pytest.raises(Misconfigured, match="does not know it"):
        ledger.run_statement(lambda c: reduces.claim_reduce(c, due.message, owner="r", lease_s=60))

    with ledger.connect() as connection:
        row = connection.execute(
            select(Recording.state, Recording.reduce_attempts, Recording.reduce_owner)
        ).one()
    assert row == (RecordingState.STITCHING, 0, None)


def test_reduces_do_not_grow_their_queue_either(ledger: Ledger):
    added(ledger, *(recording() for _ in range(5)))
    age(ledger)

    done = ledger.transact(
        lambda c: sweep(c, queue_lengths=QueueLengths(0, 3), high_water=100, interval_s=15)
    )

    assert len(done.dispatches) == 2


def test_without_redis_nothing_is_dispatched_and_the_rest_is_done(ledger: Ledger):
    (dispatch,) = added(ledger, recording("a"), recording()).dispatches[:1]
    claimed(ledger, dispatch, "dead")
    ledger.transact(lambda c: c.execute(update(SegmentRow).values(strikes=STRIKES_MAX)))
    age(ledger)

    done = ledger.transact(lambda c: sweep(c, queue_lengths=None, high_water=100, interval_s=15))

    assert done.given_up_count == 1
    assert done.expired_leases == 0
    assert len(done.dispatches) == 1, "the reduce that giving up made due"


def test_a_reduce_that_always_dies_is_given_up(ledger: Ledger):
    added(ledger, recording())
    ledger.transact(lambda c: c.execute(update(Recording).values(reduce_attempts=5)))

    assert swept(ledger).given_up_count == 1
    with ledger.connect() as connection:
        assert connection.scalars(select(Recording.state)).one() == RecordingState.FAILED


def test_only_one_sweep_runs_at_a_time(ledger: Ledger):
    added(ledger, recording("a"), room=0)

    with ledger.engine.begin() as connection:
        first = sweep(connection, queue_lengths=QueueLengths(0, 0), high_water=10, interval_s=15)
        second = ledger.transact(
            lambda c: sweep(c, queue_lengths=QueueLengths(0, 0), high_water=10, interval_s=15)
        )

    assert first is not None
    assert second is None


def test_a_reducer_that_was_given_up_and_taken_up_again_stores_nothing(ledger: Ledger):
    to = submission(ledger)
    (dispatch,) = added(ledger, recording("a"), to=to).dispatches
    due = ledger.transact(
        lambda c: work.fail_segment(
            c, claimed(ledger, dispatch), ErrorCode.ENGINE_FAILED, "x", work.FailureKind.PERMANENT
        )
    ).reduce
    ledger.transact(lambda c: c.execute(update(Recording).values(reduce_attempts=4)))
    frozen = ledger.run_statement(
        lambda c: reduces.claim_reduce(c, due.message, owner="r", lease_s=60)
    )
    old = ledger.transact(lambda c: reduces.read_ended_segments(c, frozen.recording_id))
    age(ledger)
    assert swept(ledger).given_up_count == 1

    ledger.transact(lambda c: reduces.retry_failed_segments(c, to.id))
    (again,) = swept(ledger).dispatches
    ledger.run_statement(
        lambda c: work.finish_segment(c, claimed(ledger, again), result("it", "works"))
    )

    with pytest.raises(LeaseLost):
        ledger.transact(lambda c: reduces.store_transcript(c, frozen, old, DRAFT))
    assert not ledger.run_statement(lambda c: reduces.renew_reduce(c, frozen, lease_s=60))
    with ledger.connect() as connection:
        assert connection.scalars(select(Recording.state)).one() == RecordingState.STITCHING


def test_a_retry_voids_what_a_sweep_of_the_release_before_gave_up_with_its_lease(ledger: Ledger):
    to = submission(ledger)
    (dispatch,) = added(ledger, recording("a"), to=to).dispatches
    due = ledger.run_statement(
        lambda c: work.finish_segment(c, claimed(ledger, dispatch), result("hi"))
    ).reduce
    frozen = ledger.run_statement(
        lambda c: reduces.claim_reduce(c, due.message, owner="r", lease_s=60)
    )
    old = ledger.transact(lambda c: reduces.read_ended_segments(c, frozen.recording_id))
    ledger.transact(lambda c: c.execute(update(Recording).values(state="failed")))

    ledger.transact(lambda c: reduces.retry_failed_segments(c, to.id))

    with pytest.raises(LeaseLost):
        ledger.transact(lambda c: reduces.store_transcript(c, frozen, old, DRAFT))


def test_a_twin_of_what_is_given_up_is_woken_by_the_sweep_that_gives_up(ledger: Ledger):
    first, twin = added(ledger, recording("same"), recording("same")).dispatches
    claimed(ledger, first, "dead")
    assert claimed(ledger, twin) is None, "its message has come, and is gone"
    ledger.transact(
        lambda c: c.execute(
            update(SegmentRow).where(SegmentRow.id == first.message.id).values(strikes=STRIKES_MAX)
        )
    )
    age(ledger, "70 s")

    sent = swept(ledger, queued=100).dispatches

    woken = [d for d in sent if d.message.id == twin.message.id]
    assert claimed(ledger, woken[0]) is not None


def test_more_than_one_sweep_sends_is_left_to_the_next(ledger: Ledger, monkeypatch):
    monkeypatch.setattr("schema.store.work.sweep.SENT_MAX", 4)
    added(ledger, *(recording(str(i)) for i in range(10)), room=0)

    assert [(len(s.dispatches), s.has_more) for s in (swept(ledger) for _ in range(3))] == [
        (4, True),
        (4, True),
        (2, False),
    ]


def test_a_sweeper_goes_on_until_the_queue_is_full(ledger: Ledger, monkeypatch):
    for module in ("schema.store.work.sweep", "workers.background.sweeper"):
        monkeypatch.setattr(f"{module}.SENT_MAX", 4)
    added(ledger, *(recording(str(i)) for i in range(20)), room=0)
    redis = Redis()
    settings = Settings(database_url="postgresql://", redis_url="redis://", high_water=10)

    done = Sweeper(ledger, redis, settings).sweep_once()

    assert len(done.dispatches) == len(redis.sent) == 10


def test_a_sweeper_empties_what_somebody_else_filled_and_sends_what_is_due(ledger: Ledger):
    added(ledger, recording("a"), room=0)

    class Flooded(Redis):
        def queue_lengths(self) -> QueueLengths:
            return EMPTY if emptied else QueueLengths(segments=41, reduces=0)

        def empty_flooded(self, most: int) -> list[str]:
            emptied.append(most)
            return ["segments"]

    emptied: list[int] = []
    redis = Flooded()
    settings = Settings(database_url="postgresql://", redis_url="redis://", high_water=10)

    Sweeper(ledger, redis, settings).sweep_once()

    assert (emptied, len(redis.sent)) == ([40], 1)


def test_a_sweep_may_take_longer_than_a_lease(ledger: Ledger, monkeypatch):
    """Where a lease is shorter than its statement, it would be broken off, and again each time."""
    url = ledger.engine.url
    brief = Ledger(create_ledger_engine(url.render_as_string(False), lease_s=1, answer_s=1))
    slow = text("select pg_sleep(2.5)")
    monkeypatch.setattr(
        "schema.store.work.sweep._give_up_reduces", lambda connection, _: connection.execute(slow)
    )
    try:
        done = brief.transact(lambda c: sweep(c, queue_lengths=EMPTY, high_water=9, interval_s=15))
        with pytest.raises(Transient):
            brief.transact(lambda c: c.execute(slow))
    finally:
        brief.close()

    assert done is not None


#: How a segment came to wait: sent so often, that long ago, or put back with a pause until then.
_WAITS = st.tuples(
    st.integers(0, 30),
    st.none() | st.integers(-1_300, 0),
    st.none() | st.integers(-700, 700),
    st.integers(0, 3),
    st.booleans(),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(waits=st.lists(_WAITS, min_size=1, max_size=12), room=st.integers(1, 12))
def test_what_is_due_is_sent_in_order_and_nothing_else_is(ledger: Ledger, waits, room):
    """As it was told before there was an index for it: one condition, one order."""
    ledger.transact(lambda c: c.execute(text("truncate submissions cascade")))
    rows = added(ledger, *(recording(f"{i}") for i in range(len(waits))), room=0)
    assert rows.segments == len(waits)
    with ledger.engine.begin() as connection:
        ids = connection.scalars(select(SegmentRow.id).order_by(SegmentRow.pcm_digest)).all()
        for segment_id, (sent, sent_s, due_s, start, urgent) in zip(ids, waits, strict=True):
            connection.execute(
                _WAITING,
                {
                    "id": segment_id,
                    # A row that is put back has no message out; one that was sent was sent once.
                    "sent": max(sent, int(sent_s is not None)),
                    "sent_s": sent_s,
                    "due_s": due_s,
                    "start": start,
                    "urgent": urgent,
                },
            )
    with ledger.engine.begin() as connection:
        due = connection.execute(_DUE_AS_BEFORE, {"room": room}).all()
        done = sweep(connection, queue_lengths=QueueLengths(0, 0), high_water=room, interval_s=15)
        connection.rollback()

    found = [d.message.id for d in done.dispatches]
    assert len(found) == len(set(found)) == len(due)
    if len(due) < room:
        assert set(found) == {row.id for row in due}
    urgent = {row.id for row in due if row.urgent}
    assert set(found[: len(urgent)]) <= {i for i, wait in zip(ids, waits, strict=True) if wait[4]}


_WAITING = text(
    """
    update segments
       set dispatches = :sent, dispatched_at = now() + make_interval(secs => :sent_s),
           next_attempt_at = now() + make_interval(secs => :due_s), start_ms = :start,
           urgent = :urgent
     where id = :id
    """
)

_DUE_AS_BEFORE = text(
    """
    select id, urgent from segments
     where state = 'pending'
       and coalesce(next_attempt_at <= now(), true)
       and coalesce(dispatched_at <= now() - make_interval(secs => least(
               30 * 2.0 ^ greatest(least(dispatches, 20) - 1, 0), 600)), true)
     order by urgent desc, dispatched_at nulls first, start_ms
     limit :room
    """
)


def test_what_the_sweep_gives_up_by_index_is_what_it_gives_up_by_rule():
    assert f"attempts >= {ATTEMPTS_MAX} or strikes >= {STRIKES_MAX}" in SEGMENT_EXHAUSTED
    assert f"reduce_attempts >= {reduces.REDUCE_ATTEMPTS_MAX}" in REDUCE_EXHAUSTED
