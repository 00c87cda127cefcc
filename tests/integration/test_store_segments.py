"""A worker's side of the ledger: one claim, one finish, one reduce, whatever races or dies."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text, update

from schema.errors import ErrorCode, LeaseLost
from schema.records import SegmentSource
from schema.states import RecordingState, SegmentState
from schema.store.erasure.forget import erase_recordings
from schema.store.ledger import Ledger
from schema.store.work import reduces as reduce
from schema.store.work import segments as work
from schema.store.work.segments import ATTEMPTS_MAX, STRIKES_MAX, Claim, DecodeTurn, FailureKind
from schema.tables import Recording, ResultRow, SegmentRow
from schema.transcript import Draft, Utterance
from schema.wire import Dispatch, Message
from schema.words import SegmentResult, Word
from tests.factories import added, recording, result, submission


def claimed(
    ledger: Ledger, dispatch: Dispatch, owner: str = "w", lease_s: int = 60
) -> Claim | None:
    return ledger.run_statement(
        lambda c: work.claim_segment(c, dispatch.message, owner=owner, lease_s=lease_s)
    )


def finished(ledger: Ledger, claim: Claim, *texts: str) -> work.EndResult:
    return ledger.run_statement(lambda c: work.finish_segment(c, claim, result(*texts)))


def source_ahead(ledger: Ledger, message: Message) -> SegmentSource | None:
    return ledger.run_statement(lambda c: work.read_source_ahead(c, message))


def failed(ledger: Ledger, claim: Claim, fate: FailureKind) -> work.EndResult:
    return ledger.transact(
        lambda c: work.fail_segment(c, claim, ErrorCode.ENGINE_FAILED, "boom", fate)
    )


def segment(ledger: Ledger, *columns):
    with ledger.connect() as connection:
        return connection.execute(select(*columns)).one()


def states(ledger: Ledger) -> list[str]:
    with ledger.connect() as connection:
        return list(connection.scalars(select(SegmentRow.state).order_by(SegmentRow.index)))


def recording_state(ledger: Ledger) -> str:
    with ledger.connect() as connection:
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
        assert (
            ledger.run_statement(
                lambda c, m=message: work.claim_segment(c, m, owner="w", lease_s=60)
            )
            is None
        )


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

    def finish(claim: Claim) -> work.EndResult:
        barrier.wait()
        return finished(ledger, claim, "hi")

    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(finish, claims))

    assert sum(end.reduce is not None for end in ends) == 1


def test_an_expired_lease_that_nobody_took_may_renew_and_finish(ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches
    claim = claimed(ledger, dispatch)
    expire(ledger)

    assert ledger.run_statement(lambda c: work.renew_lease(c, claim, lease_s=60))
    assert finished(ledger, claim, "hi").reduce is not None


def test_a_takeover_fences_the_zombie(ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches
    zombie = claimed(ledger, dispatch, "zombie")
    expire(ledger)
    heir = claimed(ledger, dispatch, "heir")

    assert heir is not None
    assert not ledger.run_statement(lambda c: work.renew_lease(c, zombie, lease_s=60))
    with pytest.raises(LeaseLost):
        finished(ledger, zombie, "late")
    with pytest.raises(LeaseLost):
        failed(ledger, zombie, FailureKind.STRIKE)
    finished(ledger, heir, "right")
    with ledger.connect() as connection:
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
    reduces = ledger.transact(
        lambda c: work.finish_waiting_duplicates(c, claim.decode_key, just_decoded=True)
    )

    assert end.has_waiting_duplicates
    assert len(reduces) == 1
    assert states(ledger) == [SegmentState.DONE] * 2


def test_a_twin_decodes_by_itself_when_the_first_gives_up(ledger: Ledger):
    first, second = added(ledger, recording("same"), recording("same")).dispatches
    claim = claimed(ledger, first)
    assert claimed(ledger, second) is None

    failed(ledger, claim, FailureKind.PERMANENT)

    assert claimed(ledger, second) is not None


def test_old_words_are_not_for_a_forced_twin(ledger: Ledger):
    (dispatch,) = added(ledger, recording("same")).dispatches
    claim = claimed(ledger, dispatch)
    finished(ledger, claim, "old")
    added(ledger, recording("same"), to=submission(ledger, force=True))

    ledger.transact(
        lambda c: work.finish_waiting_duplicates(c, claim.decode_key, just_decoded=False)
    )

    assert sorted(states(ledger)) == [SegmentState.DONE, SegmentState.PENDING]


def test_a_claim_tells_that_the_words_are_known(ledger: Ledger):
    first, second = added(ledger, recording("same"), recording("same")).dispatches
    finished(ledger, claimed(ledger, first), "hi")

    claim = claimed(ledger, second)

    assert claim is not None
    assert claim.is_cached
    assert ledger.run_statement(lambda c: work.finish_segment(c, claim, None)).reduce is not None


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
        end = failed(ledger, claimed(ledger, dispatch), FailureKind.STRIKE)
        if strike < STRIKES_MAX:
            assert claimed(ledger, dispatch) is None, "it waits for its next attempt"
            make_due(ledger)

    assert end.reduce is not None
    assert states(ledger) == [SegmentState.FAILED]
    row = segment(ledger, SegmentRow.error_code, SegmentRow.attempts)
    assert row == (ErrorCode.ENGINE_FAILED, STRIKES_MAX)


def test_a_bad_recording_is_given_up_at_once(ledger: Ledger):
    (dispatch,) = added(ledger, recording("bad")).dispatches

    end = failed(ledger, claimed(ledger, dispatch), FailureKind.PERMANENT)

    assert end.reduce is not None
    assert states(ledger) == [SegmentState.FAILED]


@pytest.mark.parametrize("fate", [FailureKind.RETRY_LATER, FailureKind.WRONG_HOST])
def test_what_is_nobodys_fault_counts_nothing(ledger: Ledger, fate: FailureKind):
    (dispatch,) = added(ledger, recording("a")).dispatches

    failed(ledger, claimed(ledger, dispatch), fate)

    row = segment(ledger, SegmentRow.state, SegmentRow.strikes, SegmentRow.attempts)
    assert row == (SegmentState.PENDING, 0, 0)


def test_a_new_child_returns_what_its_predecessor_died_on(ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches
    claimed(ledger, dispatch, "host:boot")

    (again,) = ledger.transact(lambda c: work.return_leases(c, "host:boot", child_died=True))

    assert claimed(ledger, dispatch) is None, "another worker may have dropped the old message"
    assert claimed(ledger, again, "host:boot") is not None
    assert segment(ledger, SegmentRow.strikes, SegmentRow.attempts) == (1, 2)


def test_a_worker_that_stops_in_order_gives_the_attempt_back(ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches
    claimed(ledger, dispatch, "host:boot")

    ledger.transact(lambda c: work.return_leases(c, "another", child_died=False))
    assert states(ledger) == [SegmentState.LEASED]
    ledger.transact(lambda c: work.return_leases(c, "host:boot", child_died=False))

    row = segment(ledger, SegmentRow.state, SegmentRow.strikes, SegmentRow.attempts)
    assert row == (SegmentState.PENDING, 0, 0)


def test_no_worker_claims_what_killed_three(ledger: Ledger):
    (dispatch,) = added(ledger, recording("poison")).dispatches
    for _ in range(STRIKES_MAX):
        assert claimed(ledger, dispatch, "w") is not None
        (dispatch,) = ledger.transact(lambda c: work.return_leases(c, "w", child_died=True))

    assert claimed(ledger, dispatch) is None


def test_attempts_of_any_kind_are_capped(ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches
    ledger.transact(lambda c: c.execute(update(SegmentRow).values(attempts=ATTEMPTS_MAX)))

    assert claimed(ledger, dispatch) is None


def test_nothing_is_stored_for_a_cancelled_recording(ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches
    claim = claimed(ledger, dispatch)
    ledger.transact(lambda c: c.execute(update(Recording).values(state="cancelled")))

    assert not ledger.run_statement(lambda c: work.renew_lease(c, claim, lease_s=60))
    with pytest.raises(LeaseLost):
        finished(ledger, claim, "hi")


def test_retry_takes_up_what_failed_and_only_that(ledger: Ledger):
    target = added(ledger, recording("good", "bad"))
    good, bad = target.dispatches
    finished(ledger, claimed(ledger, good), "hi")
    end = failed(ledger, claimed(ledger, bad), FailureKind.PERMANENT)
    held = ledger.run_statement(
        lambda c: reduce.claim_reduce(c, end.reduce.message, owner="r", lease_s=60)
    )
    segments = ledger.transact(lambda c: reduce.read_ended_segments(c, held.recording_id))
    draft = Draft("en", (), 0, 0, (), ())
    ledger.transact(lambda c: reduce.store_transcript(c, held, segments, draft))
    assert recording_state(ledger) == RecordingState.PARTIAL
    with ledger.connect() as connection:
        submission_id = connection.scalars(select(Recording.submission_id)).one()

    counts = ledger.transact(lambda c: reduce.retry_failed_segments(c, submission_id))

    assert counts == (1, 1)
    assert states(ledger) == [SegmentState.DONE, SegmentState.PENDING]
    assert recording_state(ledger) == RecordingState.RUNNING
    assert segment(ledger, Recording.open_segments) == (1,)


def test_what_waited_for_a_decode_that_is_given_up_is_named_and_woken(ledger: Ledger):
    first, second = added(ledger, recording("same"), recording("same")).dispatches
    claim = claimed(ledger, first)
    assert claimed(ledger, second) is None

    end = failed(ledger, claim, FailureKind.PERMANENT)
    (woken,) = ledger.transact(lambda c: work.resend_waiting_duplicates(c, end.abandoned_keys))

    assert end.abandoned_keys == (claim.decode_key,)
    assert woken.message == second.message, "a second message that is still on its way is no harm"
    assert claimed(ledger, woken) is not None
    assert ledger.transact(lambda c: work.resend_waiting_duplicates(c, end.abandoned_keys)) == [], (
        "it is decoded by now"
    )


def test_of_two_that_decode_by_one_key_one_waits_for_the_other(ledger: Ledger):
    one, other, planned = added(ledger, *(recording(name) for name in "abc")).dispatches
    held = [claimed(ledger, dispatch) for dispatch in (one, other)]
    key = ledger.transact(
        lambda c: c.scalar(select(SegmentRow.decode_key).where(SegmentRow.id == planned.message.id))
    )

    turns = [ledger.transact(lambda c, h=h: work.claim_decode_key(c, h, key)) for h in held]

    assert turns == [DecodeTurn(), DecodeTurn(is_busy=True)]
    assert claimed(ledger, planned) is None, "whom the producer gave that key waits as well"
    with pytest.raises(LeaseLost):
        finished(ledger, held[1], "twice")
    end = finished(ledger, replace(held[0], decode_key=key), "once")
    assert end.has_waiting_duplicates
    assert end.abandoned_keys == (held[0].decode_key,)
    row = segment_of(ledger, other)
    assert (row.state, row.attempts, row.dispatched_at) == (SegmentState.PENDING, 0, None)
    make_due(ledger)
    again = claimed(ledger, other)
    known = ledger.transact(lambda c: work.claim_decode_key(c, again, key)).cached_result
    assert [word.text for word in known.words] == ["once"]


def test_a_forced_segment_is_decoded_whatever_is_known_by_its_other_key(ledger: Ledger):
    (first,) = added(ledger, recording("a")).dispatches
    finished(ledger, replace(claimed(ledger, first), decode_key="fallback's"), "old")
    (second,) = added(ledger, recording("a"), to=submission(ledger, force=True)).dispatches

    turn = ledger.transact(
        lambda c: work.claim_decode_key(c, claimed(ledger, second), "fallback's")
    )

    assert turn == DecodeTurn()


@pytest.mark.parametrize("run", range(10))
def test_racing_fallbacks_decode_one_audio_once(ledger: Ledger, run: int):
    dispatches = added(ledger, *(recording(str(i)) for i in range(4))).dispatches
    held = [claimed(ledger, dispatch) for dispatch in dispatches]
    barrier = Barrier(4)

    def ask(claim: Claim) -> DecodeTurn:
        barrier.wait()
        return ledger.transact(lambda c: work.claim_decode_key(c, claim, "fallback's"))

    with ThreadPoolExecutor(4) as pool:
        turns = list(pool.map(ask, held))

    assert sorted(turn.is_busy for turn in turns) == [False, True, True, True]


def test_a_key_that_a_worker_of_the_release_before_left_behind_holds_up_nobody(ledger: Ledger):
    first, second = added(ledger, recording("a"), recording("b")).dispatches
    held = claimed(ledger, first)
    ledger.transact(lambda c: work.claim_decode_key(c, held, "other"))
    ledger.transact(lambda c: work.return_leases(c, "w", child_died=False))

    turn = ledger.transact(lambda c: work.claim_decode_key(c, claimed(ledger, second), "other"))

    assert turn == DecodeTurn()


def segment_of(ledger: Ledger, dispatch: Dispatch):
    columns = (SegmentRow.state, SegmentRow.attempts, SegmentRow.dispatched_at)
    with ledger.connect() as connection:
        return connection.execute(
            select(*columns).where(SegmentRow.id == dispatch.message.id)
        ).one()


_ODD = st.text(st.characters(codec=None, categories=None), max_size=8)
_ODD_TAGS = st.dictionaries(_ODD, _ODD | st.floats() | st.lists(_ODD, max_size=2), max_size=2)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(_ODD, min_size=1, max_size=4),
    tags=_ODD_TAGS,
    sure=st.none() | st.floats(),
    said=_ODD,
)
def test_whatever_a_recognizer_writes_costs_no_segment_and_no_transcript(
    ledger: Ledger, texts, tags, sure, said
):
    words = tuple(Word(t, i * 1_000, i * 1_000 + 500, sure) for i, t in enumerate(texts))
    (dispatch,) = added(ledger, recording("odd"), to=submission(ledger, force=True)).dispatches
    claim = claimed(ledger, dispatch)

    end = ledger.run_statement(
        lambda c: work.finish_segment(c, claim, SegmentResult(words, (), said, tags))
    )
    held = ledger.run_statement(
        lambda c: reduce.claim_reduce(c, end.reduce.message, owner="r", lease_s=60)
    )
    (ended,) = ledger.transact(lambda c: reduce.read_ended_segments(c, held.recording_id))
    utterances = (Utterance(0, said, "".join(texts), words),)
    draft = Draft(said, (), 0, 0, utterances, ())
    ledger.transact(lambda c: reduce.store_transcript(c, held, [ended], draft))

    odd = re.compile("[\\0\ud800-\udfff]")
    assert [w.text for w in ended.result.words] == [odd.sub("\ufffd", t) for t in texts]


def test_a_nul_that_was_stored_before_is_read_as_a_letter_that_can_be_stored(ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches
    end = finished(ledger, claimed(ledger, dispatch), "hi")
    stored = text("update results set body = cast(replace(body::text, 'hi', 'h\\u0000') as json)")
    ledger.transact(lambda c: c.execute(stored))
    held = ledger.run_statement(
        lambda c: reduce.claim_reduce(c, end.reduce.message, owner="r", lease_s=60)
    )

    (ended,) = ledger.transact(lambda c: reduce.read_ended_segments(c, held.recording_id))

    assert ended.result.words[0].text == "h\ufffd"


def test_an_error_that_quotes_a_nul_is_recorded(ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches
    claim = claimed(ledger, dispatch)

    ledger.transact(
        lambda c: work.fail_segment(
            c, claim, ErrorCode.ENGINE_FAILED, "a\0b", FailureKind.PERMANENT
        )
    )

    assert segment(ledger, SegmentRow.error_message) == ("a\ufffdb",)


def test_a_reduce_that_fails_after_its_recording_was_forgotten_records_nothing(ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches
    due = finished(ledger, claimed(ledger, dispatch), "hi").reduce
    held = ledger.run_statement(
        lambda c: reduce.claim_reduce(c, due.message, owner="r", lease_s=60)
    )
    ledger.transact(lambda c: erase_recordings(c, [held.recording_id], lambda path: None))

    for put_back in (reduce.fail_reduce, reduce.postpone_reduce):
        ledger.transact(lambda c, p=put_back: p(c, held, ErrorCode.ENGINE_FAILED, "x"))

    assert states(ledger) == []
