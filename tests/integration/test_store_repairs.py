"""Repairs are ordered once for a place, in one transaction, and known to all that end segments."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from uuid import UUID

import pytest
from sqlalchemy import select, text

from ops.chaos.oracle import broken
from schema.errors import ErrorCode, LeaseLost
from schema.pcm import PlannedSlice, excerpt_digest
from schema.span import Span
from schema.states import RecordingState, SegmentKind, SegmentState
from schema.store.erasure import forget
from schema.store.intake.cancel import cancel_submission
from schema.store.ledger import Ledger
from schema.store.read import recordings
from schema.store.read.progress import Quality, read_progress, read_quality
from schema.store.read.transcripts import read_transcript
from schema.store.work import reduces
from schema.store.work import segments as work
from schema.store.work.reduces import ReduceClaim
from schema.store.work.repairs import order_repairs
from schema.store.work.segments import FailureKind
from schema.store.work.sweep import sweep
from schema.tables import Recording, ResultRow, SegmentRow
from schema.transcript import (
    Coverage,
    Draft,
    PlannedRepair,
    Repair,
    RepairOutcome,
    RepairReason,
    Seam,
    SeamRule,
)
from schema.wire import Dispatch, Message, Priority, QueueLengths
from schema.words import Word
from tests.factories import PROFILE, added, recording, result, submission

PLACE = PlannedRepair(0, Span(1_000, 15_000), Span(7_000, 9_000), RepairReason.SEAM)
DRAFT = Draft("en", (), 0, 0, (), ())


def claimed(ledger: Ledger, dispatch: Dispatch) -> work.Claim | None:
    return ledger.run_statement(
        lambda c: work.claim_segment(c, dispatch.message, owner="w", lease_s=60)
    )


def finished(ledger: Ledger, dispatch: Dispatch, *texts: str) -> work.EndResult:
    claim = claimed(ledger, dispatch)
    assert claim is not None
    return ledger.run_statement(lambda c: work.finish_segment(c, claim, result(*texts)))


def failed(ledger: Ledger, dispatch: Dispatch) -> work.EndResult:
    claim = claimed(ledger, dispatch)
    assert claim is not None
    code, fate = ErrorCode.AUDIO_CHANGED, FailureKind.PERMANENT
    return ledger.transact(lambda c: work.fail_segment(c, claim, code, "changed", fate))


def reducing(ledger: Ledger, message: Message) -> ReduceClaim:
    held = ledger.run_statement(lambda c: reduces.claim_reduce(c, message, owner="r", lease_s=60))
    assert held is not None
    return held


def stitching(ledger: Ledger, *digests: str, **options) -> ReduceClaim:
    """Take a recording to its reduce."""
    ends = [
        finished(ledger, d, "hi") for d in added(ledger, recording(*digests), **options).dispatches
    ]
    return reducing(ledger, ends[-1].reduce.message)


def ordered(ledger: Ledger, held: ReduceClaim, *places: PlannedRepair) -> list[Dispatch]:
    return ledger.transact(lambda c: order_repairs(c, held, places or [PLACE]))


def row(ledger: Ledger, *columns, **where):
    with ledger.connect() as connection:
        query = select(*columns)
        for name, value in where.items():
            query = query.where(getattr(SegmentRow, name) == value)
        return connection.execute(query).one()


def state(ledger: Ledger) -> tuple[str, int]:
    with ledger.connect() as connection:
        return connection.execute(select(Recording.state, Recording.open_segments)).one()


def age(ledger: Ledger) -> None:
    ledger.transact(
        lambda c: c.execute(text("update segments set dispatched_at = now() - interval '1 hour'"))
    )


def swept(ledger: Ledger) -> list[Dispatch]:
    queued = QueueLengths(0, 0)
    done = ledger.transact(lambda c: sweep(c, queue_lengths=queued, high_water=100, interval_s=15))
    assert done is not None
    return done.dispatches


def test_a_recording_runs_again_until_its_repair_has_ended(ledger: Ledger):
    held = stitching(ledger, "a", "b")

    (dispatch,) = ordered(ledger, held)

    assert state(ledger) == (RecordingState.RUNNING, 1)
    end = finished(ledger, dispatch, "mended")
    assert state(ledger) == (RecordingState.STITCHING, 0)
    again = reducing(ledger, end.reduce.message)
    segments = ledger.transact(lambda c: reduces.read_ended_segments(c, again.recording_id))
    (repair,) = [s for s in segments if s.kind == SegmentKind.REPAIR]
    assert (repair.span, repair.core, repair.reason) == (PLACE.span, PLACE.core, "seam")
    ledger.transact(lambda c: reduces.store_transcript(c, again, segments, DRAFT))
    assert state(ledger) == (RecordingState.DONE, 0)
    assert broken(ledger) == {}


def test_a_repair_goes_before_what_nobody_began_and_says_what_it_is(ledger: Ledger):
    (dispatch,) = ordered(ledger, stitching(ledger, "a", "b"))

    assert dispatch.priority is Priority.URGENT
    assert " ch 0 repair 0:01-0:15, " in dispatch.label


def test_the_worker_is_told_by_what_to_verify_the_samples(ledger: Ledger):
    (dispatch,) = ordered(ledger, stitching(ledger, "a", "b"))

    ahead = ledger.run_statement(lambda c: work.read_source_ahead(c, dispatch.message))
    claim = claimed(ledger, dispatch)

    assert ahead == claim.source
    parts = (PlannedSlice(Span(0, 10_000), "a"), PlannedSlice(Span(8_000, 18_000), "b"))
    assert claim.source.slices == parts
    assert claim.source.pcm_digest == excerpt_digest(parts, PLACE.span)
    assert claim.decode_key == PROFILE.decode_key(claim.source.pcm_digest, 8_000)


def test_a_planned_segment_is_verified_by_itself(ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches

    assert claimed(ledger, dispatch).source.slices == ()


def test_a_forced_language_is_decoded_under_a_key_of_its_own(ledger: Ledger):
    place = PlannedRepair(0, PLACE.span, PLACE.core, RepairReason.LANGUAGE, "es")

    (dispatch,) = ordered(ledger, stitching(ledger, "a", "b"), place)

    claim = claimed(ledger, dispatch)
    assert claim.profile.decode.language == "es"
    assert claim.decode_key == claim.profile.decode_key(claim.source.pcm_digest, 8_000)
    assert claim.decode_key != PROFILE.decode_key(claim.source.pcm_digest, 8_000)


@pytest.mark.parametrize("end", [finished, failed])
def test_a_place_is_never_ordered_twice(ledger: Ledger, end):
    (dispatch,) = ordered(ledger, stitching(ledger, "a", "b"))
    held = reducing(ledger, end(ledger, dispatch).reduce.message)

    assert ordered(ledger, held) == []
    assert state(ledger) == (RecordingState.STITCHING, 0), "its reduce goes on"
    segments = ledger.transact(lambda c: reduces.read_ended_segments(c, held.recording_id))
    assert ledger.transact(lambda c: reduces.store_transcript(c, held, segments, DRAFT)) == "done"


def test_a_reducer_that_was_taken_over_orders_nothing(ledger: Ledger):
    held = stitching(ledger, "a", "b")
    ledger.transact(
        lambda c: c.execute(text("update recordings set reduce_token = gen_random_uuid()"))
    )

    with pytest.raises(LeaseLost):
        ordered(ledger, held)

    assert state(ledger) == (RecordingState.STITCHING, 0)
    with ledger.connect() as connection:
        assert connection.scalars(select(SegmentRow.kind)).all() == ["plan", "plan"]


def test_of_two_that_order_at_once_one_does(ledger: Ledger):
    held = stitching(ledger, "a", "b")

    def order(_: int) -> int:
        try:
            return len(ordered(ledger, held))
        except LeaseLost:
            return 0

    with ThreadPoolExecutor(2) as pool:
        counts = list(pool.map(order, range(2)))

    assert sorted(counts) == [0, 1]
    assert state(ledger) == (RecordingState.RUNNING, 1)


def test_killed_between_the_order_and_its_message_nothing_is_lost(ledger: Ledger):
    ordered(ledger, stitching(ledger, "a", "b"))
    age(ledger)

    (again,) = swept(ledger)

    assert "repair" in again.label
    assert finished(ledger, again, "mended").reduce is not None


def test_killed_before_the_order_is_committed_the_reduce_is_done_anew(ledger: Ledger):
    held = stitching(ledger, "a", "b")

    with ledger.engine.connect() as connection:
        order_repairs(connection, held, [PLACE])
        connection.rollback()

    assert state(ledger) == (RecordingState.STITCHING, 0)
    assert len(ordered(ledger, held)) == 1


def test_a_failed_repair_leaves_a_recording_done(ledger: Ledger):
    (dispatch,) = ordered(ledger, stitching(ledger, "a", "b"))

    held = reducing(ledger, failed(ledger, dispatch).reduce.message)
    segments = ledger.transact(lambda c: reduces.read_ended_segments(c, held.recording_id))

    assert ledger.transact(lambda c: reduces.store_transcript(c, held, segments, DRAFT)) == "done"
    with ledger.connect() as connection:
        assert connection.scalars(select(Recording.error_code)).one() is None


def test_two_recordings_of_one_content_share_a_repair(ledger: Ledger):
    (first,) = ordered(ledger, stitching(ledger, "a", "b"))
    finished(ledger, first, "mended")
    again = added(ledger, recording("a", "b"))
    (reduce_now,) = again.dispatches
    (second,) = ordered(ledger, reducing(ledger, reduce_now.message))

    claim = claimed(ledger, second)

    assert claim.is_cached
    assert ledger.run_statement(lambda c: work.finish_segment(c, claim, None)).reduce is not None


def test_a_forced_submission_decodes_its_repairs_anew(ledger: Ledger):
    (first,) = ordered(ledger, stitching(ledger, "a", "b"))
    finished(ledger, first, "old")

    held = stitching(ledger, "a", "b", to=submission(ledger, force=True))
    (second,) = ordered(ledger, held)

    assert not claimed(ledger, second).is_cached


def test_cancel_ends_a_repair(ledger: Ledger):
    mine = submission(ledger)
    (dispatch,) = ordered(ledger, stitching(ledger, "a", "b", to=mine))
    claim = claimed(ledger, dispatch)

    cancelled = ledger.transact(lambda c: cancel_submission(c, mine.id))

    assert (cancelled.recordings, cancelled.segments) == (1, 1)
    with pytest.raises(LeaseLost):
        ledger.run_statement(lambda c: work.finish_segment(c, claim, result("late")))
    assert state(ledger) == (RecordingState.CANCELLED, 0)


def test_forget_erases_a_repair_and_its_words(ledger: Ledger):
    (dispatch,) = ordered(ledger, stitching(ledger, "a", "b"))
    finished(ledger, dispatch, "mended")
    with ledger.connect() as connection:
        ids: list[UUID] = list(connection.scalars(select(Recording.id)))

    forgotten = ledger.transact(lambda c: forget.erase_recordings(c, ids, lambda _: None))

    assert forgotten.results == 3
    with ledger.connect() as connection:
        assert connection.scalars(select(SegmentRow.id)).all() == []
        assert connection.scalars(select(ResultRow.decode_key)).all() == []


def test_retry_takes_up_a_failed_repair_beside_a_failed_segment(ledger: Ledger):
    first, second = added(ledger, recording("a", "b")).dispatches
    finished(ledger, first, "hi")
    held = reducing(ledger, failed(ledger, second).reduce.message)
    place = PlannedRepair(0, Span(0, 9_000), Span(2_000, 4_000), RepairReason.SPEECH)
    (dispatch,) = ordered(ledger, held, place)
    held = reducing(ledger, failed(ledger, dispatch).reduce.message)
    segments = ledger.transact(lambda c: reduces.read_ended_segments(c, held.recording_id))
    ledger.transact(lambda c: reduces.store_transcript(c, held, segments, DRAFT))
    assert state(ledger) == (RecordingState.PARTIAL, 0)
    with ledger.connect() as connection:
        mine = connection.scalars(select(Recording.submission_id)).one()

    counts = ledger.transact(lambda c: reduces.retry_failed_segments(c, mine))

    assert counts == (2, 1)
    assert state(ledger) == (RecordingState.RUNNING, 2)
    assert row(ledger, SegmentRow.state, kind="repair") == (SegmentState.PENDING,)


def test_a_submission_sent_again_resumes_a_recording_under_repair(ledger: Ledger):
    mine = submission(ledger, key="same")
    item = recording("a", "b")
    ends = [finished(ledger, d, "hi") for d in added(ledger, item, to=mine).dispatches]
    (dispatch,) = ordered(ledger, reducing(ledger, ends[-1].reduce.message))

    resumed = submission(ledger, key="same")
    again = added(ledger, item, to=resumed)

    assert resumed.id == mine.id
    assert (again.recordings, again.dispatches) == (0, [])
    assert finished(ledger, dispatch, "mended").reduce is not None


def test_the_audio_of_a_submission_is_that_of_its_plan(ledger: Ledger):
    mine = submission(ledger)
    held = stitching(ledger, "a", "b", to=mine)
    with ledger.connect() as connection:
        before = read_progress(connection, mine.id)

    ordered(ledger, held)

    with ledger.connect() as connection:
        after = read_progress(connection, mine.id)
    assert (after.audio_ms, after.segments) == (before.audio_ms, before.segments)
    assert after.repairs == {"pending": 1}


def test_what_a_transcript_proves_is_kept_and_summed_up(ledger: Ledger):
    mine = submission(ledger)
    held = stitching(ledger, "a", "b", to=mine)
    segments = ledger.transact(lambda c: reduces.read_ended_segments(c, held.recording_id))
    repair = Repair(
        channel=0,
        core=PLACE.core,
        reason=RepairReason.LANGUAGE,
        outcome=RepairOutcome.REPAIRED,
        added_words=(Word("hola", 7_000, 8_000, 0.9),),
        dropped_words=(Word("ola", 7_000, 8_000, None),),
        rules=(SeamRule.ANCHOR, SeamRule.MIDPOINT),
        language="es",
    )
    failed_repair = replace(repair, outcome=RepairOutcome.FAILED, error_code="audio.changed")
    draft = replace(
        DRAFT,
        speech_ms=8_000,
        worded_ms=6_000,
        seams=(Seam(0, 0, SeamRule.MIDPOINT, 9_000, 0.5),),
        coverage=(Coverage(0, 0, Span(0, 9_000), 4_000, 2_000),),
        repairs=(repair, failed_repair),
        languages=((0, "es"),),
    )

    ledger.transact(lambda c: reduces.store_transcript(c, held, segments, draft))

    with ledger.connect() as connection:
        (found,) = recordings.list_recordings(connection, mine.id)
        transcript = read_transcript(connection, found)
        quality = read_quality(connection, mine.id)
    assert transcript.segments == draft.coverage
    assert transcript.repairs == draft.repairs
    assert transcript.languages == draft.languages
    assert quality == Quality(
        seams={"midpoint": 1},
        repairs={"failed": 1, "repaired": 1},
        speech_ms=8_000,
        worded_ms=6_000,
    )
    assert quality.coverage == 0.75


def test_only_the_latest_transcript_of_a_recording_counts(ledger: Ledger):
    mine = submission(ledger)
    first, second = added(ledger, recording("a", "b"), to=mine).dispatches
    finished(ledger, first, "hi")
    held = reducing(ledger, failed(ledger, second).reduce.message)
    for speech_ms in (1_000, 5_000):
        segments = ledger.transact(lambda c, h=held: reduces.read_ended_segments(c, h.recording_id))
        draft = replace(DRAFT, speech_ms=speech_ms, worded_ms=1_000)
        ledger.transact(lambda c, h=held, s=segments, d=draft: reduces.store_transcript(c, h, s, d))
        ledger.transact(lambda c: reduces.retry_failed_segments(c, mine.id))
        for dispatch in swept(ledger):
            held = reducing(ledger, failed(ledger, dispatch).reduce.message)

    with ledger.connect() as connection:
        assert read_quality(connection, mine.id).speech_ms == 5_000


def test_a_transcript_whose_times_are_guesses_has_no_part_in_the_coverage(ledger: Ledger):
    mine = submission(ledger)
    for flags in ((), ("times-guessed:7",)):
        (dispatch,) = added(ledger, recording(f"pcm{flags}"), to=mine).dispatches
        held = reducing(ledger, failed(ledger, dispatch).reduce.message)
        segments = ledger.transact(lambda c, h=held: reduces.read_ended_segments(c, h.recording_id))
        draft = replace(DRAFT, flags=flags, speech_ms=5_000, worded_ms=4_000)
        ledger.transact(lambda c, h=held, s=segments, d=draft: reduces.store_transcript(c, h, s, d))

    with ledger.connect() as connection:
        quality = read_quality(connection, mine.id)
    assert (quality.speech_ms, quality.coverage) == (5_000, 0.8)


def test_a_reducer_of_the_revision_before_stores_a_transcript(ledger: Ledger):
    held = stitching(ledger, "a", "b")
    old = """
        insert into transcripts (id, recording_id, version, language, flags, speech_ms, worded_ms)
        values (gen_random_uuid(), :id, 1, 'en', '[]', 10, 5)"""

    ledger.transact(lambda c: c.execute(text(old), {"id": held.recording_id}))

    with ledger.connect() as connection:
        mine = connection.scalars(select(Recording.submission_id)).one()
        (found,) = recordings.list_recordings(connection, mine)
        transcript = read_transcript(connection, found)
    assert (transcript.segments, transcript.repairs, transcript.languages) == ((), (), ())
