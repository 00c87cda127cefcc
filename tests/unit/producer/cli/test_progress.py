"""Speed and time to go, from what is done."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from producer.cli.progress import Speed, one_line
from schema.store.read.progress import Progress


def progress(done_s: int, audio_s: int, **recordings: int) -> Progress:
    return Progress(
        id=UUID(int=1),
        title="calls",
        profile="call",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        is_sealed=True,
        recordings=recordings,
        segments={},
        audio_ms=audio_s * 1_000,
        done_ms=done_s * 1_000,
        distinct_results=0,
        flags={},
        notices=0,
        postponed_segments=(),
    )


def test_nothing_is_claimed_before_anything_is_known():
    speed = Speed()
    speed.add(0.0, 0)

    assert speed.times_real_time is None
    assert speed.eta_s(progress(0, 100)) is None


def test_loading_the_models_is_not_held_against_the_fleet():
    speed = Speed()
    for at_s in range(30):
        speed.add(float(at_s), 0)
    speed.add(30.0, 20_000)
    assert speed.times_real_time is None
    speed.add(31.0, 40_000)

    assert speed.times_real_time == 20


def test_the_speed_is_that_of_the_last_minute():
    speed = Speed()
    for at_s in range(0, 200):
        done_ms = at_s * 1_000 if at_s < 100 else (100 + (at_s - 100) * 10) * 1_000
        speed.add(float(at_s), done_ms)

    assert round(speed.times_real_time or 0) == 10
    assert round(speed.eta_s(progress(1_090, 2_090)) or 0) == 100


def test_the_line_names_every_end():
    line = one_line(progress(10, 20, done=3, failed=1, quarantined=2, running=4), Speed())

    assert line.startswith("6 of 10 recordings ended")
    for part in ("3 done", "4 running", "1 failed", "2 quarantined", "0:00:10 of 0:00:20 audio"):
        assert part in line
