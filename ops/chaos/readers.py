"""The two readers of untrusted audio, handed damaged files, and what must be true of the result."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
from pydantic import SecretStr

from ops.chaos.seeds import Seed
from producer.intake import reader_pool
from producer.intake.examine import Job, examine, examine_all
from producer.sources.walk import FoundFile, walk_paths
from schema.errors import CallscribeError, ErrorCode
from schema.pcm import SAMPLES_PER_MS, Samples
from schema.profile import load_profile
from schema.records import Location, NewRecording, QuarantinedRecording, SegmentSource
from schema.settings import Limits, Settings
from schema.span import Span, duration_of
from workers.segment.audio import read_segment

#: Files that lie in one directory, to be walked and examined together.
_BATCH = 200
#: Reading 11 s takes a worker milliseconds; on any machine, this is a hang.
_READ_LIMIT_S = 20.0
#: No digest covers what lies around a span, and the resampler hears it at the span's edges.
_EDGE = 20 * SAMPLES_PER_MS
_ROUNDING = 1e-4
#: The shortest segments that may be planned: a seed has two, and the second is read after a seek.
_PROFILE = load_profile(
    "call", {"plan": {"segment_s": 10, "overlap_s": 2, "search_s": 2, "min_tail_s": 2}}
)


class Fate(StrEnum):
    """How a case ended."""

    #: With a plan, or with the very samples that were planned.
    ACCEPTED = "accepted"
    #: With a code and a message.
    REFUSED = "refused"
    #: The walk did not take it for audio.
    LEFT_OUT = "left out"
    #: Its reader crashed, which cost this file alone.
    DIED = "died"
    #: Its reader was given up when its time was over.
    HUNG = "hung"
    #: With what must never be: other samples, a plan without sense, an exception not of ours.
    BROKEN = "broken"
    #: With an exception that reached whoever examines a directory.
    CRASHED = "crashed"


@dataclass(frozen=True, slots=True)
class Planned:
    """A segment of a sound file: ``seed`` holds what a worker reads, which may be a copy.

    ``heard`` is a file of the samples that a worker must hear.
    """

    seed: Seed
    source: SegmentSource
    heard: Path


@dataclass(frozen=True, slots=True)
class Case:
    """A damaged file; ``planned`` is whose place it takes, unless it is handed in at the door."""

    number: int
    format: str
    name: str
    data: bytes
    planned: Planned | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a case; ``detail`` is the code it was refused with, or what happened."""

    case: Case
    fate: Fate
    detail: str
    seconds: float


@dataclass(frozen=True, slots=True)
class _Read:
    """A segment to read for a case, and what must be heard, if anything in particular."""

    number: int
    source: SegmentSource
    heard: Path | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    number: int
    fate: Fate
    detail: str
    seconds: float


class Bench:
    """Both readers at work in a directory of their own, with one child at a time."""

    def __init__(self, directory: Path) -> None:
        self._calls, self._spool = directory / "calls", directory / "spool"
        self._heard = directory / "heard"
        for each in (self._calls, self._spool, self._heard):
            each.mkdir()
        self._settings = Settings(
            database_url=SecretStr("postgresql://"),
            redis_url=SecretStr("redis://"),
            roots={"calls": self._calls},
            spool=self._spool,
            spool_reserve_bytes=0,
        )

    def plan(self, sounds: Iterable[Seed]) -> list[Planned]:
        """Return the segments of sound files, and keep what a worker hears in them."""
        return [planned for sound in sounds for planned in self._planned(sound)]

    def _planned(self, sound: Seed) -> Iterator[Planned]:
        path = self._calls / f"call{sound.suffix}"
        path.write_bytes(sound.data)
        recording = examine(Job(os.fsencode(path)), self._settings, _PROFILE)
        match recording:
            case QuarantinedRecording(message=message):
                raise ValueError(f"{sound.label} is sound, and was refused: {message}")
        root = self._settings.root_path(recording.audio.root)
        audio = Path(os.fsdecode(recording.audio.absolute_path(root)))
        seed = replace(sound, suffix=audio.suffix, data=audio.read_bytes())
        for source in _sources(recording):
            heard = self._heard / f"{len(list(self._heard.iterdir()))}.npy"
            np.save(heard, read_segment(source, self._settings))
            yield Planned(seed, source, heard)
        path.unlink()

    def door(self, cases: Iterable[Case]) -> Iterator[Outcome]:
        """Hand cases in, as directories of calls; yield an outcome for each."""
        remaining = iter(cases)
        while batch := {case.name: case for case in islice(remaining, _BATCH)}:
            for case in batch.values():
                (self._calls / case.name).write_bytes(case.data)
            accepted: list[tuple[Outcome, NewRecording]] = []
            while batch:
                yield from self._directory(batch, accepted)
            yield from self._reread(accepted)
            _empty(self._calls)
            _empty(self._spool)

    def _directory(
        self, cases: dict[str, Case], accepted: list[tuple[Outcome, NewRecording]]
    ) -> Iterator[Outcome]:
        """Walk and examine; whatever has its outcome leaves ``cases``."""
        try:
            found = [
                item
                for item in walk_paths([os.fsencode(self._calls)])
                if isinstance(item, FoundFile)
            ]
            names = {os.fsdecode(item.relative) for item in found}
            for name in sorted(cases.keys() - names):
                yield Outcome(cases.pop(name), Fate.LEFT_OUT, "", 0.0)
            jobs = [Job(item.path) for item in found if os.fsdecode(item.relative) in cases]
            begun_s = time.monotonic()
            for result in examine_all(jobs, self._settings, _PROFILE, processes=1):
                if isinstance(result, reader_pool.Tick):
                    continue
                seconds = time.monotonic() - begun_s
                case = cases.pop(os.fsdecode(result.source.path))
                outcome = self._judged(case, result, seconds)
                if isinstance(result, NewRecording) and outcome.fate is Fate.ACCEPTED:
                    accepted.append((outcome, result))
                else:
                    yield outcome
                begun_s = time.monotonic()
            for name in list(cases):
                yield Outcome(cases.pop(name), Fate.BROKEN, "it has no outcome", 0.0)
        except Exception as error:
            # One child does one file after another, so it was the first that is left.
            culprit = cases.pop(min(cases))
            yield Outcome(culprit, Fate.CRASHED, f"{type(error).__name__}: {error}", 0.0)

    def _judged(
        self, case: Case, result: NewRecording | QuarantinedRecording, seconds: float
    ) -> Outcome:
        if isinstance(result, NewRecording):
            oddity = _oddity(case, result, self._settings.limits)
            return Outcome(case, Fate.BROKEN if oddity else Fate.ACCEPTED, oddity, seconds)
        if not result.message:
            return Outcome(case, Fate.BROKEN, f"{result.code} without a message", seconds)
        died = result.code is ErrorCode.AUDIO_READER_DIED
        if died and "took too long" in result.message:
            return Outcome(case, Fate.HUNG, result.message, seconds)
        if died and result.message.startswith("its reader"):
            return Outcome(case, Fate.DIED, result.message, seconds)
        return Outcome(case, Fate.REFUSED, result.code, seconds)

    def _reread(self, accepted: Sequence[tuple[Outcome, NewRecording]]) -> Iterator[Outcome]:
        """Yield the outcomes of accepted recordings: broken where a worker cannot read one."""
        outcomes = {outcome.case.number: outcome for outcome, _ in accepted}
        reads = (
            _Read(outcome.case.number, source)
            for outcome, recording in accepted
            for source in _sources(recording)
        )
        for answer in self._answers(reads):
            if answer.fate is not Fate.ACCEPTED:
                detail = f"accepted, and of no use to a worker ({answer.fate}: {answer.detail})"
                outcomes[answer.number] = replace(
                    outcomes[answer.number], fate=Fate.BROKEN, detail=detail
                )
        yield from outcomes.values()

    def segments(self, cases: Iterable[Case]) -> Iterator[Outcome]:
        """Let each case take the place of what was planned, and read that; yield an outcome."""
        waiting: dict[int, Case] = {}

        def reads() -> Iterator[_Read]:
            for case in cases:
                planned = case.planned
                if planned is None:
                    raise ValueError(f"case {case.number} takes no file's place")
                waiting[case.number] = case
                (self._calls / case.name).write_bytes(case.data)
                location = Location("calls", os.fsencode(case.name))
                source = replace(planned.source, location=location)
                yield _Read(case.number, source, planned.heard)

        for answer in self._answers(reads()):
            case = waiting.pop(answer.number)
            (self._calls / case.name).unlink()
            yield Outcome(case, answer.fate, answer.detail, answer.seconds)

    def _answers(self, reads: Iterable[_Read]) -> Iterator[_Answer]:
        work = partial(_read, settings=self._settings)
        for answer in reader_pool.run_jobs(work, reads, lambda _: _READ_LIMIT_S, max_children=1):
            if isinstance(answer, reader_pool.ReaderDied):
                hung = "took too long" in answer.cause
                fate, seconds = (Fate.HUNG, _READ_LIMIT_S) if hung else (Fate.DIED, 0.0)
                yield _Answer(answer.job.number, fate, answer.cause, seconds)
            elif not isinstance(answer, reader_pool.Tick):
                yield answer


def _sources(recording: NewRecording) -> list[SegmentSource]:
    return [
        SegmentSource(
            recording.audio, recording.format, segment.channel, segment.span, segment.pcm_digest
        )
        for segment in recording.segments
    ]


def _read(job: _Read, settings: Settings) -> _Answer:
    """Read a segment as a worker does, in a child, and judge what it heard."""
    begun_s = time.monotonic()
    try:
        samples = read_segment(job.source, settings)
    except CallscribeError as error:
        fate, detail = Fate.REFUSED, str(error.code)
    except Exception as error:
        fate, detail = Fate.BROKEN, f"{type(error).__name__}: {error}"
    else:
        wrong = _wrong(samples, job.source.span, job.heard)
        fate, detail = (Fate.BROKEN, wrong) if wrong else (Fate.ACCEPTED, "")
    return _Answer(job.number, fate, detail, time.monotonic() - begun_s)


def _wrong(samples: Samples, span: Span, heard: Path | None) -> str:
    """Say what is wrong with what a worker heard; nothing, where nothing is."""
    if not np.all(np.abs(samples) <= 1):  # false for what is no number
        return "samples beyond -1..1"
    if not 0 <= span.duration_ms * SAMPLES_PER_MS - len(samples) <= SAMPLES_PER_MS:
        return f"{len(samples)} samples of {span}"
    if heard is not None:
        difference = np.abs(samples - np.load(heard))[_EDGE:-_EDGE]
        if difference.max() > _ROUNDING:
            return "other samples than those that were planned"
    return ""


def _oddity(case: Case, recording: NewRecording, limits: Limits) -> str:
    """Say what makes no sense about an accepted recording; nothing, where all does."""
    audio, duration_ms = recording.format, recording.duration_ms
    sense = {
        "another file's digest": recording.content_digest == hashlib.sha256(case.data).hexdigest(),
        "a duration of its own": duration_ms == duration_of(audio.frames, audio.rate_hz),
        "a duration out of bounds": (
            limits.min_duration_ms <= duration_ms <= limits.duration_s * 1000
        ),
        "a rate out of bounds": limits.min_rate_hz <= audio.rate_hz <= limits.rate_hz,
        "spans that do not cover it": _is_covered(recording),
    }
    wrong = [text for text, holds in sense.items() if not holds]
    return f"{', '.join(wrong)}: {duration_ms} ms, {audio}" if wrong else ""


def _is_covered(recording: NewRecording) -> bool:
    """Tell whether each planned channel is there, and is covered by spans that overlap."""
    channels: dict[int | None, list[Span]] = {}
    for segment in recording.segments:
        channels.setdefault(segment.channel, []).append(segment.span)
    return all(
        channel in range(recording.format.channels)
        and (spans[0].start_ms, spans[-1].end_ms) == (0, recording.duration_ms)
        and all(left.overlap(right) for left, right in pairwise(spans))
        for channel, spans in channels.items()
    )


def _empty(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.mkdir()
