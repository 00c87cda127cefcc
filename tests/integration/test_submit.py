"""A submit against a real ledger: what went in, what stayed at the door, and what resumes."""

from __future__ import annotations

import os
import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from producer.submit.drop_folder import StabilityTracker
from producer.submit.enqueue import Enqueuer
from producer.submit.submit import Request, Summary, submit, watch_folder
from schema.errors import BadRequest, ErrorCode, Misconfigured
from schema.profile import load_profile
from schema.settings import Settings
from schema.states import RecordingState
from schema.store.ledger import Ledger
from schema.store.read import recordings as read
from schema.store.read.progress import list_notices, list_submission_ids, read_progress
from schema.wire import Dispatch, Priority, QueueLengths

EMPTY = QueueLengths(0, 0)


@dataclass
class FakePublisher:
    """Redis as a test wants it: how much waits, and whether it answers."""

    waiting: QueueLengths | None = EMPTY
    sent: list[Dispatch] = field(default_factory=list)

    def queue_lengths(self) -> QueueLengths | None:
        return self.waiting

    def publish(self, dispatches) -> int:
        if self.waiting is None:
            return 0
        self.sent += dispatches
        return len(dispatches)


@dataclass
class Door:
    """A directory to submit, and the way in."""

    calls: Path
    settings: Settings
    ledger: Ledger
    publisher: FakePublisher = field(default_factory=FakePublisher)

    def submit(self, **options) -> Summary:
        request = Request(paths=(str(self.calls),), profile=load_profile("call"))
        enqueuer = Enqueuer(self.publisher, high_water=100)
        return submit(
            replace(request, **options), self.settings, self.ledger, enqueuer, lambda _: None
        )

    def recordings(self, summary: Summary) -> dict[str, read.RecordingSummary]:
        with self.ledger.connect() as connection:
            found = read.list_recordings(connection, summary.submission)
        return {recording.name: recording for recording in found}

    def notices(self, summary: Summary) -> list[tuple[str, str]]:
        with self.ledger.connect() as connection:
            return [(n.code, n.subject) for n in list_notices(connection, summary.submission)]

    def tone(self, name: str, seconds: float = 1.0, hz: float = 300.0) -> Path:
        path = self.calls / name
        path.parent.mkdir(parents=True, exist_ok=True)
        t = np.arange(int(8_000 * seconds)) / 8_000
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * hz * t), 8_000)
        return path


@pytest.fixture
def door(ledger: Ledger, tmp_path: Path) -> Door:
    calls, spool = tmp_path / "calls", tmp_path / "spool"
    calls.mkdir()
    spool.mkdir()
    settings = Settings(
        database_url="postgresql://",
        redis_url="redis://",
        roots={"calls": calls},
        spool=spool,
        spool_reserve_bytes=0,
    )
    return Door(calls, settings, ledger)


def test_a_sidecar_may_be_a_link_within_the_roots_and_not_out_of_them(door: Door):
    """Whoever may write beside recordings must not have the producer read what they may not."""
    for name in ("a.wav", "b.wav"):
        door.tone(name)
    (door.calls / "all.txt").write_text('{"call_id": "ACD-1"}')
    (door.calls.parent / "settings.json").write_text('{"call_id": "SECRET"}')
    (door.calls / "a.json").symlink_to("all.txt")
    (door.calls / "b.json").symlink_to("../settings.json")

    summary = door.submit()

    found = {name: r.call.call_id for name, r in door.recordings(summary).items()}
    assert found == {"a.wav": "ACD-1", "b.wav": None}
    assert [each for each in door.notices(summary) if each[0] == ErrorCode.SIDECAR_INVALID] == [
        (ErrorCode.SIDECAR_INVALID, str(door.calls / "b.json"))
    ]


def test_good_files_go_in_and_bad_ones_stay_at_the_door(door: Door):
    door.tone("good.wav")
    door.tone("deep/er/also 'good'\n.wav", hz=400)
    (door.calls / "empty.wav").touch()
    (door.calls / "letter.wav").write_text("Dear Sir or Madam,\n" * 20)
    (door.calls / "notes.txt").write_text("not a call")

    summary = door.submit()

    found = {name: (r.state, r.error_code) for name, r in door.recordings(summary).items()}
    assert found == {
        "good.wav": (RecordingState.PLANNED, None),
        "deep/er/also 'good'\\n.wav": (RecordingState.PLANNED, None),
        "empty.wav": (RecordingState.QUARANTINED, ErrorCode.AUDIO_EMPTY),
        "letter.wav": (RecordingState.QUARANTINED, ErrorCode.AUDIO_NOT_AUDIO),
    }
    assert ("files.not-audio", ".txt") in door.notices(summary)
    assert len(door.publisher.sent) == 2


def test_a_file_outside_the_roots_stays_at_the_door(door: Door, tmp_path: Path):
    door.tone("good.wav")
    door.tone("../secret.wav")
    (door.calls / "link.wav").symlink_to(tmp_path / "secret.wav")

    summary = door.submit()

    bad = [r for r in door.recordings(summary).values() if r.error_code]
    assert [r.error_code for r in bad] == [ErrorCode.PATH_OUTSIDE_ROOTS]
    assert "CALLSCRIBE_ROOTS" in (bad[0].error_message or "")


def test_two_names_of_one_file_are_two_calls(door: Door):
    door.tone("a.wav")
    (door.calls / "b.wav").symlink_to("a.wav")

    summary = door.submit()

    assert set(door.recordings(summary)) == {"a.wav", "b.wav"}


def test_a_manifest_describes_calls_and_what_it_misses_is_listed(door: Door):
    door.tone("a.wav")
    door.tone("b.wav", hz=500)
    manifest = door.calls / "calls.csv"
    manifest.write_text("file,call_id,line\na.wav,c-1,sales\nghost.wav,c-2,sales\n")

    summary = door.submit(manifest=manifest)

    recordings = door.recordings(summary)
    assert recordings["a.wav"].call.call_id == "c-1"
    assert recordings["b.wav"].call.call_id is None
    assert summary.unmatched_rows == 1
    codes = [code for code, _ in door.notices(summary)]
    assert codes.count("manifest.unmatched-row") == 1
    assert codes.count("manifest.unmatched-file") == 1


def test_a_manifest_that_contradicts_itself_submits_nothing(door: Door):
    door.tone("a.wav")
    manifest = door.calls / "calls.csv"
    manifest.write_text("file,call_id\na.wav,c-1\na.wav,c-2\n")

    with pytest.raises(BadRequest, match=r"2.*3") as caught:
        door.submit(manifest=manifest)

    assert caught.value.code is ErrorCode.MANIFEST_DUPLICATE
    with door.ledger.connect() as connection:
        assert list_submission_ids(connection, 10) == []


def test_an_empty_directory_is_said_to_be_empty(door: Door):
    with pytest.raises(BadRequest, match="no recording was found") as caught:
        door.submit()

    assert caught.value.code is ErrorCode.NOT_FOUND


def test_a_path_that_is_not_there_is_named(door: Door):
    with pytest.raises(BadRequest, match=r"nowhere.*no such file"):
        door.submit(paths=("nowhere",))


def test_what_a_killed_producer_committed_is_not_examined_again(door: Door, monkeypatch):
    for number in range(4):
        door.tone(f"{number}.wav", hz=300 + number)
    monkeypatch.setattr("producer.submit.submit._BATCH", 2)

    class Killed(BaseException):
        pass

    def die_after_a_batch(summary: Summary) -> None:
        if summary.recordings:
            raise Killed

    request = Request(paths=(str(door.calls),), profile=load_profile("call"))
    enqueuer = Enqueuer(door.publisher, high_water=100)
    with pytest.raises(Killed):
        submit(request, door.settings, door.ledger, enqueuer, die_after_a_batch)

    summary = door.submit()

    assert summary.is_resumed
    assert (summary.resumed_recordings, summary.recordings) == (2, 2)
    assert len(door.recordings(summary)) == 4
    assert len({d.message.id for d in door.publisher.sent}) == 4
    assert not door.submit().is_resumed, "a sealed submission takes no more"


def test_redis_may_be_away_and_everything_is_ledgered(door: Door):
    door.tone("a.wav")
    door.publisher.waiting = None

    summary = door.submit()

    assert summary.segments == 1
    assert door.publisher.sent == []


def test_a_full_queue_gets_no_more(door: Door):
    door.tone("a.wav")
    door.publisher.waiting = QueueLengths(100, 0)

    assert door.submit().segments == 1
    assert door.publisher.sent == []


def test_a_full_queue_takes_what_is_urgent(door: Door):
    door.tone("a.wav")
    door.publisher.waiting = QueueLengths(100, 0, urgent=99)

    summary = door.submit(urgent=True)

    assert summary.segments == 1
    assert [dispatch.priority for dispatch in door.publisher.sent] == [Priority.URGENT]
    with door.ledger.connect() as connection:
        assert read_progress(connection, summary.submission).urgent
    assert door.submit().submission != summary.submission


def test_without_a_spool_what_needs_no_copy_goes_in(door: Door):
    door.tone("a.wav")
    for number in range(2):
        wave = 0.3 * np.sin((1_900 + number) * np.arange(16_000) / 8_000)
        soundfile.write(door.calls / f"x{number}.wav", wave, 8_000, subtype="GSM610")
    spool = door.settings.spool
    door.settings = door.settings.model_copy(update={"spool": None})

    with pytest.raises(Misconfigured, match="1 more files") as caught:
        door.submit()
    assert "The rest is submitted" in str(caught.value)
    door.settings = door.settings.model_copy(update={"spool": spool})
    summary = door.submit()

    assert (summary.is_resumed, summary.resumed_recordings) == (True, 1)
    assert {name: r.state for name, r in door.recordings(summary).items()} == dict.fromkeys(
        ("a.wav", "x0.wav", "x1.wav"), RecordingState.PLANNED
    )


def test_a_manifest_that_comes_through_a_pipe_is_read_once(door: Door, tmp_path: Path):
    """Two of them are two requests, though both are called /dev/fd/63."""
    door.tone("a.wav")
    pipe = tmp_path / "calls.csv"
    os.mkfifo(pipe)
    summaries = []
    for call in ("ACD-1", "ACD-2"):
        writer = threading.Thread(target=pipe.write_text, args=(f"file,call_id\na.wav,{call}\n",))
        writer.start()
        summaries.append(door.submit(manifest=pipe))
        writer.join()
        assert door.recordings(summaries[-1])["a.wav"].call.call_id == call
    assert summaries[0].submission != summaries[1].submission


def test_a_spool_without_room_ends_the_submit_and_not_the_recording(door: Door):
    t = np.arange(16_000) / 8_000
    soundfile.write(
        door.calls / "gsm.wav", 0.3 * np.sin(1_900 * t), 8_000, format="WAV", subtype="GSM610"
    )
    full = door.settings.model_copy(update={"spool_reserve_bytes": 2**62})
    door.settings, roomy = full, door.settings

    with pytest.raises(Misconfigured) as caught:
        door.submit()
    assert caught.value.code is ErrorCode.SPOOL_FULL

    door.settings = roomy
    summary = door.submit()

    assert summary.is_resumed
    assert door.recordings(summary)["gsm.wav"].state == RecordingState.PLANNED


@dataclass
class DropFolder:
    """A watched door: each round is a look, and five seconds pass between two of them."""

    door: Door
    now_s: float = 0.0

    def watch(self, rounds, **options) -> Summary:
        request = Request(paths=(str(self.door.calls),), profile=load_profile("call"), watch=True)
        return watch_folder(
            replace(request, **options),
            self.door.settings,
            self.door.ledger,
            Enqueuer(self.door.publisher, high_water=10_000),
            lambda _summary, _waiting: None,
            tracker=StabilityTracker(10, lambda: self.now_s),
            rounds=self._timed(rounds),
        )

    def _timed(self, rounds):
        for each in rounds:
            yield each
            self.now_s += 5

    def states(self, summary: Summary) -> Counter[str]:
        return Counter(own.state for own in self.door.recordings(summary).values())


def test_a_thousand_dropped_files_are_taken_once_each_and_whole(door: Door):
    whole = door.tone("seed.wav").read_bytes()
    (door.calls / "seed.wav").unlink()
    folder = DropFolder(door)

    def drop():
        """A hundred files a round, half written first or under another name, the rest later."""
        for round_ in range(20):
            for number in range(100 * round_, 100 * round_ + 100):
                path = door.calls / f"{number % 7}" / f"{number:04}.wav"
                path.parent.mkdir(exist_ok=True)
                if number < 1_000:
                    # Samples of its own, so that no two are one content.
                    own = whole[:-4] + number.to_bytes(4, "little")
                    begun = path.with_suffix(".wav.part") if number % 2 else path
                    begun.write_bytes(own[: len(own) // 2])
                earlier = number - 100
                if 0 <= earlier < 1_000:
                    path = door.calls / f"{earlier % 7}" / f"{earlier:04}.wav"
                    begun = path.with_suffix(".wav.part") if earlier % 2 else path
                    begun.write_bytes(whole[:-4] + earlier.to_bytes(4, "little"))
                    begun.rename(path)
            yield

    summary = folder.watch(drop())

    assert folder.states(summary) == {RecordingState.PLANNED: 1_000}
    assert summary.quarantined_recordings == 0
    assert len(door.publisher.sent) == 1_000
    again = folder.watch(range(5))
    assert (again.submission, again.resumed_recordings, again.recordings) == (
        summary.submission,
        1_000,
        0,
    )


def test_a_writer_who_pauses_loses_nothing(door: Door):
    whole = door.tone("seed.wav").read_bytes()
    (door.calls / "seed.wav").unlink()
    path = door.calls / "slow.wav"
    folder = DropFolder(door)

    def drop():
        path.write_bytes(whole[: len(whole) // 2])
        yield from range(10)
        path.write_bytes(whole)
        yield from range(4)

    summary = folder.watch(drop())
    assert folder.states(summary) == {RecordingState.PLANNED: 1}


def test_a_file_that_stays_bad_is_quarantined_in_the_end(door: Door):
    (door.calls / "bad.wav").write_bytes(b"")
    folder = DropFolder(door)
    summary = folder.watch(range(100))
    assert folder.states(summary) == {}
    summary = folder.watch(range(130))
    assert folder.states(summary) == {RecordingState.QUARANTINED: 1}
