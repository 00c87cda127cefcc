"""From a planned segment to its samples, read from the file and nothing but this segment.

This is the only place of a worker where frames exist: everything after it counts milliseconds on
samples of one rate, :data:`SAMPLE_RATE_HZ`.
"""

from __future__ import annotations

import errno
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr

from schema.errors import BadRecording, CallscribeError, ErrorCode, Transient
from schema.pcm import Samples, downmix, samples_digest
from schema.records import AudioFormat, Location
from schema.settings import Settings
from schema.span import Span, frame_at

#: The rate that every model here was trained on.
SAMPLE_RATE_HZ = 16_000
SAMPLES_PER_MS = SAMPLE_RATE_HZ // 1000

#: Read on both sides of a span before resampling and cut off after, so that the filter, a few
#: milliseconds long, sees at a segment's edge what it sees in the neighbour's middle.
_CONTEXT_MS = 50

#: Frames held with all their channels at once; only the wanted channel is kept.
_BLOCK_FRAMES = 1 << 18

_VANISHED = frozenset({errno.ENOENT, errno.ENOTDIR})
_REFUSED = frozenset({errno.EACCES, errno.EPERM})


@dataclass(frozen=True, slots=True)
class SegmentSource:
    """Where a segment's samples lie: which file, which channel of it, and from when to when.

    ``channel`` counts from 0; None is the mean of all. ``pcm_digest`` is what the samples hashed
    to when the segment was planned (:mod:`schema.pcm`).
    """

    location: Location
    format: AudioFormat
    channel: int | None
    span: Span
    pcm_digest: str


def read_segment(source: SegmentSource, settings: Settings) -> Samples:
    """Return a segment's samples: float32, mono, 16 kHz, within -1..1, 16 for each millisecond.

    The last segment of a recording may lack part of its last millisecond.

    Raises:
        BadRecording: the file lies outside its root, vanished, cannot be read, or is not what was
            planned.
        Misconfigured: this host has no such root.
        Transient: the storage does not answer.
    """
    with _opened(source.location, settings.root_path(source.location.root)) as descriptor:
        try:
            samples, first_frame = _read_span(source, descriptor)
        except soundfile.SoundFileError as error:
            _surface_io_error(descriptor)
            raise BadRecording(
                ErrorCode.FILE_UNREADABLE, source.location.name, str(error)
            ) from error
        if samples is None:
            _surface_io_error(descriptor)
            raise _changed(source)
    return _resampled(samples, first_frame, source)


@contextmanager
def _opened(location: Location, root_path: str) -> Iterator[int]:
    """Yield a descriptor of the file, after its links are resolved and found under the root."""
    root = os.fsencode(root_path)
    path = os.path.realpath(location.under(root_path))
    if not path.startswith(root.rstrip(b"/") + b"/"):
        raise BadRecording(
            ErrorCode.PATH_OUTSIDE_ROOTS,
            location.name,
            f"it leads out of the root {location.root}",
            "Hand in a file that lies under a configured root.",
        )
    try:
        # Not blocking: a named pipe in a recording's place must not hold the worker for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BadRecording(ErrorCode.FILE_UNREADABLE, location.name, "not a file")
            yield descriptor
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _fate(error, location, root) from error


def _fate(error: OSError, location: Location, root: bytes) -> CallscribeError:
    """Return what an error of the file system means for the recording."""
    cause = os.strerror(error.errno or errno.EIO)
    if error.errno in _VANISHED and _is_mounted(root):
        return BadRecording(
            ErrorCode.FILE_VANISHED,
            location.name,
            "it was there when it was handed in",
            "Put it back, then submit it again.",
        )
    if error.errno == errno.ELOOP:
        return BadRecording(ErrorCode.PATH_LOOP, location.name, cause)
    if error.errno in _REFUSED:
        return BadRecording(
            ErrorCode.FILE_UNREADABLE,
            location.name,
            cause,
            "Let the workers' user read it, then retry.",
        )
    return Transient(
        ErrorCode.STORAGE_UNREACHABLE, f"root {location.root}", f"{location.name}: {cause}"
    )


def _is_mounted(root: bytes) -> bool:
    """Tell whether a root is there; the mount point of an absent file system is an empty one."""
    try:
        with os.scandir(root) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def _surface_io_error(descriptor: int) -> None:
    """Read the whole file and raise the OSError met, if any: libsndfile tells none apart."""
    at = 0
    while block := os.pread(descriptor, 1 << 20, at):
        at += len(block)


def _read_span(source: SegmentSource, descriptor: int) -> tuple[Samples | None, int]:
    """Return the span's samples with context, and the frame of the first; None if others."""
    planned, span = source.format, source.span
    first, last = _frames(planned, span.start_ms, span.end_ms)
    # From a frame that falls on a sample of the 16 kHz grid, whatever the file's rate: two
    # segments resampled on grids a fraction of a sample apart would not agree on their overlap.
    period = planned.rate_hz // math.gcd(planned.rate_hz, SAMPLE_RATE_HZ)
    read_first, read_last = _frames(planned, span.start_ms - _CONTEXT_MS, span.end_ms + _CONTEXT_MS)
    read_first -= read_first % period

    with _sound_file(planned, descriptor) as file:
        as_planned = (file.samplerate, file.channels) == (planned.rate_hz, planned.channels)
        if not as_planned or file.frames < read_last:
            return None, read_first
        file.seek(read_first)
        samples = _read_channel(file, source.channel, read_last - read_first)
    within = samples[first - read_first : last - read_first]
    if samples_digest(within, planned.rate_hz, span.start_ms) != source.pcm_digest:
        return None, read_first
    return samples, read_first


def _frames(planned: AudioFormat, start_ms: int, end_ms: int) -> tuple[int, int]:
    first = frame_at(max(start_ms, 0), planned.rate_hz)
    return first, min(frame_at(end_ms, planned.rate_hz), planned.frames)


def _sound_file(planned: AudioFormat, descriptor: int) -> soundfile.SoundFile:
    if planned.container != "RAW":
        return soundfile.SoundFile(descriptor, closefd=False)
    return soundfile.SoundFile(
        descriptor,
        samplerate=planned.rate_hz,
        channels=planned.channels,
        format=planned.container,
        subtype=planned.encoding,
        closefd=False,
    )


def _read_channel(file: soundfile.SoundFile, channel: int | None, frames: int) -> Samples:
    """Return up to ``frames`` frames of one channel, or of the mean of all: float32, 1-D."""
    blocks = [
        downmix(block) if channel is None else block[:, channel].copy()
        for block in file.blocks(_BLOCK_FRAMES, frames=frames, dtype="float32", always_2d=True)
    ]
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def _resampled(samples: Samples, first_frame: int, source: SegmentSource) -> Samples:
    """Return the span's own part of ``samples``, which start at ``first_frame``, at 16 kHz."""
    rate_hz, span = source.format.rate_hz, source.span
    # A float file may hold what is no sound, and one NaN would silence the whole segment.
    samples = np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0)
    if rate_hz != SAMPLE_RATE_HZ:
        samples = soxr.resample(samples, rate_hz, SAMPLE_RATE_HZ, "HQ")
    first = span.start_ms * SAMPLES_PER_MS - first_frame * SAMPLE_RATE_HZ // rate_hz
    own = samples[first : first + span.duration_ms * SAMPLES_PER_MS]
    return np.clip(own, -1.0, 1.0)


def _changed(source: SegmentSource) -> BadRecording:
    return BadRecording(
        ErrorCode.AUDIO_CHANGED,
        source.location.name,
        "its samples are not those that were planned",
        "Submit it again.",
    )
