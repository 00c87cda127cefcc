"""Look again at what was handed in: was all of each file read?

Earlier releases believed what a header states or a library estimates: some recordings ended with
less than their files hold, some good files were refused, and a call whose every second sounds like
speech was called silent if no word came. Each stored recording's source is probed anew, which walks
its container and decodes next to nothing; what was refused is decoded to its end, and not kept.
What turns out to hold more can be planned anew, in place.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from uuid import UUID

from producer.intake import reader_pool
from producer.intake.containers.account import TOLERANCE_MS, format_seconds
from producer.intake.examine import Job, examine_all, time_limit_s
from producer.intake.full_decode import read_blocks
from producer.intake.probe import AudioInfo, ReadOptions, probe
from producer.intake.raw_audio import RAW_DEFAULTS, RawFormat
from producer.submit.enqueue import Enqueuer
from schema.errors import BadRecording, ErrorCode, Misconfigured
from schema.records import RAW_CONTAINER, NewRecording, QuarantinedRecording
from schema.settings import Settings
from schema.states import RecordingState
from schema.storage.roots import storage_of
from schema.store.intake import recheck as store_recheck
from schema.store.intake.recheck import StoredRecording
from schema.store.ledger import Ledger
from schema.transcript import LOW_COVERAGE_MIN_SPEECH_MS, UNREAD_FLAGS, flag_names

#: Recordings asked of the ledger at a time.
_PAGE = 1_000
#: Files of one submission that are planned anew at a time.
_BATCH = 100


class RecheckReason(StrEnum):
    """Why a recording is listed, for people and for scripts."""

    #: Its file holds more than was transcribed.
    CUT_SHORT = "cut-short"
    #: Its file has tracks that were not read.
    TRACKS_UNREAD = "half-read"
    #: Its file has bytes that nobody reads, and no flag says so.
    UNREAD_DATA = "unread-data"
    #: It was refused, and can be read.
    READABLE = "readable"
    #: It was called silent, though it sounds like speech.
    NO_WORDS = "no-words"
    #: It was transcribed, and its file is broken: what is missing, nobody has.
    BROKEN = "broken"


class RecheckVerdict(StrEnum):
    """What a look came to that finds nothing: all was read, or the file cannot be looked at."""

    ALL_READ = "whole"
    FILE_MISSING = "gone"
    CHANGED = "changed"
    ELSEWHERE = "elsewhere"


@dataclass(frozen=True, slots=True)
class RecheckFinding:
    """A recording of which not all was heard; ``now_ms`` is what its file holds, where known."""

    recording: StoredRecording
    reason: RecheckReason
    now_ms: int | None
    detail: str


@dataclass(slots=True)
class RecheckTally:
    """How far a run is: recordings looked at, of how many, and those whose file cannot be."""

    total: int
    examined_count: int = 0
    gone_count: int = 0
    changed_count: int = 0
    elsewhere_count: int = 0

    def add(self, verdict: RecheckVerdict | None) -> None:
        """Count a recording that was looked at, or cannot be."""
        self.examined_count += 1
        self.gone_count += verdict is RecheckVerdict.FILE_MISSING
        self.changed_count += verdict is RecheckVerdict.CHANGED
        self.elsewhere_count += verdict is RecheckVerdict.ELSEWHERE


def recheck_recordings(
    ledger: Ledger,
    settings: Settings,
    since: datetime | None,
    report: Callable[[RecheckTally], None],
) -> Iterator[RecheckFinding]:
    """Yield the recordings whose files hold more than was read; ``report`` is told how far it is.

    Raises:
        Misconfigured, Transient: the ledger or the recordings' storage is at fault.
    """
    tally = RecheckTally(ledger.transact(lambda c: store_recheck.count_stored_recordings(c, since)))
    report(tally)
    look = partial(_recheck_one, settings=settings)

    def limit_s(recording: StoredRecording) -> float:
        return time_limit_s(recording.size_bytes, settings.limits.duration_s)

    for outcome in reader_pool.run_jobs(look, _list_recordings(ledger, since), limit_s):
        verdict = (
            _judge_broken(outcome.job, outcome.cause)
            if isinstance(outcome, reader_pool.ReaderDied)
            else outcome
        )
        if isinstance(verdict, RecheckFinding):
            yield verdict
        tally.add(verdict if isinstance(verdict, RecheckVerdict) else None)
        report(tally)


def _judge_broken(recording: StoredRecording, detail: str) -> RecheckFinding | RecheckVerdict:
    """Return what it means that a file cannot be read."""
    if recording.state == RecordingState.QUARANTINED:
        return RecheckVerdict.ALL_READ
    return RecheckFinding(recording, RecheckReason.BROKEN, None, detail)


def _list_recordings(ledger: Ledger, since: datetime | None) -> Iterator[StoredRecording]:
    last_id: UUID | None = None
    while True:
        page = partial(
            store_recheck.list_stored_recordings, since=since, after_id=last_id, limit=_PAGE
        )
        recordings = ledger.transact(page)
        yield from recordings
        if len(recordings) < _PAGE:
            return
        last_id = recordings[-1].id


def _recheck_one(recording: StoredRecording, settings: Settings) -> RecheckFinding | RecheckVerdict:
    source = recording.source
    try:
        with storage_of(settings, source.root).on_disk(source, lambda _: None) as path:
            if recording.size_bytes not in {None, os.stat(path).st_size}:
                return RecheckVerdict.CHANGED
            return _judge_content(recording, path, settings)
    except (FileNotFoundError, PermissionError):
        return RecheckVerdict.FILE_MISSING
    except Misconfigured:
        return RecheckVerdict.ELSEWHERE
    except BadRecording as error:
        if error.code in {ErrorCode.FILE_VANISHED, ErrorCode.FILE_UNREADABLE}:
            return RecheckVerdict.FILE_MISSING
        return _judge_broken(recording, f"[{error.code}] {error.cause}")


def _judge_content(
    recording: StoredRecording, path: bytes, settings: Settings
) -> RecheckFinding | RecheckVerdict:
    """Hold what a file holds against what was read of it."""
    plan = recording.profile.plan
    options = ReadOptions(plan.tracks or "auto", plan.truncated == "take")
    info = probe(path, _raw_formats(recording), settings.limits, recording.source, options)
    if recording.state == RecordingState.QUARANTINED:
        return _decode_quarantined(recording, path, info)
    now_ms = _duration_ms(info)
    was_ms = recording.duration_ms or 0
    if now_ms is not None and now_ms - was_ms > TOLERANCE_MS:
        detail = f"{format_seconds(was_ms)} of {format_seconds(now_ms)} were read"
        return RecheckFinding(recording, RecheckReason.CUT_SHORT, now_ms, detail)
    if info.tracks_are_speakers and info.format.channels > (recording.channels or 0):
        detail = f"{recording.channels} of {info.format.channels} tracks were read"
        return RecheckFinding(recording, RecheckReason.TRACKS_UNREAD, now_ms, detail)
    unread_flags = [flag for flag in info.flags if flag_names([flag]) & UNREAD_FLAGS]
    if unread_flags and not flag_names(recording.flags) & flag_names(unread_flags):
        return RecheckFinding(recording, RecheckReason.UNREAD_DATA, now_ms, ", ".join(unread_flags))
    if recording.wordless_ms >= LOW_COVERAGE_MIN_SPEECH_MS:
        detail = f"{format_seconds(recording.wordless_ms)} that sound like speech got no word"
        return RecheckFinding(recording, RecheckReason.NO_WORDS, now_ms, detail)
    return RecheckVerdict.ALL_READ


def _decode_quarantined(recording: StoredRecording, path: bytes, info: AudioInfo) -> RecheckFinding:
    """Decode what was refused; whoever asked hears of it if that fails."""
    frames = sum(map(len, read_blocks(path, info, recording.source.name)))
    now_ms = frames * 1000 // info.format.rate_hz
    detail = f"{format_seconds(now_ms)} can be read"
    return RecheckFinding(recording, RecheckReason.READABLE, now_ms, detail)


def _duration_ms(info: AudioInfo) -> int | None:
    """Return how long a file's audio is; None where only decoding tells."""
    if info.account.duration_ms is not None:
        return info.account.duration_ms
    audio = info.format
    return audio.frames * 1000 // audio.rate_hz if audio.frames else None


def _raw_formats(recording: StoredRecording) -> Mapping[str, RawFormat]:
    """Return how files without header are read: as this one was, or by their suffix."""
    audio = recording.format
    if audio is None or audio.container != RAW_CONTAINER:
        return RAW_DEFAULTS
    suffix = os.fsdecode(os.path.splitext(recording.source.path)[1]).lower()
    return {suffix: RawFormat(audio.encoding, audio.rate_hz, audio.channels)}


@dataclass(slots=True)
class ReplanResult:
    """What planning anew came to."""

    recordings: int = 0
    segments: int = 0
    quarantined_recordings: int = 0


def replan_findings(
    findings: Sequence[RecheckFinding], settings: Settings, ledger: Ledger, enqueuer: Enqueuer
) -> ReplanResult:
    """Plan recordings anew, each under the profile that it was submitted with, and wake workers.

    Raises:
        Misconfigured, Transient: as ``submit``; what was committed stays.
    """
    result = ReplanResult()
    by_submission: defaultdict[UUID, list[StoredRecording]] = defaultdict(list)
    for finding in findings:
        if finding.reason is not RecheckReason.BROKEN:
            by_submission[finding.recording.submission_id].append(finding.recording)
    for recordings in by_submission.values():
        for start in range(0, len(recordings), _BATCH):
            batch = recordings[start : start + _BATCH]
            _replan_batch(batch, settings, ledger, enqueuer, result)
    return result


def _replan_batch(
    batch: Sequence[StoredRecording],
    settings: Settings,
    ledger: Ledger,
    enqueuer: Enqueuer,
    result: ReplanResult,
) -> None:
    """Plan recordings of one submission anew."""
    ids = {recording.source: recording.id for recording in batch}
    raw = {**RAW_DEFAULTS, **{s: f for r in batch for s, f in _raw_formats(r).items()}}
    jobs = [Job(settings.path_of(recording.source)) for recording in batch]
    for item in examine_all(jobs, settings, batch[0].profile, raw=raw):
        if isinstance(item, QuarantinedRecording):
            result.quarantined_recordings += 1
        elif isinstance(item, NewRecording) and item.source in ids:
            plan = partial(store_recheck.replan_recording, item=item, capacity=enqueuer.capacity())
            add_result = ledger.transact(partial(plan, recording_id=ids[item.source]))
            enqueuer.publish(add_result.dispatches)
            result.recordings += add_result.recordings
            result.segments += add_result.segments - add_result.cached_segments
