"""Bounds are of whole stretches, paired, and the same each time."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from ops.eval.bounds import bounded_mean, bounded_ratio


def test_equal_differences_have_no_spread():
    bound = bounded_mean([0.5] * 10, range(10))
    assert (bound.mean, bound.low, bound.high) == (0.5, 0.5, 0.5)


def test_copies_of_one_stretch_are_no_further_evidence():
    values = [0.0, 1.0, 0.0, 1.0]
    once = bounded_mean(values, range(4))
    ten_times = bounded_mean(values * 10, list(range(4)) * 10)
    assert (once.low, once.high) == (ten_times.low, ten_times.high)


def test_more_stretches_give_closer_bounds():
    few, many = (bounded_mean([0.0, 1.0] * n, range(2 * n)) for n in (5, 100))
    assert many.high - many.low < (few.high - few.low) / 2


def test_a_ratio_weighs_its_stretches():
    assert bounded_ratio([3.0, 0.0], [1.0, 2.0], ["a", "b"]).mean == 1.0


def test_nothing_has_no_mean():
    assert math.isnan(bounded_mean([], []).mean)
    assert math.isnan(bounded_ratio([1.0], [0.0], ["a"]).mean)


@given(st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 6)), min_size=1, max_size=30))
def test_the_bounds_enclose_the_mean_and_come_again(pairs: list[tuple[float, int]]):
    values, stretches = [v for v, _ in pairs], [s for _, s in pairs]
    bound = bounded_mean(values, stretches)
    assert bound.low - 1e-9 <= max(values)
    assert bound.high + 1e-9 >= min(values)
    assert bound.low <= bound.high
    assert bound == bounded_mean(values, stretches)
