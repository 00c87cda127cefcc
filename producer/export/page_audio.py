"""A call's audio for a page: a copy that every browser plays, and how loud it is.

FLAC, since it is exact to the sample where the player is sent to a word, half the size of WAV, and
played by every browser of today; telephony's mu-law is not.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from producer.atomic import atomic_write
from producer.intake.containers.account import Break
from producer.intake.full_decode import read_blocks
from producer.intake.probe import AudioInfo, ReadOptions, probe
from schema.pcm import Samples
from schema.profile import TracksMode
from schema.records import AudioFormat, Location
from schema.settings import Settings
from schema.span import Span, frame_at
from schema.storage.roots import storage_of
from schema.transcript import Flag, flag_names

#: Points of a waveform: as many as a wide screen has pixels for.
POINTS = 1_000

_STEPS_A_SECOND = 20

#: What is heard in place of what is masked.
_TONE_HZ, _TONE_LEVEL = 1_000, 0.05

#: The peaks of each channel, 0..1: float32 ``(channels, points)``.
Peaks = npt.NDArray[np.float32]


def copy_audio(
    location: Location,
    settings: Settings,
    target: Path,
    raw_format: AudioFormat | None = None,
    flags: Iterable[str] = (),
    masked_spans: Sequence[Span] = (),
) -> Peaks:
    """Write a recording's audio to ``target`` as FLAC; return its peaks, :data:`POINTS` at most.

    ``raw_format`` says how the file is to be read if it has no header; the recording's ``flags``
    what was chosen of its tracks, and that it was taken though it is broken. In ``masked_spans`` a
    tone takes the place of all channels.

    Raises:
        CallscribeError: it cannot be read, by this host or by anyone.
        OSError: the copy cannot be written.
    """
    storage = storage_of(settings, location.root)
    options = _read_options(flag_names(flags))
    with atomic_write(target) as partial, storage.on_disk(location, lambda _: None) as path:
        info = (
            AudioInfo(raw_format, needs_copy=False)
            if raw_format
            else probe(path, {}, settings.limits, location, options)
        )
        breaks: list[Break] | None = [] if options.accept_truncated else None
        blocks = read_blocks(path, info, location.name, breaks)
        masked_blocks = mask_blocks(blocks, info.format.rate_hz, masked_spans)
        return _write_flac(masked_blocks, info, partial)


def mask_blocks(
    blocks: Iterable[Samples], rate_hz: int, masked_spans: Sequence[Span]
) -> Iterator[Samples]:
    """Yield blocks of ``(frames, channels)`` with a tone in place of what lies in spans, in order.

    Nothing of what is masked stays: the tone replaces it, and is not added to it.
    """
    edges = [
        (frame_at(span.start_ms, rate_hz), frame_at(span.end_ms, rate_hz)) for span in masked_spans
    ]
    first = 0
    for block in blocks:
        last = first + len(block)
        parts = [(max(a, first), min(b, last)) for a, b in edges if a < last and b > first]
        samples = block.copy() if parts else block
        for start, end in parts:
            moments_s = np.arange(start, end) / rate_hz
            tone = (_TONE_LEVEL * np.sin(2 * np.pi * _TONE_HZ * moments_s)).astype(np.float32)
            samples[start - first : end - first] = tone[:, None]
        yield samples
        first = last


def _read_options(flags: Collection[str]) -> ReadOptions:
    """Return what was decided of a file, by what was found of it."""
    tracks: TracksMode = "first" if Flag.OTHER_TRACKS in flags else "auto"
    if Flag.TRACKS_AS_CHANNELS in flags:
        tracks = "speakers"
    return ReadOptions(tracks, accept_truncated=Flag.TRUNCATED in flags)


def _write_flac(blocks: Iterator[Samples], info: AudioInfo, target: Path) -> Peaks:
    """Write blocks to a file; return their peaks.

    Raises:
        OSError: the file cannot be written.
    """
    audio = info.format
    step = max(1, audio.rate_hz // _STEPS_A_SECOND)
    peaks: list[Peaks] = []
    remainder = np.zeros((0, audio.channels), np.float32)
    try:
        with soundfile.SoundFile(
            target, "w", audio.rate_hz, audio.channels, subtype="PCM_16", format="FLAC"
        ) as file:
            for block in blocks:
                samples = np.clip(np.nan_to_num(block), -1.0, 1.0)
                file.write(samples)
                # Blocks are of any length, and a step that were cut would shift all behind it.
                remainder = np.concatenate([remainder, samples])
                whole_frames = len(remainder) // step * step
                peaks.append(_peaks(remainder[:whole_frames], step))
                remainder = remainder[whole_frames:]
    except soundfile.LibsndfileError as error:
        # Readers give their own errors other names; a full disk is a "System error".
        raise OSError(errno.EIO, "its audio cannot be written; the disk may be full") from error
    return thin_peaks(np.concatenate([*peaks, _peaks(remainder, step)], axis=1), POINTS)


def _peaks(samples: Samples, step: int) -> Peaks:
    """Return the peak of each step: ``(channels, steps)`` of ``(frames, channels)``."""
    edges = np.arange(0, len(samples), step)
    if not len(edges):
        return np.zeros((samples.shape[1], 0), np.float32)
    return np.maximum.reduceat(np.abs(samples), edges, axis=0).T.astype(np.float32)


def thin_peaks(peaks: Peaks, points: int) -> Peaks:
    """Return peaks in so many points at most, each the highest of those that it stands for."""
    if peaks.shape[1] <= points:
        return peaks
    edges = np.linspace(0, peaks.shape[1], points, endpoint=False).astype(np.intp)
    return np.maximum.reduceat(peaks, edges, axis=1)
