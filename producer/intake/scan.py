"""One pass over the audio that workers will read: digests, loudness, silence, dual mono.

Reads in blocks, so that memory does not grow with the length of a recording, but for the digest
(16 bytes) and the level (4 bytes) of each 100 ms of each signal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile

from producer.intake.audio_errors import break_error, empty_error, truncated_error
from producer.intake.containers.account import Break, format_seconds, shortfall
from producer.intake.libsndfile import frames_before_damage, open_sound
from producer.intake.pieces import UndecodableError
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


@dataclass(frozen=True, slots=True, eq=False)
class Signal:
    """One channel, or the mean of all.

    ``digests`` has a row of bytes for each 100 ms block, ``envelope_db`` the level of each, float32
    dBFS; ``is_silent`` says that nothing in it can be heard.
    """

    digests: npt.NDArray[np.uint8]
    envelope_db: Envelope
    is_silent: bool


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
    meters = {number: _SignalMeter(audio.rate_hz) for number in numbers}
    detector = _DualMonoDetector(audio.rate_hz) if not mix and audio.channels == 2 else None
    for block in _blocks(path, audio, name):
        for number, meter in meters.items():
            meter.add(downmix(block) if number is None else np.ascontiguousarray(block[:, number]))
        if detector:
            detector.add(block)
    signals = {number: meter.finish() for number, meter in meters.items()}
    return Scan(audio, signals, dual_mono=bool(detector and detector.is_dual_mono))


def _blocks(path: bytes, audio: AudioFormat, name: str) -> Iterator[Samples]:
    """Yield blocks of ``BLOCK_S``, and the rest; check that there are as many as planned."""
    frames = 0
    try:
        with open(path, "rb") as handle, open_sound(handle.fileno(), audio) as file:
            while len(block := file.read(BLOCK_S * audio.rate_hz, "float32", always_2d=True)):
                frames += len(block)
                yield block
    except (soundfile.LibsndfileError, UndecodableError) as error:
        at_ms = frames_before_damage(path, audio) * 1000 // audio.rate_hz
        stated_text = format_seconds(audio.frames * 1000 // audio.rate_hz)
        cause = f"decoding fails ({error}), and its header promises {stated_text}"
        raise break_error(name, Break(at_ms, cause)) from error
    if not frames:
        raise empty_error(name, "it has a header and no samples")
    if frames < audio.frames:
        stated_ms, held_ms = (n * 1000 // audio.rate_hz for n in (audio.frames, frames))
        raise truncated_error(name, shortfall(stated_ms, held_ms))


class _SignalMeter:
    """Digests and levels of one signal, fed in blocks of ``BLOCK_S``; only the last is shorter."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._ms = 0
        self._digests = bytearray()
        self._levels: list[Envelope] = []

    def add(self, samples: Samples) -> None:
        blocks = BlockDigests(self._rate_hz, self._ms)
        blocks.update(samples)
        self._digests += b"".join(blocks.finish())
        self._levels.append(_levels(samples, self._rate_hz))
        self._ms += BLOCK_S * 1000

    def finish(self) -> Signal:
        envelope_db = np.concatenate(self._levels)
        digests = np.frombuffer(self._digests, np.uint8).reshape(len(envelope_db), -1)
        return Signal(digests, envelope_db, is_silent=bool(envelope_db.max() < SILENCE_DB))


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


class _DualMonoDetector:
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
        self.is_dual_mono = True

    def add(self, block: Samples) -> None:
        """Compare another ``(frames, 2)``; once they differ, nothing more is computed."""
        if not self.is_dual_mono:
            return
        left, right = np.ascontiguousarray(block[:, 0]), np.ascontiguousarray(block[:, 1])
        if self._lag is None:
            self._lag = self._find_lag(left, right)
        seconds = self._compare(*_align(left, right, self._lag or 0))
        self.is_dual_mono = not seconds.differs.any() and self._one_gain(seconds)

    def _find_lag(self, left: Samples, right: Samples) -> int | None:
        """Return by how many frames ``left`` is late, or None in a block without a sound."""
        seconds = self._compare(left, right)
        if not seconds.differs.any():
            return 0 if seconds.is_alike.any() else None
        start = int(np.argmax(seconds.differs)) * self._rate_hz
        until = start + self._rate_hz
        longest = int(_LONGEST_LAG_S * self._rate_hz)
        return _best_lag(left[start:until], right[start:until], longest)

    def _one_gain(self, seconds: _Seconds) -> bool:
        gains_db = seconds.gain_db[seconds.is_alike]
        low, high = self._gains_db
        self._gains_db = min([low, *gains_db]), max([high, *gains_db])
        self._polarities.update(seconds.polarity[seconds.is_alike])
        return self._gains_db[1] - self._gains_db[0] <= _SAME_GAIN_DB and len(self._polarities) < 2

    def _compare(self, left: Samples, right: Samples) -> _Seconds:
        remainder = len(left) % self._rate_hz
        if remainder * 1000 < GRID_MS * self._rate_hz:
            # No word fits in so short a rest, and ADPCM pads its last block with noise.
            left, right = left[: len(left) - remainder], right[: len(right) - remainder]
        edges = _edges(len(left), lambda step: step * self._rate_hz)
        tiny, silence = 10 ** (FLOOR_DB / 10), 10 ** (SILENCE_DB / 10)
        left_power = np.maximum(_covariance(left, left, edges), tiny)
        right_power = np.maximum(_covariance(right, right, edges), tiny)
        covariance = _covariance(left, right, edges)
        explained_share = covariance**2 / (left_power * right_power)
        louder_power = np.maximum(left_power, right_power)
        is_alike = explained_share >= _SAME_CORRELATION**2
        return _Seconds(
            differs=~is_alike & (louder_power * (1 - explained_share) > silence),
            is_alike=is_alike & (louder_power > silence),
            gain_db=10 * np.log10(right_power / left_power),
            polarity=np.sign(covariance),
        )


class _Seconds(NamedTuple):
    """How two channels compare in each second; gain and polarity count where they are alike."""

    differs: npt.NDArray[np.bool_]
    is_alike: npt.NDArray[np.bool_]
    gain_db: npt.NDArray[np.float64]
    polarity: npt.NDArray[np.float64]


def _align(left: Samples, right: Samples, lag: int) -> tuple[Samples, Samples]:
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
