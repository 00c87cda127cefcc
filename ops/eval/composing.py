"""Utterances cut out of recordings, so that what is said in them is known, and when.

Samples are float32, mono, 16 kHz; times are milliseconds.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
import soxr

from ops.eval.corpus import Case
from schema.pcm import SAMPLE_RATE_HZ, SAMPLES_PER_MS, Samples, downmix
from schema.span import Span
from schema.words import Word


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Some audio: its text, "" where nobody speaks, and its words' times, None if not known."""

    samples: Samples
    text: str
    words: tuple[Word, ...] | None

    @property
    def duration_ms(self) -> int:
        """How long it lasts, in whole milliseconds."""
        return len(self.samples) // SAMPLES_PER_MS


def utterances_of(case: Case) -> Iterator[Piece]:
    """Yield the utterances of a recording, in order, where they are listed beside it."""
    table = case.path.with_suffix(".segments.tsv")
    if table.is_file():
        recording = Piece(_read(case.path), "", case.truth or None)
        for span, text in parse_segments(table.read_text()):
            yield cut(recording, span, text)


def parse_segments(table: str) -> Iterator[tuple[Span, str]]:
    """Yield the utterances of a ``.segments.tsv``: when, and what is said."""
    for row in csv.DictReader(table.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE):
        yield Span(round(1000 * float(row["start"])), round(1000 * float(row["end"]))), row["text"]


def cut(piece: Piece, span: Span, text: str) -> Piece:
    """Return a stretch of a piece; a word belongs to it if its middle does."""
    words = None
    if piece.words is not None:
        inside = [w for w in piece.words if span.start_ms <= w.middle_ms < span.end_ms]
        words = tuple(_move(word, span) for word in inside)
    first, last = span.start_ms * SAMPLES_PER_MS, span.end_ms * SAMPLES_PER_MS
    return Piece(piece.samples[first:last], text, words)


def _move(word: Word, span: Span) -> Word:
    start_ms = max(0, word.start_ms - span.start_ms)
    end_ms = min(span.duration_ms, word.end_ms - span.start_ms)
    return replace(word, start_ms=start_ms, end_ms=max(start_ms, end_ms))


def _read(path: Path) -> Samples:
    """Return a file as float32, mono, 16 kHz."""
    samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    return np.asarray(soxr.resample(downmix(samples), rate_hz, SAMPLE_RATE_HZ), np.float32)
