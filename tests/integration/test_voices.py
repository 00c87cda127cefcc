"""Speakers who share a channel, from the file to the transcript, and what becomes of their voices.

Everything is real but the models and Redis: files, planning, ledger, reducer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from sqlalchemy import text

from ops.chaos.oracle import broken
from schema.pcm import SAMPLES_PER_MS, Samples
from schema.profile import PROFILES, PlanSettings, Profile, Recognition, RenderSettings
from schema.search_query import parse_query
from schema.settings import Settings
from schema.span import Span
from schema.store.erasure.forget import erase_recordings
from schema.store.ledger import Ledger
from schema.store.read.search import Filters, search_utterances
from schema.store.work.voices import erase_old_voices
from schema.talk import talk_of
from schema.transcript import Flag, SpeakersFrom
from tests.fakes import FakeDetector, FakeRecognizer
from tests.mailbox_fleet import RATE_HZ, Fleet, call, fleet_on

#: Turns of two people, one of whom is louder, with a pause between.
TURNS = [(1.0 + 4 * turn, 4.4 + 4 * turn, 0.6 if turn % 2 else 0.2) for turn in range(24)]
SECONDS = 100


@dataclass
class LoudnessEmbedder:
    """Tells loud voices from soft ones; a little of each vector is its own."""

    dimension: int = 16
    embedded: int = 0
    failure: Exception | None = None

    def embed(self, samples: Samples, windows: list[Span]) -> np.ndarray:
        self.embedded += 1
        if self.failure is not None:
            raise self.failure
        vectors = np.zeros((len(windows), self.dimension), np.float32)
        for row, window in zip(vectors, windows, strict=True):
            part = samples[window.start_ms * SAMPLES_PER_MS : window.end_ms * SAMPLES_PER_MS]
            loud = np.abs(part[np.abs(part) > 0.01])
            is_loud = float(loud.mean()) > 0.4 if len(loud) else False
            seed = int(1_000_000 * float(np.abs(part).mean()))
            row[:] = np.random.default_rng(seed).normal(0, 0.05, self.dimension)
            row[int(is_loud)] += 1
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


@pytest.fixture
def recognizer() -> FakeRecognizer:
    return FakeRecognizer()


@pytest.fixture
def embedder() -> LoudnessEmbedder:
    return LoudnessEmbedder()


@pytest.fixture
def fleet(
    ledger: Ledger,
    tmp_path: Path,
    recognizer: FakeRecognizer,
    embedder: LoudnessEmbedder,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Fleet]:
    settings = Settings(
        database_url="postgresql://", redis_url="redis://", roots=f"calls={tmp_path}"
    )
    monkeypatch.setattr("workers.segment.pipeline.load_detector", lambda *_: FakeDetector())
    monkeypatch.setattr("workers.segment.pipeline.load_recognizer", lambda *_: recognizer)
    monkeypatch.setattr("workers.segment.pipeline.load_embedder", lambda *_: embedder)
    fleet = fleet_on(ledger, settings, PROFILES["call"])
    set_render(fleet, diarize="auto")
    yield fleet
    assert broken(ledger, tuple(fleet.meant)) == {}


def set_render(fleet: Fleet, **render: Any) -> None:
    plan = PlanSettings(segment_s=60, overlap_s=8, search_s=20, min_tail_s=20)
    changes = {"plan": plan, "render": RenderSettings(**render)}
    fleet.profile = PROFILES["call"].model_copy(update=changes)


def kept_voices(ledger: Ledger) -> int:
    with ledger.connect() as connection:
        return int(connection.scalar(text("select count(*) from voices")))


def erase_voices(ledger: Ledger) -> None:
    ledger.transact(lambda c: c.execute(text("delete from voices")))


def mono(tmp_path: Path, name: str = "mono.wav") -> Path:
    return call(tmp_path / name, *TURNS, seconds=SECONDS)


def stereo(tmp_path: Path) -> Path:
    """Write a call whose first channel is the mono one's samples."""
    samples, rate_hz = soundfile.read(mono(tmp_path, "left.wav"))
    path = tmp_path / "stereo.wav"
    soundfile.write(path, np.stack([samples, np.roll(samples, rate_hz)], axis=1), RATE_HZ)
    return path


def test_two_voices_on_a_channel_are_two_speakers_and_no_vector_is_kept(
    fleet: Fleet, tmp_path: Path, ledger: Ledger
):
    fleet.submit(mono(tmp_path))
    fleet.deliver()

    transcript = fleet.transcript()

    assert transcript.speakers_from == SpeakersFrom.GUESSED
    assert [u.speaker for u in transcript.utterances] == ["speaker 1", "speaker 2"] * 12
    told = [(u.speaker, word.text > "level4") for u in transcript.utterances for word in u.words]
    # A window that hears the end of one turn and the beginning of the next is either's.
    assert sum((speaker == "speaker 2") != is_loud for speaker, is_loud in told) <= len(told) / 30
    sure = [u for u in transcript.utterances if not u.is_speaker_doubtful]
    assert len(sure) > len(transcript.utterances) / 2
    assert kept_voices(ledger) == 0
    assert transcript.talk is not None
    assert transcript.talk.overlap_ms is None
    assert {speaker.interruptions for speaker in transcript.talk.speakers} == {None}


def test_a_stereo_call_has_no_voices_and_is_as_it_was(
    fleet: Fleet, tmp_path: Path, ledger: Ledger, embedder: LoudnessEmbedder
):
    path = stereo(tmp_path)
    set_render(fleet)
    fleet.submit(path)
    fleet.deliver()
    before = fleet.transcript()
    set_render(fleet, diarize="auto")
    fleet.submit(path)
    fleet.deliver()

    after = fleet.transcript()

    assert embedder.embedded == 0
    assert after.utterances == before.utterances
    assert after.talk == before.talk
    assert after.speakers_from == SpeakersFrom.CHANNEL
    with ledger.connect() as connection:
        keys = connection.scalars(text("select count(distinct decode_key) from segments")).one()
        assert keys == connection.scalar(text("select count(*) from results"))


def test_words_that_are_known_get_their_voices_without_a_decode(
    fleet: Fleet, tmp_path: Path, recognizer: FakeRecognizer, embedder: LoudnessEmbedder
):
    path = mono(tmp_path)
    set_render(fleet)
    fleet.submit(path)
    fleet.deliver()
    decodes = len(recognizer.heard)
    assert {u.speaker for u in fleet.transcript().utterances} == {"speaker 1"}
    set_render(fleet, diarize="auto")

    fleet.submit(path)
    fleet.deliver()

    assert {u.speaker for u in fleet.transcript().utterances} == {"speaker 1", "speaker 2"}
    assert len(recognizer.heard) == decodes
    assert embedder.embedded == 2, "one for each segment"


def test_where_memory_is_short_no_larger_model_is_loaded_for_voices(
    fleet: Fleet,
    tmp_path: Path,
    recognizer: FakeRecognizer,
    monkeypatch: pytest.MonkeyPatch,
):
    loaded_models: list[str] = []

    def load(profile: Profile, *_: object) -> FakeRecognizer:
        loaded_models.append(profile.decode.model)
        return recognizer

    monkeypatch.setattr("workers.segment.pipeline.load_recognizer", load)
    monkeypatch.setattr(
        "workers.segment.pipeline.choose_profile", lambda profile, _: profile.fallback_profile
    )
    smaller = {"fallback": Recognition(model="whisper-tiny.en")}
    path = mono(tmp_path)
    for diarize in ("off", "auto"):
        set_render(fleet, diarize=diarize)
        decode = fleet.profile.decode.model_copy(update=smaller)
        fleet.profile = fleet.profile.model_copy(update={"decode": decode})
        fleet.submit(path)
        fleet.deliver()

    assert {u.speaker for u in fleet.transcript().utterances} == {"speaker 1", "speaker 2"}
    assert set(loaded_models) == {"whisper-tiny.en"}


def test_the_twin_of_a_stereo_call_s_channel_is_told_apart(
    fleet: Fleet, tmp_path: Path, recognizer: FakeRecognizer
):
    fleet.submit(stereo(tmp_path))
    fleet.deliver()
    decodes = len(recognizer.heard)

    fleet.submit(tmp_path / "left.wav")
    fleet.deliver()

    assert {u.speaker for u in fleet.transcript().utterances} == {"speaker 1", "speaker 2"}
    assert len(recognizer.heard) == decodes


def test_voices_that_were_dropped_are_ordered_once(
    fleet: Fleet, tmp_path: Path, ledger: Ledger, embedder: LoudnessEmbedder
):
    fleet.submit(mono(tmp_path))
    mailbox = fleet.worker.publisher
    while mailbox.sent and not mailbox.sent[0].task.endswith("reduce_recording"):
        fleet.deliver_one()
    erase_voices(ledger)

    fleet.deliver()

    transcript = fleet.transcript()
    assert {u.speaker for u in transcript.utterances} == {"speaker 1", "speaker 2"}
    assert transcript.version == 1
    assert embedder.embedded == 4


def test_voices_that_cannot_be_had_make_one_speaker_who_is_flagged(
    fleet: Fleet, tmp_path: Path, embedder: LoudnessEmbedder
):
    embedder.failure = RuntimeError("no such voice")
    fleet.submit(mono(tmp_path))
    fleet.deliver()
    # What was done again failed thrice by now, and the sweep gives it up.
    for _ in range(8):
        ledger = fleet.ledger
        ledger.transact(lambda c: c.execute(text("update segments set next_attempt_at = null")))
        fleet.sweep()
        fleet.deliver()

    transcript = fleet.transcript()

    assert {u.speaker for u in transcript.utterances} == {"speaker 1"}
    assert Flag.SPEAKERS_UNKNOWN in transcript.flags
    assert transcript.speakers_from == SpeakersFrom.CHANNEL
    assert transcript.recording.state == "done"
    assert transcript.talk == talk_of(transcript.utterances, transcript.recording.duration_ms or 0)


def test_no_sweep_ends_what_is_done_again_for_its_voices(
    fleet: Fleet, tmp_path: Path, recognizer: FakeRecognizer
):
    set_render(fleet)
    fleet.submit(mono(tmp_path))
    fleet.deliver()
    set_render(fleet, diarize="auto")
    fleet.submit(tmp_path / "mono.wav")
    fleet.deliver_one()  # the reduce, which orders voices
    fleet.worker.publisher.sent.clear()

    fleet.sweep()
    fleet.deliver()

    assert {u.speaker for u in fleet.transcript().utterances} == {"speaker 1", "speaker 2"}


def test_voices_are_kept_as_long_as_they_are_asked_for(
    fleet: Fleet, tmp_path: Path, ledger: Ledger
):
    fleet.worker.settings = fleet.settings.model_copy(update={"voices_keep": timedelta(days=7)})
    fleet.submit(mono(tmp_path))
    fleet.deliver()
    assert kept_voices(ledger) == 2

    day_s = 86_400
    assert ledger.transact(lambda c: erase_old_voices(c, 7 * day_s, 100)) == 0
    aged = text("update voices set created_at = now() - interval '8 days'")
    ledger.transact(lambda c: c.execute(aged))

    assert ledger.transact(lambda c: erase_old_voices(c, 7 * day_s, 100)) == 2
    assert kept_voices(ledger) == 0


def test_voices_that_are_kept_go_with_their_recording(fleet: Fleet, tmp_path: Path, ledger: Ledger):
    fleet.worker.settings = fleet.settings.model_copy(update={"voices_keep": timedelta(days=7)})
    fleet.submit(mono(tmp_path))
    fleet.deliver()
    ids = [transcript.recording.id for transcript in fleet.transcripts()]

    ledger.transact(lambda c: erase_recordings(c, ids, lambda _: None))

    assert kept_voices(ledger) == 0


def test_a_cancelled_recording_s_voices_go_with_the_next_sweep(
    fleet: Fleet, tmp_path: Path, ledger: Ledger
):
    fleet.submit(mono(tmp_path))
    fleet.deliver_one()
    assert kept_voices(ledger) == 1
    assert ledger.transact(lambda c: erase_old_voices(c, 0, 100)) == 0, "it is under way"
    ledger.transact(lambda c: c.execute(text("update recordings set state = 'cancelled'")))
    fleet.worker.publisher.sent.clear()

    assert ledger.transact(lambda c: erase_old_voices(c, 0, 100)) == 1
    fleet.meant.append("mono.wav")
    ledger.transact(lambda c: c.execute(text("delete from recordings")))


def test_the_first_to_speak_has_the_name_that_was_given(fleet: Fleet, tmp_path: Path):
    set_render(fleet, diarize=2, first="customer")
    fleet.submit(mono(tmp_path))
    fleet.deliver()

    transcript = fleet.transcript()

    assert [u.speaker for u in transcript.utterances][:2] == ["customer", "agent"]
    assert Flag.SPEAKERS_DOUBTFUL not in transcript.flags


def test_a_search_for_a_speaker_leaves_out_who_was_guessed(
    fleet: Fleet, tmp_path: Path, ledger: Ledger
):
    fleet.submit(mono(tmp_path))
    fleet.deliver()
    loudest = max(fleet.transcript().utterances, key=lambda u: u.text)
    query = parse_query(loudest.words[0].text)

    with ledger.connect() as connection:
        anybody = search_utterances(connection, query, Filters(), limit=100)
        by_name = search_utterances(connection, query, Filters(speaker="speaker 2"), limit=100)
        asked = Filters(speaker="speaker 2", with_guessed=True)
        with_guessed = search_utterances(connection, query, asked, limit=100)
        views = connection.scalar(text("select count(*) from talk_speakers"))
        guessed = connection.scalar(text("select count(*) from talk_guessed_speakers"))

    assert anybody == with_guessed
    assert anybody
    assert by_name == []
    assert (views, guessed) == (0, 2)
    assert {hit.speakers_from for hit in anybody} == {"guessed"}
