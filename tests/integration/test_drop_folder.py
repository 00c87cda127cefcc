"""A drop folder over days: files are moved and replaced, and shares come and go."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from producer.submit.drop_folder import NAME_TAKEN, UNREADABLE_S
from producer.submit.submit import Summary
from schema.errors import ErrorCode, Transient
from schema.states import RecordingState
from tests.integration.test_submit import Door, DropFolder, door

__all__ = ["door"]

#: Rounds until a file that is there is taken.
TAKEN = 4


@pytest.fixture(params=["the same producer", "another producer"])
def watched(request, door: Door):
    """Run a story of two parts, by one producer or by two, and return the last summary."""

    def run(first, second) -> Summary:
        folder = DropFolder(door)
        if request.param == "another producer":
            folder.watch(first())
            return folder.watch(second())

        def both() -> Iterator[None]:
            yield from first()
            yield from second()

        return folder.watch(both())

    return run


def test_a_file_that_is_moved_is_the_same_call(door: Door, watched):
    path = door.tone("a.wav")
    bad = door.calls / "bad.wav"

    def drop():
        yield from range(TAKEN)

    def tidy():
        (door.calls / "processed").mkdir()
        path.rename(door.calls / "processed" / "a.wav")
        yield from range(TAKEN)

    summary = watched(drop, tidy)

    recordings = door.recordings(summary)
    assert set(recordings) == {"processed/a.wav"}
    assert (summary.moved_files, summary.quarantined_recordings) == (1, 0)
    assert len(door.publisher.sent) == 1
    assert not bad.exists()
    again = DropFolder(door).watch(range(TAKEN))
    assert (again.resumed_recordings, again.recordings, again.moved_files) == (1, 0, 0)


def test_workers_read_a_file_where_it_was_moved(door: Door):
    path = door.tone("a.wav")
    folder = DropFolder(door)

    def tidy():
        yield from range(TAKEN)
        path.rename(door.calls / "b.wav")
        yield from range(TAKEN)

    folder.watch(tidy())

    with door.ledger.connect() as connection:
        rows = connection.exec_driver_sql("select source_path, audio_path, name from recordings")
        assert [tuple(map(bytes, row[:2])) for row in rows] == [(b"b.wav", b"b.wav")]


def test_what_was_stopped_at_the_door_is_not_stopped_again_where_it_is_moved(door: Door):
    path = door.calls / "bad.wav"
    path.write_bytes(b"")
    folder = DropFolder(door)

    def tidy():
        yield from range(130)
        (door.calls / "bad").mkdir()
        path.rename(door.calls / "bad" / "bad.wav")
        yield from range(130)

    summary = folder.watch(tidy())

    assert set(door.recordings(summary)) == {"bad/bad.wav"}
    assert folder.states(summary) == {RecordingState.QUARANTINED: 1}


def test_a_new_file_under_a_name_that_was_taken_is_named_once(door: Door, watched):
    door.tone("a.wav")
    door.tone("b.wav", hz=350)

    def drop():
        yield from range(TAKEN)

    def reuse():
        door.tone("a.wav", hz=500)
        os.utime(door.calls / "b.wav")
        yield from range(3 * TAKEN)

    summary = watched(drop, reuse)

    assert set(door.recordings(summary)) == {"a.wav", "b.wav"}
    assert [notice for notice in door.notices(summary) if notice[0] == NAME_TAKEN] == [
        (NAME_TAKEN, "a.wav")
    ]
    assert sum("a.wav: another file" in said for said in summary.messages) == 1


def test_a_new_file_under_a_name_whose_file_was_moved_is_a_new_recording(door: Door, watched):
    path = door.tone("a.wav")

    def drop():
        yield from range(TAKEN)
        (door.calls / "processed").mkdir()
        path.rename(door.calls / "processed" / "a.wav")
        yield from range(TAKEN)

    def reuse():
        door.tone("a.wav", hz=500)
        yield from range(TAKEN)

    summary = watched(drop, reuse)

    assert set(door.recordings(summary)) == {"a.wav", "processed/a.wav"}
    assert len(door.publisher.sent) == 2


def test_a_copy_stays_a_call_of_its_own(door: Door):
    path = door.tone("a.wav")
    folder = DropFolder(door)

    def copy():
        yield from range(TAKEN)
        (door.calls / "b.wav").write_bytes(path.read_bytes())
        yield from range(TAKEN)

    assert set(door.recordings(folder.watch(copy()))) == {"a.wav", "b.wav"}


def test_a_folder_that_goes_away_is_said_at_once_and_ends_after_ten_minutes(door: Door):
    door.tone("a.wav")
    folder = DropFolder(door)
    said = []

    def unmounted():
        yield from range(TAKEN)
        door.calls.rename(door.calls.with_name("away"))
        began_s = folder.now_s
        while folder.now_s - began_s <= UNREADABLE_S + 60:
            said.append(folder.now_s - began_s)
            yield

    with pytest.raises(Transient, match="could not be read for 10 minutes") as caught:
        folder.watch(unmounted())

    assert caught.value.code is ErrorCode.STORAGE_UNREACHABLE
    assert UNREADABLE_S <= said[-1] <= UNREADABLE_S + 10


def test_a_folder_that_comes_back_goes_on_and_both_are_said(door: Door):
    door.tone("a.wav")
    folder = DropFolder(door)
    away = door.calls.with_name("away")

    def remounted():
        yield from range(TAKEN)
        door.calls.rename(away)
        yield from range(5)
        away.rename(door.calls)
        door.tone("b.wav", hz=400)
        yield from range(TAKEN)

    summary = folder.watch(remounted())

    assert [("cannot be read" in said, "again" in said) for said in summary.messages] == [
        (True, False),
        (False, True),
    ]
    assert set(door.recordings(summary)) == {"a.wav", "b.wav"}


def test_what_a_drop_folder_sets_aside_is_named(door: Door):
    door.tone("#recycle/a.wav")
    door.tone("a.wav")

    summary = DropFolder(door).watch(range(TAKEN))

    assert set(door.recordings(summary)) == {"a.wav"}
    assert [code for code, _ in door.notices(summary)] == ["directories.set-aside"]
