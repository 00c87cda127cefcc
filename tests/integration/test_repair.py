"""Lost speech, from the file to the transcript: found, decoded once more, or flagged.

Everything is real but the models and Redis: files, planning, ledger, seams.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from ops.chaos.oracle import broken
from schema.pcm import SAMPLES_PER_MS, Samples
from schema.profile import PROFILES, PlanSettings
from schema.settings import Settings
from schema.span import Span
from schema.store.ledger import Ledger
from schema.store.read.transcripts import StoredTranscript
from schema.transcript import Flag, RepairOutcome
from schema.words import Word
from tests.fakes import FakeDetector, FakeRecognizer
from tests.mailbox_fleet import Fleet, Mailbox, call, fleet_on, talk
from workers.engines.base import DecodedSpeech, DecodeOutcome, DecodeRequest
from workers.segment.work import transcribe_segment
from workers.transcript.reduce import reduce_recording


@dataclass
class BrokenRecognizer(FakeRecognizer):
    """Writes nothing for the regions that ``drops`` says, given their samples."""

    drops: Callable[[Samples], bool] = lambda _: False
    dropped: int = 0

    def _decode(self, request: DecodeRequest) -> DecodeOutcome:
        samples = request.samples
        kept = [region for region in request.regions if not self._is_dropped(samples, region)]
        return super()._decode(replace(request, regions=kept))

    def _is_dropped(self, samples: Samples, region: Span) -> bool:
        own = samples[region.start_ms * SAMPLES_PER_MS : region.end_ms * SAMPLES_PER_MS]
        is_dropped = self.drops(own)
        self.dropped += is_dropped
        return is_dropped


def fifth(samples: Samples) -> bool:
    """Drop one region of five, always the same ones."""
    return hashlib.sha256(samples.tobytes()).digest()[0] < 256 / 5


@dataclass
class OnlyTheFirstTime:
    """Drops the regions that hold a sound of this level, the first time that one is decoded."""

    level: float
    met: bool = False

    def __call__(self, samples: Samples) -> bool:
        is_it = abs(np.sqrt(np.square(samples).mean()) - self.level) < 0.02
        is_dropped, self.met = is_it and not self.met, self.met or is_it
        return is_dropped


@dataclass
class Polyglot(BrokenRecognizer):
    """Takes a little speech for Welsh unless it is told better, and writes down which it was."""

    def _decode(self, request: DecodeRequest) -> DecodeOutcome:
        language = request.language
        if language == "auto":
            heard_ms = sum(region.duration_ms for region in request.regions)
            language = "cy" if heard_ms < 6_000 else "en"
        decoding = super()._decode(replace(request, language=language))
        assert isinstance(decoding, DecodedSpeech)
        words = tuple(replace(word, text=language) for word in decoding.words)
        return replace(decoding, words=words)


@pytest.fixture
def fleet(
    ledger: Ledger, tmp_path: Path, recognizer: BrokenRecognizer, monkeypatch
) -> Iterator[Fleet]:
    settings = Settings(
        database_url="postgresql://", redis_url="redis://", roots=f"calls={tmp_path}"
    )
    plan = PlanSettings(segment_s=60, overlap_s=8, search_s=20, min_tail_s=20)
    monkeypatch.setattr("workers.segment.pipeline.load_detector", lambda *_: FakeDetector())
    monkeypatch.setattr("workers.segment.pipeline.load_recognizer", lambda *_: recognizer)
    profile = PROFILES["call"].model_copy(update={"plan": plan})
    fleet = fleet_on(ledger, settings, profile)
    yield fleet
    assert broken(ledger, tuple(fleet.meant)) == {}


@pytest.fixture
def recognizer() -> BrokenRecognizer:
    return BrokenRecognizer()


def findings(transcript: StoredTranscript) -> tuple[str, ...]:
    """Return its flags, but for the doubt in a recogniser that writes one word again and again."""
    return tuple(flag for flag in transcript.flags if not flag.startswith(Flag.DOUBTFUL_WORDS))


def words(transcript: StoredTranscript) -> list[Word]:
    return [word for utterance in transcript.utterances for word in utterance.words]


def test_a_sound_recogniser_is_asked_for_no_repair(fleet: Fleet, tmp_path: Path):
    fleet.submit(talk(tmp_path / "a.wav", 150))
    fleet.deliver()

    transcript = fleet.transcript()

    assert transcript.repairs == ()
    assert findings(transcript) == ()
    assert [segment.index for segment in transcript.segments] == [0, 1, 2, 3]
    assert transcript.coverage == 1.0


def test_a_region_that_was_dropped_once_comes_back_once(
    fleet: Fleet, tmp_path: Path, recognizer: BrokenRecognizer
):
    turns = [(2.0, 7.0, 0.1), (8.0, 12.0, 0.3), (13.0, 18.0, 0.2), (25.0, 31.0, 0.4)]
    path = call(tmp_path / "a.wav", *turns, seconds=40)
    recognizer.drops = OnlyTheFirstTime(0.3)
    fleet.submit(path)
    fleet.deliver()

    transcript = fleet.transcript()

    (repair,) = transcript.repairs
    assert (repair.outcome, repair.core) == (RepairOutcome.REPAIRED, Span(8_000, 12_000))
    assert findings(transcript) == ()
    assert [w.start_ms for w in repair.added_words] == list(range(8_000, 12_000, 500))
    back = [w for w in words(transcript) if 7_500 <= w.start_ms < 12_500]
    assert back == list(repair.added_words), "once, and in its place"


@pytest.mark.parametrize("seed", range(3))
def test_what_was_dropped_the_first_time_is_as_if_it_never_was(
    fleet: Fleet, tmp_path: Path, recognizer: BrokenRecognizer, seed: int
):
    path = talk(tmp_path / "a.wav", 170, seed)
    fleet.submit(path)
    fleet.deliver()
    sound = words(fleet.transcript())
    fleet.ledger.transact(lambda c: c.execute(text("truncate submissions, results cascade")))
    met: set[bytes] = set()

    def drop_once(samples: Samples) -> bool:
        """One region of five, and a region that is whole in two segments in both."""
        key = samples[: 1_000 * SAMPLES_PER_MS].tobytes()
        is_new = key not in met and len(recognizer.heard) < planned
        met.add(key)
        return is_new and fifth(samples)

    planned = len(recognizer.heard) + 3
    recognizer.drops = drop_once
    fleet.submit(path)
    fleet.deliver()

    transcript = fleet.transcript()

    assert recognizer.dropped
    assert transcript.repairs
    assert {repair.outcome for repair in transcript.repairs} == {RepairOutcome.REPAIRED}
    assert words(transcript) == sound
    assert findings(transcript) == ()


def test_a_recogniser_that_drops_a_fifth_is_flagged_wherever_it_did(
    fleet: Fleet, tmp_path: Path, recognizer: BrokenRecognizer
):
    paths = [talk(tmp_path / f"{seed}.wav", 30 + 20 * seed, seed) for seed in range(8)]
    recognizer.drops = fifth
    fleet.submit(*paths)
    fleet.deliver()

    for transcript in fleet.transcripts():
        is_affected = transcript.worded_ms < transcript.speech_ms
        assert ("low-coverage" in transcript.flags) == is_affected, transcript.recording.name
        outcomes = {repair.outcome for repair in transcript.repairs}
        assert RepairOutcome.FAILED not in outcomes
    assert any("low-coverage" in transcript.flags for transcript in fleet.transcripts())


def test_a_stretch_lost_at_a_seam_is_decoded_with_what_lies_on_both_sides(
    fleet: Fleet, tmp_path: Path, recognizer: BrokenRecognizer
):
    # No pause within reach of the boundary, so that the seam is in the middle of a turn.
    turns = [(1.0, 30.0, 0.1), (32.0, 100.0, 0.2), (101.0, 118.0, 0.3)]
    recognizer.drops = lambda samples: (
        len(recognizer.heard) < 2 and abs(np.sqrt(np.square(samples).mean()) - 0.2) < 0.02
    )
    fleet.submit(call(tmp_path / "a.wav", *turns, seconds=120))
    fleet.deliver()

    transcript = fleet.transcript()

    (seam,) = transcript.seams
    assert 32_000 < seam.at_ms < 100_000
    assert recognizer.dropped
    assert "seam" in [repair.reason for repair in transcript.repairs]
    assert transcript.coverage == 1.0
    starts = [word.start_ms for word in words(transcript)]
    assert len(starts) == len(set(starts))


def test_a_repair_whose_message_is_lost_is_found_by_the_sweep(
    fleet: Fleet, tmp_path: Path, recognizer: BrokenRecognizer
):
    recognizer.drops = OnlyTheFirstTime(0.3)
    fleet.submit(call(tmp_path / "a.wav", (2, 7, 0.1), (8, 12, 0.3), seconds=15))
    planned = fleet.worker.publisher.sent.pop()
    transcribe_segment(fleet.worker, planned.message)
    reduce = fleet.worker.publisher.sent.pop()
    fleet.worker.publisher = Mailbox(loses=True)
    reduce_recording(fleet.worker, reduce.message)

    fleet.worker.publisher = Mailbox()
    fleet.sweep()
    fleet.deliver()

    assert fleet.transcript().coverage == 1.0


def test_a_repair_of_a_file_that_changed_fails_and_leaves_what_was_there(
    fleet: Fleet, tmp_path: Path, recognizer: BrokenRecognizer
):
    recognizer.drops = OnlyTheFirstTime(0.3)
    fleet.meant.append("a.wav")
    fleet.submit(call(tmp_path / "a.wav", (2, 7, 0.1), (8, 12, 0.3), seconds=40))
    planned = fleet.worker.publisher.sent.pop()
    transcribe_segment(fleet.worker, planned.message)
    # What changes lies in the segment and not in the repair's own span.
    call(tmp_path / "a.wav", (2, 7, 0.1), (8, 12, 0.3), (35, 36, 0.1), seconds=40)
    fleet.deliver()

    transcript = fleet.transcript()

    (repair,) = transcript.repairs
    assert (repair.outcome, repair.error_code) == (RepairOutcome.FAILED, "audio.changed")
    assert transcript.recording.state == "done"
    assert findings(transcript) == ("low-coverage",)
    assert len(words(transcript)) == 10


def test_music_is_looked_at_a_few_times_and_never_again(
    fleet: Fleet, tmp_path: Path, recognizer: BrokenRecognizer
):
    bursts = [(at, at + 25, 0.2) for at in range(0, 590, 26)]
    recognizer.drops = lambda _: True
    fleet.submit(call(tmp_path / "a.wav", *bursts, seconds=620))
    fleet.deliver()

    transcript = fleet.transcript()

    assert 0 < len(transcript.repairs) <= 12
    assert {repair.outcome for repair in transcript.repairs} == {RepairOutcome.UNCHANGED}
    assert findings(transcript) == ("low-coverage",)
    (place,) = transcript.places
    assert place.repair_outcome is RepairOutcome.UNCHANGED


@pytest.mark.parametrize("recognizer", [Polyglot()])
def test_a_little_speech_in_another_language_is_decoded_again_in_the_channels(
    fleet: Fleet, tmp_path: Path
):
    turns = [(1, 30, 0.1), (32, 50, 0.2), (53, 80, 0.3), (82, 95, 0.2), (140, 144, 0.1)]
    fleet.submit(call(tmp_path / "a.wav", *turns, seconds=160))
    fleet.deliver()

    transcript = fleet.transcript()

    (repair,) = transcript.repairs
    assert (repair.reason, repair.language, repair.outcome) == ("language", "en", "repaired")
    assert {word.text for word in words(transcript)} == {"en"}
    assert {word.text for word in repair.dropped_words} == {"cy"}
    assert transcript.languages == ((0, "en"),)
    assert transcript.coverage == 1.0


@pytest.mark.parametrize("recognizer", [Polyglot()])
def test_a_language_that_was_asked_for_is_not_second_guessed(fleet: Fleet, tmp_path: Path):
    fleet.profile = fleet.profile.with_language("es")
    fleet.submit(call(tmp_path / "a.wav", (1, 30, 0.1), (32, 35, 0.2), seconds=40))
    fleet.deliver()

    transcript = fleet.transcript()

    assert transcript.repairs == ()
    assert {word.text for word in words(transcript)} == {"es"}
