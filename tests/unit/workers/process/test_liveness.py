"""What a worker notes of itself on its own host, and what a probe makes of it."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from schema.settings import Settings
from workers.process import liveness
from workers.process.celery_steps import Heartbeat
from workers.process.liveness import HeartbeatFile


def settings_of(redis_url: str = "redis://:hush@host:6379/0", **changes: object) -> Settings:
    return Settings(database_url="postgresql://", redis_url=redis_url, **changes)


@pytest.fixture(autouse=True)
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where notes lie."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"callscribe-alive-{os.geteuid()}"


@pytest.fixture
def note() -> HeartbeatFile:
    return HeartbeatFile(settings_of(), "gpu0")


def test_a_worker_that_takes_work_is_well(note: HeartbeatFile, notes: Path):
    note.write(["segments"])

    assert note.problem() is None
    assert stat.S_IMODE(notes.stat().st_mode) == 0o700
    assert len(list(notes.iterdir())) == 1


def test_whoever_never_began_or_has_ended_is_named(
    note: HeartbeatFile, monkeypatch: pytest.MonkeyPatch
):
    assert note.problem() == "no worker gpu0 of this user runs on this host"
    ended = subprocess.Popen(["true"])
    ended.wait()
    monkeypatch.setattr(os, "getpid", lambda: ended.pid)
    note.write(["segments"])
    assert note.problem() == "worker gpu0 has ended"
    note.remove()
    assert "no worker gpu0" in (note.problem() or "")
    note.remove()


def test_one_whose_loop_stands_still_is_named(note: HeartbeatFile, monkeypatch: pytest.MonkeyPatch):
    note.write(["segments"])
    later_s = liveness.time.monotonic() + 61
    monkeypatch.setattr(liveness, "time", SimpleNamespace(monotonic=lambda: later_s))

    assert "has not moved for 6" in (note.problem() or "")


def test_one_that_takes_from_no_queue_is_named(note: HeartbeatFile):
    note.write(["evil"])
    assert "takes work from no queue" in (note.problem() or "")
    note.write([])
    assert "takes work from no queue" in (note.problem() or "")


def test_one_that_waits_for_redis_is_well_however_long(
    note: HeartbeatFile, monkeypatch: pytest.MonkeyPatch
):
    note.write(None)
    later_s = liveness.time.monotonic() + 86_400
    monkeypatch.setattr(liveness, "time", SimpleNamespace(monotonic=lambda: later_s))

    assert note.problem() is None


def test_a_note_of_before_a_restart_of_the_host_is_none(
    note: HeartbeatFile, monkeypatch: pytest.MonkeyPatch
):
    note.write(["segments"])
    monkeypatch.setattr(liveness, "time", SimpleNamespace(monotonic=lambda: 0.1))

    assert note.problem() == "worker gpu0 has ended"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"pid": 1}', '{"pid": "x"}'])
def test_a_note_that_is_none_is_named(note: HeartbeatFile, notes: Path, text: str):
    note.write(["segments"])
    (path,) = notes.iterdir()
    path.write_text(text)

    assert "no worker gpu0" in (note.problem() or "")


def test_another_fleets_worker_of_the_same_name_is_another(note: HeartbeatFile):
    note.write(["segments"])

    assert HeartbeatFile(settings_of("redis://:other@host:6379/0"), "gpu0").problem() is None
    for other in (
        HeartbeatFile(settings_of("redis://:hush@host:6379/1"), "gpu0"),
        HeartbeatFile(settings_of("redis://:hush@other:6379/0"), "gpu0"),
        HeartbeatFile(settings_of(namespace="night"), "gpu0"),
        HeartbeatFile(settings_of(), "gpu1"),
    ):
        assert "no worker" in (other.problem() or "")


def test_a_directory_that_somebody_else_put_there_is_not_believed(
    note: HeartbeatFile, notes: Path, tmp_path: Path
):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    notes.symlink_to(elsewhere)

    with pytest.raises(OSError, match="not this user"):
        note.write(["segments"])
    assert list(elsewhere.iterdir()) == []


class Hub:
    """Keeps what would be called again and again."""

    def __init__(self) -> None:
        self.calls = []

    def call_repeatedly(self, every_s: float, call) -> SimpleNamespace:
        assert every_s < 60
        self.calls.append(call)
        return SimpleNamespace(cancel=lambda: self.calls.remove(call))


def test_a_workers_loop_writes_it_and_a_lost_connection_is_noted(
    note: HeartbeatFile, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("workers.process.celery_steps.load_settings", settings_of)
    written = []
    monkeypatch.setattr(HeartbeatFile, "write", lambda _, queues: written.append(queues))
    queues = [SimpleNamespace(name="segments")]
    consumer = SimpleNamespace(
        hostname="gpu0@host", hub=Hub(), task_consumer=SimpleNamespace(queues=queues)
    )

    life = Heartbeat(consumer)
    life.start(consumer)
    (beat,) = consumer.hub.calls
    queues.clear()
    beat()
    life.stop(consumer)

    assert written == [None, ["segments"], [], None]
    assert consumer.hub.calls == []


def test_a_note_that_cannot_be_written_ends_no_worker(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("workers.process.celery_steps.load_settings", settings_of)

    def write(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(HeartbeatFile, "write", write)
    Heartbeat(SimpleNamespace(hostname="gpu0@host"))
