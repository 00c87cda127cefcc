"""Rates and durations from what workers noted of their tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops.bench.times import Ran, Times, parse_times, steady


def test_what_was_noted_is_read(tmp_path: Path):
    times = Times(str(tmp_path / "times"))
    times.add(1.5, 1.5)
    times.add(2.0, 2.25)
    assert parse_times((tmp_path / "times").read_text()) == [Ran(1.5, 1.5), Ran(2.0, 2.25)]


def test_the_rate_is_of_tasks_that_ended_after_the_last_message_was_sent():
    ran = [Ran(ended_s - 0.25, ended_s) for ended_s in (0.5, 1.0, 2.0, 2.5, 3.0)]
    assert steady(ran, since_s=1.5) == (2.0, [0.25, 0.25, 0.25])


def test_a_queue_that_is_empty_before_all_is_sent_tells_nothing():
    with pytest.raises(ValueError, match="ask for more tasks"):
        steady([Ran(1.0, 1.0)], since_s=2.0)
