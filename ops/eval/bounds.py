"""How far a measured mean may be from the true one: the bootstrap, over stretches of audio. Pure.

Differences are paired: both ways were measured at the same places. What lies close together in
one recording, or at one place in several layouts, is not independent, so whole stretches are drawn
with replacement (the cluster bootstrap of Davison and Hinkley, 1997, section 3.8), not places.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

_SEED = 20_261
_DRAWS = 4_000


@dataclass(frozen=True, slots=True)
class Bound:
    """A mean and its two-sided 95 % bounds."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def bounded_mean(values: Sequence[float], stretches: Sequence[Hashable]) -> Bound:
    """Return the mean of values, each of which belongs to a stretch, with its bounds."""
    return bounded_ratio(values, [1.0] * len(values), stretches)


def bounded_ratio(
    values: Sequence[float], weights: Sequence[float], stretches: Sequence[Hashable]
) -> Bound:
    """Return the sum of values over the sum of their weights, with its bounds; NaN of nothing."""
    numbers = {stretch: number for number, stretch in enumerate(dict.fromkeys(stretches))}
    sums = np.zeros((len(numbers), 2))
    for value, weight, stretch in zip(values, weights, stretches, strict=True):
        sums[numbers[stretch]] += value, weight
    total, weight = sums.sum(axis=0) if len(sums) else (0.0, 0.0)
    if not weight:
        return Bound(np.nan, np.nan, np.nan)
    drawn = np.random.default_rng(_SEED).integers(0, len(sums), (_DRAWS, len(sums)))
    of_draws = sums[drawn].sum(axis=1)
    kept = of_draws[of_draws[:, 1] > 0]
    low, high = np.percentile(kept[:, 0] / kept[:, 1], (2.5, 97.5))
    return Bound(float(total / weight), float(low), float(high))
