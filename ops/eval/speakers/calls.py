"""Mono calls of known speakers: two-channel calls mixed down, and calls composed of readers.

Each speaker's own track stays beside the mix, so that whose a moment is can be heard from who is
louder then. Composed calls have the same seeds in every run, chosen before anything was tuned.
Samples are float32, mono, 16 kHz; times are milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from ops.eval.composing import parse_segments
from schema.pcm import SAMPLE_RATE_HZ, SAMPLES_PER_MS, Samples, downmix

#: A telephone's.
CALL_RATE_HZ = 8_000
_LOWEST_HZ, _HIGHEST_HZ = 300, 3_400

_STEP_MS = 10
#: A turn of a composed call, short or long, and how one follows another; a negative pause is
#: speech at once.
_SHORT_TURN_MS = (400, 1_200)
_SHORT_TURNS = 0.25
_PAUSES_MS = (-800, 1_200)


@dataclass(frozen=True, slots=True, eq=False)
class MonoCall:
    """A call on one channel; ``tracks`` has what each speaker adds to it, at the call's length.

    ``expected`` is how many speakers are to be told, by default as many as tracks have sound.
    """

    name: str
    mix: Samples
    tracks: tuple[Samples, ...]
    expected: int = field(default=0)

    @property
    def speakers(self) -> int:
        """How many speakers are to be told."""
        return self.expected or len(self.tracks)


def read_audio(path: Path) -> Samples:
    """Return a file as float32 ``(frames, channels)`` at 16 kHz."""
    samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    return np.asarray(soxr.resample(samples, rate_hz, SAMPLE_RATE_HZ), np.float32)


def mix_down(path: Path) -> MonoCall:
    """Return a two-channel call as a mono one."""
    samples = read_audio(path)
    tracks = tuple(samples[:, channel] / np.float32(2) for channel in (0, 1))
    return MonoCall(path.stem, downmix(samples), tracks)


def single_voice(path: Path, channel: int | None = None) -> MonoCall:
    """Return a recording, or one of its channels, as a call of one speaker."""
    samples = read_audio(path)
    track = downmix(samples) if channel is None else np.ascontiguousarray(samples[:, channel])
    name = path.stem if channel is None else f"{path.stem} {channel}"
    return MonoCall(name, track, (track,))


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """Somebody's utterances, at one level."""

    name: str
    utterances: tuple[Samples, ...]


def read_reader(path: Path, seconds: float = 240) -> Reader:
    """Return the utterances of a recording of one reader that are listed beside it.

    Read as if over a telephone; no more than the first ``seconds``.
    """
    samples = over_telephone(downmix(read_audio(path)[: round(seconds * SAMPLE_RATE_HZ)]))
    samples *= 0.05 / float(np.sqrt(np.mean(np.square(samples))))
    table = path.with_suffix(".segments.tsv").read_text()
    spans = [span for span, _ in parse_segments(table) if span.end_ms <= 1000 * seconds]
    return Reader(
        path.stem,
        tuple(
            samples[span.start_ms * SAMPLES_PER_MS : span.end_ms * SAMPLES_PER_MS] for span in spans
        ),
    )


def play_slower(reader: Reader, factor: float) -> Reader:
    """Return a reader whose utterances last longer by a factor, and sound lower."""
    slower = (
        soxr.resample(utterance, SAMPLE_RATE_HZ, SAMPLE_RATE_HZ * factor)
        for utterance in reader.utterances
    )
    return Reader(
        f"{reader.name} slower", tuple(np.asarray(utterance, np.float32) for utterance in slower)
    )


def over_telephone(samples: Samples) -> Samples:
    """Return samples as a telephone carries them: 300 to 3,400 Hz, 8 kHz, mu-law."""
    narrow = soxr.resample(samples, SAMPLE_RATE_HZ, CALL_RATE_HZ)
    spectrum = np.fft.rfft(narrow)
    frequencies_hz = np.fft.rfftfreq(len(narrow), 1 / CALL_RATE_HZ)
    spectrum[(frequencies_hz < _LOWEST_HZ) | (frequencies_hz > _HIGHEST_HZ)] = 0
    band = np.fft.irfft(spectrum, len(narrow))
    coded = np.sign(band) * np.log1p(255 * np.abs(np.clip(band, -1, 1))) / np.log(256)
    levels = np.round(coded * 127) / 127
    decoded = np.sign(levels) * np.expm1(np.abs(levels) * np.log(256)) / 255
    result = np.asarray(soxr.resample(decoded, CALL_RATE_HZ, SAMPLE_RATE_HZ), np.float32)
    return np.pad(result, (0, max(0, len(samples) - len(result))))[: len(samples)]


def compose(
    name: str,
    readers: Sequence[Reader],
    seed: int,
    *,
    minutes: float = 5,
    short_turns: float = _SHORT_TURNS,
    shares: Sequence[float] = (),
) -> MonoCall:
    """Lay readers' turns on one line: a quarter of them short, some of them at once.

    ``shares`` is how likely each one takes the next turn; without them they take turns.
    """
    generator = np.random.default_rng(seed)
    length = round(minutes * 60 * SAMPLE_RATE_HZ)
    tracks = [np.zeros(length, np.float32) for _ in readers]
    sources = [_turns(reader, generator, short_turns) for reader in readers]
    at = SAMPLE_RATE_HZ // 2
    speaker = -1
    while True:
        speaker = (
            int(generator.choice(len(readers), p=shares))
            if shares
            else (speaker + int(generator.integers(1, len(readers)))) % len(readers)
            if speaker >= 0
            else 0
        )
        turn = next(sources[speaker])
        if at + len(turn) > length:
            break
        tracks[speaker][at : at + len(turn)] += turn
        pause_ms = int(generator.integers(*_PAUSES_MS))
        # Nobody interrupts what is over before the interruption.
        at += max(len(turn) // 2, len(turn) + pause_ms * SAMPLES_PER_MS)
    mix = np.asarray(np.sum(tracks, axis=0), np.float32)
    return MonoCall(name, mix, tuple(tracks))


def _turns(reader: Reader, generator: np.random.Generator, short_turns: float) -> Iterator[Samples]:
    """Yield a reader's turns without end."""
    while True:
        for utterance in reader.utterances:
            yield (
                _cut_short(utterance, generator) if generator.random() < short_turns else utterance
            )


def _cut_short(utterance: Samples, generator: np.random.Generator) -> Samples:
    """Return the beginning of an utterance, ended where it is quietest."""
    energy = _energy(utterance)
    shortest, longest = (ms // _STEP_MS for ms in _SHORT_TURN_MS)
    first = int(generator.integers(0, max(1, len(energy) - longest)))
    window = energy[first + shortest : first + longest]
    last = first + shortest + (int(np.argmin(window)) if len(window) else 0)
    step = _STEP_MS * SAMPLES_PER_MS
    return utterance[first * step : last * step]


def _energy(samples: Samples) -> npt.NDArray[np.float64]:
    """Return the energy of each step."""
    step = _STEP_MS * SAMPLES_PER_MS
    whole = samples[: len(samples) // step * step].astype(np.float64)
    return np.asarray(np.square(whole).reshape(-1, step).sum(axis=1))


def louder_track(call: MonoCall) -> Callable[[int, int], tuple[int, float]]:
    """Return what tells of a stretch, in ms, which track is loudest in it, and by how many dB."""
    sums = [np.concatenate([[0.0], np.cumsum(_energy(track))]) for track in call.tracks]

    def tell(start_ms: int, end_ms: int) -> tuple[int, float]:
        first, last = start_ms // _STEP_MS, max(start_ms // _STEP_MS + 1, -(-end_ms // _STEP_MS))
        energies = [
            float(total[min(last, len(total) - 1)] - total[min(first, len(total) - 1)])
            for total in sums
        ]
        order = sorted(range(len(energies)), key=lambda track: -energies[track])
        if len(order) == 1:
            return 0, float("inf")
        best, second = energies[order[0]], energies[order[1]]
        return order[0], float(10 * np.log10((best + 1e-9) / (second + 1e-9)))

    return tell


def add_sound(call: MonoCall, name: str, sound: Samples, at_ms: int = 0) -> MonoCall:
    """Return a call with a sound over it that nobody speaks."""
    mix = call.mix.copy()
    first = at_ms * SAMPLES_PER_MS
    stretch = mix[first : first + len(sound)]
    stretch += sound[: len(stretch)]
    return MonoCall(name, mix, call.tracks, call.expected)


def change_handset(call: MonoCall, name: str) -> MonoCall:
    """Return a call of one speaker who goes on through another telephone from its middle."""
    middle = len(call.mix) // 2
    dull = np.convolve(call.mix[middle:], np.full(4, 0.25, np.float32), "same").astype(np.float32)
    mix = np.concatenate([call.mix[:middle], 0.5 * dull])
    return MonoCall(name, mix, (mix,))


def insert_pause(call: MonoCall, at_ms: int, pause_ms: int) -> MonoCall:
    """Return a call in which nobody speaks for a while."""
    at = at_ms * SAMPLES_PER_MS
    pause = np.zeros(pause_ms * SAMPLES_PER_MS, np.float32)

    def insert(samples: Samples) -> Samples:
        return np.concatenate([samples[:at], pause, samples[at:]])

    return MonoCall(call.name, insert(call.mix), tuple(map(insert, call.tracks)), call.expected)
