"""How far the times of right words are from the true ones. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ops.eval.errors import compare
from ops.eval.text import Token, tokens
from schema.words import Word


@dataclass(frozen=True, slots=True)
class Timing:
    """A right word: when it was said, and how much later it was written to begin and end."""

    said_ms: int
    start_error_ms: int
    end_error_ms: int


def timings(truth: Sequence[Token], words: Sequence[Word]) -> list[Timing]:
    """Return the timing of each right word.

    Words that are several tokens ("25") are left out, since no time within them was written.
    """
    written = [
        (token, len(own) == 1) for word in words for own in [tokens([word])] for token in own
    ]
    compared = compare(truth, [token for token, _ in written])
    return [
        Timing(
            truth[i].middle_ms,
            written[j][0].start_ms - truth[i].start_ms,
            written[j][0].end_ms - truth[i].end_ms,
        )
        for i, j in compared.pairs
        if written[j][1]
    ]


def to_nearest(at_ms: int, seams_ms: Sequence[int]) -> float:
    """Return how far from a moment the nearest seam is; ``seams_ms`` are in order."""
    index = bisect_left(seams_ms, at_ms)
    around = seams_ms[max(0, index - 1) : index + 1]
    return min((abs(at_ms - seam_ms) for seam_ms in around), default=math.inf)


def median(values: Sequence[float]) -> float:
    """Return the middle value."""
    return float(np.median(values))


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that ``percent`` of all stay below, between two where it lies so."""
    return float(np.percentile(values, percent))
