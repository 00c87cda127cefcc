"""What libsndfile cannot open, through PyAV: facts, and samples at the file's own rate.

The files are untrusted and FFmpeg reads playlists, so it is given an open file instead of a name,
and only demuxers that read nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import av
import av.error
import numpy as np

from schema.pcm import Samples

_DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,asf,amr,amrnb,amrwb,aac,g729,g722,g726,g723_1,gsm,"
    "wav,w64,mp3,ogg,flac,caf,aiff,au,avi,ilbc,mpegts,flv,voc,nistsphere"
)
#: Of these, the stated duration comes from a header; elsewhere it is guessed from a bit rate.
_STATE_DURATION = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "asf"}
#: Time stamps jitter by a packet; a gap longer than this is one: a recorder that writes nothing
#: while nobody speaks. It is filled with silence, or all that follows would be too early.
_GAP_MS = 100
#: Whoever is muted through a long meeting leaves gaps of hours. But stamps that leave more than
#: half an hour for each second heard so far are wrong: without a limit, a file of a few KiB would
#: be ten hours of silence, which take a minute to write and read.
_GAPS_PER_AUDIO = 1_800
#: Codecs for telephones decode 80 samples at a time; what is done to each block costs more than
#: that. Blocks of at least this many frames, a second of a telephone's, make it cheap.
_BLOCK_FRAMES = 8_000


class UndecodableError(Exception):
    """Why FFmpeg cannot read a file, as a clause."""


class UnknownEncodingError(UndecodableError):
    """The container is sound, and no decoder knows what is in it."""


class NoAudioError(UndecodableError):
    """The container is sound, and holds no audio."""


@dataclass(frozen=True, slots=True)
class ForeignFacts:
    """What is in a foreign file; ``duration_ms`` is None where no header states it."""

    container: str
    encoding: str
    rate_hz: int
    channels: int
    duration_ms: int | None
    bits: int
    audio_streams: int


def describe(path: bytes, demuxer: str | None = None) -> ForeignFacts:
    """Return the facts of the first audio stream, as its first decoded frame has them.

    The header's rate is not trusted: HE-AAC states half of what comes out. ``demuxer`` names the
    format of a file without header.

    Raises:
        UndecodableError: FFmpeg cannot read it.
    """
    with _opened(path, demuxer) as (container, stream):
        frame = next(iter(container.decode(stream)), None)
        if frame is None:
            raise UndecodableError("it holds no audio frame")
        name = container.format.name
        stated = container.duration if name in _STATE_DURATION else None
        return ForeignFacts(
            container=name.split(",")[0].upper(),
            encoding=stream.codec_context.name.upper(),
            rate_hz=frame.sample_rate,
            channels=frame.layout.nb_channels,
            duration_ms=None if stated is None else stated // 1000,
            bits=_bits(stream.codec_context.codec, frame.format),
            audio_streams=len(container.streams.audio),
        )


def read(path: bytes, demuxer: str | None = None) -> Iterator[Samples]:
    """Yield the first audio stream's samples: float32, ``(frames, channels)``.

    Raises:
        UndecodableError: decoding fails midway, or the rate or channels change.
    """
    waiting: list[Samples] = []
    frames = 0
    for piece in _pieces(path, demuxer):
        waiting.append(piece)
        frames += len(piece)
        if frames >= _BLOCK_FRAMES:
            yield np.concatenate(waiting)
            waiting, frames = [], 0
    if waiting:
        yield np.concatenate(waiting)


def _pieces(path: bytes, demuxer: str | None) -> Iterator[Samples]:
    """Yield samples as they are decoded, and silence where nothing was recorded."""
    with _opened(path, demuxer) as (container, stream):
        resampler: Any = None
        clock = _Clock()
        for frame in container.decode(stream):
            if resampler is None:
                resampler = av.AudioResampler("flt", frame.layout, frame.sample_rate)
            yield from _silence(clock.silence_before(frame), frame)
            try:
                converted = resampler.resample(frame)
            except ValueError:
                raise UndecodableError("its rate or its channels change midway") from None
            for piece in converted:
                yield piece.to_ndarray().reshape(-1, piece.layout.nb_channels)


def _silence(frames: int, like: Any) -> Iterator[Samples]:
    """Yield silence a second at a time: what a time stamp claims must not fill the memory."""
    while frames > 0:
        piece = min(frames, like.sample_rate)
        yield np.zeros((piece, like.layout.nb_channels), np.float32)
        frames -= piece


class _Clock:
    """Compares frames' time stamps with the samples decoded so far."""

    def __init__(self) -> None:
        self._origin: int | None = None
        self._samples = 0
        self._silence = 0

    def silence_before(self, frame: Any) -> int:
        """Return how many samples of silence belong before ``frame``, and count both.

        Raises:
            UndecodableError: it would be next to nothing but silence.
        """
        silence = 0
        if frame.pts is not None:
            at = round(frame.pts * frame.time_base * frame.sample_rate)
            if self._origin is None:
                self._origin = at
            late = at - self._origin - self._samples
            silence = late if late * 1000 > _GAP_MS * frame.sample_rate else 0
        self._samples += silence + frame.samples
        self._silence += silence
        heard = max(self._samples - self._silence, frame.sample_rate)
        if self._silence > _GAPS_PER_AUDIO * heard:
            gaps_s = self._silence // frame.sample_rate
            raise UndecodableError(f"its time stamps leave {gaps_s} s without audio")
        return silence


def _bits(codec: Any, sample_format: Any) -> int:
    """Return 24 for a lossless source of more than 16 bits, 16 for any other.

    What a lossy codec left out is more than what the 17th bit holds.
    """
    return 24 if codec.lossless and not codec.lossy and sample_format.bits > 16 else 16


@contextmanager
def _opened(path: bytes, demuxer: str | None) -> Iterator[tuple[Any, Any]]:
    """Open a file and its first audio stream; FFmpeg's errors become ours."""
    options = {"format_whitelist": _DEMUXERS, "protocol_whitelist": ""}
    try:
        with (
            open(path, "rb") as file,
            # Tags are nobody's business here, and many are in the code page of their day.
            av.open(
                _Nameless(file), format=demuxer, options=options, metadata_errors="replace"
            ) as container,
        ):
            if not container.streams.audio:
                raise NoAudioError("it holds no audio")
            stream = container.streams.audio[0]
            if stream.codec_context is None:
                raise UnknownEncodingError(
                    f"no decoder knows its encoding ({container.format.name})"
                )
            yield container, stream
    except (av.error.FFmpegError, OSError) as error:
        raise UndecodableError(error.strerror or str(error)) from error


class _Nameless:
    """A file that FFmpeg must tell by its content: it would trust a name's suffix."""

    def __init__(self, file: Any) -> None:
        self.read = file.read
        self.seek = file.seek
        self.tell = file.tell
