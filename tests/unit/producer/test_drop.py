"""A dropped file is taken once nobody writes to it any more."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from producer.drop import PATIENCE, Settling
from producer.walk import Found


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
    settling: Settling

    def look(self, after_s: float = 0.0, *names: str) -> list[tuple[str, bool]]:
        """Wait, look, and return what can be taken; ``names`` are all that is not taken."""
        self.clock.now_s += after_s
        paths = [self.path / name for name in names] or sorted(self.path.iterdir())
        found = [Found(os.fsencode(path), os.fsencode(self.path)) for path in paths]
        return [
            (os.fsdecode(os.path.basename(file.path)), is_over)
            for file, is_over in self.settling.settled(found)
        ]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    clock = Clock()
    return Folder(tmp_path, clock, Settling(10, clock))


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
    folder.settling.put_off(os.fsencode(path))
    assert folder.look(10) == []
    path.write_bytes(b"half and half")
    folder.look()
    assert folder.look(10) == [("a.wav", False)]
    folder.settling.put_off(os.fsencode(path))
    assert folder.look(10) == []
    assert folder.look(10 * PATIENCE) == [("a.wav", True)]


def test_a_file_that_goes_away_is_forgotten(folder: Folder):
    path = folder.path / "a.wav"
    path.write_bytes(b"whole")
    folder.look()
    path.unlink()
    assert folder.look(10, "a.wav") == []
    assert folder.settling.waiting == 0


def test_another_file_of_a_name_that_was_put_off_and_went_away_is_read(folder: Folder):
    path = folder.path / "a.wav"
    path.write_bytes(b"half")
    look = os.stat(path).st_mtime_ns
    folder.look()
    assert folder.look(10) == [("a.wav", False)]
    folder.settling.put_off(os.fsencode(path))
    path.unlink()
    assert folder.look() == []

    path.write_bytes(b"full")
    os.utime(path, ns=(look, look))
    folder.look()

    assert folder.look(10) == [("a.wav", False)]
