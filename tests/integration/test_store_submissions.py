"""A producer's side of the ledger: resume, identity, known results, and the queue's room."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from sqlalchemy import select, text

from schema.errors import BadRequest
from schema.records import CallInfo, Notice
from schema.states import RecordingState, SegmentState
from schema.store.intake import submissions
from schema.store.ledger import Ledger
from schema.store.read import recordings
from schema.store.read.progress import list_notices, read_progress
from schema.store.work import segments
from schema.tables import Recording, SegmentRow
from tests.factories import added, quarantined, recording, result, submission


def rows(ledger: Ledger, *columns):
    with ledger.connect() as connection:
        return connection.execute(select(*columns)).all()


def test_the_same_command_again_resumes_until_it_is_sealed(ledger: Ledger):
    first = submission(ledger, key="k")
    second = submission(ledger, key="k")
    ledger.transact(lambda c: submissions.seal_submission(c, first.id))
    third = submission(ledger, key="k")

    assert (second.id, second.is_resumed) == (first.id, True)
    assert (third.id != first.id, third.is_resumed) == (True, False)


def test_a_recording_is_added_once_however_often_it_is_handed_in(ledger: Ledger):
    target, one = submission(ledger), recording("a")

    again = [added(ledger, one, one, to=target), added(ledger, one, to=target)]

    assert [a.recordings for a in again] == [1, 0]
    assert again[1].dispatches == []
    assert ledger.transact(lambda c: submissions.list_sources(c, target.id)) == {one.source}


def test_three_silent_calls_of_equal_content_are_three_recordings(ledger: Ledger):
    target = submission(ledger)

    done = added(ledger, *(recording(call=CallInfo(call_id=str(i))) for i in range(3)), to=target)

    assert done.recordings == 3
    assert {d.task for d in done.dispatches} == {"reduce_recording"}
    assert rows(ledger, Recording.state) == [(RecordingState.STITCHING,)] * 3


def test_known_words_are_not_decoded_again(ledger: Ledger):
    (dispatch,) = added(ledger, recording("same")).dispatches
    claim = ledger.run_statement(
        lambda c: segments.claim_segment(c, dispatch.message, owner="w", lease_s=60)
    )
    ledger.run_statement(lambda c: segments.finish_segment(c, claim, result("hi")))

    again = added(ledger, recording("same"))

    assert (again.segments, again.cached_segments) == (1, 1)
    assert [d.task for d in again.dispatches] == ["reduce_recording"]


def test_a_forced_submission_decodes_what_is_known(ledger: Ledger):
    (dispatch,) = added(ledger, recording("same")).dispatches
    claim = ledger.run_statement(
        lambda c: segments.claim_segment(c, dispatch.message, owner="w", lease_s=60)
    )
    ledger.run_statement(lambda c: segments.finish_segment(c, claim, result("hi")))

    forced = added(ledger, recording("same"), to=submission(ledger, force=True))
    (dispatch,) = forced.dispatches
    claim = ledger.run_statement(
        lambda c: segments.claim_segment(c, dispatch.message, owner="w", lease_s=60)
    )

    assert claim is not None
    assert not claim.is_cached


def test_segments_beyond_the_queues_room_wait_for_the_sweep(ledger: Ledger):
    done = added(ledger, *(recording(str(i)) for i in range(5)), room=2)

    assert (len(done.dispatches), done.waiting_segments) == (2, 3)
    dispatched = rows(ledger, SegmentRow.dispatched_at)
    assert sum(at is None for (at,) in dispatched) == 3


def test_a_quarantined_recording_is_kept_with_its_reason(ledger: Ledger):
    target = submission(ledger)
    added(ledger, quarantined("audio.truncated"), recording("a"), to=target)

    with ledger.connect() as connection:
        progress = read_progress(connection, target.id)
        (bad,) = recordings.list_recordings(
            connection, target.id, frozenset({RecordingState.QUARANTINED})
        )

    assert progress.recordings == {"quarantined": 1, "planned": 1}
    assert bad.error_code == "audio.truncated"
    assert not progress.is_finished


def test_text_that_postgres_refuses_is_escaped_and_costs_no_batch(ledger: Ledger):
    hostile = CallInfo(agent="a\0b", attributes={"k\0": ["\ud800", {"x": "y\0"}]})
    target = submission(ledger)

    added(ledger, recording("a", call=hostile), to=target)

    with ledger.connect() as connection:
        (kept,) = recordings.list_recordings(connection, target.id)
    assert kept.call.agent == "a\\0b"
    assert kept.call.attributes == {"k\\0": ["\\ud800", {"x": "y\\0"}]}


def test_a_finding_is_kept_once(ledger: Ledger):
    target = submission(ledger)
    notice = Notice("path.loop", "calls/loop", "leads back")

    for _ in range(2):
        ledger.transact(lambda c: submissions.add_notices(c, target.id, [notice]))

    with ledger.connect() as connection:
        assert [n.subject for n in list_notices(connection, target.id)] == ["calls/loop"]


def test_open_segments_count_what_is_pending(ledger: Ledger):
    added(ledger, recording("a", "b", "c"))

    assert rows(ledger, Recording.open_segments) == [(3,)]
    assert rows(ledger, SegmentRow.state) == [(SegmentState.PENDING,)] * 3


def test_producers_of_one_command_meet_without_an_error(ledger: Ledger):
    """One seals between the other's INSERT, which found it open, and its SELECT."""

    def hand_in(_: int) -> None:
        for _ in range(40):
            to = submission(ledger, key="same")
            ledger.transact(partial(submissions.seal_submission, submission_id=to.id))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(hand_in, range(3)))


def test_a_submission_that_was_sealed_and_forgotten_is_refused_as_a_sealed_one(ledger: Ledger):
    to = submission(ledger)
    ledger.transact(lambda c: c.execute(text("delete from submissions")))

    with pytest.raises(BadRequest, match="sealed"):
        added(ledger, recording("a"), to=to)
