"""Which words are wrong, and when they were said. Pure.

Written words are aligned with the true ones by jiwer (least edits). A word that is missing or
wrong counts where it was said, a word too many where it was written.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import jiwer

from ops.eval.text import Token

Kind = Literal["substitution", "deletion", "insertion"]


@dataclass(frozen=True, slots=True)
class Mistake:
    """One edit: ``expected`` and ``written``, either of them "" where there is no such word."""

    kind: Kind
    at_ms: int
    expected: str
    written: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Written words against true ones: ``pairs`` are the indexes of equal tokens."""

    mistakes: tuple[Mistake, ...]
    pairs: tuple[tuple[int, int], ...]
    expected: int

    @property
    def rate(self) -> float:
        """Errors per true word."""
        return len(self.mistakes) / max(1, self.expected)


def compare(truth: Sequence[Token], written: Sequence[Token]) -> Comparison:
    """Align ``written`` with ``truth``, both in order of time."""
    mistakes: list[Mistake] = []
    pairs: list[tuple[int, int]] = []
    for kind, expected, found in _steps(truth, written):
        if kind == "equal":
            pairs += zip(expected, found, strict=True)
        elif kind == "substitute":
            mistakes += (
                Mistake("substitution", truth[i].middle_ms, truth[i].text, written[j].text)
                for i, j in zip(expected, found, strict=True)
            )
        elif kind == "delete":
            mistakes += (
                Mistake("deletion", truth[i].middle_ms, truth[i].text, "") for i in expected
            )
        else:
            mistakes += (
                Mistake("insertion", written[j].middle_ms, "", written[j].text) for j in found
            )
    mistakes.sort(key=lambda mistake: mistake.at_ms)
    return Comparison(tuple(mistakes), tuple(pairs), len(truth))


def _steps(truth: Sequence[Token], written: Sequence[Token]) -> Iterator[tuple[str, range, range]]:
    """Yield the steps of the alignment: what is done, the true words, the written words."""
    if not truth or not written:
        yield "delete", range(len(truth)), range(0)
        yield "insert", range(0), range(len(written))
        return
    expected, found = (" ".join(token.text for token in side) for side in (truth, written))
    [chunks] = jiwer.process_words(expected, found).alignments
    for chunk in chunks:
        yield (
            chunk.type,
            range(chunk.ref_start_idx, chunk.ref_end_idx),
            range(chunk.hyp_start_idx, chunk.hyp_end_idx),
        )


def near(mistakes: Sequence[Mistake], at_ms: int, within_ms: int) -> Sequence[Mistake]:
    """Return those of ``mistakes``, which are in order of time, that are near a moment."""
    first = bisect_left(mistakes, at_ms - within_ms, key=lambda mistake: mistake.at_ms)
    last = bisect_left(mistakes, at_ms + within_ms + 1, key=lambda mistake: mistake.at_ms)
    return mistakes[first:last]


def timed(texts: Sequence[str], written: Sequence[Token]) -> list[Token]:
    """Give true words that have no times those of a decode; what it lacks shares the time between.

    Only good to tell which words are near a moment, not to measure times.
    """
    untimed = [Token(text, 0, 0) for text in texts]
    ends = [(-1, 0, 0)]
    for i, j in compare(untimed, written).pairs:
        ends.append((i, written[j].start_ms, written[j].end_ms))
    last_ms = written[-1].end_ms if written else 0
    ends.append((len(texts), last_ms, last_ms))
    found: list[Token] = []
    for (before, start_ms, end_ms), (after, next_ms, _) in pairwise(ends):
        if before >= 0:
            found.append(Token(texts[before], start_ms, end_ms))
        missing = range(before + 1, after)
        each_ms = max(0, next_ms - end_ms) / max(1, len(missing))
        for at, index in enumerate(missing):
            starts_ms = end_ms + round(at * each_ms)
            found.append(Token(texts[index], starts_ms, end_ms + round((at + 1) * each_ms)))
    return found
