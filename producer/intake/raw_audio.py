"""Files without a header: what suffixes and ``--raw`` say of them, and whether that can be.

Asterisk writes both sides of a call into one such file, sample by sample in turn, where it is told
to; its suffix alone would mean one channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soundfile

from schema.errors import BadRequest, ErrorCode


@dataclass(frozen=True, slots=True)
class RawFormat:
    """How to read a file without header.

    ``encoding`` is a sub format of libsndfile ("ULAW"), or a raw format of FFmpeg in lower
    case ("g729"). ``is_assumed`` says that a suffix is all that tells it.
    """

    encoding: str
    rate_hz: int
    channels: int = 1
    big_endian: bool = False
    is_assumed: bool = False


#: By what ``--raw`` calls an encoding, libsndfile's or FFmpeg's name, and whether it is big-endian.
RAW_ENCODINGS: Mapping[str, tuple[str, bool]] = {
    "mulaw": ("ULAW", False),
    "ulaw": ("ULAW", False),
    "alaw": ("ALAW", False),
    "u8": ("PCM_U8", False),
    "s8": ("PCM_S8", False),
    "s16le": ("PCM_16", False),
    "s16be": ("PCM_16", True),
    "s24le": ("PCM_24", False),
    "s32le": ("PCM_32", False),
    "f32le": ("FLOAT", False),
    "vox": ("VOX_ADPCM", False),
    "gsm": ("GSM610", False),
    "g722": ("g722", False),
    "g729": ("g729", False),
}

#: Suffixes that mean one thing only, or nearly: some hold two channels, and some ``.vox`` 6000 Hz.
_ASSUMED: Mapping[str, tuple[str, int]] = {
    **dict.fromkeys((".ulaw", ".ul", ".mulaw", ".mu", ".pcmu"), ("ULAW", 8000)),
    **dict.fromkeys((".alaw", ".al", ".pcma"), ("ALAW", 8000)),
    **dict.fromkeys((".sln", ".slin", ".sln8", ".slin8"), ("PCM_16", 8000)),
    ".sln12": ("PCM_16", 12000),
    **dict.fromkeys((".sln16", ".slin16"), ("PCM_16", 16000)),
    ".sln24": ("PCM_16", 24000),
    ".sln32": ("PCM_16", 32000),
    ".sln44": ("PCM_16", 44100),
    ".sln48": ("PCM_16", 48000),
    ".vox": ("VOX_ADPCM", 8000),
    ".gsm": ("GSM610", 8000),
    ".g722": ("g722", 16000),
    ".g729": ("g729", 8000),
}
RAW_DEFAULTS: Mapping[str, RawFormat] = {
    suffix: RawFormat(encoding, rate_hz, is_assumed=True)
    for suffix, (encoding, rate_hz) in _ASSUMED.items()
}
#: Suffixes of files without header that could hold anything.
RAW_AMBIGUOUS = frozenset({".pcm", ".raw", ".lin", ".sw", ".dvox"})


#: The highest rate and the most channels that anything records; longer digits are neither.
_NUMBERS_MAX = (384_000, 64)
_DIGITS_MAX = 9


def parse_raw_option(text: str) -> tuple[str, RawFormat]:
    """Return the suffix and format of ``.ulaw=mulaw:8000`` or ``.pcm=s16le:8000:2``.

    Raises:
        BadRequest: it cannot be understood.
    """
    suffix, _, description = text.partition("=")
    encoding, *numbers = description.split(":")
    is_known = encoding in RAW_ENCODINGS and len(numbers) in {1, 2}
    is_suffix = suffix.startswith(".") and len(suffix) > 1 and not set(suffix[1:]) & {".", "/"}
    is_plausible = all(
        number.isascii() and number.isdecimal() and 0 < int(number) <= max_value
        for number, max_value in zip((n[:_DIGITS_MAX] for n in numbers), _NUMBERS_MAX, strict=False)
    )
    if not (is_suffix and is_known and is_plausible):
        cause = "it is not .suffix=encoding:rate or .suffix=encoding:rate:channels"
        remedy = f"Write e.g. .ulaw=mulaw:8000; encodings are {', '.join(RAW_ENCODINGS)}."
        raise BadRequest(ErrorCode.OPTION_INVALID, f"--raw {text}", cause, remedy)
    subtype, big_endian = RAW_ENCODINGS[encoding]
    rate_hz, channels = (*map(int, numbers), 1)[:2]
    return suffix.lower(), RawFormat(subtype, rate_hz, channels, big_endian)


#: Of a raw file, so many samples are looked at in each of so many places.
_EXCERPT_FRAMES = 1 << 14
_EXCERPTS = 16


def read_excerpts(file: soundfile.SoundFile) -> list[npt.NDArray[np.float64]]:
    """Return samples from all over a file that can be sought in, each from an even place on."""
    if not file.seekable() or file.frames < 2 * _TURN_FRAMES:
        return []
    places = np.linspace(0, max(file.frames - _EXCERPT_FRAMES, 0), _EXCERPTS).astype(int)
    parts = []
    for place in sorted({int(place) // 2 * 2 for place in places}):
        file.seek(place)
        parts.append(file.read(_EXCERPT_FRAMES, dtype="float64"))
    return parts


#: Samples that tell: an eighth of a second of a telephone's.
_TURN_FRAMES = 1_000
#: Two signals in turn: a sample is far more like the one after the next than like the next.
_TURN_LIKENESS = 0.3
#: Or louder in each second place than in each first, all along; noise differs by 0.2 dB.
_TURN_LEVEL_DB = 3.0
#: Or as good as equal to the next in each first place, and not in each second: one signal twice.
_TURN_TWICE = 0.05
_TURN_EQUAL = 0.98


#: Where the first three say so, the fourth must not deny it; alone it must be sure.
_TURN_DOUBT_DB = -0.5
_TURN_SURE_DB = 8.0
#: Windows in which each sample is foretold, and by how many of its neighbours on both sides.
_TURN_WINDOW = 1_024
_TURN_REACH = 6
#: The mean power of what nobody hears (:data:`producer.intake.scan.SILENCE_DB`) says nothing.
_TURN_SILENCE = 1e-6
#: Windows quieter than the loudest by more than this say nothing.
_TURN_FLOOR = 1e-3


def is_interleaved(parts: list[npt.NDArray[np.float64]]) -> bool:
    """Tell whether samples, float64, are those of two channels in turn, not of one.

    Speech is smooth: neighbours are alike, and less so two places apart, but for hisses. And a
    sample of one channel is foretold by those beside it, of two by those two places away.
    """
    signals = [part - part.mean() for part in parts if len(part) >= _TURN_FRAMES]
    power = sum(float(part @ part) for part in signals)
    if power <= _TURN_SILENCE * sum(map(len, signals)):
        return False
    if _is_one_signal_twice(signals, power):
        return True
    gain_db = _alternate_gain_db(signals)
    return gain_db > (_TURN_DOUBT_DB if _look_interleaved(signals, power) else _TURN_SURE_DB)


def _is_one_signal_twice(signals: list[npt.NDArray[np.float64]], power: float) -> bool:
    """Tell whether each first sample is the next one's equal, and each second is not."""
    pair_product = sum(float(part[0:-1:2] @ part[1::2][: len(part[0:-1:2])]) for part in signals)
    next_product = sum(float(part[1:-1:2] @ part[2::2][: len(part[1:-1:2])]) for part in signals)
    low_likeness, high_likeness = sorted((pair_product * 2 / power, next_product * 2 / power))
    return high_likeness > _TURN_EQUAL and high_likeness - low_likeness > _TURN_TWICE


def _look_interleaved(signals: list[npt.NDArray[np.float64]], power: float) -> bool:
    """Tell whether neighbours are unlike, or louder in each second place."""
    next_like = sum(float(part[:-1] @ part[1:]) for part in signals) / power
    second_like = sum(float(part[:-2] @ part[2:]) for part in signals) / power
    if second_like - next_like > _TURN_LIKENESS and next_like < 0.5:
        return True
    powers = [sum(float(part[n::2] @ part[n::2]) for part in signals) for n in (0, 1)]
    tiny = power * 1e-12
    level_db = abs(10 * np.log10((powers[0] + tiny) / (powers[1] + tiny)))
    return second_like > 0 and bool(level_db > _TURN_LEVEL_DB)


def _alternate_gain_db(signals: list[npt.NDArray[np.float64]]) -> float:
    """Return by how much better samples are foretold by those two places away than by neighbours.

    In dB, the mean over windows and over both phases; least squares, a window at a time.
    """
    windows = [window for part in signals for window in _windows(part)]
    if not windows:
        return -np.inf
    stacked = np.stack(windows)
    stacked = stacked - stacked.mean(axis=1, keepdims=True)
    gains, powers = [], []
    for phase in (0, 1):
        places = np.arange(_TURN_REACH + phase, _TURN_WINDOW + _TURN_REACH, 2)
        target = stacked[:, places]
        power = np.einsum("wt,wt->w", target, target)
        odd = _residual(stacked, places, target, power, (-5, -3, -1, 1, 3, 5))
        even = _residual(stacked, places, target, power, (-6, -4, -2, 2, 4, 6))
        gains.append(10 * np.log10(odd / even))
        powers.append(power)
    gain, power = np.concatenate(gains), np.concatenate(powers)
    is_audible = power > power.max() * _TURN_FLOOR
    return float(gain[is_audible].mean()) if is_audible.any() else -np.inf


def _windows(part: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
    count = (len(part) - 2 * _TURN_REACH) // _TURN_WINDOW
    starts = range(0, count * _TURN_WINDOW, _TURN_WINDOW)
    return [part[start : start + _TURN_WINDOW + 2 * _TURN_REACH] for start in starts]


def _residual(
    windows: npt.NDArray[np.float64],
    places: npt.NDArray[np.intp],
    target: npt.NDArray[np.float64],
    power: npt.NDArray[np.float64],
    lags: tuple[int, ...],
) -> npt.NDArray[np.float64]:
    """Return what is left of each window's samples once others foretell them: ``(windows,)``."""
    neighbours = np.stack([windows[:, places + lag] for lag in lags], axis=2)
    gram = np.einsum("wti,wtj->wij", neighbours, neighbours)
    ridge = 1e-6 * np.trace(gram, axis1=1, axis2=2) / len(lags) + 1e-12
    gram += ridge[:, None, None] * np.eye(len(lags))
    moment = np.einsum("wti,wt->wi", neighbours, target)
    weights = np.linalg.solve(gram, moment[:, :, None])[:, :, 0]
    residual_power = power - np.einsum("wi,wi->w", moment, weights)
    return np.asarray(np.maximum(residual_power, power * 1e-6 + 1e-30))
