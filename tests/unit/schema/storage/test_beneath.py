"""What lies below a directory is opened, and nothing else, whatever takes its place meanwhile."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from schema.storage import beneath as module
from schema.storage.beneath import (
    NotRegularError,
    OutsideError,
    act_below,
    open_directory,
    open_file,
    open_regular,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a file in two directories, beside what must never be read."""
    (tmp_path / "root" / "a" / "b").mkdir(parents=True)
    (tmp_path / "root" / "a" / "b" / "call.wav").write_text("mine")
    (tmp_path / "outside" / "b").mkdir(parents=True)
    (tmp_path / "outside" / "b" / "call.wav").write_text("SECRET")
    (tmp_path / "outside" / "call.wav").write_text("SECRET")
    return tmp_path / "root"


def content(root: Path, path: str) -> str:
    descriptor = open_file(bytes(root), os.fsencode(path))
    with os.fdopen(descriptor) as file:
        return file.read()


def test_a_file_is_opened_for_reading(root: Path):
    assert content(root, "a/b/call.wav") == "mine"


LINKS = {
    "to a file": ("link.wav", "a/b/call.wav", "link.wav"),
    "to a directory": ("link", "a/b", "link/call.wav"),
    "up and down again": ("a/link", "../a/b", "a/link/call.wav"),
    "by its whole path": ("link", "{root}/a", "link/b/call.wav"),
    "out and in again": ("link", "../outside/../root/a", "link/b/call.wav"),
}


@pytest.mark.parametrize("name", LINKS)
def test_a_link_leads_to_wherever_else_below_the_root(root: Path, name: str):
    link, target, path = LINKS[name]
    (root / link).symlink_to(target.format(root=root))

    assert content(root, path) == "mine"


@pytest.mark.parametrize(
    "path", ["a/../a/b/call.wav", "./a//b/call.wav", "{root}/a/b/call.wav", "a/b/call.wav/"]
)
def test_an_odd_way_to_say_it_is_understood(root: Path, path: str):
    assert content(root, path.format(root=root)) == "mine"


@pytest.mark.parametrize(
    ("link", "target", "path"),
    [
        ("x.wav", "../outside/call.wav", "x.wav"),
        ("x", "../outside", "x/call.wav"),
        ("a/x", "{root}/../outside", "a/x/b/call.wav"),
        ("unused", "a", "../outside/call.wav"),
        ("unused", "a", "{root}/../outside/call.wav"),
        ("unused", "a", "a/../../root/../outside/call.wav"),
        ("unused", "a", "."),
        ("unused", "a", "/"),
        ("unused", "a", ""),
    ],
)
def test_what_leads_out_is_refused(root: Path, link: str, target: str, path: str):
    (root / link).symlink_to(target.format(root=root))

    with pytest.raises(OutsideError):
        content(root, path.format(root=root))


def test_a_root_whose_name_another_begins_with_holds_nothing_of_it(root: Path):
    shutil.copytree(root, root.with_name("root2"))
    (root / "link").symlink_to("../root2/a")

    with pytest.raises(OutsideError):
        content(root, "link/b/call.wav")


def test_a_link_to_itself_says_so(root: Path):
    (root / "loop").symlink_to("loop")

    for path in ("loop", "loop/call.wav"):
        with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
            content(root, path)


@pytest.mark.parametrize("path", ["gone.wav", "gone/call.wav", "a/b/call.wav/x"])
def test_what_is_not_there_says_so(root: Path, path: str):
    with pytest.raises((FileNotFoundError, NotADirectoryError)):
        content(root, path)


def test_a_pipe_and_a_directory_are_refused_and_nobody_waits(root: Path):
    os.mkfifo(root / "pipe.wav")

    for path in ("pipe.wav", "a/b"):
        with pytest.raises(NotRegularError):
            content(root, path)
    with pytest.raises(NotRegularError):
        open_regular(bytes(root / "pipe.wav"))


Swap = Callable[[str, Callable[[], None]], None]


@pytest.fixture
def before_opening(monkeypatch: pytest.MonkeyPatch) -> Swap:
    """Do something once, right before the system is asked to open a name."""

    def arrange(name: str, act: Callable[[], None]) -> None:
        left = [act]

        def opening(path, *args, **options):
            if path == os.fsencode(name) and left:
                left.pop()()
            return os_open(path, *args, **options)

        os_open = os.open
        monkeypatch.setattr(module.os, "open", opening)

    return arrange


def swapped(path: Path, target: Path) -> Callable[[], None]:
    """Return what puts a link in the place of what is at a path."""

    def swap() -> None:
        path.rename(path.with_name("was"))
        path.symlink_to(target)

    return swap


@pytest.mark.parametrize("place", ["a", "b", "call.wav"])
def test_what_is_swapped_for_a_link_as_it_is_opened_leads_nowhere(
    root: Path, before_opening: Swap, place: str
):
    paths = {
        "a": (root / "a", root.parent / "outside"),
        "b": (root / "a" / "b", root.parent / "outside"),
        "call.wav": (root / "a" / "b" / "call.wav", root.parent / "outside" / "call.wav"),
    }
    before_opening(place, swapped(*paths[place]))

    with pytest.raises(OutsideError):
        content(root, "a/b/call.wav")


def test_what_is_swapped_after_its_links_were_resolved_leads_nowhere(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    (root / "link").symlink_to("a/b")
    resolve, swap = os.path.realpath, swapped(root / "a", root.parent / "outside")
    left = [swap]

    def resolving(path):
        real = resolve(path)
        if left:
            left.pop()()
        return real

    monkeypatch.setattr(module.os.path, "realpath", resolving)

    with pytest.raises(OutsideError):
        content(root, "link/call.wav")


def test_a_link_to_another_directory_of_the_root_may_take_its_place(
    root: Path, before_opening: Swap
):
    (root / "new").mkdir()
    (root / "new" / "call.wav").write_text("moved")
    before_opening("b", swapped(root / "a" / "b", root / "new"))

    assert content(root, "a/b/call.wav") == "moved"


def test_a_directory_that_is_moved_away_on_the_way_is_still_the_one_that_was_entered(
    root: Path, before_opening: Swap
):
    def move() -> None:
        (root / "a").rename(root / "elsewhere")
        (root / "a").symlink_to("../outside")

    before_opening("call.wav", move)

    assert content(root, "a/b/call.wav") == "mine"


def test_a_pipe_that_takes_a_files_place_is_not_waited_for(root: Path, before_opening: Swap):
    def swap() -> None:
        (root / "a/b/call.wav").unlink()
        os.mkfifo(root / "a/b/call.wav")

    before_opening("call.wav", swap)

    with pytest.raises(NotRegularError):
        content(root, "a/b/call.wav")


def test_what_is_swapped_without_end_is_given_up_for_now(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_resolve", lambda *_: None)
    (root / "link").symlink_to("a")

    with pytest.raises(BlockingIOError, match="again and again"):
        content(root, "link/b/call.wav")


def test_directories_are_made_below_the_root_and_nowhere_else(root: Path):
    (root / "link").symlink_to("../outside")
    (root / "within").symlink_to("a")

    for path in (b"new/deep", b"within/more", b""):
        with open_directory(bytes(root), path, make=True) as directory:
            assert os.path.samestat(os.fstat(directory), os.stat(root / os.fsdecode(path)))
    with pytest.raises(OutsideError), open_directory(bytes(root), b"link/new", make=True):
        pass
    assert (root / "a" / "more").is_dir()
    assert not (root.parent / "outside" / "new").exists()
    with pytest.raises(FileNotFoundError), open_directory(bytes(root), b"missing"):
        pass


def test_nothing_stays_open(root: Path):
    (root / "link").symlink_to("../outside")
    (root / "pipe").mkdir()
    os.mkfifo(root / "pipe" / "x")
    before = sorted(os.listdir("/proc/self/fd"))

    content(root, "a/b/call.wav")
    for path in ("link/call.wav", "gone/x", "pipe/x", "a/b/call.wav/x"):
        with pytest.raises((OutsideError, OSError)):
            content(root, path)
    act_below(bytes(root), b"a/b", lambda *_: None)

    assert sorted(os.listdir("/proc/self/fd")) == before
