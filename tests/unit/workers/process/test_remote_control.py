"""Operators' commands: what a worker's parent is told, its child does."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from schema.settings import Settings
from workers.process import remote_control


class SegmentDecoder:
    """Counts how often its models went."""

    unloaded = 0

    def unload(self) -> None:
        self.unloaded += 1


@pytest.fixture
def worker():
    remote_control.mark_requests_done()
    settings = Settings(database_url="postgresql://nowhere/none", redis_url="redis://nowhere")
    return SimpleNamespace(settings=settings, segment_decoder=SegmentDecoder())


def test_nothing_is_cleaned_that_nobody_asked_for(worker):
    assert not remote_control.clean_if_requested(worker)
    assert worker.segment_decoder.unloaded == 0


def test_asked_again_and_again_it_cleans_once_a_minute(worker, monkeypatch: pytest.MonkeyPatch):
    now_s = [1_000.0]
    monkeypatch.setattr(remote_control, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    for after_s, cleans in ((0, True), (0, False), (59.9, False), (0.2, True), (1, False)):
        now_s[0] += after_s
        answer = remote_control.deep_clean(None)["ok"]
        assert answer.startswith("models and caches go" if cleans else "asked within")
        assert remote_control.clean_if_requested(worker) is cleans
    assert worker.segment_decoder.unloaded == 2


def test_asked_twice_between_two_segments_it_cleans_once(worker):
    remote_control.request_clean()
    remote_control.request_clean()
    assert remote_control.clean_if_requested(worker)
    assert not remote_control.clean_if_requested(worker)
    assert worker.segment_decoder.unloaded == 1


def test_what_the_parent_is_asked_the_child_sees(worker):
    """The parent's number is changed after the fork, as by a command that comes later."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.read(reading, 1)
        os._exit(0 if remote_control.clean_if_requested(worker) else 1)
    remote_control.request_clean()
    os.write(writing, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_new_child_has_nothing_to_clean(worker):
    remote_control.request_clean()
    remote_control.mark_requests_done()
    assert not remote_control.clean_if_requested(worker)
