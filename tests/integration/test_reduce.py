"""A reducer's task against a real ledger: what this host cannot do is left to another."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select, text

from schema.errors import ErrorCode, Misconfigured, Transient
from schema.profile import Profile, Punctuation
from schema.states import RecordingState
from schema.store.intake import submissions
from schema.store.ledger import Ledger
from schema.store.work import segments
from schema.store.work.sweep import sweep
from schema.tables import Recording
from schema.wire import Dispatch, QueueLengths
from tests.factories import PROFILE, added, recording, result
from workers.transcript import text_normalisation
from workers.transcript.reduce import reduce_recording

MARKED = {"punctuation": Punctuation(model="ct-punc", files={"model.pt": "0" * 64})}


@dataclass
class Host:
    """A reducer's process, with the marks or without them."""

    ledger: Ledger
    marks: Any
    owner: str = "r:1"
    settings: Any = field(default_factory=lambda: SimpleNamespace(lease_s=60, sweep_s=15))
    publisher: Any = field(default_factory=lambda: SimpleNamespace(publish=lambda due: None))

    def punctuator(self, punctuation: Punctuation) -> Any:
        if isinstance(self.marks, Exception):
            raise self.marks
        return self.marks


@pytest.fixture
def rests(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the process has rested, each time."""
    rested: list[float] = []
    monkeypatch.setattr("workers.transcript.reduce.time.sleep", rested.append)
    return rested


def due_reduce(ledger: Ledger, **render: Any) -> Dispatch:
    """Return the reduce of a recording whose words are all there."""
    asked: Profile = PROFILE.model_copy(update={"render": PROFILE.render.model_copy(update=render)})
    to = ledger.transact(
        lambda c: submissions.open_submission(c, uuid4().hex, "calls", asked, force=False)
    )
    (dispatch,) = added(ledger, recording(uuid4().hex), to=to).dispatches
    held = ledger.run_statement(
        lambda c: segments.claim_segment(c, dispatch.message, owner="w", lease_s=60)
    )
    return ledger.run_statement(
        lambda c: segments.finish_segment(c, held, result("good", "words"))
    ).reduce


def sent_again(ledger: Ledger) -> Dispatch:
    """Return the next message, its pause over."""
    over = text("update recordings set reduce_dispatched_at = now() - interval '1 hour'")
    ledger.transact(lambda c: c.execute(over))
    swept = ledger.transact(
        lambda c: sweep(c, queue_lengths=QueueLengths(0, 0), high_water=9, interval_s=15)
    )
    (dispatch,) = swept.dispatches
    return dispatch


def kept(ledger: Ledger) -> Any:
    columns = (
        Recording.state,
        Recording.reduce_attempts,
        Recording.reduce_token,
        Recording.error_code,
    )
    with ledger.connect() as connection:
        return connection.execute(select(*columns)).one()


@pytest.mark.parametrize(
    "lacks",
    [
        Misconfigured(ErrorCode.WEIGHTS_MISSING, "ct-punc", "no such directory", "Fetch it."),
        ModuleNotFoundError("No module named 'funasr'"),
    ],
)
def test_a_host_without_the_marks_leaves_every_recording_to_one_that_has_them(
    ledger: Ledger, rests: list[float], lacks: Exception
):
    due = due_reduce(ledger, **MARKED)
    bare = Host(ledger, lacks)

    for _ in range(8):
        reduce_recording(bare, due.message)
        row = kept(ledger)
        assert row == (RecordingState.STITCHING, 0, None, ErrorCode.WEIGHTS_MISSING)
        due = sent_again(ledger)
    reduce_recording(Host(ledger, lambda said: f"{said}."), due.message)

    assert rests == [15] * 8, "so that it is not the fastest to take work"
    assert kept(ledger) == (RecordingState.DONE, 0, None, None)


def test_a_host_without_the_rules_for_numbers_does_so_too(
    ledger: Ledger, rests: list[float], monkeypatch: pytest.MonkeyPatch
):
    def missing(lang: str) -> Any:
        raise ImportError("No module named 'wetext'")

    due = due_reduce(ledger, itn=True)
    monkeypatch.setattr(text_normalisation, "_load_rules", missing)

    reduce_recording(Host(ledger, None), due.message)

    assert kept(ledger) == (RecordingState.STITCHING, 0, None, ErrorCode.WEIGHTS_MISSING)
    assert rests == [15]
    monkeypatch.undo()
    reduce_recording(Host(ledger, None), sent_again(ledger).message)
    assert kept(ledger).state == RecordingState.DONE


def test_a_bad_moment_costs_no_attempt_and_no_rest(ledger: Ledger, rests: list[float]):
    away = Transient(ErrorCode.STORAGE_UNREACHABLE, "models", "no answer")

    reduce_recording(Host(ledger, away), due_reduce(ledger, **MARKED).message)

    assert kept(ledger) == (RecordingState.STITCHING, 0, None, ErrorCode.STORAGE_UNREACHABLE)
    assert rests == []


def test_an_error_counts_as_it_did(ledger: Ledger, rests: list[float]):
    due = due_reduce(ledger, **MARKED)

    for _ in range(5):
        reduce_recording(Host(ledger, RuntimeError("a\0b")), due.message)
        assert kept(ledger).reduce_token is None
        if kept(ledger).reduce_attempts < 5:
            due = sent_again(ledger)
    ledger.transact(
        lambda c: sweep(c, queue_lengths=QueueLengths(0, 0), high_water=9, interval_s=15)
    )

    assert kept(ledger).state == RecordingState.FAILED
    assert rests == []
