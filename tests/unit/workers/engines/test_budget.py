"""How much is decoded together: learnt by a trial, halved when memory runs out."""

from __future__ import annotations

import pytest

from workers.engines.budget import MAX_BUDGET_MS, MIN_BUDGET_MS, Budget


@pytest.mark.parametrize(
    ("free_bytes", "trial_bytes", "expected_ms"),
    [
        (10_000_000_000, 100_000_000, 2_400_000),
        (10_000_000_000, 1, MAX_BUDGET_MS),
        (10_000_000_000, 0, MAX_BUDGET_MS),
        (50_000_000, 100_000_000, MIN_BUDGET_MS),
    ],
)
def test_a_trial_tells_how_much_the_free_memory_holds(free_bytes, trial_bytes, expected_ms):
    budget, asked = Budget(1), []

    def decode(duration_ms: int) -> int:
        asked.append(duration_ms)
        return trial_bytes

    budget.learn(free_bytes, decode)
    assert (asked, budget.ms) == ([MIN_BUDGET_MS], expected_ms)


def test_what_was_halved_grows_again_once_enough_has_fitted():
    budget = Budget(1)
    budget.learn(10_000_000_000, lambda _: 100_000_000)
    assert budget.ms == 2_400_000
    budget.halve()
    fitted = 0
    while budget.ms < 2_400_000:
        budget.record_success()
        fitted += 1
    assert fitted == 100
    for _ in range(1_000):
        budget.record_success()
    assert budget.ms == 2_400_000


def test_what_runs_out_again_is_tried_half_as_often():
    budget, waits = Budget(240_000), []
    for _ in range(3):
        budget.halve()
        fitted = 0
        while budget.ms < 240_000:
            budget.record_success()
            fitted += 1
        waits.append(fitted)
    assert waits == [100, 200, 400]


def test_half_is_taken_until_the_longest_region_just_fits():
    budget = Budget(200_000)
    assert [budget.halve() for _ in range(4)] == [True, True, True, False]
    assert budget.ms == MIN_BUDGET_MS
