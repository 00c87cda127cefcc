"""A directory of audio with references beside it, as it is measured.

Beside ``x.flac``, or any file that libsndfile can seek in, may lie ``x.ref.txt``, what is said in
it, and ``x.words.tsv``, start and end in seconds and text of each word said. Any ``.rttm`` says who
speaks when in ``x``, which the second field of its lines names.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from producer.intake.probe import probe
from producer.intake.scan import Signal, scan
from schema.errors import BadRecording
from schema.records import AudioFormat, Location
from schema.settings import Limits
from schema.span import Span, merge
from schema.words import Word

#: What ``Location.root`` is for a measured directory; see :func:`ops.eval.decode.eval_settings`.
ROOT = "eval"


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A recording and what is known of it.

    ``reference`` is its text, None where there is none; ``truth`` its words with times, empty where
    those are not known; ``turns`` the stretches in which somebody speaks, None where not known.
    ``channel`` is what is decoded: None is the mean of all.
    """

    path: Path
    format: AudioFormat
    channel: int | None
    duration_ms: int
    signal: Signal
    reference: str | None
    truth: tuple[Word, ...]
    turns: tuple[Span, ...] | None

    @property
    def name(self) -> str:
        """The file's name, without its ending."""
        return self.path.stem

    @property
    def location(self) -> Location:
        """Where a worker finds it: any file on this host."""
        return Location(ROOT, os.fsencode(self.path.resolve().relative_to("/")))


def read_cases(directory: Path) -> list[Case]:
    """Return every recording of a directory, in the order of their names."""
    turns = read_turns(directory)
    return [
        case
        for path in sorted(directory.iterdir())
        if path.is_file() and (case := _read_case(path, turns)) is not None
    ]


def _read_case(path: Path, turns: Mapping[str, tuple[Span, ...]]) -> Case | None:
    name = os.fsencode(path)
    try:
        audio = probe(name, {}, Limits()).format
        found = scan(name, audio, path.name, mix=audio.channels > 1)
    except BadRecording:
        return None
    channel, signal = next(iter(found.signals.items()))
    reference, words = path.with_suffix(".ref.txt"), path.with_suffix(".words.tsv")
    return Case(
        path=path,
        format=audio,
        channel=channel,
        duration_ms=found.duration_ms,
        signal=signal,
        reference=reference.read_text() if reference.is_file() else None,
        truth=tuple(parse_words(words.read_text())) if words.is_file() else (),
        turns=turns.get(path.stem),
    )


def parse_words(table: str) -> Iterator[Word]:
    """Yield the words of a ``.words.tsv``: a heading, then start and end in seconds, and text."""
    for row in csv.DictReader(table.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE):
        yield Word(row["word"], _milliseconds(row["start"]), _milliseconds(row["end"]))


def format_words(words: Iterator[Word] | tuple[Word, ...]) -> str:
    """Return words as a ``.words.tsv``."""
    lines = [f"{w.start_ms / 1000:.3f}\t{w.end_ms / 1000:.3f}\t{w.text}\n" for w in words]
    return "".join(["start\tend\tword\n", *lines])


def read_turns(directory: Path) -> dict[str, tuple[Span, ...]]:
    """Return when somebody speaks, by the name of the file, from all ``.rttm`` in a directory."""
    spans: dict[str, list[Span]] = {}
    for path in sorted(directory.glob("*.rttm")):
        for name, span in parse_turns(path.read_text()):
            spans.setdefault(name, []).append(span)
    return {name: joined_spans(own) for name, own in spans.items()}


def parse_turns(rttm: str) -> Iterator[tuple[str, Span]]:
    """Yield each turn of an ``.rttm`` with the name of its file."""
    for line in rttm.splitlines():
        match line.split():
            case ["SPEAKER", name, _, start, duration, *_]:
                start_ms = _milliseconds(start)
                yield name, Span(start_ms, start_ms + _milliseconds(duration))


def joined_spans(spans: list[Span]) -> tuple[Span, ...]:
    """Return the stretches that any of ``spans`` covers: in order, disjoint."""
    return tuple(merge(sorted(spans)))


def _milliseconds(seconds: str) -> int:
    return round(1000 * float(seconds))
