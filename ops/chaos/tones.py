"""A sound whose every second is known: another tone in each. And which of them is heard, and when.

A tone is a number, 0 to 71: telephone codecs let each of their pitches through, and a tenth of a
second tells one from another. A truth says which tones sound when; it is what is written, and what
the samples that come back are held against, so that a second that is missing, doubled or late
shows. Times are milliseconds on the recording's clock. Values in, values out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np
import numpy.typing as npt

from schema.pcm import Samples

#: Voices that share no tone: speakers side by side, or recordings end to end.
FAMILIES = 4
#: No voice says more: each of its seconds has a tone of its own.
LONGEST_S = 18
#: Neighbouring seconds are this many tones of a family apart; prime to LONGEST_S.
_STRIDE = 7
_LOWEST_HZ = 320
_SPACING_HZ = 36
_TONES = FAMILIES * LONGEST_S
_AMPLITUDE = 0.3
#: Each tone swells and fades within this, or its edges would click.
_FADE_MS = 4

#: A second may begin, or the whole may end, this much beside the truth.
TOLERANCE_MS = 100
#: A Hann window so long tells tones apart that lie 20 Hz or more beside each other.
_WINDOW_MS = 100
_STEP_MS = 10
#: Lowest rate that is listened to: what is above half of it is no tone of ours.
_LISTEN_HZ = 8_000
#: A tone is heard if it gets as loud as this share of what is loud in the recording: of two that
#: are mixed, each has half.
_HEARD = 0.25
#: A tone's loudness is what it reaches for this long: a click is none.
_LOUD_STEPS = 8
#: A codec may stammer for so long within a tone.
_STAMMER_MS = 80
#: What is heard for less than this is no tone.
_SHORTEST_MS = 60

Envelopes = npt.NDArray[np.float64]


def tone_of(family: int, second: int) -> int:
    """Return the tone of a family's second."""
    return FAMILIES * (_STRIDE * second % LONGEST_S) + family


def hertz(tone: int) -> int:
    """Return a tone's pitch."""
    return _LOWEST_HZ + _SPACING_HZ * tone


@dataclass(frozen=True, slots=True)
class Second:
    """A tone that sounds from one moment to another.

    It may begin up to ``late_ms`` later, since no format says how long an encoder took; where it
    is not ``required``, it may also be missing, or end early.
    """

    tone: int
    start_ms: float
    end_ms: float
    late_ms: float = 0
    required: bool = True

    def moved(self, by_ms: float, late_ms: float = 0) -> Second:
        """Return it later by ``by_ms``, with so much more of what may be late."""
        return replace(
            self,
            start_ms=self.start_ms + by_ms,
            end_ms=self.end_ms + by_ms,
            late_ms=self.late_ms + late_ms,
        )


Voice = tuple[Second, ...]


@dataclass(frozen=True, slots=True)
class Truth:
    """What a file holds: a voice on each channel, and its length.

    A codec may add ``pad_ms`` at its end. ``mixed`` says that a voice may be heard on any channel,
    beside another: what becomes of one channel and two, joined. ``open_end`` says that it may end
    anywhere after the last second that is required.
    """

    channels: tuple[Voice, ...]
    length_ms: float
    pad_ms: float = 0
    mixed: bool = False
    open_end: bool = False

    @property
    def least_ms(self) -> float:
        """How long it lasts at least."""
        seconds = (second for voice in self.channels for second in voice if second.required)
        return (
            max((each.end_ms for each in seconds), default=0) if self.open_end else self.length_ms
        )

    @property
    def late_ms(self) -> float:
        """How much later than said its last second may begin."""
        return max((second.late_ms for voice in self.channels for second in voice), default=0)

    def delayed(self, late_ms: float, pad_ms: float = 0) -> Truth:
        """Return it as an encoder leaves it that says nothing of its delay and its padding."""
        voices = _each(self.channels, lambda second: second.moved(0, late_ms))
        return replace(self, channels=voices, pad_ms=self.pad_ms + pad_ms)

    def after(self, silence_ms: float) -> Truth:
        """Return it with silence before it."""
        voices = _each(self.channels, lambda second: second.moved(silence_ms))
        return replace(self, channels=voices, length_ms=self.length_ms + silence_ms)

    def then(self, other: Truth) -> Truth:
        """Return both, joined end to end; what the first may be late, the second may be too."""
        late_ms = self.late_ms + self.pad_ms
        voices = _each(other.channels, lambda second: second.moved(self.length_ms, late_ms))
        return replace(
            other,
            channels=tuple(a + b for a, b in zip_longest(self.channels, voices, fillvalue=())),
            length_ms=self.length_ms + other.length_ms,
            mixed=len(self.channels) != len(other.channels) or self.mixed or other.mixed,
        )

    def beside(self, other: Truth) -> Truth:
        """Return both at once, the other's channels after these."""
        return replace(
            self,
            channels=self.channels + other.channels,
            length_ms=max(self.length_ms, other.length_ms),
            pad_ms=max(self.pad_ms, other.pad_ms),
        )

    def part(self, start_ms: float, end_ms: float | None = None) -> Truth:
        """Return what is left between two moments."""
        end_ms = self.length_ms if end_ms is None else end_ms
        voices = tuple(tuple(_within(voice, start_ms, end_ms)) for voice in self.channels)
        return replace(self, channels=voices, length_ms=end_ms - start_ms)

    def interrupted(self, at_ms: float, silence_ms: float) -> Truth:
        """Return it with silence put in at a moment."""
        return self.part(0, at_ms).then(self.part(at_ms).after(silence_ms))

    def without(self, start_ms: float, end_ms: float) -> Truth:
        """Return it with silence in place of what sounds between two moments."""
        gap = Truth(((),) * len(self.channels), end_ms - start_ms)
        return self.part(0, start_ms).then(gap).then(self.part(end_ms))

    def hazy(self, until_ms: float) -> Truth:
        """Return it as a file whose seconds that begin before a moment may be lost."""
        voices = _each(
            self.channels,
            lambda second: replace(
                second, required=second.required and second.start_ms >= until_ms
            ),
        )
        return replace(self, channels=voices)

    def at_least(self, until_ms: float) -> Truth:
        """Return it as a file that holds it up to ``until_ms`` for sure, and maybe more."""
        voices = _each(
            self.channels,
            lambda second: replace(second, required=second.required and second.end_ms <= until_ms),
        )
        return replace(self, channels=voices, open_end=True)


def _each(voices: Iterable[Voice], change: Callable[[Second], Second]) -> tuple[Voice, ...]:
    return tuple(tuple(change(second) for second in voice) for voice in voices)


def _within(voice: Voice, start_ms: float, end_ms: float) -> Iterator[Second]:
    for second in voice:
        first, last = max(second.start_ms, start_ms), min(second.end_ms, end_ms)
        if first < last:
            yield replace(second, start_ms=first - start_ms, end_ms=last - start_ms)


def spoken(*families: int, seconds: float = 12) -> Truth:
    """Return voices that speak at once, each on a channel, for up to ``LONGEST_S``."""
    whole = tuple(
        tuple(Second(tone_of(f, n), 1000 * n, 1000 * n + 1000) for n in range(LONGEST_S))
        for f in families
    )
    return Truth(whole, 1000 * LONGEST_S).part(0, 1000 * seconds)


def render(truth: Truth, rate_hz: int) -> Samples:
    """Return the samples, float32, ``(frames, channels)``."""
    frames = round(truth.length_ms * rate_hz / 1000)
    samples = np.zeros((frames, len(truth.channels)), np.float32)
    for channel, voice in enumerate(truth.channels):
        for second in voice:
            first, last = (round(ms * rate_hz / 1000) for ms in (second.start_ms, second.end_ms))
            clock = np.arange(last - first)
            ramp_frames = _FADE_MS * rate_hz / 1000
            swell = np.clip(np.minimum(clock, clock[::-1]) / ramp_frames, 0, 1)
            wave = np.sin(2 * np.pi * hertz(second.tone) / rate_hz * clock)
            samples[first:last, channel] = _AMPLITUDE * swell * wave
    return samples


@dataclass(frozen=True, slots=True)
class Run:
    """A tone as it was heard, without a break."""

    tone: int
    start_ms: float
    end_ms: float


@dataclass(frozen=True, slots=True)
class Heard:
    """What was heard on each channel, and for how long the recording lasts."""

    channels: tuple[tuple[Run, ...], ...]
    length_ms: float


def listen(samples: Samples, rate_hz: int) -> Heard:
    """Return which tones sound when, to about 10 ms."""
    channels = tuple(
        tuple(_runs(_envelopes(samples[:, channel], rate_hz)))
        for channel in range(samples.shape[1])
    )
    return Heard(channels, len(samples) * 1000 / rate_hz)


def _envelopes(samples: Samples, rate_hz: int) -> Envelopes:
    """Return how loud each tone is at each step: ``(steps, tones)``."""
    fold = max(rate_hz // _LISTEN_HZ, 1)
    folded = samples[: len(samples) // fold * fold].reshape(-1, fold).mean(axis=1)
    rate = rate_hz / fold
    window = round(_WINDOW_MS * rate / 1000)
    around = np.pad(np.nan_to_num(folded), (window // 2, window)).astype(np.float32)
    starts = np.arange(0, len(folded), _STEP_MS * rate / 1000).round().astype(int)
    views = np.lib.stride_tricks.sliding_window_view(around, window)[starts]
    return np.asarray(np.abs(views @ _kernels(window, rate, fold)), np.float64)


def _kernels(window: int, rate_hz: float, fold: int) -> npt.NDArray[np.complex64]:
    """Return what a window of samples is multiplied with for the amplitude of each tone."""
    hann = np.hanning(window)
    pitches = np.array([hertz(tone) for tone in range(_TONES)])
    waves = np.exp(-2j * np.pi * np.outer(np.arange(window), pitches) / rate_hz)
    # The mean of neighbours, as which samples were folded, softens what is high.
    folded = np.exp(2j * np.pi * np.outer(np.arange(fold), pitches) / rate_hz / fold)
    softened = np.abs(folded.mean(axis=0))
    kernels = 2 / hann.sum() * hann[:, None] * waves / softened
    return np.asarray(kernels, np.complex64)


def _runs(envelopes: Envelopes) -> Iterator[Run]:
    """Yield what is heard of each tone, in order of tones."""
    if len(envelopes) < _LOUD_STEPS:
        return
    loudness = np.sort(envelopes, axis=0)[-_LOUD_STEPS]
    loudest = loudness.max()
    if loudest < _AMPLITUDE / 30:
        return
    for tone in np.flatnonzero(loudness > _HEARD * loudest):
        active = envelopes[:, tone] > loudness[tone] / 2
        yield from _stretches(int(tone), envelopes[:, tone] / loudness[tone], active)


def _stretches(tone: int, level: Envelopes, active: npt.NDArray[np.bool_]) -> Iterator[Run]:
    """Yield where a tone is active, its stammers bridged and its clicks left out."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], active, [False])).astype(int)))
    bounds = [_crossing(level, int(edge)) for edge in edges]
    joined: list[list[float]] = []
    for start, end in zip(bounds[::2], bounds[1::2], strict=True):
        if joined and start - joined[-1][1] <= _STAMMER_MS:
            joined[-1][1] = end
        else:
            joined.append([start, end])
    for start, end in joined:
        if end - start >= _SHORTEST_MS:
            yield Run(tone, start, end)


def _crossing(level: Envelopes, edge: int) -> float:
    """Return when a level of half is crossed between a step and the one before it."""
    if not 0 < edge < len(level):
        return float(edge * _STEP_MS)
    before, behind = level[edge - 1], level[edge]
    return float((edge - 1 + (0.5 - before) / (behind - before)) * _STEP_MS)


@dataclass(frozen=True, slots=True)
class Finding:
    """How what was heard differs from the truth; no problem, where it does not.

    ``first_ms`` and ``last_ms`` say how much later than in truth the first and the last second
    begin; None, where they were not heard. ``of_the_heard`` are the problems of those channels
    that were heard at all, where fewer were.
    """

    problems: tuple[str, ...]
    first_ms: float | None = None
    last_ms: float | None = None
    of_the_heard: tuple[str, ...] = ()


def compare(truth: Truth, heard: Heard) -> Finding:
    """Hold what was heard against the truth."""
    problems = list(_length_problems(truth, heard.length_ms))
    wanted, got = list(truth.channels), list(heard.channels)
    if truth.mixed:
        wanted, got = [tuple(s for voice in wanted for s in voice)], [_pooled(got)]
    elif len(wanted) != len(got):
        problems.append(f"{len(got)} channels, not {len(wanted)}")
    problems.extend(_channel_problems(wanted, got))
    voice, runs = (wanted[0], got[0]) if wanted and got else ((), ())
    errors = [_lateness(second, runs) for second in voice if second.required] or [None]
    of_the_heard = _of_the_heard(truth.channels, heard.channels)
    return Finding(tuple(problems), errors[0], errors[-1], of_the_heard)


def _channel_problems(wanted: Sequence[Voice], got: Sequence[Sequence[Run]]) -> Iterator[str]:
    for channel, voice in enumerate(wanted):
        runs = got[channel] if channel < len(got) else ()
        where = f" on channel {channel}" if len(wanted) > 1 else ""
        yield from (problem + where for problem in _voice_problems(voice, runs))


def _of_the_heard(wanted: Sequence[Voice], got: Sequence[Sequence[Run]]) -> tuple[str, ...]:
    """Return the fewest problems that channels side by side have, of those that are wanted."""
    starts = range(max(len(wanted) - len(got), 0) + 1)
    attempts = [tuple(_channel_problems(wanted[n : n + len(got)], got)) for n in starts]
    return min(attempts, key=len)


def _length_problems(truth: Truth, length_ms: float) -> Iterator[str]:
    most_ms = truth.length_ms + truth.late_ms + truth.pad_ms
    if not truth.least_ms - TOLERANCE_MS <= length_ms <= most_ms + TOLERANCE_MS:
        yield f"{length_ms / 1000:.2f} s, not {truth.length_ms / 1000:.2f} s"


def _voice_problems(voice: Voice, runs: Sequence[Run]) -> Iterator[str]:
    for tone in dict.fromkeys(second.tone for second in voice):
        parts = [second for second in voice if second.tone == tone]
        yield from _tone_problems(parts, [run for run in runs if run.tone == tone])
    known = {second.tone for second in voice}
    for run in runs if known else ():  # what has no tones in truth is speech, and may hit upon some
        if run.tone not in known and run.end_ms - run.start_ms > TOLERANCE_MS:
            yield f"a tone of another's from {run.start_ms / 1000:.2f} s"


def _tone_problems(parts: Sequence[Second], runs: Sequence[Run]) -> Iterator[str]:
    """Yield what is wrong with a tone, which sounds in several parts where silence was put in."""
    wanted_ms = sum(second.end_ms - second.start_ms for second in parts)
    heard_ms = sum(run.end_ms - run.start_ms for run in runs)
    at = f"second at {parts[0].start_ms / 1000:.2f} s"
    required = all(second.required for second in parts)
    if required and heard_ms < wanted_ms - TOLERANCE_MS:
        yield f"{at}: {heard_ms:.0f} of {wanted_ms:.0f} ms" if heard_ms else f"{at} missing"
    if heard_ms > wanted_ms + TOLERANCE_MS:
        yield f"{at}: {heard_ms:.0f} ms of {wanted_ms:.0f}, doubled"
    for second in parts:
        error_ms = _lateness(second, runs)
        if error_ms is None or second.end_ms - second.start_ms < TOLERANCE_MS:
            continue
        lost_ms = 0 if second.required else second.end_ms - second.start_ms
        if not -TOLERANCE_MS <= error_ms <= TOLERANCE_MS + second.late_ms + lost_ms:
            yield f"{at} {error_ms:+.0f} ms beside its place"


def _lateness(second: Second, runs: Sequence[Run]) -> float | None:
    """Return how late the tone's nearest run is, if it is heard at all."""
    errors = [run.start_ms - second.start_ms for run in runs if run.tone == second.tone]
    return min(errors, key=abs, default=None)


def _pooled(channels: Sequence[Sequence[Run]]) -> tuple[Run, ...]:
    """Return what is heard on any channel, once."""
    pooled: list[Run] = []
    for run in sorted(
        (run for runs in channels for run in runs), key=lambda r: (r.tone, r.start_ms)
    ):
        last = pooled[-1] if pooled else None
        if last and last.tone == run.tone and run.start_ms <= last.end_ms + _STAMMER_MS:
            pooled[-1] = replace(last, end_ms=max(last.end_ms, run.end_ms))
        else:
            pooled.append(run)
    return tuple(pooled)
