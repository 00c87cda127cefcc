"""A root is where this host says."""

from __future__ import annotations

import os
import sys

import pytest

from schema.errors import BadRecording, ErrorCode, Misconfigured
from schema.records import Location
from schema.settings import Settings
from schema.storage.roots import Directory, storage_of


def settings(roots: str) -> Settings:
    return Settings(database_url="postgresql://", redis_url="redis://", roots=roots)


def test_a_root_may_be_reached_through_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "calls").symlink_to("disk")

    storage = storage_of(settings(f"calls={tmp_path / 'calls'}"), "calls")

    assert storage == Directory("calls", str(tmp_path / "disk"))
    storage.check()


def test_a_root_of_another_host_is_missing():
    with pytest.raises(Misconfigured, match="CALLSCRIBE_ROOTS"):
        storage_of(settings("calls=/mnt/calls"), "old")


def test_a_directory_that_is_not_there_is_named(tmp_path):
    storage = storage_of(settings(f"calls={tmp_path / 'calls'}"), "calls")

    with pytest.raises(Misconfigured, match="Is it mounted"):
        storage.check()


def test_a_bucket_needs_the_extra_that_reads_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "schema.storage.s3", None)

    with pytest.raises(Misconfigured, match="extra s3"):
        storage_of(settings("cloud=s3://bucket/calls"), "cloud")


@pytest.fixture
def calls(tmp_path):
    """A root with a link to a directory in it, beside what must never be read."""
    (tmp_path / "calls" / "day").mkdir(parents=True)
    (tmp_path / "calls" / "day" / "call.wav").write_text("mine")
    (tmp_path / "calls" / "today").symlink_to("day")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "call.wav").write_text("SECRET")
    return tmp_path / "calls"


def content(root, path):
    with Directory("calls", str(root)).open(Location("calls", path)) as file:
        return os.pread(file.handle, 100, 0)


def on_disk(root, path):
    location = Location("calls", path)
    storage = Directory("calls", str(root))
    with storage.on_disk(location, lambda _: None) as name, open(name, "rb") as file:
        return file.read()


@pytest.mark.parametrize("read", [content, on_disk])
def test_a_link_may_lead_elsewhere_in_its_root_and_not_out_of_it(calls, read):
    (calls / "out").symlink_to("../outside")
    (calls / "loop").symlink_to("loop")

    assert read(calls, b"today/call.wav") == b"mine"
    for path, code in {
        b"out/call.wav": {ErrorCode.PATH_OUTSIDE_ROOTS},
        b"../outside/call.wav": {ErrorCode.PATH_OUTSIDE_ROOTS},
        b"day/gone.wav": {ErrorCode.FILE_VANISHED},
        b"loop": {ErrorCode.PATH_LOOP, ErrorCode.FILE_UNREADABLE},
        b"day": {ErrorCode.FILE_UNREADABLE, ErrorCode.AUDIO_NOT_AUDIO},
    }.items():
        with pytest.raises(BadRecording) as caught:
            read(calls, path)
        assert caught.value.code in code


@pytest.mark.parametrize("read", [content, on_disk])
def test_a_directory_swapped_for_a_link_once_it_was_resolved_leads_nowhere(
    calls, read, monkeypatch
):
    resolve = os.path.realpath

    def swapping(path):
        real = resolve(path)
        if not (calls / "day").is_symlink():
            (calls / "day").rename(calls / "was")
            (calls / "day").symlink_to("../outside")
        return real

    monkeypatch.setattr(os.path, "realpath", swapping)

    with pytest.raises(BadRecording) as caught:
        read(calls, b"today/call.wav")
    assert caught.value.code is ErrorCode.PATH_OUTSIDE_ROOTS


def test_what_takes_a_files_place_while_it_is_read_is_not_read(calls):
    location = Location("calls", b"day/call.wav")

    with Directory("calls", str(calls)).on_disk(location, lambda _: None) as name:
        (calls / "day" / "call.wav").unlink()
        (calls / "day" / "call.wav").symlink_to("../../outside/call.wav")
        for _ in range(2):
            with open(name, "rb") as file:
                assert file.read() == b"mine"
