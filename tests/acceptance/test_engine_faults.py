"""A GPU's own faults, in the middle of a submission to FunASR's engine: no word is another.

On a CPU, with a made-up model of the true architecture: the faults are raised where a GPU raises
them, in the network, and everything around it is what runs in production.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
import soundfile

from ops.bench.madeup import build
from ops.chaos.field import PROFILE, Field, Words
from ops.chaos.oracle import broken
from producer.cli.models import profile_section

pytestmark = pytest.mark.models

CALLS = ("one.wav", "two.flac")


@dataclass
class Drill:
    """A field, what an undisturbed run of it says, and what its logs held before the fault."""

    field: Field
    undisturbed: dict[str, Words]
    before: dict[str, int]

    def logged(self, event: str) -> int:
        return self.field.logged(event) - self.before[event]

    def strikes(self, submission: UUID) -> int:
        return int(
            self.field.scalar(
                "select sum(s.strikes) from segments s join recordings r on r.id = s.recording_id"
                " where r.submission_id = :id",
                id=submission,
            )
        )

    def check(self, submission: UUID) -> None:
        """Compare with the undisturbed run."""
        self.field.wait(submission)
        assert broken(self.field.ledger) == {}
        assert self.field.words(submission) == self.undisturbed


@pytest.fixture(scope="module")
def field(models: Path, speech, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    own = tmp_path_factory.mktemp("models")
    (own / "fsmn-vad").symlink_to(models / "fsmn-vad")
    build("bicif", own / "bicif")
    plan, render = PROFILE.split("[decode]")[0], PROFILE.split("[render]")[1]
    # A segment for each call, of several regions: one alone cannot be halved.
    plan = plan.replace("segment_s = 14", "segment_s = 25")
    profile = f"{plan}{profile_section(own / 'bicif', 'funasr')}\n[render]{render}"
    samples, rate_hz = speech
    with Field(tmp_path_factory.mktemp("faults"), models=own, profile=profile) as field:
        for number, name in enumerate(CALLS):
            first = number * 31 * rate_hz
            soundfile.write(field.calls / name, samples[first : first + 30 * rate_hz], rate_hz)
        yield field


@pytest.fixture(scope="module")
def undisturbed(field: Field) -> dict[str, Words]:
    submission = field.submit()
    field.wait(submission)
    words = field.words(submission)
    assert set(words) == set(CALLS)
    assert all(len(found) > 10 for found in words.values())
    return words


@pytest.fixture
def drill(field: Field, undisturbed: dict[str, Words]) -> Iterator[Drill]:
    events = ("budget_halved", "child_recycled", "segment_failed", "leases_returned")
    yield Drill(field, undisturbed, {event: field.logged(event) for event in events})
    field.heal()
    field.forget()


def test_memory_that_runs_out_costs_half_a_budget_and_no_attempt(drill: Drill):
    drill.field.order("one.wav.0.oom", "once")
    submission = drill.field.submit()
    drill.check(submission)
    assert drill.logged("budget_halved") == 1
    assert drill.strikes(submission) == 0
    assert drill.logged("child_recycled") == 0


def test_a_spoilt_device_costs_one_attempt_and_the_process(drill: Drill):
    drill.field.order("one.wav.0.spoil", "once")
    submission = drill.field.submit()
    drill.check(submission)
    assert drill.strikes(submission) == 1
    assert drill.logged("segment_failed") == 1, "the next process computes again"
    assert drill.logged("child_recycled") == 1


def test_a_network_that_hangs_is_killed_and_done_again(drill: Drill):
    drill.field.order("one.wav.0.hang", "once")
    submission = drill.field.submit_hasty(*CALLS)
    drill.check(submission)
    assert drill.strikes(submission) == 1
