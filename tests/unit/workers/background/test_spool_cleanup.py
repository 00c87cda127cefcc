"""Old copies go, and only those that nothing will read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from workers.background.spool_cleanup import remove_unused_copies

NOW_S = 1_000_000.0


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    for name, age_s in (("ab/old", 7_200), ("ab/used", 7_200), ("cd/young", 60)):
        path = tmp_path / f"{name}.flac"
        path.parent.mkdir(exist_ok=True)
        path.touch()
        os.utime(path, (NOW_S - age_s, NOW_S - age_s))
    return tmp_path


def left(spool: Path) -> set[str]:
    return {path.stem for path in spool.rglob("*") if path.is_file()}


def test_an_old_copy_that_nothing_reads_is_removed(spool: Path):
    assert remove_unused_copies(spool, lambda: {b"ab/used.flac"}, NOW_S) == 1
    assert left(spool) == {"used", "young"}


def test_a_copy_that_is_reused_meanwhile_stays(spool: Path):
    def reuse() -> set[bytes]:
        os.utime(spool / "ab" / "old.flac", (NOW_S, NOW_S))
        return set()

    assert remove_unused_copies(spool, reuse, NOW_S) == 1
    assert left(spool) == {"old", "young"}


def test_the_ledger_is_not_asked_without_need(spool: Path):
    def ask() -> set[bytes]:
        raise AssertionError("asked")

    assert remove_unused_copies(spool, ask, NOW_S - 7_200) == 0


def test_what_a_link_out_of_the_spool_leads_to_is_nobodys_to_remove(tmp_path: Path, spool: Path):
    outside = tmp_path.with_name("outside")
    outside.mkdir()
    (spool / "ab").rename(outside / "ab")
    (spool / "ab").symlink_to(outside / "ab")

    assert remove_unused_copies(spool, lambda: {b"none"}, NOW_S) == 0
    assert left(outside) == {"old", "used"}


def test_a_link_swapped_in_while_the_ledger_is_asked_has_nothing_removed(spool: Path):
    outside = spool.with_name("elsewhere")
    outside.mkdir()
    (outside / "old.flac").touch()
    os.utime(outside / "old.flac", (0, 0))

    def swap() -> set[bytes]:
        (spool / "ab").rename(outside.with_name("was"))
        (spool / "ab").symlink_to(outside)
        return {b"ab/used.flac"}

    assert remove_unused_copies(spool, swap, NOW_S) == 0
    assert left(outside) == {"old"}


def test_what_a_killed_producer_left_goes_too(spool: Path):
    (spool / "ab" / "x.partial").touch()
    os.utime(spool / "ab" / "x.partial", (0, 0))
    (spool / "ab.flac").touch()

    assert remove_unused_copies(spool, lambda: {b"ab/used.flac", b"ab/old.flac"}, NOW_S) == 1
