"""A worker's task against a real ledger: whatever the decode does, the ledger knows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from threading import Event
from types import SimpleNamespace
from uuid import uuid4

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from prometheus_client import CollectorRegistry
from sqlalchemy import select, text

from schema.errors import BadRecording, CallscribeError, ErrorCode, Misconfigured, Transient
from schema.profile import Profile, Recognition, load_profile
from schema.records import Location, NewRecording
from schema.settings import Settings
from schema.states import SegmentState
from schema.store.intake import submissions
from schema.store.intake.cancel import cancel_submission
from schema.store.intake.submissions import OpenSubmission
from schema.store.ledger import Ledger
from schema.store.work import segments
from schema.store.work.segments import Claim, return_leases
from schema.tables import ResultRow, SegmentRow
from schema.wire import Dispatch, Message, Priority
from schema.words import ResultTag, SegmentResult
from tests.factories import PROFILE, added, recording, result, submission
from workers.process import metrics
from workers.process.metrics import StageSeconds
from workers.process.waiting_messages import WaitingMessages
from workers.segment.pipeline import DecodedOrError, DecodeOutput
from workers.segment.work import requeue_once, transcribe_segment


@dataclass
class FakeDecoder:
    """Decodes to one word, or fails, or does something in the middle."""

    failure: BaseException | None = None
    meanwhile: object = None
    #: Each takes a moment; between them it can be told to stop.
    windows: int = 1
    spoilt: bool = False
    #: Whether the profile's model is too large for it.
    is_short: bool = False
    decoded: list[Claim] = field(default_factory=list)
    #: The names of what was decoded together, and what is raised of which.
    together: list[list[str]] = field(default_factory=list)
    refuses: dict[str, CallscribeError] = field(default_factory=dict)
    fails_with_others: set[str] = field(default_factory=set)

    def profile_for_host(self, profile: Profile) -> Profile:
        if self.is_short:
            assert profile.fallback_profile is not None
            return profile.fallback_profile
        return profile

    def decode(self, claim: Claim, check_cancelled) -> DecodeOutput:
        self.decoded.append(claim)
        if claim.name in self.fails_with_others:
            raise RuntimeError("this one")
        if callable(self.meanwhile):
            self.meanwhile()
        while self.windows:
            check_cancelled()
            self.windows -= 1
            Event().wait(0.01)
        if self.failure is not None:
            raise self.failure
        return DecodeOutput(result("hello"), StageSeconds(0.0, 0.0, 0.0))

    def decode_all(self, wanted) -> list[DecodedOrError]:
        """Decode several: what is raised of a name is raised of it alone, or of all."""
        self.together.append([claim.name for claim, _ in wanted])
        if self.failure is not None:
            raise self.failure
        if any(claim.name in self.fails_with_others for claim, _ in wanted):
            raise RuntimeError("one of them")
        outcomes: list[DecodedOrError] = []
        for claim, check_cancelled in wanted:
            try:
                if callable(self.meanwhile):
                    self.meanwhile()
                check_cancelled()
                if claim.name in self.refuses:
                    raise self.refuses[claim.name]
                outcomes.append(
                    DecodeOutput(result(f"hello from {claim.name}"), StageSeconds(0.0, 0.0, 0.0))
                )
            except CallscribeError as error:
                outcomes.append(error)
        return outcomes

    def is_spoilt_by(self, error: Exception) -> bool:
        return self.spoilt and error is self.failure


@dataclass
class FakePublisher:
    sent: list[Dispatch] = field(default_factory=list)

    def publish(self, dispatches) -> int:
        self.sent += dispatches
        return len(dispatches)


@pytest.fixture
def worker(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    settings = Settings(database_url="postgresql://", redis_url="redis://")
    monkeypatch.setattr("workers.segment.work.time.sleep", lambda _: None)
    return SimpleNamespace(
        settings=settings,
        owner="host:boot",
        ledger=ledger,
        segment_decoder=FakeDecoder(),
        publisher=FakePublisher(),
        should_recycle=False,
        should_pause=False,
    )


def segment_row(ledger: Ledger):
    with ledger.connect() as connection:
        return connection.execute(
            select(SegmentRow.state, SegmentRow.error_code, SegmentRow.strikes, SegmentRow.attempts)
        ).one()


def test_a_segment_is_decoded_stored_and_its_reduce_asked_for(worker, ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches

    transcribe_segment(worker, dispatch.message)

    assert segment_row(ledger).state == SegmentState.DONE
    assert [d.task for d in worker.publisher.sent] == ["reduce_recording"]


def test_words_of_a_smaller_model_are_kept_under_its_own_key(worker, ledger: Ledger):
    fallback = Recognition(model="whisper-tiny.en")
    asked = PROFILE.model_copy(
        update={"decode": PROFILE.decode.model_copy(update={"fallback": fallback})}
    )
    to = ledger.transact(
        lambda c: submissions.open_submission(c, uuid4().hex, "calls", asked, force=False)
    )
    (dispatch,) = added(ledger, recording("a"), to=to).dispatches
    worker.segment_decoder.is_short = True

    transcribe_segment(worker, dispatch.message)

    [claim] = worker.segment_decoder.decoded
    with ledger.connect() as connection:
        [(key, body)] = connection.execute(select(ResultRow.decode_key, ResultRow.body)).all()
        row = connection.execute(select(SegmentRow.result_key, SegmentRow.decode_key)).one()
    tiny = load_profile("call", {"decode": {"model": "whisper-tiny.en"}})
    assert claim.profile.decode.model == "whisper-tiny.en"
    assert key == row.result_key == tiny.decode_key(claim.source.pcm_digest, 8_000)
    assert key != row.decode_key, "whoever asks for the larger model's words does not get these"
    assert SegmentResult.from_json(body).tags[ResultTag.SMALLER_MODEL] == "whisper-tiny.en"


def test_words_of_another_version_are_kept_under_a_key_of_their_own(worker, ledger: Ledger):
    one, other = added(ledger, recording("a"), recording("b")).dispatches
    planned = "0" * 64
    ledger.transact(
        lambda c: c.execute(text("update segments set decode_key = :k"), {"k": planned})
    )

    for dispatch in (one, other):
        transcribe_segment(worker, dispatch.message)

    with ledger.connect() as connection:
        kept = connection.scalars(select(ResultRow.decode_key)).all()
        states = connection.scalars(select(SegmentRow.state)).all()
        keys = connection.scalars(select(SegmentRow.result_key)).all()
    assert states == [SegmentState.DONE, SegmentState.DONE]
    assert planned not in kept, "whoever asks for the planner's words does not get these"
    assert sorted(kept) == sorted(keys)
    assert len(set(keys)) == 2


def test_what_a_newer_release_asks_for_waits_for_its_workers_and_costs_no_attempt(
    worker, ledger: Ledger
):
    (dispatch,) = added(ledger, recording("a")).dispatches
    newer = "update submissions set profile = jsonb_set(profile, '{decode,wings}', '2')"
    ledger.transact(lambda c: c.execute(text(newer)))

    transcribe_segment(worker, dispatch.message)

    row = segment_row(ledger)
    assert (row.state, row.error_code) == (SegmentState.PENDING, ErrorCode.SETTING_MISSING)
    assert (row.strikes, row.attempts) == (0, 0)
    assert ledger.transact(due_again) == 1


def due_again(connection) -> int:
    """How many segments the sweep will send again, in a moment."""
    waiting = text(
        "select count(*) from segments where dispatched_at is null and lease_owner is null"
        " and next_attempt_at > now() and next_attempt_at < now() + interval '10 s'"
    )
    return connection.scalar(waiting)


def test_a_message_is_requeued_once_behind_a_dead_predecessors_work(worker, ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches
    worker.requeues_first_message = True

    requeue_once(worker, dispatch.message)

    assert not worker.requeues_first_message
    (again,) = worker.publisher.sent
    assert (again.message, again.label) == (dispatch.message, dispatch.label)
    assert again.priority is Priority.URGENT
    transcribe_segment(worker, again.message)
    assert segment_row(ledger).state == SegmentState.DONE


def test_a_stale_message_is_not_requeued(worker, ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches

    requeue_once(worker, replace(dispatch.message, token=uuid4()))

    assert worker.publisher.sent == []


def test_a_cancelled_decode_is_left_before_its_end(worker, ledger: Ledger, monkeypatch):
    mine = submission(ledger)
    (dispatch,) = added(ledger, recording("a"), to=mine).dispatches
    monkeypatch.setattr("workers.process.lease._INTERVAL_MAX_S", 0.01)

    def be_cancelled() -> None:
        ledger.transact(lambda c: cancel_submission(c, mine.id))

    worker.segment_decoder.meanwhile = be_cancelled
    worker.segment_decoder.windows = 1_000

    transcribe_segment(worker, dispatch.message)

    assert worker.segment_decoder.windows > 0, "some were left"
    assert segment_row(ledger).error_code == ErrorCode.CANCELLED
    assert worker.publisher.sent == []


def test_a_second_delivery_decodes_nothing(worker, ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches

    for _ in range(3):
        transcribe_segment(worker, dispatch.message)

    assert len(worker.segment_decoder.decoded) == 1


def test_twins_cost_one_decode_and_two_reduces(worker, ledger: Ledger):
    for dispatch in added(ledger, recording("same"), recording("same")).dispatches:
        transcribe_segment(worker, dispatch.message)

    assert len(worker.segment_decoder.decoded) == 1
    assert len(worker.publisher.sent) == 2


@pytest.mark.parametrize(
    ("failure", "state", "code", "strikes", "attempts"),
    [
        (
            BadRecording(ErrorCode.AUDIO_CHANGED, "x", "changed"),
            SegmentState.FAILED,
            ErrorCode.AUDIO_CHANGED,
            0,
            1,
        ),
        (
            Transient(ErrorCode.STORAGE_UNREACHABLE, "x", "away"),
            SegmentState.PENDING,
            ErrorCode.STORAGE_UNREACHABLE,
            0,
            0,
        ),
        (
            Misconfigured(ErrorCode.WEIGHTS_MISSING, "x", "none"),
            SegmentState.PENDING,
            ErrorCode.WEIGHTS_MISSING,
            0,
            0,
        ),
        (RuntimeError("cudnn"), SegmentState.PENDING, ErrorCode.ENGINE_FAILED, 1, 1),
        (MemoryError(), SegmentState.PENDING, ErrorCode.ENGINE_FAILED, 1, 1),
        (SoftTimeLimitExceeded(), SegmentState.PENDING, ErrorCode.ENGINE_FAILED, 1, 1),
    ],
)
def test_a_failure_is_recorded_by_its_fate(
    worker, ledger: Ledger, failure, state, code, strikes, attempts
):
    (dispatch,) = added(ledger, recording("a")).dispatches
    worker.segment_decoder.failure = failure

    transcribe_segment(worker, dispatch.message)

    assert segment_row(ledger) == (state, code, strikes, attempts)


def test_after_an_error_of_the_gpu_the_child_is_replaced(worker, ledger: Ledger, monkeypatch):
    (dispatch,) = added(ledger, recording("a")).dispatches
    worker.segment_decoder.failure = RuntimeError("CUDA error: an illegal memory access")
    worker.segment_decoder.spoilt = True
    exits: list[int] = []
    monkeypatch.setattr("workers.segment.work.os._exit", exits.append)

    transcribe_segment(worker, dispatch.message)

    assert exits == [1]
    assert segment_row(ledger).strikes == 1, "recorded before the child goes"


def test_a_worker_that_was_taken_over_stores_nothing(worker, ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches

    def be_taken_over() -> None:
        ledger.transact(
            lambda c: c.execute(text("update segments set lease_token = gen_random_uuid()"))
        )

    worker.segment_decoder.meanwhile = be_taken_over
    transcribe_segment(worker, dispatch.message)

    with ledger.connect() as connection:
        assert connection.scalars(select(ResultRow.decode_key)).all() == []
    assert worker.publisher.sent == []
    assert segment_row(ledger).state == SegmentState.LEASED


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch):
    """Return what this process has counted since the test began."""
    registry = CollectorRegistry()
    monkeypatch.setattr(metrics, "_registry", registry)
    monkeypatch.setattr(metrics, "_families", {})
    return lambda name, **labels: registry.get_sample_value(f"callscribe_{name}_total", labels)


@pytest.mark.parametrize(
    ("failure", "outcome", "code"),
    [
        (BadRecording(ErrorCode.AUDIO_CHANGED, "x", "changed"), "failed", "audio.changed"),
        (RuntimeError("cudnn"), "failed", "engine.failed"),
        (Transient(ErrorCode.STORAGE_UNREACHABLE, "x", "away"), "postponed", "storage.unreachable"),
        (Misconfigured(ErrorCode.WEIGHTS_MISSING, "x", "none"), "postponed", "weights.missing"),
    ],
)
def test_a_failure_is_counted_by_its_outcome_and_code(
    worker, ledger: Ledger, counted, failure, outcome, code
):
    (dispatch,) = added(ledger, recording("a")).dispatches
    worker.segment_decoder.failure = failure

    transcribe_segment(worker, dispatch.message)

    assert counted("segments", outcome=outcome) == 1
    assert counted("errors", code=code) == 1


def test_a_segment_whose_words_are_known_is_counted_as_such(worker, ledger: Ledger, counted):
    (dispatch,) = added(ledger, recording("a")).dispatches
    ledger.transact(
        lambda c: c.execute(
            text("insert into results (decode_key, body) select decode_key, '{}' from segments")
        )
    )

    transcribe_segment(worker, dispatch.message)

    assert worker.segment_decoder.decoded == []
    assert counted("segments", outcome="known") == 1
    assert counted("audio_seconds", outcome="known") == 10


def test_a_write_that_was_fenced_and_a_recycled_child_are_counted(
    worker, ledger: Ledger, counted, monkeypatch
):
    first, second = added(ledger, recording("a"), recording("b")).dispatches
    monkeypatch.setattr("workers.segment.work.os._exit", lambda _: None)
    worker.segment_decoder.failure, worker.segment_decoder.spoilt = RuntimeError("CUDA error"), True
    transcribe_segment(worker, first.message)
    assert counted("recycles", reason="error") == 1

    worker.segment_decoder, worker.should_recycle = FakeDecoder(), False
    worker.segment_decoder.meanwhile = lambda: ledger.transact(
        lambda c: c.execute(text("update segments set lease_token = gen_random_uuid()"))
    )
    transcribe_segment(worker, second.message)
    assert counted("fenced_writes", task="segment") == 1
    assert counted("segments", outcome="done") is None


def named(name: str, digest: str) -> NewRecording:
    location = Location("calls", name.encode())
    return replace(recording(digest), source=location, audio=location)


@dataclass
class Together:
    """Four recordings of a segment each, whose messages wait at one worker that takes four."""

    worker: SimpleNamespace
    dispatches: list[Dispatch]
    waiting: WaitingMessages

    def work(self) -> None:
        """Begin the first task; the others come when it has ended."""
        for dispatch in self.dispatches:
            if self.waiting.begin(dispatch.message):
                transcribe_segment(self.worker, dispatch.message, self.waiting)

    def rows(self) -> dict[str, tuple[str, int, int]]:
        """Each recording's segment: its state, attempts and strikes."""
        with self.worker.ledger.connect() as connection:
            found = connection.execute(
                text(
                    "select r.name, s.state, s.attempts, s.strikes"
                    " from segments s join recordings r on r.id = s.recording_id"
                )
            ).all()
        return {name: (state, attempts, strikes) for name, state, attempts, strikes in found}

    @property
    def names(self) -> list[str]:
        return [f"{letter}.wav" for letter in "abcd"]


@pytest.fixture
def together(worker: SimpleNamespace, ledger: Ledger) -> Together:
    worker.settings = Settings(
        database_url="postgresql://", redis_url="redis://", together=4, read_ahead=False
    )
    dispatches = [
        dispatch
        for name in "abcd"
        for dispatch in added(ledger, named(f"{name}.wav", name)).dispatches
    ]
    waiting = WaitingMessages()
    for dispatch in dispatches:
        waiting.add(dispatch.message)
    return Together(worker, dispatches, waiting)


def words_of(ledger: Ledger) -> set[str]:
    with ledger.connect() as connection:
        bodies = connection.execute(select(ResultRow.body)).scalars()
        return {text for body in bodies for text in body["words"]["texts"]}


def test_what_waits_is_decoded_together_and_its_tasks_have_nothing_to_do(together: Together):
    together.work()
    assert together.worker.segment_decoder.together == [together.names]
    assert together.worker.segment_decoder.decoded == []
    assert set(together.rows().values()) == {("done", 1, 0)}
    assert len(together.worker.publisher.sent) == 4
    assert words_of(together.worker.ledger) == {f"hello from {name}" for name in together.names}


def test_a_failure_of_one_costs_that_one(together: Together):
    decoder = together.worker.segment_decoder
    decoder.refuses["b.wav"] = BadRecording(ErrorCode.FILE_UNREADABLE, "b.wav", "damaged")
    decoder.refuses["c.wav"] = Transient(ErrorCode.STORAGE_UNREACHABLE, "c.wav", "no answer")
    together.work()
    rows = together.rows()
    assert rows["a.wav"] == rows["d.wav"] == ("done", 1, 0)
    assert rows["b.wav"][0] == "failed"
    assert rows["c.wav"] == ("pending", 0, 0)


def test_where_no_one_knows_which_failed_each_is_decoded_alone(together: Together):
    together.worker.segment_decoder.fails_with_others = {"c.wav"}
    together.work()
    assert [claim.name for claim in together.worker.segment_decoder.decoded] == together.names
    rows = together.rows()
    assert rows.pop("c.wav") == ("pending", 1, 1)
    assert set(rows.values()) == {("done", 1, 0)}


@pytest.mark.parametrize("spoilt", [True, False])
def test_what_ends_the_process_strikes_none_and_each_is_alone_the_next_time(
    together: Together, monkeypatch, spoilt
):
    decoder, ended = together.worker.segment_decoder, []
    monkeypatch.setattr("workers.segment.work.os._exit", ended.append)
    decoder.failure = RuntimeError("CUDA error") if spoilt else SoftTimeLimitExceeded()
    decoder.spoilt = spoilt
    together.work()
    assert set(together.rows().values()) == {("pending", 1, 0)}
    assert ended == ([1] if spoilt else [])
    # Tried before, so that none is claimed along with another.
    decoder.failure = None
    due(together.worker.ledger)
    again = dispatched(together.worker.ledger)
    for dispatch in again:
        together.waiting.add(dispatch)
    for dispatch in again:
        transcribe_segment(together.worker, dispatch, together.waiting)
    assert len(decoder.together) == 1
    assert len(decoder.decoded) == 4
    assert set(together.rows().values()) == {("done", 2, 0)}


def due(ledger: Ledger) -> None:
    ledger.transact(lambda c: c.execute(text("update segments set next_attempt_at = now()")))


def dispatched(ledger: Ledger) -> list[Message]:
    with ledger.connect() as connection:
        rows = connection.execute(text("select id, dispatch_token from segments order by id"))
        return [Message(*row) for row in rows]


def test_a_death_strikes_one_segment_but_none_of_several(together: Together):
    ledger, worker = together.worker.ledger, together.worker
    messages = [dispatch.message for dispatch in together.dispatches]
    for message in messages[:3]:
        ledger.run_statement(
            lambda c, m=message: segments.claim_segment(c, m, owner=worker.owner, lease_s=60)
        )
    assert len(ledger.transact(lambda c: return_leases(c, worker.owner, child_died=True))) == 3
    assert sorted(together.rows().values()) == [("pending", 0, 0)] + 3 * [("pending", 1, 0)]
    ledger.run_statement(
        lambda c: segments.claim_segment(c, messages[3], owner=worker.owner, lease_s=60)
    )
    ledger.transact(lambda c: return_leases(c, worker.owner, child_died=True))
    assert together.rows()["d.wav"] == ("pending", 1, 1)


def test_what_was_cancelled_meanwhile_is_left_and_the_others_are_stored(together: Together):
    ledger = together.worker.ledger
    with ledger.connect() as connection:
        submission_id = connection.execute(
            text("select submission_id from recordings where name = 'b.wav'")
        ).scalar_one()

    def give_up() -> None:
        ledger.transact(lambda c: cancel_submission(c, submission_id))

    together.worker.segment_decoder.meanwhile = give_up
    together.work()
    states = {name: state for name, (state, _, _) in together.rows().items()}
    assert states == {"a.wav": "done", "b.wav": "failed", "c.wav": "done", "d.wav": "done"}


def test_segments_of_other_models_are_decoded_by_themselves(together: Together, ledger: Ledger):
    other = PROFILE.model_copy(
        update={"decode": PROFILE.decode.model_copy(update={"model": "whisper-tiny.en"})}
    )
    to = ledger.transact(
        lambda c: submissions.open_submission(c, uuid4().hex, "calls", other, force=False)
    )
    (dispatch,) = added(ledger, named("e.wav", "e"), to=to).dispatches
    together.dispatches = [*together.dispatches[:2], dispatch]
    together.waiting = WaitingMessages()
    for each in together.dispatches:
        together.waiting.add(each.message)
    together.work()
    assert together.worker.segment_decoder.together == [["a.wav", "b.wav"]]
    assert [each.name for each in together.worker.segment_decoder.decoded] == ["e.wav"]
    assert together.rows()["e.wav"] == ("done", 1, 0)


def test_a_host_that_cannot_decode_them_puts_all_back_and_rests_once(
    together: Together, monkeypatch
):
    rests: list[float] = []
    monkeypatch.setattr("workers.segment.work.time.sleep", rests.append)
    together.worker.segment_decoder.failure = Misconfigured(
        ErrorCode.DEVICE_UNUSABLE, "device cuda", "none"
    )
    together.work()
    assert set(together.rows().values()) == {("pending", 0, 0)}
    assert rests == [together.worker.settings.sweep_s]


def asked_for(ledger: Ledger, model: str, fallback: str | None = None) -> OpenSubmission:
    """Open a submission that asks for a model, and takes a smaller one."""
    decode: dict[str, object] = {"model": model, "files": {"model.bin": "0" * 64}}
    if fallback is None:
        decode = {"model": model}
    else:
        decode["fallback"] = {"model": fallback}
    asked = load_profile("call", {"decode": decode})
    return ledger.transact(
        lambda c: submissions.open_submission(c, uuid4().hex, "calls", asked, force=False)
    )


@pytest.mark.parametrize("models", [("big", "big"), ("big", "bigger"), (None, "big")])
def test_hosts_that_decode_by_a_fallback_decode_one_audio_once(worker, ledger: Ledger, models):
    """Whether they were asked for one model, for two, or for the fallback by its name."""
    targets = [
        asked_for(ledger, model, "whisper-tiny.en")
        if model
        else asked_for(ledger, "whisper-tiny.en")
        for model in models
    ]
    dispatches = [added(ledger, recording("a"), to=to).dispatches[0] for to in targets]
    worker.segment_decoder.profile_for_host = lambda profile: profile.fallback_profile or profile

    for dispatch in dispatches:
        transcribe_segment(worker, dispatch.message)

    assert len(worker.segment_decoder.decoded) == 1
    with ledger.connect() as connection:
        rows = connection.execute(select(SegmentRow.state, SegmentRow.result_key)).all()
        (body,) = connection.scalars(select(ResultRow.body)).all()
    assert [row.state for row in rows] == [SegmentState.DONE] * 2
    assert len({row.result_key for row in rows}) == 1
    assert SegmentResult.from_json(body).tags[ResultTag.SMALLER_MODEL] == "whisper-tiny.en"


def test_while_another_decodes_by_the_fallback_a_segment_waits(worker, ledger: Ledger):
    one, other = (
        added(ledger, recording("a"), to=asked_for(ledger, model, "whisper-tiny.en")).dispatches[0]
        for model in ("big", "bigger")
    )
    worker.segment_decoder.profile_for_host = lambda profile: profile.fallback_profile or profile
    second = SimpleNamespace(
        **{**vars(worker), "owner": "host:other", "segment_decoder": FakeDecoder()}
    )
    second.segment_decoder.profile_for_host = worker.segment_decoder.profile_for_host
    worker.segment_decoder.meanwhile = lambda: transcribe_segment(second, other.message)

    transcribe_segment(worker, one.message)

    assert second.segment_decoder.decoded == []
    with ledger.connect() as connection:
        row = connection.execute(
            select(SegmentRow.state, SegmentRow.attempts, SegmentRow.strikes).where(
                SegmentRow.id == other.message.id
            )
        ).one()
    assert row == (SegmentState.PENDING, 0, 0)


def test_a_twin_of_what_is_given_up_is_sent_at_once(worker, ledger: Ledger):
    first, twin = added(ledger, recording("same"), recording("same")).dispatches

    def dropped() -> None:
        assert (
            ledger.run_statement(
                lambda c: segments.claim_segment(c, twin.message, owner="x", lease_s=9)
            )
            is None
        )

    worker.segment_decoder.meanwhile = dropped
    worker.segment_decoder.failure = BadRecording(ErrorCode.AUDIO_CHANGED, "call.wav", "it changed")

    transcribe_segment(worker, first.message)

    sent = [d.message for d in worker.publisher.sent if d.task == "transcribe_segment"]
    assert sent == [twin.message]


def test_who_waited_for_the_planned_words_is_sent_where_a_fallback_wrote_others(
    worker, ledger: Ledger
):
    to = asked_for(ledger, "big", "whisper-tiny.en")
    first, twin = added(ledger, recording("same"), recording("same"), to=to).dispatches
    worker.segment_decoder.profile_for_host = lambda profile: profile.fallback_profile or profile

    transcribe_segment(worker, first.message)

    assert twin.message in [d.message for d in worker.publisher.sent]
