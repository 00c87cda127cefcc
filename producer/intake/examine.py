"""A file at the door: located, probed, copied where it must be, scanned and planned.

A file at fault is quarantined, whatever is wrong with it, and never ends a directory. A host at
fault (a full spool) is no recording's fault: that error ends the submission, which can be submitted
again once an operator has seen to it. A host without a spool takes what needs no copy first.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from producer.intake.plan import check_channels, choose_channels, plan_segments
from producer.intake.probe import ReadOptions, check_format, check_size, probe
from producer.intake.raw_audio import RAW_DEFAULTS, RawFormat
from producer.intake.reader_pool import ReaderDied, Tick, run_jobs
from producer.intake.scan import scan
from producer.intake.spool import NoSpool, SpoolCopy, copy_to_spool
from schema.errors import BadRecording, CallscribeError, ErrorCode
from schema.profile import Profile
from schema.records import CallInfo, Location, NewRecording, QuarantinedRecording
from schema.settings import SPOOL_ROOT, Settings
from schema.storage.bucket_path import absolute_path, is_url, resolve_links
from schema.storage.roots import storage_of, unreachable_error
from schema.text import printable_path
from schema.transcript import Flag

#: A reader that takes longer hangs. Opus, the slowest, decodes at 300 times real time; a file of
#: low bit rate holds 20 minutes in a MiB, and a network disk may be as slow as 1 MiB/s.
_BASE_TIME_S = 60.0
_TIME_PER_MIB_S = 20.0
#: Nor does the longest recording allowed take more than this share of its duration.
_TIME_SHARE = 1 / 10


@dataclass(frozen=True, slots=True)
class Job:
    """A file to examine, and what is known of the call, and of its size."""

    path: bytes
    call: CallInfo = field(default_factory=CallInfo)
    size_bytes: int | None = None


#: What becomes of a file.
ExaminedRecording = NewRecording | QuarantinedRecording


class _Version(NamedTuple):
    """What changes when a file is written to or replaced."""

    device: int
    inode: int
    size: int
    mtime_ns: int


def examine(
    job: Job, settings: Settings, profile: Profile, raw: Mapping[str, RawFormat] = RAW_DEFAULTS
) -> ExaminedRecording:
    """Return a file as a recording to be, or why it cannot be one.

    Raises:
        Misconfigured, Transient: the host or its storage is at fault, by no fault of the file.
    """
    location = settings.locate(job.path)
    if location is None:
        return _quarantine(job.path, None, job.call, outside_roots_error(job.path, settings))
    check = partial(check_size, limits=settings.limits, name=location.name)
    try:
        with storage_of(settings, location.root).on_disk(location, check) as path:
            return _examine_on_disk(path, location, job.call, settings, profile, raw)
    except BadRecording as error:
        return _quarantine(job.path, location, job.call, error)
    except CallscribeError:
        raise
    except OSError as error:
        return _quarantine(job.path, location, job.call, unreachable_error("", error))
    except Exception as error:  # whatever a decoder makes of a file, it ends no directory
        cause = f"reading it failed ({type(error).__name__}: {error})"
        return _quarantine(job.path, location, job.call, _reader_died_error(cause))


def examine_all(
    jobs: Iterable[Job],
    settings: Settings,
    profile: Profile,
    *,
    raw: Mapping[str, RawFormat] = RAW_DEFAULTS,
    processes: int | None = None,
    tick_s: float = float("inf"),
    no_spool_errors: list[NoSpool] | None = None,
) -> Iterator[ExaminedRecording | Tick]:
    """Examine files in ``processes`` child processes (one per core), in order of completion.

    A ``Tick`` is yielded whenever nothing was done for ``tick_s`` seconds.

    A file that kills its reader, or keeps it for too long, is quarantined. Jobs are taken as
    there is room for them, and no process outlives the iteration. With
    ``no_spool_errors``, a file that lacks a spool is added there, and the others go on.

    Raises:
        Misconfigured, Transient: as :func:`examine`.
    """
    work = partial(_examine_or_postpone, settings=settings, profile=profile, raw=raw)
    allow_s = partial(_job_limit_s, longest_s=settings.limits.duration_s)
    for outcome in run_jobs(work, jobs, allow_s, processes, tick_s):
        if isinstance(outcome, ReaderDied):
            job, error = outcome.job, _reader_died_error(outcome.cause)
            yield _quarantine(job.path, settings.locate(job.path), job.call, error)
        elif not isinstance(outcome, NoSpool):
            yield outcome
        elif no_spool_errors is None:
            raise outcome
        else:
            no_spool_errors.append(outcome)


def _examine_or_postpone(
    job: Job, settings: Settings, profile: Profile, raw: Mapping[str, RawFormat]
) -> ExaminedRecording | NoSpool:
    try:
        return examine(job, settings, profile, raw)
    except NoSpool as error:
        return error


def _examine_on_disk(
    path: bytes,
    source: Location,
    call: CallInfo,
    settings: Settings,
    profile: Profile,
    raw: Mapping[str, RawFormat],
) -> NewRecording:
    name, limits, plan = source.name, settings.limits, profile.plan
    version = _read_version(path)
    try:
        options = ReadOptions(plan.tracks or "auto", plan.truncated == "take")
        info = probe(path, raw, limits, source, options)
        # Of tracks each is a speaker, however many there are.
        has_many_speakers = info.tracks_are_speakers and info.format.channels > 2
        mode = "split" if plan.channels == "auto" and has_many_speakers else plan.channels
        check_channels(info.format.channels, mode, limits, name)
        content_digest = _content_digest(path)
        audio = SpoolCopy(source, info.format)
        if info.needs_copy:
            lenient = options.accept_truncated
            audio = copy_to_spool(path, info, content_digest, settings, name, lenient=lenient)
        check_format(audio.format, limits, name)
        with _audio_on_disk(path, audio, settings) as audio_path:
            scan_result = scan(audio_path, audio.format, name, mix=mode == "mix")
    except BadRecording:
        # A file still being written to looks truncated, or worse; that it grows is the cause.
        _check_unchanged(path, source, version, settings)
        raise
    _check_unchanged(path, source, version, settings)
    channels, flags = choose_channels(scan_result, mode, limits, name)
    truncated_flags = sorted({Flag.TRUNCATED.with_number(b.at_ms or 0) for b in audio.breaks})
    return NewRecording(
        source=source,
        audio=audio.location,
        format=audio.format,
        duration_ms=scan_result.duration_ms,
        size_bytes=version.size,
        content_digest=content_digest,
        call=call,
        flags=(*info.flags, *truncated_flags, *flags),
        segments=plan_segments(scan_result, channels, plan),
    )


def _audio_on_disk(
    path: bytes, audio: SpoolCopy, settings: Settings
) -> AbstractContextManager[bytes]:
    """Give where what workers will read is on this host, the source being at ``path``."""
    if audio.location.root != SPOOL_ROOT:
        return nullcontext(path)
    return storage_of(settings, SPOOL_ROOT).on_disk(audio.location, lambda _: None)


def _content_digest(path: bytes) -> str:
    # A read of its own: a copy's name needs the digest before the copy is made, and what was just
    # hashed (at over 1 GB/s) is decoded from the page cache.
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_version(path: bytes) -> _Version:
    status = os.stat(path)
    return _Version(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _check_unchanged(path: bytes, source: Location, version: _Version, settings: Settings) -> None:
    """Refuse a file that was written to, or another of whose name was put in its place."""
    current_versions = [_read_version(path)]
    if not is_url(named_path := settings.path_of(source)):
        current_versions.append(_read_version(named_path))
    if current_versions != [version] * len(current_versions):
        cause = "it changed while it was read"
        remedy = "Submit it again once the recorder has finished."
        raise BadRecording(ErrorCode.AUDIO_CHANGED, source.name, cause, remedy)


def outside_roots_error(path: bytes, settings: Settings) -> BadRecording:
    """Return why a file that lies under no root cannot be read, and what to do."""
    roots = ", ".join(sorted(f"{name}={root}" for name, root in settings.roots.items())) or "none"
    target = resolve_links(path)
    directory = printable_path(os.path.dirname(target))
    return BadRecording(
        ErrorCode.PATH_OUTSIDE_ROOTS,
        printable_path(target),
        f"{printable_path(target)} lies under none of the directories that workers may read"
        f" ({roots})",
        f"Add its directory to CALLSCRIBE_ROOTS: name={directory}",
    )


def _reader_died_error(cause: str) -> BadRecording:
    remedy = "Convert it to WAV or FLAC with another tool, and submit that."
    return BadRecording(ErrorCode.AUDIO_READER_DIED, "", cause, remedy)


def _quarantine(
    path: bytes, location: Location | None, call: CallInfo, error: BadRecording
) -> QuarantinedRecording:
    """Return the recording at the door; what lies under no root keeps its whole path.

    That is the path it was found by: a link that leads nowhere good is named, not its target.
    """
    message = f"{error.cause.rstrip('.')}. {error.remedy}".strip()
    source = location or Location("", absolute_path(path))
    return QuarantinedRecording(source, error.code, message, call)


def _job_limit_s(job: Job, longest_s: int) -> float:
    try:
        size = os.stat(job.path).st_size if job.size_bytes is None else job.size_bytes
    except OSError:
        size = None
    return time_limit_s(size, longest_s)


def time_limit_s(size_bytes: int | None, longest_s: int) -> float:
    """Return how many seconds reading a file may take, by its size and the longest duration."""
    if size_bytes is None:
        return _BASE_TIME_S
    return _BASE_TIME_S + min(size_bytes / 2**20 * _TIME_PER_MIB_S, longest_s * _TIME_SHARE)
