"""Counts as people write them."""

from __future__ import annotations

import pytest

from producer.cli.output import count_of


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1_000, "1,000 rows")]
)
def test_one_is_singular(count: int, text: str):
    assert count_of(count, "row") == text
