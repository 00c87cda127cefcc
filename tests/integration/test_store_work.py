"""A worker's side of the ledger: one claim, one finish, one reduce, whatever races or dies."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from uuid import uuid4

import pytest
from sqlalchemy import select, text, update

from schema.errors import ErrorCode, LeaseLost
from schema.records import SegmentSource
from schema.states import RecordingState, SegmentState
from schema.store import reduce, work
from schema.store.ledger import Ledger
from schema.store.work import ATTEMPTS_MAX, STRIKES_MAX, Claim, Fate
from schema.tables import Recording, ResultRow, SegmentRow
from schema.transcript import Draft
from schema.wire import Dispatch, Message
from schema.words import SegmentResult
from tests.factories import added, recording, result, submission


def claimed(
    ledger: Ledger, dispatch: Dispatch, owner: str = "w", lease_s: int = 60
) -> Claim | None:
    return ledger.single(lambda c: work.claim(c, dispatch.message, owner=owner, lease_s=lease_s))


def finished(ledger: Ledger, claim: Claim, *texts: str) -> work.Ended:
    return ledger.single(lambda c: work.finish(c, claim, result(*texts)))


def source_ahead(ledger: Ledger, message: Message) -> SegmentSource | None:
    return ledger.single(lambda c: work.source_ahead(c, message))


def failed(ledger: Ledger, claim: Claim, fate: Fate) -> work.Ended:
    return ledger.transact(lambda c: work.fail(c, claim, ErrorCode.ENGINE_FAILED, "boom", fate))


def segment(ledger: Ledger, *columns):
    with ledger.reading() as connection:
        return connection.execute(select(*columns)).one()


def states(ledger: Ledger) -> list[str]:
    with ledger.reading() as connection:
        return list(connection.scalars(select(SegmentRow.state).order_by(SegmentRow.index)))


def recording_state(ledger: Ledger) -> str:
    with ledger.reading() as connection:
        return connection.scalars(select(Recording.state)).one()


def expire(ledger: Ledger) -> None:
    """Let every lease have expired a moment ago, without waiting for it."""
    ledger.transact(
        lambda c: c.execute(text("update segments set lease_expires_at = now() - interval '1 s'"))
    )


def make_due(ledger: Ledger) -> None:
    ledger.transact(lambda c: c.execute(update(SegmentRow).values(next_attempt_at=None)))


def test_a_message_delivered_fifty_times_is_claimed_once(ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches

    claims = [claimed(ledger, dispatch) for _ in range(50)]

    assert sum(claim is not None for claim in claims) == 1
    assert recording_state(ledger) == RecordingState.RUNNING


def test_racing_claims_of_one_segment_have_one_winner(ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches

    with ThreadPoolExecutor(4) as pool:
        claims = list(pool.map(lambda _: claimed(ledger, dispatch), range(16)))

    assert sum(claim is not None for claim in claims) == 1


def test_a_forged_or_stale_message_claims_nothing(ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches
    forged = Message(dispatch.message.id, uuid4())
    unknown = Message(uuid4(), uuid4())

    for message in (forged, unknown):
        assert ledger.single(lambda c, m=message: work.claim(c, m, owner="w", lease_s=60)) is None


def test_the_last_finish_asks_for_the_reduce_once(ledger: Ledger):
    first, second = added(ledger, recording("a", "b")).dispatches
    claims = [claimed(ledger, first), claimed(ledger, second)]

    ends = [finished(ledger, claim, "hi") for claim in claims]

    assert [end.reduce is not None for end in ends] == [False, True]
    assert recording_state(ledger) == RecordingState.STITCHING


@pytest.mark.parametrize("run", range(25))
def test_two_that_finish_together_ask_for_one_reduce(ledger: Ledger, run: int):
    claims = [claimed(ledger, d) for d in added(ledger, recording("a", "b")).dispatches]
    barrier = Barrier(2)

    def finish(claim: Claim) -> work.Ended:
        barrier.wait()
        return finished(ledger, claim, "hi")

    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(finish, claims))

    assert sum(end.reduce is not None for end in ends) == 1


def test_an_expired_lease_that_nobody_took_may_renew_and_finish(ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches
    claim = claimed(ledger, dispatch)
    expire(ledger)

    assert ledger.single(lambda c: work.renew(c, claim, lease_s=60))
    assert finished(ledger, claim, "hi").reduce is not None


def test_a_takeover_fences_the_zombie(ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches
    zombie = claimed(ledger, dispatch, "zombie")
    expire(ledger)
    heir = claimed(ledger, dispatch, "heir")

    assert heir is not None
    assert not ledger.single(lambda c: work.renew(c, zombie, lease_s=60))
    with pytest.raises(LeaseLost):
        finished(ledger, zombie, "late")
    with pytest.raises(LeaseLost):
        failed(ledger, zombie, Fate.STRIKE)
    finished(ledger, heir, "right")
    with ledger.reading() as connection:
        (body,) = connection.scalars(select(ResultRow.body)).all()
    assert [word.text for word in SegmentResult.from_json(body).words] == ["right"]


def test_a_second_finish_stores_nothing(ledger: Ledger):
    first, _ = added(ledger, recording("a", "b")).dispatches
    claim = claimed(ledger, first)
    finished(ledger, claim, "hi")

    with pytest.raises(LeaseLost):
        finished(ledger, claim, "again")
    assert segment(ledger, Recording.open_segments) == (1,)


def test_twins_are_decoded_once_and_both_end(ledger: Ledger):
    first, second = added(ledger, recording("same"), recording("same")).dispatches
    claim = claimed(ledger, first)

    assert claimed(ledger, second) is None
    end = finished(ledger, claim, "hi")
    reduces = ledger.transact(lambda c: work.settle_twins(c, claim.decode_key, decoded=True))

    assert end.twins
    assert len(reduces) == 1
    assert states(ledger) == [SegmentState.DONE] * 2


def test_a_twin_decodes_by_itself_when_the_first_gives_up(ledger: Ledger):
    first, second = added(ledger, recording("same"), recording("same")).dispatches
    claim = claimed(ledger, first)
    assert claimed(ledger, second) is None

    failed(ledger, claim, Fate.FOR_GOOD)

    assert claimed(ledger, second) is not None


def test_old_words_are_not_for_a_forced_twin(ledger: Ledger):
    (dispatch,) = added(ledger, recording("same")).dispatches
    claim = claimed(ledger, dispatch)
    finished(ledger, claim, "old")
    added(ledger, recording("same"), to=submission(ledger, force=True))

    ledger.transact(lambda c: work.settle_twins(c, claim.decode_key, decoded=False))

    assert sorted(states(ledger)) == [SegmentState.DONE, SegmentState.PENDING]


def test_a_claim_tells_that_the_words_are_known(ledger: Ledger):
    first, second = added(ledger, recording("same"), recording("same")).dispatches
    finished(ledger, claimed(ledger, first), "hi")

    claim = claimed(ledger, second)

    assert claim is not None
    assert claim.known
    assert ledger.single(lambda c: work.finish(c, claim, None)).reduce is not None


def test_the_source_that_is_read_ahead_is_the_one_that_is_claimed(ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches

    ahead = source_ahead(ledger, dispatch.message)

    assert segment(ledger, SegmentRow.state).state == SegmentState.PENDING
    assert ahead == claimed(ledger, dispatch).source


def test_nothing_is_read_ahead_that_nobody_will_decode(ledger: Ledger):
    leased, known, twin, cancelled = (
        added(ledger, recording(name)).dispatches[0] for name in ("a", "same", "same", "b")
    )
    claimed(ledger, leased)
    finished(ledger, claimed(ledger, known), "hi")
    ledger.transact(
        lambda c: c.execute(
            update(Recording)
            .where(
                Recording.id.in_(
                    select(SegmentRow.recording_id).where(SegmentRow.id == cancelled.message.id)
                )
            )
            .values(state="cancelled")
        )
    )
    stale = Message(twin.message.id, uuid4())

    messages = [each.message for each in (leased, known, twin, cancelled)] + [stale]
    assert [source_ahead(ledger, message) for message in messages] == [None] * 5


def test_strikes_pause_and_then_give_up(ledger: Ledger):
    (dispatch,) = added(ledger, recording("poison")).dispatches

    for strike in range(1, STRIKES_MAX + 1):
        end = failed(ledger, claimed(ledger, dispatch), Fate.STRIKE)
        if strike < STRIKES_MAX:
            assert claimed(ledger, dispatch) is None, "it waits for its next attempt"
            make_due(ledger)

    assert end.reduce is not None
    assert states(ledger) == [SegmentState.FAILED]
    row = segment(ledger, SegmentRow.error_code, SegmentRow.attempts)
    assert row == (ErrorCode.ENGINE_FAILED, STRIKES_MAX)


def test_a_bad_recording_is_given_up_at_once(ledger: Ledger):
    (dispatch,) = added(ledger, recording("bad")).dispatches

    end = failed(ledger, claimed(ledger, dispatch), Fate.FOR_GOOD)

    assert end.reduce is not None
    assert states(ledger) == [SegmentState.FAILED]


@pytest.mark.parametrize("fate", [Fate.PAUSE, Fate.NOT_HERE])
def test_what_is_nobodys_fault_counts_nothing(ledger: Ledger, fate: Fate):
    (dispatch,) = added(ledger, recording("a")).dispatches

    failed(ledger, claimed(ledger, dispatch), fate)

    row = segment(ledger, SegmentRow.state, SegmentRow.strikes, SegmentRow.attempts)
    assert row == (SegmentState.PENDING, 0, 0)


def test_a_new_child_returns_what_its_predecessor_died_on(ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches
    claimed(ledger, dispatch, "host:boot")

    (again,) = ledger.transact(lambda c: work.return_leases(c, "host:boot", died=True))

    assert claimed(ledger, dispatch) is None, "another worker may have dropped the old message"
    assert claimed(ledger, again, "host:boot") is not None
    assert segment(ledger, SegmentRow.strikes, SegmentRow.attempts) == (1, 2)


def test_a_worker_that_stops_in_order_gives_the_attempt_back(ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches
    claimed(ledger, dispatch, "host:boot")

    ledger.transact(lambda c: work.return_leases(c, "another", died=False))
    assert states(ledger) == [SegmentState.LEASED]
    ledger.transact(lambda c: work.return_leases(c, "host:boot", died=False))

    row = segment(ledger, SegmentRow.state, SegmentRow.strikes, SegmentRow.attempts)
    assert row == (SegmentState.PENDING, 0, 0)


def test_no_worker_claims_what_killed_three(ledger: Ledger):
    (dispatch,) = added(ledger, recording("poison")).dispatches
    for _ in range(STRIKES_MAX):
        assert claimed(ledger, dispatch, "w") is not None
        (dispatch,) = ledger.transact(lambda c: work.return_leases(c, "w", died=True))

    assert claimed(ledger, dispatch) is None


def test_attempts_of_any_kind_are_capped(ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches
    ledger.transact(lambda c: c.execute(update(SegmentRow).values(attempts=ATTEMPTS_MAX)))

    assert claimed(ledger, dispatch) is None


def test_nothing_is_stored_for_a_cancelled_recording(ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches
    claim = claimed(ledger, dispatch)
    ledger.transact(lambda c: c.execute(update(Recording).values(state="cancelled")))

    assert not ledger.single(lambda c: work.renew(c, claim, lease_s=60))
    with pytest.raises(LeaseLost):
        finished(ledger, claim, "hi")


def test_retry_takes_up_what_failed_and_only_that(ledger: Ledger):
    target = added(ledger, recording("good", "bad"))
    good, bad = target.dispatches
    finished(ledger, claimed(ledger, good), "hi")
    end = failed(ledger, claimed(ledger, bad), Fate.FOR_GOOD)
    held = ledger.single(
        lambda c: reduce.claim_reduce(c, end.reduce.message, owner="r", lease_s=60)
    )
    segments = ledger.transact(lambda c: reduce.ended_segments(c, held.recording_id))
    draft = Draft("en", (), 0, 0, (), ())
    ledger.transact(lambda c: reduce.store_transcript(c, held, segments, draft))
    assert recording_state(ledger) == RecordingState.PARTIAL
    with ledger.reading() as connection:
        submission_id = connection.scalars(select(Recording.submission_id)).one()

    counts = ledger.transact(lambda c: reduce.retry_failed(c, submission_id))

    assert counts == (1, 1)
    assert states(ledger) == [SegmentState.DONE, SegmentState.PENDING]
    assert recording_state(ledger) == RecordingState.RUNNING
    assert segment(ledger, Recording.open_segments) == (1,)
