"""What of spoken cards is left once a call is masked, and what is masked that was none? One table.

    python -m ops.eval.redaction CORPUS [--cards 200]

CORPUS has the folders ``digits`` (spoken digits with ``.tsv``), ``turns`` and ``telephony``
(two-channel calls), and speech without cards. Cards with an expiry and a security code are
composed of the digits and laid into two-channel calls of 8 kHz, five a recording, in groups with
pauses, the other speaker repeating some; seeds are fixed. Every recording is cut into segments of
60 s, and what is counted is left in any decode, also in what a seam drops.

"leaked" is a card of which four digits in a row are left where it was read out, or a code of which
all are. What reads them is not the masker: every numeral, and number words one by one. With
``--audio`` the masked audio is decoded, too ("heard"). Masks of speech without cards are counted.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import numpy as np
import soundfile
import soxr

from ops import tables
from ops.eval.corpus import Case
from ops.eval.decode import Decodes
from producer.export.page_audio import mask_blocks
from producer.intake.probe import probe
from producer.intake.scan import scan
from schema.pcm import Samples
from schema.profile import Profile, load_profile
from schema.redaction import Mask, MaskClass
from schema.settings import Limits
from schema.span import Span
from schema.store.work.reduces import EndedSegment, ReduceClaim
from schema.words import Word
from workers.transcript.reduce import redact_segments

_RATE_HZ = 8_000
_SEGMENT_MS, _OVERLAP_MS = 60_000, 8_000
_CARDS_A_RECORDING = 5
_NOBODY = UUID(int=0)
_HEADINGS = ("what", "of", "leaked", "share %", "digits left")
_PACKAGES = ("torch", "faster-whisper", "ctranslate2")

#: Folders of the corpus without cards.
_SPEECH = ("english", "speakers", "telephony", "turns", "vad")

_READ = {
    "zero": "0", "oh": "0", "one": "1", "won": "1", "two": "2", "to": "2", "too": "2",
    "three": "3", "four": "4", "for": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "ate": "8", "nine": "9",
}  # fmt: skip
#: So far around a number its digits are sought.
_AROUND_MS = 700


@dataclass(frozen=True, slots=True)
class Number:
    """A number that was read out: what it is, its digits, and when."""

    kind: str
    digits: str
    span: Span


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A composed recording: float32 ``(frames, 2)`` at 8 kHz, and the numbers in it."""

    name: str
    samples: Samples
    numbers: tuple[Number, ...]


def main() -> None:
    """Compose, decode, mask, read what is left, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--cards", type=int, default=200)
    parser.add_argument("--cache", type=Path, default=Path(".callscribe/eval"))
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--audio", action="store_true", help="decode the masked audio, too")
    parser.add_argument("--show", action="store_true", help="print each leak and each false mask")
    arguments = parser.parse_args()
    profile = load_profile("call", {"decode": {"language": "en"}, "redact": {}})
    decodes = Decodes(profile, arguments.cache / "decodes", arguments.jobs)
    calls = list(compose_calls(arguments.corpus, arguments.cards))
    directory = arguments.cache / "cards"
    rows = list(_leak_rows(calls, directory, decodes, show=arguments.show))
    if arguments.audio:
        rows += _audio_rows(calls, directory, decodes, show=arguments.show)
    hours, masks = _false_masks(arguments.corpus, decodes, show=arguments.show)
    by_class = Counter(mask.mask_class for mask in masks)
    caption = (
        f"Speech without cards: {len(masks)} masks in {hours:.2f} h,"
        f" {len(masks) / hours:.1f} an hour ({dict(by_class)})\n"
        f"{tables.measured_now()}; {tables.versions_of(_PACKAGES)}; {tables.cores()}"
    )
    tables.print_table("What is left of spoken cards", _HEADINGS, rows, caption, width=110)


# Composing.


def compose_calls(corpus: Path, cards: int) -> Iterator[Call]:
    """Yield recordings with five cards each, until there are so many cards."""
    voices = [_read_voice(path) for path in sorted((corpus / "digits").glob("*.flac"))]
    talks = [
        _read_stereo(path)
        for path in (
            *sorted((corpus / "turns").glob("*.flac")),
            corpus / "telephony" / "aws_AutoRepairs40_L-agent_R-caller.wav",
        )
    ]
    for number in range(-(-cards // _CARDS_A_RECORDING)):
        rng = random.Random(7_000 + number)  # noqa: S311 - a fixed seed
        yield _compose(f"cards-{number:03}", rng, voices, talks)


_Voice = Mapping[str, Sequence[Samples]]


def _read_voice(path: Path) -> _Voice:
    samples, rate_hz = soundfile.read(path, dtype="float32")
    digits: dict[str, list[Samples]] = {}
    with path.with_suffix(".tsv").open() as table:
        for row in csv.DictReader(table, delimiter="\t"):
            first, last = (round(float(row[edge]) * rate_hz) for edge in ("start", "end"))
            digits.setdefault(row["digit"], []).append(_level(samples[first:last]))
    return digits


def _level(samples: Samples) -> Samples:
    """Return speech at the level of a call: its loudest at a fifth of full scale."""
    return np.asarray(samples * (0.2 / max(1e-4, float(np.abs(samples).max()))), np.float32)


def _read_stereo(path: Path) -> Samples:
    samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    return np.asarray(soxr.resample(samples, rate_hz, _RATE_HZ), np.float32)


class _Track:
    """Two channels that grow; speech is added to one of them."""

    def __init__(self, rng: random.Random) -> None:
        self._parts: list[Samples] = []
        self._frames = 0
        self._noise = np.random.default_rng(rng.randrange(2**32))

    @property
    def at_ms(self) -> int:
        return 1_000 * self._frames // _RATE_HZ

    def add(self, samples: Samples) -> None:
        noise = self._noise.normal(0, 0.0005, samples.shape)
        self._parts.append(np.asarray(samples + noise, np.float32))
        self._frames += len(samples)

    def say(self, samples: Samples, channel: int) -> None:
        stereo = np.zeros((len(samples), 2), np.float32)
        stereo[:, channel] = samples
        self.add(stereo)

    def pause(self, seconds: float) -> None:
        self.add(np.zeros((round(seconds * _RATE_HZ), 2), np.float32))

    def samples(self) -> Samples:
        return np.concatenate(self._parts)


def _compose(
    name: str, rng: random.Random, voices: Sequence[_Voice], talks: Sequence[Samples]
) -> Call:
    track = _Track(rng)
    numbers: list[Number] = []
    for _ in range(_CARDS_A_RECORDING):
        talk = rng.choice(talks)
        seconds = rng.uniform(10, 20)
        first = rng.randrange(len(talk) - round(seconds * _RATE_HZ))
        track.add(talk[first : first + round(seconds * _RATE_HZ)])
        track.pause(rng.uniform(0.5, 2))
        voice, other = rng.sample(voices, 2)
        for kind, digits in (
            ("card", make_card(rng)),
            ("expiry", f"{rng.randrange(1, 13):02}{rng.randrange(26, 33)}"),
            ("code", f"{rng.randrange(1_000):03}"),
        ):
            numbers.append(_read_out(track, rng, voice, other, kind, digits))
            track.pause(rng.uniform(1, 6))
    return Call(name, track.samples(), tuple(numbers))


def make_card(rng: random.Random) -> str:
    """Return 16 digits that pass Luhn's check (ISO/IEC 7812-1, annex B)."""
    digits = [rng.choice("45"), *(str(rng.randrange(10)) for _ in range(14))]
    doubled = [int(d) * (2 - i % 2) for i, d in enumerate(digits)]
    total = sum(d - 9 if d > 9 else d for d in doubled)
    return "".join(digits) + str(-total % 10)


def _read_out(
    track: _Track, rng: random.Random, voice: _Voice, other: _Voice, kind: str, digits: str
) -> Number:
    start_ms = track.at_ms
    does_repeat = kind == "card" and rng.random() < 0.15
    for index in range(0, len(digits), 4):
        group = digits[index : index + 4]
        if index:
            # Somebody looks for a card, or turns it over.
            track.pause(rng.uniform(8, 15) if rng.random() < 0.03 else rng.uniform(0.3, 1.8))
        for digit in group:
            track.say(rng.choice(voice[digit]), 1)
            track.pause(rng.uniform(0.04, 0.3))
        if does_repeat:
            track.pause(0.3)
            for digit in group:
                track.say(rng.choice(other[digit]), 0)
                track.pause(rng.uniform(0.04, 0.15))
    return Number(kind, digits, Span(start_ms, track.at_ms))


# Masking.


def _cases(path: Path) -> list[Case]:
    """Return a recording's channels, each as it is decoded."""
    name = os.fsencode(path)
    audio = probe(name, {}, Limits()).format
    scanned = scan(name, audio, path.name, mix=False)
    return [
        Case(path, audio, channel, scanned.duration_ms, signal, None, (), None)
        for channel, signal in scanned.signals.items()
    ]


def _spans(duration_ms: int) -> list[Span]:
    step_ms = _SEGMENT_MS - _OVERLAP_MS
    starts = range(0, max(1, duration_ms - _OVERLAP_MS), step_ms)
    end_ms = duration_ms // 100 * 100
    return [Span(start_ms, min(start_ms + _SEGMENT_MS, end_ms)) for start_ms in starts]


def _mask(
    cases: Sequence[Case], decodes: Decodes
) -> tuple[tuple[EndedSegment, ...], tuple[EndedSegment, ...], tuple[Mask, ...]]:
    """Return a recording's segments as they were decoded, as they are masked, and the masks."""
    segments = []
    for case in cases:
        spans = _spans(case.duration_ms)
        # Each channel is a case of the same name: asked for by itself.
        results = decodes.get((case, span) for span in spans)
        for index, span in enumerate(spans):
            result = results[case.name, span]
            segments.append(EndedSegment(case.channel, index, "plan", span, result, None, None))
    claim = _claim(cases[0], len(cases), decodes.profile)
    redacted = redact_segments(claim, segments)
    assert redacted is not None  # noqa: S101 - the profile protects
    return tuple(segments), redacted.segments, redacted.redaction.masks


def _claim(case: Case, channels: int, profile: Profile) -> ReduceClaim:
    return ReduceClaim(_NOBODY, _NOBODY, case.name, case.duration_ms, channels, (), profile)


# Reading what is left.


def _leak_rows(
    calls: Sequence[Call], directory: Path, decodes: Decodes, *, show: bool
) -> Iterator[tuple[str, ...]]:
    directory.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    leaks: Counter[str] = Counter()
    left: Counter[str] = Counter()
    clear: Counter[str] = Counter()
    paths = {call.name: directory / f"{call.name}.wav" for call in calls}
    for call in calls:
        soundfile.write(paths[call.name], call.samples, _RATE_HZ, "PCM_16")
    cases = {call.name: _cases(paths[call.name]) for call in calls}
    for channel in range(2):
        # All at once, so that every core has work.
        wanted = [cases[call.name][channel] for call in calls]
        decodes.get((case, span) for case in wanted for span in _spans(case.duration_ms))
    for call in calls:
        decoded, masked, _ = _mask(cases[call.name], decodes)
        for number in call.numbers:
            counts[number.kind] += 1
            before, after = _digits_left(decoded, number), _digits_left(masked, number)
            clear[number.kind] += _leaks(before, number)
            left[number.kind] += max(map(len, after), default=0)
            if _leaks(after, number):
                leaks[number.kind] += 1
                if show:
                    texts = _texts(masked, number)
                    print(call.name, number, after, texts, sep="  ", file=sys.stderr)
    for kind in ("card", "expiry", "code"):
        share = 100 * leaks[kind] / max(1, counts[kind])
        yield kind, str(counts[kind]), str(leaks[kind]), f"{share:.1f}", str(left[kind])
        clear_share = 100 * clear[kind] / max(1, counts[kind])
        yield f"{kind}, unmasked", str(counts[kind]), str(clear[kind]), f"{clear_share:.1f}", ""


def _audio_rows(
    calls: Sequence[Call], directory: Path, decodes: Decodes, *, show: bool
) -> Iterator[tuple[str, ...]]:
    """Yield what a second decode hears of audio in which masks are a tone."""
    masked_directory = directory / "masked"
    masked_directory.mkdir(exist_ok=True)
    cases: dict[str, list[Case]] = {}
    for call in calls:
        path = directory / f"{call.name}.wav"
        _, _, masks = _mask(_cases(path), decodes)
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        (masked,) = mask_blocks([samples], rate_hz, [mask.span for mask in masks])
        masked_path = masked_directory / f"masked-{call.name}.wav"
        soundfile.write(masked_path, masked, rate_hz, "PCM_16")
        cases[call.name] = _cases(masked_path)
    for channel in range(2):
        wanted = [channels[channel] for channels in cases.values()]
        decodes.get((case, span) for case in wanted for span in _spans(case.duration_ms))
    leaks: Counter[str] = Counter()
    left: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for call in calls:
        heard, _, _ = _mask(cases[call.name], decodes)
        for number in call.numbers:
            counts[number.kind] += 1
            digits = _digits_left(heard, number)
            left[number.kind] += max(map(len, digits), default=0)
            if _leaks(digits, number):
                leaks[number.kind] += 1
                if show:
                    print("audio", call.name, number, digits, sep="  ", file=sys.stderr)
    for kind, count in counts.items():
        share = f"{100 * leaks[kind] / count:.1f}"
        yield f"{kind}, heard", str(count), str(leaks[kind]), share, str(left[kind])


def _near(segment: EndedSegment, number: Number) -> Iterator[Word]:
    span = Span(max(0, number.span.start_ms - _AROUND_MS), number.span.end_ms + _AROUND_MS)
    for word in segment.result.words if segment.result else ():
        if span.start_ms <= word.middle_ms + segment.span.start_ms < span.end_ms:
            yield word


def _texts(segments: Sequence[EndedSegment], number: Number) -> list[str]:
    texts = (" ".join(word.text for word in _near(segment, number)) for segment in segments)
    return [text for text in texts if text]


def _digits_left(segments: Sequence[EndedSegment], number: Number) -> list[str]:
    """Return the digits around a number, one text for each decode of each channel."""
    return [
        digits
        for segment in segments
        if (digits := "".join(map(read_digits, (word.text for word in _near(segment, number)))))
    ]


def read_digits(text: str) -> str:
    """Return the digits of a word, by other rules than the masker's."""
    plain = text.lower()
    numerals = re.sub(r"[^0-9]", "", plain)
    return numerals or "".join(_READ.get(part, "") for part in re.findall(r"[a-z]+", plain))


def _leaks(texts: Sequence[str], number: Number) -> bool:
    length = min(4, len(number.digits))
    runs = {number.digits[i : i + length] for i in range(len(number.digits) - length + 1)}
    return any(run in text for run in runs for text in texts)


def _false_masks(corpus: Path, decodes: Decodes, *, show: bool) -> tuple[float, list[Mask]]:
    cases_of = {
        path: _cases(path)
        for folder in _SPEECH
        for path in sorted((corpus / folder).rglob("*"))
        if path.suffix in {".wav", ".flac"}
    }
    for channel in range(2):
        wanted = [cases[channel] for cases in cases_of.values() if len(cases) > channel]
        decodes.get((case, span) for case in wanted for span in _spans(case.duration_ms))
    hours = 0.0
    all_masks: list[Mask] = []
    for path, cases in cases_of.items():
        decoded, _, masks = _mask(cases, decodes)
        hours += cases[0].duration_ms / 3_600_000
        all_masks += (mask for mask in masks if mask.mask_class is not MaskClass.NO_WORDS)
        for mask in masks if show else ():
            texts = _texts(decoded, Number("", "", mask.span))
            print(path.name, mask, texts, sep="  ", file=sys.stderr)
    return hours, all_masks


if __name__ == "__main__":
    main()
