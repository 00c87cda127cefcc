"""Percentiles as the benchmarks print them."""

from __future__ import annotations

import pytest

from ops.bench.report import milliseconds, percentile


def test_a_percentile_is_a_value_that_was_measured():
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, p) for p in (0, 20, 50, 95, 100)] == [1.0, 1.0, 3.0, 5.0, 5.0]


def test_of_nothing_there_is_no_percentile():
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_durations_are_printed_in_milliseconds():
    assert milliseconds([0.0015, 0.004], 50) == "1.50"
