"""How much is decoded together: learnt by a trial, halved when memory runs out."""

from __future__ import annotations

import pytest

from workers.budget import LEAST_MS, MOST_MS, Budget


@pytest.mark.parametrize(
    ("free_bytes", "trial_bytes", "expected_ms"),
    [
        (10_000_000_000, 100_000_000, 2_400_000),
        (10_000_000_000, 1, MOST_MS),
        (10_000_000_000, 0, MOST_MS),
        (50_000_000, 100_000_000, LEAST_MS),
    ],
)
def test_a_trial_tells_how_much_the_free_memory_holds(free_bytes, trial_bytes, expected_ms):
    budget, asked = Budget(1), []

    def decode(duration_ms: int) -> int:
        asked.append(duration_ms)
        return trial_bytes

    budget.learn(free_bytes, decode)
    assert (asked, budget.ms) == ([LEAST_MS], expected_ms)


def test_half_is_taken_until_the_longest_region_just_fits():
    budget = Budget(200_000)
    assert [budget.halve() for _ in range(4)] == [True, True, True, False]
    assert budget.ms == LEAST_MS
