"""A sound file of each format that recordings come in, made here, the same to the byte each time.

They are what the fuzz damages. Two people who take turns, on as many channels as the file has.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import av
import av.codec.context
import numpy as np
import soundfile

from ops.chaos.ogg import with_checksums
from schema.pcm import Samples

#: Two segments of the shortest plan allowed, so that the second is read after a seek.
SECONDS = 13


@dataclass(frozen=True, slots=True)
class Seed:
    """A sound file: what it is called, how it ends, what is in it and what its header counts."""

    label: str
    suffix: str
    data: bytes
    rate_hz: int
    channels: int

    @property
    def numbers(self) -> tuple[int, ...]:
        """What a header may say of it, in whatever unit."""
        frames = self.rate_hz * SECONDS
        sizes = (len(self.data), max(len(self.data) - 8, 0), frames * self.channels * 2)
        return (self.rate_hz, self.channels, frames, frames * self.channels, *sizes)


@dataclass(frozen=True, slots=True)
class _Make:
    """What a seed is made with: a container and an encoding, in the library's own names."""

    suffix: str
    container: str
    encoding: str
    rate_hz: int
    channels: int


_NATIVE: Sequence[_Make] = (
    _Make(".wav", "WAV", "PCM_16", 8_000, 1),
    _Make(".wav", "WAV", "PCM_16", 44_100, 2),
    _Make(".wav", "WAV", "PCM_U8", 11_025, 1),
    _Make(".wav", "WAV", "PCM_24", 16_000, 1),
    _Make(".wav", "WAV", "FLOAT", 16_000, 2),
    _Make(".wav", "WAV", "ULAW", 8_000, 2),
    _Make(".wav", "WAV", "ALAW", 8_000, 1),
    _Make(".wav", "WAV", "IMA_ADPCM", 11_025, 1),
    _Make(".wav", "WAV", "MS_ADPCM", 8_000, 2),
    _Make(".wav", "WAV", "GSM610", 8_000, 1),
    _Make(".wav", "WAV", "G721_32", 8_000, 1),
    _Make(".w64", "W64", "PCM_16", 8_000, 2),
    _Make(".rf64", "RF64", "PCM_16", 16_000, 1),
    _Make(".aiff", "AIFF", "PCM_16", 44_100, 1),
    _Make(".aifc", "AIFF", "ULAW", 8_000, 2),
    _Make(".au", "AU", "ULAW", 8_000, 2),
    _Make(".caf", "CAF", "PCM_16", 16_000, 1),
    _Make(".caf", "CAF", "ALAC_16", 11_025, 2),
    _Make(".voc", "VOC", "ULAW", 8_000, 1),
    _Make(".nist", "NIST", "PCM_16", 16_000, 1),
    _Make(".flac", "FLAC", "PCM_16", 8_000, 2),
    _Make(".flac", "FLAC", "PCM_24", 44_100, 1),
    _Make(".ogg", "OGG", "VORBIS", 16_000, 2),
    _Make(".mp3", "MP3", "MPEG_LAYER_III", 16_000, 2),
    _Make(".mp3", "MP3", "MPEG_LAYER_III", 44_100, 1),
    _Make(".ulaw", "RAW", "ULAW", 8_000, 1),
    _Make(".alaw", "RAW", "ALAW", 8_000, 1),
    _Make(".sln16", "RAW", "PCM_16", 16_000, 1),
    _Make(".vox", "RAW", "VOX_ADPCM", 8_000, 1),
    _Make(".gsm", "RAW", "GSM610", 8_000, 1),
)
_FOREIGN: Sequence[_Make] = (
    _Make(".opus", "ogg", "libopus", 16_000, 1),
    _Make(".m4a", "ipod", "aac", 16_000, 1),
    _Make(".mp4", "mp4", "aac", 44_100, 2),
    _Make(".m4a", "ipod", "alac", 11_025, 2),
    _Make(".3gp", "3gp", "libopencore_amrnb", 8_000, 1),
    _Make(".amr", "amr", "libopencore_amrnb", 8_000, 1),
    _Make(".aac", "adts", "aac", 16_000, 1),
    _Make(".webm", "webm", "libopus", 48_000, 1),
    _Make(".mka", "matroska", "aac", 16_000, 2),
    _Make(".wma", "asf", "wmav2", 16_000, 2),
    _Make(".avi", "avi", "pcm_s16le", 8_000, 2),
    _Make(".g722", "g722", "g722", 16_000, 1),
)


def seeds() -> list[Seed]:
    """Return one of each, but for what this build of FFmpeg has no encoder of."""
    return [*_native(), *_foreign()]


def _native() -> Iterator[Seed]:
    for make in _NATIVE:
        file = io.BytesIO()
        soundfile.write(
            file,
            _turns(make.rate_hz, make.channels),
            make.rate_hz,
            format=make.container,
            subtype=make.encoding,
        )
        yield _seed(make, _timeless(file.getvalue()))


def _foreign() -> Iterator[Seed]:
    for make in _FOREIGN:
        if make.encoding in av.codecs_available:
            yield _seed(make, _encoded(make))


def _seed(make: _Make, data: bytes) -> Seed:
    name = f"{make.suffix[1:]} {make.encoding.lower()}"
    return Seed(name, make.suffix, data, make.rate_hz, make.channels)


def _timeless(data: bytes) -> bytes:
    """Return a file of libsndfile's without what it put in of the clock."""
    peak = data.find(b"PEAK")
    if peak >= 0:
        # Id, size, version; then the time of day.
        data = data[: peak + 12] + bytes(4) + data[peak + 16 :]
    return with_checksums(data, serial=1) if data.startswith(b"OggS") else data


def _encoded(make: _Make) -> bytes:
    file = io.BytesIO()
    layout = "mono" if make.channels == 1 else "stereo"
    planes = np.ascontiguousarray(_turns(make.rate_hz, make.channels).T)
    frame = av.AudioFrame.from_ndarray(planes, "fltp", layout)
    frame.sample_rate, frame.pts = make.rate_hz, 0
    with av.open(file, "w", format=make.container, options={"fflags": "+bitexact"}) as container:
        track: Any = container.add_stream(make.encoding, rate=make.rate_hz)
        codec = track.codec_context
        codec.layout = layout
        codec.flags |= av.codec.context.Flags.bitexact
        if make.encoding != "libopencore_amrnb":
            codec.bit_rate = 32_000
        codec.open()
        resampler = av.AudioResampler(
            codec.format, layout, make.rate_hz, frame_size=codec.frame_size or None
        )
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(track.encode(piece))
        container.mux(track.encode(None))
    return file.getvalue()


def _turns(rate_hz: int, channels: int) -> Samples:
    """Return voices that take turns of two seconds, one a channel, over the hiss of a line."""
    clock_s = np.arange(SECONDS * rate_hz) / rate_hz
    voices = []
    for channel in range(channels):
        pitch_hz = 110 + 70 * channel + 10 * np.sin(2 * np.pi * 0.7 * clock_s)
        phase = 2 * np.pi * np.cumsum(pitch_hz) / rate_hz
        harmonics = sum(np.sin(n * phase) / n for n in range(1, 12))
        syllables = np.clip(np.sin(2 * np.pi * 3 * clock_s), 0, None)
        turn = (clock_s // 2 % 2 == channel) | (channels == 1)
        voices.append(0.1 * harmonics * syllables * turn)
    hiss = np.random.default_rng(0).normal(0, 5e-4, (len(clock_s), channels))
    return np.asarray(np.stack(voices, axis=1) + hiss, np.float32)
