"""From a planned segment to its samples, read from the file and nothing but this segment.

This is the only place of a worker where frames exist: everything after it counts milliseconds on
samples of one rate, :data:`schema.pcm.SAMPLE_RATE_HZ`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import soundfile
import soxr

from schema import pcm
from schema.errors import BadRecording, ErrorCode
from schema.pcm import SAMPLE_RATE_HZ, SAMPLES_PER_MS, Samples
from schema.records import AudioFormat, SegmentSource
from schema.settings import Settings
from schema.span import GRID_MS, frame_at
from schema.storage.roots import storage_of

#: Read on both sides of a span before resampling and cut off after, so that the filter, a few
#: milliseconds long, sees at a segment's edge what it sees in the neighbour's middle.
_CONTEXT_MS = 50

#: Frames held with all their channels at once; only the wanted channel is kept.
_BLOCK_FRAMES = 1 << 18


def read_segment(source: SegmentSource, settings: Settings) -> Samples:
    """Return a segment's samples: float32, mono, 16 kHz, within -1..1, 16 for each millisecond.

    The last segment of a recording may lack part of its last millisecond.

    Raises:
        BadRecording: the file lies outside its root, vanished, cannot be read, or is not what was
            planned.
        Misconfigured: this host has no such root.
        Transient: the storage does not answer.
    """
    with storage_of(settings, source.location.root).open(source.location) as file:
        try:
            samples, first_frame = _read_span(source, file.handle)
        except soundfile.SoundFileError as error:
            file.raise_read_error()
            raise BadRecording(
                ErrorCode.FILE_UNREADABLE, source.location.name, str(error)
            ) from error
        if samples is None:
            file.raise_read_error()
            raise BadRecording(
                ErrorCode.AUDIO_CHANGED,
                source.location.name,
                "its samples are not those that were planned",
                "Submit it again.",
            )
    return _resample_span(samples, first_frame, source)


def _read_span(source: SegmentSource, handle: Any) -> tuple[Samples | None, int]:
    """Return the span's samples with context, and the frame of the first; None if others."""
    audio_format, span = source.format, source.span
    start, end = _frame_range(audio_format, span.start_ms, span.end_ms)
    # From a frame that falls on a sample of the 16 kHz grid, whatever the file's rate: two
    # segments resampled on grids a fraction of a sample apart would not agree on their overlap.
    period = audio_format.rate_hz // math.gcd(audio_format.rate_hz, SAMPLE_RATE_HZ)
    start_ms, end_ms = span.start_ms - _CONTEXT_MS, span.end_ms + _CONTEXT_MS
    read_start, read_end = _frame_range(audio_format, start_ms, end_ms)
    read_start -= read_start % period

    with _open_sound_file(audio_format, handle) as file:
        if not _has_format(file, audio_format) or file.frames < read_end:
            return None, read_start
        file.seek(read_start)
        blocks = list(_channel_blocks(file, source.channel, read_end - read_start))
        samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
        span_samples = samples[start - read_start : end - read_start]
        expected_digest = _excerpt_digest(file, source) if source.slices else source.pcm_digest
    if pcm.samples_digest(span_samples, audio_format.rate_hz, span.start_ms) != expected_digest:
        return None, read_start
    return samples, read_start


def _excerpt_digest(file: soundfile.SoundFile, source: SegmentSource) -> str | None:
    """Return what a repair's samples hash to, given the planned parts; None if those are others.

    The parts are read whole, since their digests are all that was kept; no more than a block of
    their samples is held.
    """
    rate_hz, blocks = source.format.rate_hz, dict[int, bytes]()
    for part in source.slices:
        start, end = _frame_range(source.format, part.span.start_ms, part.span.end_ms)
        file.seek(start)
        part_hash = pcm.BlockDigests(rate_hz, part.span.start_ms)
        for samples in _channel_blocks(file, source.channel, end - start):
            part_hash.update(samples)
        part_digests = part_hash.finish()
        if pcm.join_digests(part_digests) != part.pcm_digest:
            return None
        blocks.update(enumerate(part_digests, start=part.span.start_ms // GRID_MS))
    if pcm.excerpt_digest(source.slices, source.span) != source.pcm_digest:
        return None
    block_numbers = range(source.span.start_ms // GRID_MS, -(-source.span.end_ms // GRID_MS))
    return pcm.join_digests([blocks[number] for number in block_numbers])


def _frame_range(audio_format: AudioFormat, start_ms: int, end_ms: int) -> tuple[int, int]:
    start = frame_at(max(start_ms, 0), audio_format.rate_hz)
    return start, min(frame_at(end_ms, audio_format.rate_hz), audio_format.frames)


def _open_sound_file(audio_format: AudioFormat, handle: Any) -> soundfile.SoundFile:
    if audio_format.container != "RAW":
        return soundfile.SoundFile(handle, closefd=False)
    return soundfile.SoundFile(
        handle,
        samplerate=audio_format.rate_hz,
        channels=audio_format.channels,
        format=audio_format.container,
        subtype=audio_format.encoding,
        closefd=False,
    )


def _has_format(file: soundfile.SoundFile, audio_format: AudioFormat) -> bool:
    """Tell whether a file has the planned format: a seek in damaged Vorbis crashes libsndfile."""
    is_same_coding = (file.format, file.subtype) == (audio_format.container, audio_format.encoding)
    rate_hz, channels = audio_format.rate_hz, audio_format.channels
    return is_same_coding and (file.samplerate, file.channels) == (rate_hz, channels)


def _channel_blocks(
    file: soundfile.SoundFile, channel: int | None, frames: int
) -> Iterator[Samples]:
    for block in file.blocks(_BLOCK_FRAMES, frames=frames, dtype="float32", always_2d=True):
        yield pcm.downmix(block) if channel is None else block[:, channel].copy()


def _resample_span(samples: Samples, first_frame: int, source: SegmentSource) -> Samples:
    """Return the span's part of ``samples``, which start at ``first_frame``, at 16 kHz."""
    rate_hz, span = source.format.rate_hz, source.span
    # A float file may hold what is no sound, and one NaN would silence the whole segment, as
    # would a number so large that the filter's sums overflow. In place: a new array of a segment's
    # size takes longer to be had from the system than to be filled.
    np.nan_to_num(samples, copy=False, nan=0.0)
    _limit_range(samples)
    if rate_hz != SAMPLE_RATE_HZ:
        samples = soxr.resample(samples, rate_hz, SAMPLE_RATE_HZ, "HQ")
    start = span.start_ms * SAMPLES_PER_MS - first_frame * SAMPLE_RATE_HZ // rate_hz
    span_samples = samples[start : start + span.duration_ms * SAMPLES_PER_MS]
    _limit_range(span_samples)
    return span_samples


def _limit_range(samples: Samples) -> None:
    np.minimum(samples, 1.0, out=samples)
    np.maximum(samples, -1.0, out=samples)
