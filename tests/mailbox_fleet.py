"""A worker and a reducer in one process, on a real ledger, whose messages a test delivers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import soundfile
from sqlalchemy import text

from producer.intake.examine import Job, examine
from schema.profile import Profile
from schema.records import NewRecording
from schema.seal import KeyDirectory
from schema.settings import Settings
from schema.store.intake import submissions
from schema.store.ledger import Ledger
from schema.store.read import recordings
from schema.store.read.progress import list_submission_ids
from schema.store.read.transcripts import StoredTranscript, read_transcript
from schema.store.work.sweep import sweep
from schema.wire import REDUCE_RECORDING, Dispatch, QueueLengths
from tests.factories import unique
from workers.segment.pipeline import SegmentDecoder
from workers.segment.work import transcribe_segment
from workers.transcript.reduce import reduce_recording

RATE_HZ = 8_000


@dataclass
class Mailbox:
    """A publisher whose messages lie until they are fetched, or get lost."""

    sent: list[Dispatch] = field(default_factory=list)
    loses: bool = False

    def publish(self, dispatches) -> int:
        if not self.loses:
            self.sent += dispatches
        return len(dispatches)


def call(path: Path, *bursts: tuple[float, float, float], seconds: float) -> Path:
    """Write a recording with bursts of noise: from, until (seconds), and how loud."""
    rng = np.random.default_rng(4)
    samples = np.zeros(int(seconds * RATE_HZ), np.float32)
    for begin, end, level in bursts:
        part = slice(int(begin * RATE_HZ), int(end * RATE_HZ))
        samples[part] = level * np.sign(rng.standard_normal(part.stop - part.start))
    soundfile.write(path, samples, RATE_HZ)
    return path


def talk(path: Path, seconds: int, seed: int = 0) -> Path:
    """Write a recording of turns of 2 to 6 s with pauses between, each as loud as no other."""
    rng = np.random.default_rng(seed)
    bursts, at_s = [], 0.5
    while at_s < seconds - 7:
        end_s = at_s + round(rng.uniform(2, 6), 1)
        bursts.append((at_s, end_s, 0.05 + 0.9 * len(bursts) / seconds))
        at_s = end_s + round(rng.uniform(0.7, 2), 1)
    return call(path, *bursts, seconds=seconds)


@dataclass
class Fleet:
    """One worker and one reducer, whose messages are delivered when a test says so."""

    ledger: Ledger
    settings: Settings
    profile: Profile
    worker: SimpleNamespace
    #: Recordings of which a segment is meant to fail.
    meant: list[str] = field(default_factory=list)

    def submit(self, *paths: Path) -> None:
        submission = self.ledger.transact(
            lambda c: submissions.open_submission(
                c, unique("key"), "calls", self.profile, force=False
            )
        )
        items = [examine(Job(bytes(path)), self.settings, self.profile) for path in paths]
        assert all(isinstance(item, NewRecording) for item in items)
        added = self.ledger.transact(
            lambda c: submissions.add_recordings(c, submission, items, capacity=1_000)
        )
        self.ledger.transact(lambda c: submissions.seal_submission(c, submission.id))
        self.worker.publisher.publish(added.dispatches)

    def deliver(self) -> None:
        """Do what every message asks for, and what that asks for."""
        while self.worker.publisher.sent:
            self.deliver_one()

    def deliver_one(self) -> None:
        """Do what the oldest message asks for."""
        dispatch = self.worker.publisher.sent.pop(0)
        work = reduce_recording if dispatch.task == REDUCE_RECORDING else transcribe_segment
        work(self.worker, dispatch.message)

    def sweep(self) -> None:
        """Let every message have been sent an hour ago, and sweep."""
        for column, table in (
            ("dispatched_at", "segments"),
            ("reduce_dispatched_at", "recordings"),
        ):
            aged = text(f"update {table} set {column} = now() - interval '1 hour'")
            self.ledger.transact(lambda c, s=aged: c.execute(s))
        swept = self.ledger.transact(
            lambda c: sweep(c, queue_lengths=QueueLengths(0, 0), high_water=100, interval_s=15)
        )
        self.worker.publisher.publish(swept.dispatches)

    def transcripts(self) -> list[StoredTranscript]:
        with self.ledger.connect() as connection:
            latest = list_submission_ids(connection, 1)[0]
            found = [
                read_transcript(connection, r)
                for r in recordings.list_recordings(connection, latest)
            ]
        assert None not in found
        return found

    def transcript(self) -> StoredTranscript:
        (found,) = self.transcripts()
        return found


def fleet_on(ledger: Ledger, settings: Settings, profile: Profile) -> Fleet:
    """Return a fleet of one worker, with whatever models its loaders return."""
    worker = SimpleNamespace(
        settings=settings,
        owner="host:boot",
        ledger=ledger,
        segment_decoder=SegmentDecoder(settings),
        publisher=Mailbox(),
        should_recycle=False,
        should_pause=False,
        seal_keys=KeyDirectory(settings.seal_keys),
    )
    return Fleet(ledger, settings, profile, worker)
