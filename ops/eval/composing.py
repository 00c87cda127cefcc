"""Recordings made of others, so that what is said in them is known, and when. Pure.

Samples are float32, mono, 16 kHz; times are milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle

import numpy as np

from schema.pcm import SAMPLES_PER_MS, Samples
from schema.span import Span
from schema.words import Word

#: A shorter gap between two words of a forced alignment may be part of either.
_GAP_MS = 30

#: Over which a cut is faded on both sides, so that it does not click.
_FADE_MS = 5


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


def silence(duration_ms: int) -> Piece:
    """Return digital silence."""
    return Piece(np.zeros(duration_ms * SAMPLES_PER_MS, np.float32), "", ())


def cut(piece: Piece, span: Span, text: str) -> Piece:
    """Return a stretch of a piece; a word belongs to it if its middle does."""
    words = None
    if piece.words is not None:
        inside = [w for w in piece.words if span.start_ms <= w.middle_ms < span.end_ms]
        words = tuple(_moved(word, span) for word in inside)
    first, last = span.start_ms * SAMPLES_PER_MS, span.end_ms * SAMPLES_PER_MS
    return Piece(piece.samples[first:last], text, words)


def _moved(word: Word, span: Span) -> Word:
    start_ms = max(0, word.start_ms - span.start_ms)
    end_ms = min(span.duration_ms, word.end_ms - span.start_ms)
    return replace(word, start_ms=start_ms, end_ms=max(start_ms, end_ms))


def joined(pieces: Iterable[Piece]) -> Piece:
    """Return pieces one after the other; times are known where all are."""
    samples: list[Samples] = []
    texts: list[str] = []
    words: list[Word] | None = []
    at_ms = 0
    for piece in pieces:
        samples.append(piece.samples[: piece.duration_ms * SAMPLES_PER_MS])
        texts += [piece.text] if piece.text else []
        if words is not None and piece.words is not None:
            words += [word.shifted(at_ms) for word in piece.words]
        else:
            words = None
        at_ms += piece.duration_ms
    audio = np.concatenate(samples) if samples else np.zeros(0, np.float32)
    return Piece(audio, "\n".join(texts), None if words is None else tuple(words))


def without_pauses(piece: Piece) -> Piece:
    """Return a piece whose words' times are known with all that is between its words left out.

    Raises:
        ValueError: they are not known.
    """
    if piece.words is None:
        raise ValueError("times are needed to tell where the pauses are")
    spans: list[Span] = []
    for word in piece.words:
        if spans and word.start_ms - spans[-1].end_ms < _GAP_MS:
            spans[-1] = Span(spans[-1].start_ms, max(spans[-1].end_ms, word.end_ms))
        else:
            spans.append(word.span)
    parts = [_faded(cut(piece, span, "")) for span in spans]
    return replace(joined(parts), text=piece.text)


def _faded(piece: Piece) -> Piece:
    samples = piece.samples.copy()
    fade = min(_FADE_MS * SAMPLES_PER_MS, len(samples) // 2)
    ramp = np.linspace(0, 1, fade, dtype=np.float32)
    samples[:fade] *= ramp
    samples[len(samples) - fade :] *= ramp[::-1]
    return replace(piece, samples=samples)


def noisy(piece: Piece, noise: Samples, snr_db: float) -> Piece:
    """Return a piece with noise, repeated as often as it takes, ``snr_db`` below its level."""
    length = len(piece.samples)
    background = np.resize(noise, length)
    ratio = _level(piece.samples) / max(_level(background), 1e-9)
    mixed = piece.samples + background * np.float32(ratio * 10 ** (-snr_db / 20))
    peak = max(1.0, float(np.abs(mixed).max(initial=0.0)))
    return replace(piece, samples=(mixed / np.float32(peak)).astype(np.float32))


def _level(samples: Samples) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0


def in_turn(lines: Sequence[Sequence[Piece]], between: Sequence[Piece]) -> list[Piece]:
    """Return one piece of each line in turn until one has no more, ``between`` them in turn too."""
    found: list[Piece] = []
    fillers = cycle(between) if between else None
    for each in zip(*lines, strict=False):
        for piece in each:
            found += [piece, next(fillers)] if fillers else [piece]
    return found


def lasting(pieces: Iterable[Piece], duration_ms: int) -> list[Piece]:
    """Return the first pieces, as many as it takes to last so long."""
    found: list[Piece] = []
    for piece in pieces:
        if sum(each.duration_ms for each in found) >= duration_ms:
            break
        found.append(piece)
    return found
