"""What readers of untrusted audio yield: pieces at any rate, made to fit each other.

A file may change its rate or its channels midway, hold a track for each speaker, or begin a track
late. What is decoded of it is one signal all the same, at one rate, with one number of channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import av
import numpy as np
import numpy.typing as npt

from schema.pcm import Samples, downmix

#: Decoders of telephony yield 80 samples at a time; what is done to each block costs more than
#: that. Blocks of at least this many frames, a second of a telephone's, make it cheap.
_BLOCK_FRAMES = 8_000
#: Layouts that FFmpeg resamples without mixing them.
_LAYOUTS = ("", "mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1")

#: Whoever is muted through a long meeting leaves gaps of hours. But stamps that leave more than
#: half an hour for each second heard so far are wrong: without a limit, a file of a few KiB would
#: be ten hours of silence, which take a minute to write and read.
_GAPS_PER_AUDIO = 1_800


class Piece(NamedTuple):
    """Decoded samples: float32, ``(frames, channels)``."""

    samples: Samples
    rate_hz: int


class LostAudio(NamedTuple):
    """A note of a stretch that cannot be decoded, and why, as a clause; silence stands for it."""

    ms: float
    cause: str


#: All of a file, in order.
Pieces = Iterator[Piece | LostAudio]


class CopyFormat(NamedTuple):
    """What a copy needs: the most of any part of its source; 24 bits where that has over 16."""

    rate_hz: int
    channels: int
    bits: int


class AudioReader(Protocol):
    """How the samples of a file are decoded."""

    @property
    def copy_format(self) -> CopyFormat:
        """What a copy of its samples needs."""

    def pieces(self, path: bytes) -> Pieces:
        """Yield all of a file.

        Raises:
            UndecodableError: it cannot be read on.
        """


class UndecodableError(Exception):
    """Why a file cannot be read, or not further, as a clause."""


def samples_of(frame: Any) -> Samples:
    """Return a decoded frame's samples as float32, ``(frames, channels)``."""
    data: npt.NDArray[Any] = frame.to_ndarray()
    data = data.T if frame.format.is_planar else data.reshape(-1, frame.layout.nb_channels)
    if data.dtype.kind == "f":
        return np.ascontiguousarray(data, np.float32)
    if data.dtype == np.uint8:
        return np.asarray((data.astype(np.float32) - 128) / 128, np.float32)
    return np.asarray(data / (1 << (8 * data.dtype.itemsize - 1)), np.float32)


def silent_pieces(frames: int, channels: int, rate_hz: int) -> Iterator[Piece]:
    """Yield silence a second at a time: what a time stamp claims must not fill the memory."""
    while frames > 0:
        length = min(frames, rate_hz)
        yield Piece(np.zeros((length, channels), np.float32), rate_hz)
        frames -= length


def check_gaps(silent_s: float, total_s: float) -> None:
    """Refuse a file whose time stamps leave next to nothing but silence.

    Raises:
        UndecodableError: they do.
    """
    if silent_s > _GAPS_PER_AUDIO * max(total_s - silent_s, 1.0):
        raise UndecodableError(f"its time stamps leave {int(silent_s)} s without audio")


def conform(pieces: Pieces, rate_hz: int, channels: int) -> Pieces:
    """Yield pieces at one rate and of so many channels, in blocks worth handling.

    What has fewer channels is on the first of them: a word is never said twice.
    """
    buffered: list[Samples] = []
    frames = 0
    for piece in _resample(pieces, rate_hz):
        if isinstance(piece, LostAudio):
            if buffered:
                yield Piece(np.concatenate(buffered), rate_hz)
            buffered, frames = [], 0
            yield piece
            continue
        buffered.append(_set_channels(piece.samples, channels))
        frames += len(piece.samples)
        if frames >= _BLOCK_FRAMES:
            yield Piece(np.concatenate(buffered), rate_hz)
            buffered, frames = [], 0
    if buffered:
        yield Piece(np.concatenate(buffered), rate_hz)


def _set_channels(samples: Samples, channels: int) -> Samples:
    missing_channels = channels - samples.shape[1]
    if missing_channels >= 0:
        return np.pad(samples, ((0, 0), (0, missing_channels))) if missing_channels else samples
    # More than anybody announced: what is beyond is heard on the last.
    return np.column_stack([samples[:, : channels - 1], downmix(samples[:, channels - 1 :])])


def _resample(pieces: Pieces, rate_hz: int) -> Pieces:
    """Yield pieces at one rate; each stretch of another is resampled as a whole."""
    resampler: _Resampler | None = None
    for piece in pieces:
        needs_new_resampler = isinstance(piece, Piece) and not (
            resampler and resampler.accepts(piece)
        )
        if resampler and (needs_new_resampler or isinstance(piece, LostAudio)):
            yield from resampler.finish()
            resampler = None
        if isinstance(piece, LostAudio) or piece.rate_hz == rate_hz:
            yield piece
            continue
        resampler = resampler or _Resampler(piece, rate_hz)
        yield from resampler.feed(piece.samples)
    if resampler:
        yield from resampler.finish()


class _Resampler:
    """FFmpeg's, for a stretch of one rate and so many channels."""

    def __init__(self, first_piece: Piece, rate_hz: int) -> None:
        self._from = (first_piece.rate_hz, first_piece.samples.shape[1])
        self._rate_hz = rate_hz
        self._layout = _LAYOUTS[first_piece.samples.shape[1]]
        self._resampler = av.AudioResampler("flt", self._layout, rate_hz)

    def accepts(self, piece: Piece) -> bool:
        """Tell whether a piece goes on as those before it."""
        return (piece.rate_hz, piece.samples.shape[1]) == self._from

    def feed(self, samples: Samples) -> Iterator[Piece]:
        if len(samples):
            packed = np.ascontiguousarray(samples).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(packed, "flt", self._layout)
            frame.sample_rate = self._from[0]
            yield from self._convert(frame)

    def finish(self) -> Iterator[Piece]:
        yield from self._convert(None)

    def _convert(self, frame: Any) -> Iterator[Piece]:
        for resampled_frame in self._resampler.resample(frame):
            yield Piece(samples_of(resampled_frame), self._rate_hz)


def side_by_side(tracks: Sequence[Pieces], rate_hz: int) -> Pieces:
    """Yield tracks as channels, each the mean of its own; who ends early is silent from then on."""
    feeds = [_Feed(conform(_mix_to_mono(track), rate_hz, 1)) for track in tracks]
    # Each is filled that has more: any() would stop at the first.
    while max([feed.fill() for feed in feeds]):
        for feed in feeds:
            yield from feed.lost_audio
            feed.lost_audio = []
        length = min(len(feed.samples) for feed in feeds if len(feed.samples))
        block = np.zeros((length, len(feeds)), np.float32)
        for number, feed in enumerate(feeds):
            samples = feed.take(length)
            block[: len(samples), number] = samples
        yield Piece(block, rate_hz)


def _mix_to_mono(pieces: Pieces) -> Pieces:
    for piece in pieces:
        if isinstance(piece, Piece) and piece.samples.shape[1] > 1:
            yield Piece(downmix(piece.samples)[:, None], piece.rate_hz)
        else:
            yield piece


class _Feed:
    """One track on its way to be a channel."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self.lost_audio: list[LostAudio] = []
        self.samples: Samples = np.zeros(0, np.float32)

    def fill(self) -> bool:
        """Have samples at hand, unless there are no more."""
        while not len(self.samples):
            piece = next(self._pieces, None)
            if piece is None:
                return False
            if isinstance(piece, LostAudio):
                self.lost_audio.append(piece)
            else:
                self.samples = piece.samples[:, 0]
        return True

    def take(self, length: int) -> Samples:
        """Return the next samples, up to so many."""
        samples, self.samples = self.samples[:length], self.samples[length:]
        return samples
