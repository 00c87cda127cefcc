"""A dropped file is taken once nobody writes to it any more."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from producer.sources.walk import FoundFile
from producer.submit.drop_folder import (
    NAME_TAKEN,
    UNREADABLE_GRACE_FACTOR,
    FolderMonitor,
    StabilityTracker,
    TakenFiles,
    is_gone,
    name_taken_notice,
)
from schema.errors import ErrorCode, Transient
from schema.records import Location
from schema.store.intake.drop_folder import FolderFile


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Folder:
    """A folder that is looked at by a clock of ours."""

    path: Path
    clock: Clock
    tracker: StabilityTracker

    def look(self, after_s: float = 0.0, *names: str) -> list[tuple[str, bool]]:
        """Wait, look, and return what can be taken; ``names`` are all that is not taken."""
        self.clock.now_s += after_s
        paths = [self.path / name for name in names] or sorted(self.path.iterdir())
        files = [FoundFile(os.fsencode(path), os.fsencode(self.path)) for path in paths]
        return [
            (os.fsdecode(os.path.basename(file.path)), grace_is_over)
            for file, grace_is_over in self.tracker.stable_files(files)
        ]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    clock = Clock()
    return Folder(tmp_path, clock, StabilityTracker(10, clock))


def test_a_file_is_taken_once_it_has_not_moved_for_a_while(folder: Folder):
    path = folder.path / "a.wav"
    path.write_bytes(b"half")
    assert folder.look() == []
    assert folder.look(9) == []
    path.write_bytes(b"half and half")
    assert folder.look(9) == [], "it moved"
    assert folder.look(9) == []
    assert folder.look(1) == [("a.wav", False)]


def test_a_file_written_again_at_the_same_length_has_moved(folder: Folder):
    path = folder.path / "a.wav"
    path.write_bytes(b"aaaa")
    os.utime(path, ns=(1, 1))
    folder.look()
    path.write_bytes(b"bbbb")
    os.utime(path, ns=(2, 2))
    assert folder.look(10) == []
    assert folder.look(10) == [("a.wav", False)]


@pytest.mark.parametrize("suffix", ["part", "tmp", "filepart"])
def test_a_name_for_what_is_not_whole_is_waited_for(folder: Folder, suffix):
    draft = folder.path / f"a.wav.{suffix}"
    draft.write_bytes(b"all of it")
    folder.look()
    assert folder.look(100) == []
    draft.rename(folder.path / "a.wav")
    assert folder.look() == []
    assert folder.look(10) == [("a.wav", False)]


def test_what_cannot_be_read_is_left_until_it_changes_or_patience_ends(folder: Folder):
    path = folder.path / "a.wav"
    path.write_bytes(b"half")
    folder.look()
    assert folder.look(10) == [("a.wav", False)]
    folder.tracker.retry_when_changed(os.fsencode(path))
    assert folder.look(10) == []
    path.write_bytes(b"half and half")
    folder.look()
    assert folder.look(10) == [("a.wav", False)]
    folder.tracker.retry_when_changed(os.fsencode(path))
    assert folder.look(10) == []
    assert folder.look(10 * UNREADABLE_GRACE_FACTOR) == [("a.wav", True)]


def test_a_file_that_goes_away_is_forgotten(folder: Folder):
    path = folder.path / "a.wav"
    path.write_bytes(b"whole")
    folder.look()
    path.unlink()
    assert folder.look(10, "a.wav") == []
    assert folder.tracker.pending_files == 0


def test_another_file_of_a_name_that_was_put_off_and_went_away_is_read(folder: Folder):
    path = folder.path / "a.wav"
    path.write_bytes(b"half")
    look = os.stat(path).st_mtime_ns
    folder.look()
    assert folder.look(10) == [("a.wav", False)]
    folder.tracker.retry_when_changed(os.fsencode(path))
    path.unlink()
    assert folder.look() == []

    path.write_bytes(b"full")
    os.utime(path, ns=(look, look))
    folder.look()

    assert folder.look(10) == [("a.wav", False)]


@dataclass
class Hand:
    """A folder of which some files were taken, and what a watcher makes of the rest."""

    path: Path
    taken: TakenFiles

    def file(self, name: str) -> tuple[Location, FoundFile]:
        path = os.fsencode(self.path / name)
        return Location("calls", name.encode()), FoundFile(path, os.fsencode(self.path))

    def take(self, name: str, data: bytes = b"whole") -> Path:
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        source, file = self.file(name)
        assert self.taken.is_new(source, file)
        digest = hashlib.sha256(data).hexdigest()
        self.taken.add(source, FolderFile(time.time_ns(), len(data), digest))
        return path

    def restarted(self) -> Hand:
        return Hand(self.path, TakenFiles(dict(self.taken.contents), self.is_gone))

    def is_gone(self, source: Location) -> bool:
        return is_gone(os.path.join(os.fsencode(self.path), source.path))


@pytest.fixture(params=["the same producer", "another producer"])
def hand(request, tmp_path: Path) -> Callable[[Hand], Hand]:
    """Go on with a folder, after a restart or without one."""
    return lambda hand: hand if request.param == "the same producer" else hand.restarted()


@pytest.fixture
def folder_taken(tmp_path: Path) -> Hand:
    hand_made = Hand(tmp_path, TakenFiles({}, lambda _: False))
    hand_made.taken = TakenFiles({}, hand_made.is_gone)
    return hand_made


def test_what_was_taken_and_lies_there_is_no_news(folder_taken: Hand, hand):
    folder_taken.take("a.wav")

    assert not hand(folder_taken).taken.is_new(*folder_taken.file("a.wav"))


@pytest.mark.parametrize("data", [b"other", b"longer than that"])
def test_another_file_under_a_name_that_was_taken_is_noticed_once(folder_taken: Hand, hand, data):
    path = folder_taken.take("a.wav")
    now = hand(folder_taken)
    path.write_bytes(data)
    os.utime(path, (1, 1))

    assert now.taken.is_new(*now.file("a.wav"))
    assert now.taken.is_replaced(*now.file("a.wav"))
    assert not now.taken.is_new(*now.file("a.wav"))


def test_a_file_put_in_the_place_of_one_that_was_taken_is_noticed(folder_taken: Hand, hand):
    path = folder_taken.take("a.wav")
    status = os.stat(path)
    now = hand(folder_taken)
    other = path.with_name("other")
    other.write_bytes(b"other")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)

    assert now.taken.is_new(*now.file("a.wav"))
    assert now.taken.is_replaced(*now.file("a.wav"))


def test_a_file_that_was_only_touched_is_the_one_that_was_taken(folder_taken: Hand, hand):
    path = folder_taken.take("a.wav")
    now = hand(folder_taken)
    path.touch()
    path.chmod(0o640)

    assert now.taken.is_new(*now.file("a.wav")), "its content must be looked at"
    assert not now.taken.is_replaced(*now.file("a.wav"))
    assert not now.taken.is_new(*now.file("a.wav"))


def test_a_file_that_was_moved_is_the_one_that_was_taken(folder_taken: Hand, hand):
    path = folder_taken.take("a.wav")
    now = hand(folder_taken)
    (now.path / "processed").mkdir()
    path.rename(now.path / "processed" / "a.wav")
    new, file = now.file("processed/a.wav")
    digest = hashlib.sha256(b"whole").hexdigest()

    assert now.taken.is_new(new, file)
    assert now.taken.moved_from(file, digest) == Location("calls", b"a.wav")
    now.taken.move(Location("calls", b"a.wav"), new)
    assert not now.taken.is_new(new, file)
    assert Location("calls", b"a.wav") not in now.taken.contents


def test_a_move_is_known_without_reading_by_who_took_the_file(folder_taken: Hand):
    path = folder_taken.take("a.wav")
    path.rename(path.with_name("b.wav"))
    _, file = folder_taken.file("b.wav")

    assert folder_taken.taken.moved_from(file) == Location("calls", b"a.wav")


def test_a_copy_is_a_call_of_its_own(folder_taken: Hand, hand):
    path = folder_taken.take("a.wav")
    path.with_name("b.wav").write_bytes(b"whole")
    now = hand(folder_taken)
    _, file = now.file("b.wav")

    assert now.taken.moved_from(file, hashlib.sha256(b"whole").hexdigest()) is None


def test_of_two_that_are_gone_the_one_of_the_same_name_was_moved(folder_taken: Hand):
    for name in ("1.wav", "2.wav"):
        folder_taken.take(name).unlink()
    (folder_taken.path / "done").mkdir()
    (folder_taken.path / "done" / "2.wav").write_bytes(b"whole")
    _, file = folder_taken.file("done/2.wav")

    moved = folder_taken.taken.moved_from(file, hashlib.sha256(b"whole").hexdigest())

    assert moved == Location("calls", b"2.wav")


def test_the_file_that_was_moved_leaves_its_name_free(folder_taken: Hand):
    path = folder_taken.take("a.wav")
    path.rename(path.with_name("b.wav"))
    folder_taken.taken.move(Location("calls", b"a.wav"), Location("calls", b"b.wav"))
    path.write_bytes(b"another")

    assert folder_taken.taken.is_new(*folder_taken.file("a.wav"))
    assert Location("calls", b"a.wav") not in folder_taken.taken.contents


def test_an_object_of_another_size_is_another():
    source = Location("calls", b"a.wav")
    taken_files = TakenFiles({source: FolderFile(time.time_ns(), 4, "digest")}, lambda _: True)

    def listed(size_bytes: int) -> FoundFile:
        return FoundFile(b"s3://b/a.wav", b"s3://b", b"a.wav", size_bytes)

    assert not taken_files.is_new(source, listed(4))
    assert taken_files.is_new(source, listed(5))
    assert taken_files.is_replaced(source, listed(5))


def test_the_refusal_of_a_name_says_what_to_do():
    notice = name_taken_notice(Location("calls", b"a.wav"))

    assert (notice.code, notice.subject) == (NAME_TAKEN, "a.wav")
    assert "not transcribed" in notice.message


def test_what_cannot_be_asked_for_is_not_gone(tmp_path: Path, monkeypatch):
    assert is_gone(os.fsencode(tmp_path / "a.wav"))
    (tmp_path / "file").touch()
    assert is_gone(os.fsencode(tmp_path / "file" / "a.wav"))

    def stale(path):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(os, "lstat", stale)
    assert not is_gone(os.fsencode(tmp_path / "a.wav"))


@pytest.mark.parametrize("code", [errno.EACCES, errno.ESTALE, errno.EIO])
def test_a_folder_that_cannot_be_read_is_said_at_once_and_ends_after_ten_minutes(
    tmp_path: Path, monkeypatch, code
):
    clock = Clock()
    path = os.fsencode(tmp_path)
    monitor = FolderMonitor([path], clock)
    scandir = os.scandir
    assert monitor.look() == ([path], [])

    def refuse(at):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "scandir", refuse)
    readable, (message,) = monitor.look()
    assert readable == []
    assert os.strerror(code) in message
    clock.now_s += 300
    assert monitor.look() == ([], []), "said once"

    monkeypatch.setattr(os, "scandir", scandir)
    readable, (message,) = monitor.look()
    assert readable == [path]
    assert "again" in message
    monkeypatch.setattr(os, "scandir", refuse)
    monitor.look()
    clock.now_s += 599
    monitor.look()
    clock.now_s += 1
    with pytest.raises(Transient) as caught:
        monitor.look()

    assert caught.value.code is ErrorCode.STORAGE_UNREACHABLE
    assert "10 minutes" in caught.value.cause


def test_a_folder_that_is_gone_is_said(tmp_path: Path):
    folder = tmp_path / "drop"
    folder.mkdir()
    other = os.fsencode(tmp_path)
    monitor = FolderMonitor([os.fsencode(folder), other], Clock())
    monitor.look()
    folder.rmdir()

    readable, (message,) = monitor.look()

    assert readable == [other]
    assert "No such file" in message


def test_an_empty_directory_where_a_share_was_is_no_empty_folder(tmp_path: Path, monkeypatch):
    folder = tmp_path / "share" / "drop"
    folder.mkdir(parents=True)
    mounts = {os.fsencode(tmp_path / "share"), b"/"}
    monkeypatch.setattr(os.path, "ismount", lambda path: path in mounts)
    monitor = FolderMonitor([os.fsencode(folder)], Clock())
    assert monitor.look()[0]

    mounts.discard(os.fsencode(tmp_path / "share"))
    readable, (message,) = monitor.look()
    assert readable == []
    assert "nothing is mounted at" in message

    mounts.add(os.fsencode(tmp_path / "share"))
    assert monitor.look()[0]


def test_a_share_that_does_not_answer_holds_nobody_up(tmp_path: Path, monkeypatch):
    release = threading.Event()
    scandir = os.scandir

    def hang(path):
        release.wait()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", hang)
    monitor = FolderMonitor([os.fsencode(tmp_path)], Clock(), answer_s=0.05)

    readable, (message,) = monitor.look()
    assert readable == []
    assert "has not answered" in message

    release.set()
    assert monitor.look()[0]


def test_a_bucket_is_left_to_its_listing():
    assert FolderMonitor([b"s3://b/drop"], Clock()).look() == ([b"s3://b/drop"], [])
