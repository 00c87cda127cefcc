"""One pass over the audio that workers will read: digests, loudness, silence, dual mono.

Reads in blocks, so that memory does not grow with the length of a recording, but for the digest
(16 bytes) and the level (4 bytes) of each 100 ms of each signal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload

import numpy as np
import numpy.typing as npt
import soundfile

from producer.intake.containers.account import Break, seconds
from producer.intake.libsndfile import frames_before_damage, opened
from producer.intake.pieces import UndecodableError
from producer.intake.refusals import empty, truncated, truncated_at
from schema.pcm import BlockDigests, Samples, downmix
from schema.records import AudioFormat
from schema.span import GRID_MS, duration_of, frame_at

Envelope = npt.NDArray[np.float32]

#: Whole seconds, so that every block starts where a 100 ms step does, at any rate.
BLOCK_S = 10

#: A channel that never gets louder than this in 100 ms is silent. The idle noise of mu-law and
#: A-law (+-8 of 32768) is at -72 dBFS, a telephone line's at -68 to -62; the faintest caller who
#: can be understood reaches -50. Levels leave out a constant offset, which nobody hears.
SILENCE_DB = -60.0
#: Nothing measured is below; it stands for digital silence.
FLOOR_DB = -120.0

#: Two channels whose correlation is this high in a second are one signal in it: what they do not
#: share is 14 dB below them, which codecs explain and another voice does not.
_SAME_CORRELATION = 0.98
#: And the gain between them stays as it is to within this: where two people take turns, crosstalk
#: makes each second one voice on both channels, but louder now on one and then on the other.
_SAME_GAIN_DB = 3.0
#: A stereo recorder may sample its channels this far apart and still have recorded one signal.
_LONGEST_LAG_S = 0.02


class PackedDigests(Sequence[bytes]):
    """Digests of equal length, end to end: as objects of their own they take four times as much."""

    def __init__(self, packed: bytes, each_bytes: int) -> None:
        self._packed = packed
        self._each = each_bytes

    def __len__(self) -> int:
        return len(self._packed) // self._each

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        at = range(len(self))[index] * self._each
        return self._packed[at : at + self._each]


@dataclass(frozen=True, slots=True, eq=False)
class Signal:
    """One channel, or the mean of all.

    ``digests`` has the digest of each 100 ms block, ``envelope_db`` the level of each, float32
    dBFS; ``silent`` says that nothing in it can be heard.
    """

    digests: Sequence[bytes]
    envelope_db: Envelope
    silent: bool


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """What one pass over a recording found.

    ``signals`` maps each channel to its signal or, of a mix, None to the mean of all.
    ``dual_mono`` says that there are two channels and that they are one signal throughout.
    """

    format: AudioFormat
    signals: Mapping[int | None, Signal]
    dual_mono: bool

    @property
    def duration_ms(self) -> int:
        """Length in milliseconds."""
        return duration_of(self.format.frames, self.format.rate_hz)


def scan(path: bytes, audio: AudioFormat, name: str, *, mix: bool = False) -> Scan:
    """Read a file that libsndfile can seek in once, and return what was found.

    ``mix`` looks at the mean of all channels instead of at each.

    Raises:
        BadRecording: it holds fewer frames than ``audio`` says, or cannot be decoded.
    """
    numbers: list[int | None] = [None] if mix else list(range(audio.channels))
    meters = {number: _Meter(audio.rate_hz) for number in numbers}
    twins = _Twins(audio.rate_hz) if not mix and audio.channels == 2 else None
    for block in _blocks(path, audio, name):
        for number, meter in meters.items():
            meter.add(downmix(block) if number is None else np.ascontiguousarray(block[:, number]))
        if twins:
            twins.add(block)
    signals = {number: meter.finish() for number, meter in meters.items()}
    return Scan(audio, signals, dual_mono=bool(twins and twins.same))


def _blocks(path: bytes, audio: AudioFormat, name: str) -> Iterator[Samples]:
    """Yield blocks of ``BLOCK_S``, and the rest; check that there are as many as planned."""
    frames = 0
    try:
        with open(path, "rb") as handle, opened(handle.fileno(), audio) as file:
            while len(block := file.read(BLOCK_S * audio.rate_hz, "float32", always_2d=True)):
                frames += len(block)
                yield block
    except (soundfile.LibsndfileError, UndecodableError) as error:
        at_ms = frames_before_damage(path, audio) * 1000 // audio.rate_hz
        promised = seconds(audio.frames * 1000 // audio.rate_hz)
        cause = f"decoding fails ({error}), and its header promises {promised}"
        raise truncated_at(name, Break(at_ms, cause)) from error
    if not frames:
        raise empty(name, "it has a header and no samples")
    if frames < audio.frames:
        held, promised = (seconds(n * 1000 // audio.rate_hz) for n in (frames, audio.frames))
        raise truncated(name, f"its header promises {promised} and it holds {held}")


class _Meter:
    """Digests and levels of one signal, fed in blocks of ``BLOCK_S``; only the last is shorter."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._ms = 0
        self._digests = bytearray()
        self._each_bytes = 0
        self._levels: list[Envelope] = []

    def add(self, samples: Samples) -> None:
        blocks = BlockDigests(self._rate_hz, self._ms)
        blocks.update(samples)
        digests = blocks.finish()
        self._each_bytes = len(digests[0])
        self._digests += b"".join(digests)
        self._levels.append(_levels(samples, self._rate_hz))
        self._ms += BLOCK_S * 1000

    def finish(self) -> Signal:
        envelope_db = np.concatenate(self._levels)
        digests = PackedDigests(bytes(self._digests), self._each_bytes)
        return Signal(digests, envelope_db, silent=bool(envelope_db.max() < SILENCE_DB))


def _levels(samples: Samples, rate_hz: int) -> Envelope:
    """Return the level of each 100 ms step, without its mean, in dBFS."""
    edges = _edges(len(samples), lambda step: frame_at(step * GRID_MS, rate_hz))
    power = np.maximum(_covariance(samples, samples, edges), 10 ** (FLOOR_DB / 10))
    return np.asarray(10 * np.log10(power), np.float32)


def _edges(length: int, start_of: Callable[[int], int]) -> list[int]:
    """Return where each step starts, up to ``length``, and ``length``."""
    edges = []
    step = 0
    while (start := start_of(step)) < length:
        edges.append(start)
        step += 1
    return [*edges, length]


def _covariance(x: Samples, y: Samples, edges: list[int]) -> npt.NDArray[np.float64]:
    """Return the covariance of x and y in each step between edges.

    What is no number, which float files can hold, counts as silence.
    """
    starts, counts = np.array(edges[:-1], np.intp), np.diff(edges).astype(np.float64)

    def mean(values: Samples) -> npt.NDArray[np.float64]:
        return np.add.reduceat(values, starts, dtype=np.float64) / counts

    with np.errstate(all="ignore"):
        covariance = mean(x * y) - mean(x) * mean(y)
    return np.nan_to_num(covariance, nan=0.0, posinf=0.0, neginf=0.0)


class _Twins:
    """Whether two channels are one signal, fed in blocks that start on whole seconds.

    They are where, in each second, one explains the other: they correlate, at one gain and
    polarity throughout, or what either holds beside the other is silence.
    """

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._lag: int | None = None
        #: Gains of the second channel against the first that were met, in dB, and polarities.
        self._gains_db = (math.inf, -math.inf)
        self._polarities: set[float] = set()
        self.same = True

    def add(self, block: Samples) -> None:
        """Compare another ``(frames, 2)``; once they differ, nothing more is computed."""
        if not self.same:
            return
        left, right = np.ascontiguousarray(block[:, 0]), np.ascontiguousarray(block[:, 1])
        if self._lag is None:
            self._lag = self._find_lag(left, right)
        seconds = self._compare(*_aligned(left, right, self._lag or 0))
        self.same = not seconds.differs.any() and self._one_gain(seconds)

    def _find_lag(self, left: Samples, right: Samples) -> int | None:
        """Return by how many frames ``left`` is late, or None in a block without a sound."""
        seconds = self._compare(left, right)
        if not seconds.differs.any():
            return 0 if seconds.alike.any() else None
        first = int(np.argmax(seconds.differs)) * self._rate_hz
        until = first + self._rate_hz
        longest = int(_LONGEST_LAG_S * self._rate_hz)
        return _best_lag(left[first:until], right[first:until], longest)

    def _one_gain(self, seconds: _Seconds) -> bool:
        gains_db = seconds.gain_db[seconds.alike]
        low, high = self._gains_db
        self._gains_db = min([low, *gains_db]), max([high, *gains_db])
        self._polarities.update(seconds.polarity[seconds.alike])
        return self._gains_db[1] - self._gains_db[0] <= _SAME_GAIN_DB and len(self._polarities) < 2

    def _compare(self, left: Samples, right: Samples) -> _Seconds:
        rest = len(left) % self._rate_hz
        if rest * 1000 < GRID_MS * self._rate_hz:
            # No word fits in so short a rest, and ADPCM pads its last block with noise.
            left, right = left[: len(left) - rest], right[: len(right) - rest]
        edges = _edges(len(left), lambda step: step * self._rate_hz)
        tiny, silence = 10 ** (FLOOR_DB / 10), 10 ** (SILENCE_DB / 10)
        own_left = np.maximum(_covariance(left, left, edges), tiny)
        own_right = np.maximum(_covariance(right, right, edges), tiny)
        shared = _covariance(left, right, edges)
        explained = shared**2 / (own_left * own_right)
        louder = np.maximum(own_left, own_right)
        alike = explained >= _SAME_CORRELATION**2
        return _Seconds(
            differs=~alike & (louder * (1 - explained) > silence),
            alike=alike & (louder > silence),
            gain_db=10 * np.log10(own_right / own_left),
            polarity=np.sign(shared),
        )


class _Seconds(NamedTuple):
    """How two channels compare in each second; gain and polarity count where they are alike."""

    differs: npt.NDArray[np.bool_]
    alike: npt.NDArray[np.bool_]
    gain_db: npt.NDArray[np.float64]
    polarity: npt.NDArray[np.float64]


def _aligned(left: Samples, right: Samples, lag: int) -> tuple[Samples, Samples]:
    if lag >= 0:
        return left[lag:], right[: len(right) - lag]
    return left[:lag], right[-lag:]


def _best_lag(left: Samples, right: Samples, longest: int) -> int:
    """Return by how many frames ``left`` is late against ``right``, at most ``longest``."""
    size = 1 << (len(left) + longest).bit_length()
    spectrum = np.fft.rfft(left, size) * np.conj(np.fft.rfft(right, size))
    correlation = np.abs(np.fft.irfft(spectrum, size))
    lags = np.arange(-longest, longest + 1)
    return int(lags[np.argmax(correlation[lags])])
