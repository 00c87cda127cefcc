"""Is one channel taken for two in turn, or two for one? One table.

    python -m ops.eval.turns DIR [--pairs N] [--seed N]

Every channel of every recording below DIR is cut, made louder or fainter, and written as a switch
would, without a header: once as it is, and by pairs sample by sample in turn, as Asterisk writes
both sides of a call. The door must tell which is which (``producer/intake/headless``). Pairs differ
in level by up to 30 dB; some take turns, some are silent at first. What is called two and is one is
refused; what is called one and is two would be heard as noise.
"""

from __future__ import annotations

import argparse
import io
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from ops import tables
from producer.intake.headless import excerpts, takes_turns

Signal = npt.NDArray[np.float64]

_SUFFIXES = frozenset({".wav", ".flac", ".ogg"})
_RATES_HZ = (8_000, 16_000)
_SECONDS = (2, 5, 20, 90)
_PAIR_SECONDS = (2, 5, 20, 60)
_LEVELS_DB = (0, -10, -30)
_APART_DB = (0, -3, -10, -20, -30)
#: What a line adds to each side.
_LINE_DB = -65
_SUBTYPES = ("ALAW", "ULAW", "PCM_16")
_PACKAGES = ("numpy", "soundfile", "soxr")
_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Source:
    """One channel of a recording."""

    name: str
    samples: Signal
    rate_hz: int

    def at(self, rate_hz: int) -> Signal:
        """Return it at a rate, its loudest sample at 0.7."""
        samples = self.samples
        if rate_hz != self.rate_hz:
            samples = np.asarray(soxr.resample(samples, self.rate_hz, rate_hz), np.float64)
        return np.asarray(samples * (0.7 / max(float(np.abs(samples).max()), 1e-9)), np.float64)


def main() -> None:
    """Judge all, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--pairs", type=int, default=1_500)
    parser.add_argument("--seed", type=int, default=11)
    arguments = parser.parse_args()
    sources = list(_sources(arguments.directory))
    if len(sources) < 2:
        raise SystemExit(f"{arguments.directory}: fewer than two channels of 2.5 s")
    dice = random.Random(arguments.seed)  # noqa: S311 - a measurement
    counts: Counter[tuple[str, bool]] = Counter()
    for samples in _alone(sources, dice):
        counts["one channel", _judged(samples, dice)] += 1
    for samples in _pairs(sources, dice, arguments.pairs):
        counts["two channels in turn", _judged(samples, dice)] += 1
    rows = [
        [kind, str(counts[kind, False] + counts[kind, True]), str(counts[kind, wrong])]
        for kind, wrong in (("one channel", True), ("two channels in turn", False))
    ]
    caption = (
        f"{len(sources)} channels, seed {arguments.seed}\n"
        f"{tables.measured_now()}, {tables.versions_of(_PACKAGES)}"
    )
    headings = ("headless audio", "excerpts", "misjudged")
    tables.print_table("One channel or two", headings, rows, caption, width=_WIDTH)


def _sources(directory: Path) -> Iterator[Source]:
    for path in sorted(directory.rglob("*")):
        if path.suffix.lower() not in _SUFFIXES:
            continue
        samples, rate_hz = soundfile.read(path, dtype="float64", always_2d=True)
        if len(samples) < 2.5 * rate_hz:
            continue
        for channel in range(samples.shape[1]):
            yield Source(path.name, samples[:, channel], rate_hz)


def _alone(sources: Sequence[Source], dice: random.Random) -> Iterator[Signal]:
    for source in sources:
        for rate_hz in _RATES_HZ:
            samples = source.at(rate_hz)
            for seconds in _SECONDS:
                if len(samples) < seconds * rate_hz:
                    continue
                part = _cut(samples, seconds * rate_hz, dice)
                if np.abs(part).max() > 1e-3:
                    yield part * 10 ** (dice.choice(_LEVELS_DB) / 20)


def _pairs(sources: Sequence[Source], dice: random.Random, count: int) -> Iterator[Signal]:
    noise = np.random.default_rng(dice.getrandbits(32))
    made = 0
    while made < count:
        rate_hz, seconds = dice.choice(_RATES_HZ), dice.choice(_PAIR_SECONDS)
        one, other = (dice.choice(sources).at(rate_hz) for _ in range(2))
        length = min(len(one), len(other), seconds * rate_hz)
        left, right = _cut(one, length, dice), _cut(other, length, dice)
        right *= 10 ** (dice.choice(_APART_DB) / 20)
        if dice.random() < 0.4:
            turn = (np.arange(length) // (3 * rate_hz)) % 2 == 0
            left[~turn], right[turn] = 0, 0
        if dice.random() < 0.3:
            left[: length // 2], right[: length // 2] = 0, 0
        if np.abs(left).max() < 0.01:
            continue
        made += 1
        line = 10 ** (_LINE_DB / 20) * noise.standard_normal((length, 2))
        yield (np.stack([left, right], 1) + line).reshape(-1)


def _cut(samples: Signal, length: int, dice: random.Random) -> Signal:
    start = dice.randrange(0, len(samples) - length + 1)
    return samples[start : start + length].copy()


def _judged(samples: Signal, dice: random.Random) -> bool:
    """Write a file without a header, as one channel, and tell what the door makes of it."""
    subtype, file = dice.choice(_SUBTYPES), io.BytesIO()
    soundfile.write(file, np.clip(samples, -1, 1), 8_000, subtype, format="RAW")
    file.seek(0)
    with soundfile.SoundFile(
        file, samplerate=8_000, channels=1, subtype=subtype, format="RAW"
    ) as headless:
        return takes_turns(excerpts(headless))


if __name__ == "__main__":
    main()
