"""Copies of what workers cannot seek in exactly: FLAC, made once per content, named by it.

A copy appears under its name complete or not at all: it is written under another name, flushed to
the disk, and renamed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile

from producer.intake.containers.account import Break
from producer.intake.full_decode import read_blocks
from producer.intake.probe import AudioInfo, check_format
from schema.errors import BadRecording, BadRequest, ErrorCode, Misconfigured
from schema.pcm import Samples
from schema.records import AudioFormat, Location
from schema.settings import SPOOL_ROOT, Settings
from schema.span import duration_of
from schema.storage.beneath import OutsideError, act_below, open_directory, open_file, refuse_link

#: Raised when the same source would give another copy.
_COPY_VERSION = 2
#: What FLAC holds.
_MAX_CHANNELS = 8
#: No space, quota used up, file too big for the file system.
_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
#: A file that is nobody else's, whatever lies at its name.
_NEW_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class NoSpool(Misconfigured):
    """There is nowhere to copy a file to; what needs no copy can be handed in."""


@dataclass(frozen=True, slots=True)
class SpoolCopy:
    """A copy in the spool, how to read it, and where its source lacks audio."""

    location: Location
    format: AudioFormat
    breaks: list[Break] = field(default_factory=list)


def copy_to_spool(
    source: bytes,
    info: AudioInfo,
    content_digest: str,
    settings: Settings,
    name: str,
    *,
    lenient: bool = False,
) -> SpoolCopy:
    """Return the copy of ``source``, made now unless it is there already.

    Rate and channels stay as they are. ``content_digest`` is that of the source's bytes. With
    ``lenient`` a broken source is copied as far as it can be read, and always anew: only
    decoding it tells where it breaks.

    Raises:
        BadRecording: the source cannot be decoded to its end, or is longer than allowed.
        Misconfigured: no spool is configured, or it is full.
    """
    if info.format.channels > _MAX_CHANNELS:
        cause = f"it has {info.format.channels} channels, and a copy holds {_MAX_CHANNELS}"
        remedy = "Convert it to WAV."
        raise BadRecording(ErrorCode.AUDIO_TOO_MANY_CHANNELS, name, cause, remedy)
    spool = _spool_directory(settings, name)
    location = Location(SPOOL_ROOT, _copy_name(info, content_digest, lenient=lenient))
    breaks = list(info.account.breaks)
    try:
        if lenient or not _touch_existing(spool, location):
            _make_copy(source, info, spool, location, settings, name, breaks if lenient else None)
        audio = _format_of(spool, location)
    except OutsideError:
        path = os.fsdecode(location.absolute_path(os.fsdecode(spool)))
        cause = f"its copy cannot be written to the spool ({path} leads out of it)"
        remedy = "Remove the link there, and let nobody else write to the spool; then submit again."
        raise Misconfigured(ErrorCode.STORAGE_UNREACHABLE, name, cause, remedy) from None
    end_ms = duration_of(audio.frames, audio.rate_hz)
    placed_breaks = [Break(end_ms, b.cause) if b.at_ms is None else b for b in breaks]
    return SpoolCopy(location, audio, placed_breaks)


def remove_copy(settings: Settings, path: bytes) -> None:
    """Remove a copy, given its path below the spool; one that is gone already is no matter.

    Raises:
        Misconfigured: this host has no spool.
        BadRequest: the path leads out of it, or this user may not remove it.
    """
    spool = os.fsencode(settings.root_path(SPOOL_ROOT))
    name = Location(SPOOL_ROOT, path).name
    try:
        with suppress(FileNotFoundError):
            act_below(spool, path, _remove)
    except OutsideError:
        cause = "it leads out of the spool"
        raise BadRequest(ErrorCode.PATH_OUTSIDE_ROOTS, name, cause) from None
    except PermissionError as error:
        cause = f"this user may not remove it ({os.strerror(error.errno or errno.EPERM)})"
        remedy = "Run the command as the user that submitted it; nothing was erased."
        raise BadRequest(ErrorCode.FILE_UNREADABLE, name, cause, remedy) from error


def _remove(directory: int, name: bytes) -> None:
    refuse_link(directory, name)
    os.unlink(name, dir_fd=directory)


def _touch_existing(spool: bytes, location: Location) -> bool:
    """Tell whether a copy is there already, and if so make it young: old ones are tidied away."""
    try:
        act_below(spool, location.path, _touch)
    except FileNotFoundError:
        return False
    except PermissionError:
        return True  # another user's copy, and as good
    return True


def _touch(directory: int, name: bytes) -> None:
    refuse_link(directory, name)
    os.utime(name, dir_fd=directory, follow_symlinks=False)


def _spool_directory(settings: Settings, name: str) -> bytes:
    if settings.spool is None:
        cause = f"it must be copied for the workers, and {settings.node} has no spool"
        remedy = "Set CALLSCRIBE_SPOOL to a directory that all workers share."
        raise NoSpool(ErrorCode.SETTING_MISSING, name, cause, remedy)
    spool = settings.root_path(SPOOL_ROOT)
    if not os.path.isdir(spool):
        cause = f"it must be copied for the workers, and the spool {spool} is no directory"
        remedy = "Make the directory, or correct CALLSCRIBE_SPOOL."
        raise NoSpool(ErrorCode.SETTING_MISSING, name, cause, remedy)
    return os.fsencode(spool)


def _copy_name(info: AudioInfo, content_digest: str, *, lenient: bool) -> bytes:
    """Return the path of a copy below the spool: its source's bytes, and how they are read."""
    read_params = (info.format, info.copy_bits, info.big_endian, info.tracks_are_speakers, lenient)
    key = hashlib.sha256(f"{_COPY_VERSION} {content_digest} {read_params}".encode()).hexdigest()
    return os.fsencode(f"{key[:2]}/{key}.flac")


def _format_of(spool: bytes, location: Location) -> AudioFormat:
    with (
        open(open_file(spool, location.path), "rb") as copy,
        soundfile.SoundFile(copy.fileno(), closefd=False) as file,
    ):
        return AudioFormat(file.format, file.subtype, file.samplerate, file.channels, file.frames)


def _make_copy(
    source: bytes,
    info: AudioInfo,
    spool: bytes,
    location: Location,
    settings: Settings,
    name: str,
    breaks: list[Break] | None,
) -> None:
    """Write the copy; leave nothing behind where that fails."""
    parent, file_name = os.path.split(location.path)
    partial_name = os.fsencode(f"{secrets.token_hex(8)}.partial")
    try:
        with open_directory(spool, parent, make=True) as directory:
            handle = os.open(partial_name, _NEW_FILE_FLAGS, 0o600, dir_fd=directory)
            try:
                with os.fdopen(handle, "wb", buffering=0) as file:
                    sink = _Sink(file, settings.spool_reserve_bytes)
                    _write_samples(source, info, sink, settings, name, breaks)
                    os.fchmod(file.fileno(), 0o640)
                    os.fsync(file.fileno())
                os.rename(partial_name, file_name, src_dir_fd=directory, dst_dir_fd=directory)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(partial_name, dir_fd=directory)
            _sync_directory(directory)
    except OSError as error:
        raise _write_error(name, location.absolute_path(os.fsdecode(spool)), error) from error


def _write_error(name: str, path: bytes, error: OSError) -> Misconfigured:
    directory = os.fsdecode(os.path.dirname(path))
    if error.errno in _FULL_ERRNOS:
        cause = f"its copy does not fit into the spool ({directory})"
        remedy = "Free space there, or lower CALLSCRIBE_SPOOL_RESERVE_BYTES; then submit again."
        return Misconfigured(ErrorCode.SPOOL_FULL, name, cause, remedy)
    cause = f"its copy cannot be written to the spool ({directory}: {error.strerror})"
    remedy = "Let this user write there; then submit again."
    return Misconfigured(ErrorCode.STORAGE_UNREACHABLE, name, cause, remedy)


def _sync_directory(directory: int) -> None:
    """Make a rename survive a power cut."""
    handle = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_samples(
    source: bytes,
    info: AudioInfo,
    sink: _Sink,
    settings: Settings,
    name: str,
    breaks: list[Break] | None,
) -> None:
    audio = info.format
    max_frames = settings.limits.duration_s * audio.rate_hz
    frames = 0
    sink.check()
    subtype = f"PCM_{info.copy_bits}"
    with soundfile.SoundFile(
        sink, "w", audio.rate_hz, audio.channels, subtype, format="FLAC"
    ) as copy:
        for block in read_blocks(source, info, name, breaks):
            frames += len(block)
            if frames > max_frames:
                check_format(replace(audio, frames=frames), settings.limits, name)
            copy.write(_quantise(block, info.copy_bits))
            sink.check()
    sink.check()


def _quantise(samples: Samples, bits: int) -> npt.NDArray[np.signedinteger]:
    """Return samples as integers that fill 16 bits, or the upper 24 of 32; clipped."""
    full = 1 << (bits - 1)
    with np.errstate(over="ignore"):
        scaled: Samples = np.rint(np.nan_to_num(samples) * np.float32(full))
    integers = scaled.clip(-full, full - 1).astype(np.int32)
    return integers.astype(np.int16) if bits == 16 else integers << 8


class _Sink:
    """A file that libsndfile writes to, which keeps why a write failed, and watches the space."""

    def __init__(self, file: BinaryIO, reserve_bytes: int) -> None:
        self._file = file
        self._reserve_bytes = reserve_bytes
        self._error: OSError | None = None
        self.seek = file.seek
        self.tell = file.tell

    def write(self, data: bytes) -> int:
        """Write as a file does, but keep an error for :meth:`check`.

        Nothing can be raised through libsndfile, and of what it is told, soundfile makes an
        assertion that fails; so it is told that all is well.
        """
        if self._error is None:
            try:
                return self._file.write(data)
            except OSError as error:
                self._error = error
        return len(data)

    def check(self) -> None:
        """Raise what went wrong since the last check, or OSError where the space runs low."""
        if self._error:
            raise self._error
        space = os.fstatvfs(self._file.fileno())
        if space.f_bavail * space.f_frsize < self._reserve_bytes:
            raise OSError(errno.ENOSPC, "less space is left than the spool must keep")
