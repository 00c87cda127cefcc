"""Look again at what was handed in: was all of each file read?

Earlier releases believed what a header states or a library estimates: some recordings ended with
less than their files hold, and some good files were refused. Each stored recording's source is
probed anew, which walks its container and decodes next to nothing; what was refused is decoded to
its end, and not kept. What turns out to hold more can be planned anew, in place.
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
from producer.intake.containers.account import TOLERANCE_MS, seconds
from producer.intake.examine import Job, examine_all, limit_s
from producer.intake.full_decode import read_blocks
from producer.intake.headless import RAW_DEFAULTS, RawFormat
from producer.intake.probe import Choices, Probed, probe
from producer.submit.enqueue import Enqueuer
from schema.errors import BadRecording, ErrorCode, Misconfigured
from schema.profile import PlanSettings, Profile
from schema.records import HEADLESS, NewRecording, QuarantinedRecording
from schema.settings import Settings
from schema.states import RecordingState
from schema.storage.roots import storage_of
from schema.store.intake import recheck as store
from schema.store.intake.recheck import StoredRecording
from schema.store.ledger import Ledger
from schema.transcript import NOT_READ, flag_names

#: Recordings asked of the ledger at a time.
_PAGE = 1_000
#: Files of one submission that are planned anew at a time.
_BATCH = 100


class Reason(StrEnum):
    """Why a recording is listed, for people and for scripts."""

    #: Its file holds more than was transcribed.
    CUT_SHORT = "cut-short"
    #: Its file has tracks that were not read.
    HALF_READ = "half-read"
    #: Its file has bytes that nobody reads, and no flag says so.
    UNREAD_DATA = "unread-data"
    #: It was refused, and can be read.
    READABLE = "readable"
    #: It was transcribed, and its file is broken: what is missing, nobody has.
    BROKEN = "broken"


class Verdict(StrEnum):
    """What a look came to that finds nothing: all was read, or the file cannot be looked at."""

    WHOLE = "whole"
    GONE = "gone"
    CHANGED = "changed"
    ELSEWHERE = "elsewhere"


@dataclass(frozen=True, slots=True)
class Finding:
    """A recording of which not all was read; ``now_ms`` is what its file holds, where known."""

    recording: StoredRecording
    reason: Reason
    now_ms: int | None
    detail: str


@dataclass(slots=True)
class Tally:
    """How far a run is: recordings looked at, of how many, and those whose file cannot be."""

    total: int
    examined: int = 0
    gone: int = 0
    changed: int = 0
    elsewhere: int = 0

    def add(self, verdict: Verdict | None) -> None:
        """Count a recording that was looked at, or cannot be."""
        self.examined += 1
        self.gone += verdict is Verdict.GONE
        self.changed += verdict is Verdict.CHANGED
        self.elsewhere += verdict is Verdict.ELSEWHERE


def recheck(
    ledger: Ledger, settings: Settings, since: datetime | None, report: Callable[[Tally], None]
) -> Iterator[Finding]:
    """Yield the recordings whose files hold more than was read; ``report`` is told how far it is.

    Raises:
        Misconfigured, Transient: the ledger or the recordings' storage is at fault.
    """
    tally = Tally(ledger.transact(lambda c: store.count_stored(c, since)))
    report(tally)
    look = partial(_look, settings=settings)
    allow_s = partial(_limit_s, longest_s=settings.limits.duration_s)
    for outcome in reader_pool.run(look, _stored(ledger, since), allow_s):
        seen = _died(outcome) if isinstance(outcome, reader_pool.Died) else outcome
        if isinstance(seen, Finding):
            yield seen
        tally.add(seen if isinstance(seen, Verdict) else None)
        report(tally)


def _died(died: reader_pool.Died[StoredRecording]) -> Finding | Verdict:
    """Return what it means that a file kills its reader."""
    if died.job.state == RecordingState.QUARANTINED:
        return Verdict.WHOLE
    return Finding(died.job, Reason.BROKEN, None, died.cause)


def _stored(ledger: Ledger, since: datetime | None) -> Iterator[StoredRecording]:
    after: UUID | None = None
    while True:
        page = partial(store.stored, since=since, after=after, limit=_PAGE)
        recordings = ledger.transact(page)
        yield from recordings
        if len(recordings) < _PAGE:
            return
        after = recordings[-1].id


def _limit_s(recording: StoredRecording, longest_s: int) -> float:
    return limit_s(recording.size_bytes, longest_s)


def _look(recording: StoredRecording, settings: Settings) -> Finding | Verdict:
    """Look at one recording's source."""
    source = recording.source
    try:
        with storage_of(settings, source.root).on_disk(source, lambda _: None) as path:
            if recording.size_bytes not in {None, os.stat(path).st_size}:
                return Verdict.CHANGED
            return _compare(recording, path, settings, recording.profile.plan)
    except (FileNotFoundError, PermissionError):
        return Verdict.GONE
    except Misconfigured:
        return Verdict.ELSEWHERE
    except BadRecording as error:
        return _refused(recording, error)


def _refused(recording: StoredRecording, error: BadRecording) -> Finding | Verdict:
    """Return what it means that a file is refused now."""
    if error.code in {ErrorCode.FILE_VANISHED, ErrorCode.FILE_UNREADABLE}:
        return Verdict.GONE
    if recording.state == RecordingState.QUARANTINED:
        return Verdict.WHOLE
    return Finding(recording, Reason.BROKEN, None, f"[{error.code}] {error.cause}")


def _compare(
    recording: StoredRecording, path: bytes, settings: Settings, plan: PlanSettings
) -> Finding | Verdict:
    """Hold what a file holds against what was read of it."""
    name, suffix = recording.source.name, os.path.splitext(recording.source.path)[1]
    choices = Choices(plan.tracks or "auto", plan.truncated == "take")
    probed = probe(path, _raw(recording), settings.limits, name, suffix, choices)
    if recording.state == RecordingState.QUARANTINED:
        return _readable(recording, path, probed)
    now_ms = _duration_ms(probed)
    was_ms = recording.duration_ms or 0
    if now_ms is not None and now_ms - was_ms > TOLERANCE_MS:
        detail = f"{seconds(was_ms)} of {seconds(now_ms)} were read"
        return Finding(recording, Reason.CUT_SHORT, now_ms, detail)
    if probed.speakers and probed.format.channels > (recording.channels or 0):
        detail = f"{recording.channels} of {probed.format.channels} tracks were read"
        return Finding(recording, Reason.HALF_READ, now_ms, detail)
    unsaid = [flag for flag in probed.flags if flag_names([flag]) & NOT_READ]
    if unsaid and not flag_names(recording.flags) & flag_names(unsaid):
        return Finding(recording, Reason.UNREAD_DATA, now_ms, ", ".join(unsaid))
    return Verdict.WHOLE


def _readable(recording: StoredRecording, path: bytes, probed: Probed) -> Finding:
    """Decode what was refused; whoever asked hears of it if that fails."""
    frames = sum(map(len, read_blocks(path, probed, recording.source.name)))
    now_ms = frames * 1000 // probed.format.rate_hz
    return Finding(recording, Reason.READABLE, now_ms, f"{seconds(now_ms)} can be read")


def _duration_ms(probed: Probed) -> int | None:
    """Return how long a file's audio is; None where only decoding tells."""
    if probed.account.duration_ms is not None:
        return probed.account.duration_ms
    audio = probed.format
    return audio.frames * 1000 // audio.rate_hz if audio.frames else None


def _raw(recording: StoredRecording) -> Mapping[str, RawFormat]:
    """Return how files without header are read: as this one was, or by their suffix."""
    audio = recording.format
    if audio is None or audio.container != HEADLESS:
        return RAW_DEFAULTS
    suffix = os.fsdecode(os.path.splitext(recording.source.path)[1]).lower()
    return {suffix: RawFormat(audio.encoding, audio.rate_hz, audio.channels)}


@dataclass(slots=True)
class Replanned:
    """What planning anew came to."""

    recordings: int = 0
    segments: int = 0
    refused: int = 0


def replan(
    findings: Sequence[Finding], settings: Settings, ledger: Ledger, enqueuer: Enqueuer
) -> Replanned:
    """Plan recordings anew, each under the profile that it was submitted with, and wake workers.

    Raises:
        Misconfigured, Transient: as ``submit``; what was committed stays.
    """
    result = Replanned()
    by_submission: defaultdict[UUID, list[StoredRecording]] = defaultdict(list)
    for finding in findings:
        if finding.reason is not Reason.BROKEN:
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
    result: Replanned,
) -> None:
    """Plan recordings of one submission anew."""
    profile: Profile = batch[0].profile
    ids = {recording.source: recording.id for recording in batch}
    raw = {**RAW_DEFAULTS, **{s: f for r in batch for s, f in _raw(r).items()}}
    jobs = [Job(settings.path_of(recording.source)) for recording in batch]
    for item in examine_all(jobs, settings, profile, raw=raw):
        if isinstance(item, QuarantinedRecording):
            result.refused += 1
        elif isinstance(item, NewRecording) and item.source in ids:
            room = enqueuer.room()
            added = ledger.transact(
                partial(store.replan, recording_id=ids[item.source], item=item, room=room)
            )
            enqueuer.publish(added.dispatches)
            result.recordings += added.recordings
            result.segments += added.segments - added.known_segments
