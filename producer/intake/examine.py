"""A file at the door: located, probed, copied where it must be, scanned and planned.

A file at fault is quarantined, whatever is wrong with it, and never ends a directory. A host at
fault (a full spool) is no recording's fault: that error ends the submission, which can be submitted
again once an operator has seen to it. A host without a spool takes what needs no copy first.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from producer.intake import reader_pool
from producer.intake.headless import RAW_DEFAULTS, RawFormat
from producer.intake.plan import check_channels, choose_channels, plan_segments
from producer.intake.probe import Choices, Probed, check_format, check_size, probe
from producer.intake.scan import scan
from producer.intake.spool import Copy, NoSpool, copy_to_spool
from schema.errors import BadRecording, CallscribeError, ErrorCode
from schema.profile import ChannelMode, Profile
from schema.records import CallInfo, Location, NewRecording, QuarantinedRecording
from schema.settings import SPOOL_ROOT, Settings
from schema.storage.bucket_path import absolute, is_url, resolved
from schema.storage.roots import storage_of, unreachable
from schema.transcript import Flag

#: A reader that takes longer hangs. Opus, the slowest, decodes at 300 times real time; a file of
#: low bit rate holds 20 minutes in a MiB, and a network disk may be as slow as 1 MiB/s.
_TIME_S = 60.0
_TIME_PER_MIB_S = 20.0
#: Nor does the longest recording allowed take more than this share of its duration.
_TIME_SHARE = 1 / 10


@dataclass(frozen=True, slots=True)
class Job:
    """A file to examine, and what is known of the call, and of its size."""

    path: bytes
    call: CallInfo = field(default_factory=CallInfo)
    size_bytes: int | None = None


class _Terms(NamedTuple):
    """What holds for every file of a submission."""

    settings: Settings
    profile: Profile
    raw: Mapping[str, RawFormat]


class _Identity(NamedTuple):
    """What changes when a file is written to or replaced."""

    device: int
    inode: int
    size: int
    mtime_ns: int


def examine(
    job: Job,
    settings: Settings,
    profile: Profile,
    raw: Mapping[str, RawFormat] = RAW_DEFAULTS,
) -> NewRecording | QuarantinedRecording:
    """Return a file as a recording to be, or why it cannot be one.

    Raises:
        Misconfigured, Transient: the host or its storage is at fault, by no fault of the file.
    """
    location = settings.locate(job.path)
    if location is None:
        return _quarantined(job.path, None, job.call, outside_roots(job.path, settings))
    admit = partial(check_size, limits=settings.limits, name=location.name)
    try:
        with storage_of(settings, location.root).on_disk(location, admit) as path:
            return _examine(path, location, job.call, _Terms(settings, profile, raw))
    except BadRecording as error:
        return _quarantined(job.path, location, job.call, error)
    except CallscribeError:
        raise
    except OSError as error:
        return _quarantined(job.path, location, job.call, unreachable("", error))
    except Exception as error:  # whatever a decoder makes of a file, it ends no directory
        cause = f"reading it failed ({type(error).__name__}: {error})"
        return _quarantined(job.path, location, job.call, _reader_died(cause))


def examine_all(
    jobs: Iterable[Job],
    settings: Settings,
    profile: Profile,
    *,
    raw: Mapping[str, RawFormat] = RAW_DEFAULTS,
    workers: int | None = None,
    tick_s: float = float("inf"),
    postponed: list[NoSpool] | None = None,
) -> Iterator[NewRecording | QuarantinedRecording | None]:
    """Examine files in ``workers`` child processes (one per core), in order of completion.

    None is yielded whenever nothing was done for ``tick_s`` seconds.

    A file that kills its reader, or keeps it for too long, is quarantined. Jobs are taken as
    there is room for them, and no process outlives the iteration. With a list of what is
    ``postponed``, a file for which there is no spool is added there, and the others go on.

    Raises:
        Misconfigured, Transient: as :func:`examine`.
    """
    work = partial(_attempt, settings=settings, profile=profile, raw=raw)
    allow_s = partial(_limit_s, longest_s=settings.limits.duration_s)
    for outcome in reader_pool.run(work, jobs, allow_s, workers, tick_s):
        if isinstance(outcome, reader_pool.Died):
            job, error = outcome.job, _reader_died(outcome.cause)
            yield _quarantined(job.path, settings.locate(job.path), job.call, error)
        elif not isinstance(outcome, NoSpool):
            yield outcome
        elif postponed is None:
            raise outcome
        else:
            postponed.append(outcome)


def _attempt(
    job: Job, settings: Settings, profile: Profile, raw: Mapping[str, RawFormat]
) -> NewRecording | QuarantinedRecording | NoSpool:
    try:
        return examine(job, settings, profile, raw)
    except NoSpool as error:
        return error


def _examine(path: bytes, source: Location, call: CallInfo, terms: _Terms) -> NewRecording:
    name, limits, plan = source.name, terms.settings.limits, terms.profile.plan
    before = _identity(path)
    try:
        choices = Choices(plan.tracks or "auto", plan.truncated == "take")
        suffix = os.path.splitext(source.path)[1]
        probed = probe(path, terms.raw, limits, name, suffix, choices)
        mode = _channel_mode(probed, plan.channels)
        check_channels(probed.format.channels, mode, limits, name)
        content_digest = _content_digest(path)
        audio = _audio(path, source, probed, content_digest, terms.settings, choices)
        check_format(audio.format, limits, name)
        with _audio_on_disk(path, audio, terms.settings) as readable:
            found = scan(readable, audio.format, name, mix=mode == "mix")
    except BadRecording:
        # A file still being written to looks truncated, or worse; that it grows is the cause.
        _check_unchanged(path, source, before, terms.settings)
        raise
    _check_unchanged(path, source, before, terms.settings)
    channels, flags = choose_channels(found, mode, limits, name)
    broken = sorted({Flag.TRUNCATED.counted(each.at_ms or 0) for each in audio.breaks})
    return NewRecording(
        source=source,
        audio=audio.location,
        format=audio.format,
        duration_ms=found.duration_ms,
        size_bytes=before.size,
        content_digest=content_digest,
        call=call,
        flags=(*probed.flags, *broken, *flags),
        segments=plan_segments(found, channels, plan),
    )


def _audio(
    path: bytes,
    source: Location,
    probed: Probed,
    content_digest: str,
    settings: Settings,
    choices: Choices,
) -> Copy:
    """Return what workers will read: the source, or its copy."""
    if not probed.copied:
        return Copy(source, probed.format)
    return copy_to_spool(path, probed, content_digest, settings, source.name, take=choices.take)


@contextmanager
def _audio_on_disk(path: bytes, audio: Copy, settings: Settings) -> Iterator[bytes]:
    """Give where what workers will read is on this host, the source being at ``path``."""
    if audio.location.root != SPOOL_ROOT:
        yield path
        return
    with storage_of(settings, SPOOL_ROOT).on_disk(audio.location, lambda _: None) as copy:
        yield copy


def _channel_mode(probed: Probed, mode: ChannelMode) -> ChannelMode:
    """Return how channels are taken: of tracks each is a speaker, however many there are."""
    return "split" if mode == "auto" and probed.speakers and probed.format.channels > 2 else mode


def _content_digest(path: bytes) -> str:
    # A read of its own: a copy's name needs the digest before the copy is made, and what was just
    # hashed (at over 1 GB/s) is decoded from the page cache.
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _identity(path: bytes) -> _Identity:
    status = os.stat(path)
    return _Identity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _check_unchanged(path: bytes, source: Location, before: _Identity, settings: Settings) -> None:
    """Refuse a file that was written to, or another of whose name was put in its place."""
    now = [_identity(path)]
    if not is_url(named := settings.path_of(source)):
        now.append(_identity(named))
    if now != [before] * len(now):
        raise BadRecording(
            ErrorCode.AUDIO_CHANGED,
            source.name,
            "it changed while it was read",
            "Submit it again once the recorder has finished.",
        )


def outside_roots(path: bytes, settings: Settings) -> BadRecording:
    """Return why a file that lies under no root cannot be read, and what to do."""
    roots = ", ".join(sorted(f"{name}={root}" for name, root in settings.roots.items())) or "none"
    end = resolved(path)
    directory = Location("", os.path.dirname(end)).name
    return BadRecording(
        ErrorCode.PATH_OUTSIDE_ROOTS,
        Location("", end).name,
        f"{Location('', end).name} lies under none of the directories that workers may read"
        f" ({roots})",
        f"Add its directory to CALLSCRIBE_ROOTS: name={directory}",
    )


def _reader_died(cause: str) -> BadRecording:
    remedy = "Convert it to WAV or FLAC with another tool, and submit that."
    return BadRecording(ErrorCode.AUDIO_READER_DIED, "", cause, remedy)


def _quarantined(
    path: bytes, location: Location | None, call: CallInfo, error: BadRecording
) -> QuarantinedRecording:
    """Return the recording at the door; what lies under no root keeps its whole path.

    That is the path it was found by: a link that leads nowhere good is named, not its target.
    """
    message = f"{error.cause.rstrip('.')}. {error.remedy}".strip()
    source = location or Location("", absolute(path))
    return QuarantinedRecording(source, error.code, message, call)


def _limit_s(job: Job, longest_s: int) -> float:
    """Return how many seconds a file may take."""
    try:
        size = os.stat(job.path).st_size if job.size_bytes is None else job.size_bytes
    except OSError:
        size = None
    return limit_s(size, longest_s)


def limit_s(size_bytes: int | None, longest_s: int) -> float:
    """Return how many seconds reading a file may take, by its size and the longest duration."""
    if size_bytes is None:
        return _TIME_S
    return _TIME_S + min(size_bytes / 2**20 * _TIME_PER_MIB_S, longest_s * _TIME_SHARE)
