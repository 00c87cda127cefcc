import inspect
import os
import sys

import pytest

from producer.sources.walk import HIDDEN, NOT_AUDIO, REPEATED, SET_ASIDE, FoundFile, walk_paths
from schema.errors import ErrorCode
from tests.unit.producer import sounds


def touch(path, data=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def find_files(root, **options):
    return [
        item.relative
        for item in walk_paths([os.fsencode(root)], **options)
        if isinstance(item, FoundFile)
    ]


def notices(root, **options):
    items = walk_paths([os.fsencode(root)], **options)
    return {item.code: item for item in items if not isinstance(item, FoundFile)}


def test_files_come_sorted_before_directories_and_the_order_never_varies(tmp_path):
    for name in ("b/2.wav", "b/1.wav", "a/z.wav", "c.wav", "a.wav"):
        touch(tmp_path / name)

    first = find_files(tmp_path)

    assert first == [b"a.wav", b"c.wav", b"a/z.wav", b"b/1.wav", b"b/2.wav"]
    assert find_files(tmp_path) == first


def test_any_bytes_make_a_name(tmp_path):
    names = {b"\xff\xfe.wav", b"new\nline.wav", b"quo'te\".wav"}
    for name in names:
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(b"x")

    assert set(find_files(tmp_path)) == names


@pytest.mark.parametrize("suffix", ["wav", "WAV", "g729", "vox", "amr", "pcm", "opus", "m4a"])
def test_a_file_with_a_suffix_of_calls_is_handed_on_whatever_it_holds(tmp_path, suffix):
    touch(tmp_path / f"call.{suffix}", b"")

    assert find_files(tmp_path) == [f"call.{suffix}".encode()]


def test_unknown_suffixes_are_told_by_their_first_bytes(tmp_path):
    touch(tmp_path / "call.part", sounds.wav_bytes(bytes(100)))
    touch(tmp_path / "call.0001", b"OggS" + bytes(100))
    touch(tmp_path / "note.utf16", b"\xff\xfeh\0e\0l\0l\0o\0")
    touch(tmp_path / "photo.x", b"\0\0\0\x18ftypheic" + bytes(50))

    assert find_files(tmp_path) == [b"call.0001", b"call.part"]


def test_what_is_no_audio_is_counted_by_suffix_and_named(tmp_path):
    for index in range(5):
        touch(tmp_path / f"note{index}.txt")

    notice = notices(tmp_path)[NOT_AUDIO]

    assert notice.subject == ".txt"
    assert "5 files" in notice.message
    assert "note0.txt, note1.txt, note2.txt, ..." in notice.message


def test_sidecars_and_manifests_are_no_oddities(tmp_path):
    for name in ("a.wav", "a.json", "b.wav", "b.wav.json", "calls.csv"):
        touch(tmp_path / name)

    assert notices(tmp_path, ignored_files=[os.fsencode(tmp_path / "calls.csv")]) == {}


def test_a_sidecar_that_nobody_reads_is_named(tmp_path):
    for name in ("A.WAV", "A.JSON", "b.wav", "b.JSON", "c.wav", "c.Json"):
        touch(tmp_path / name)

    message = notices(tmp_path)[NOT_AUDIO].message

    assert "A.JSON" not in message
    assert "b.JSON, c.Json" in message


def test_a_json_that_belongs_to_no_recording_is_named(tmp_path):
    touch(tmp_path / "stray.json")

    assert notices(tmp_path)[NOT_AUDIO].subject == ".json"


def test_hidden_files_are_counted(tmp_path):
    touch(tmp_path / ".a.wav.Xy12")
    touch(tmp_path / ".git" / "a.wav")

    assert find_files(tmp_path) == []
    assert "2 files" in notices(tmp_path)[HIDDEN].message


@pytest.mark.parametrize(
    "name",
    [
        *("#recycle", "@Recycle", "$RECYCLE.BIN", "$Recycle.Bin", "RECYCLER", ".recycle"),
        *(".Trash", ".Trash-1000", ".Trashes", "Network Trash Folder"),
        *("~snapshot", ".snapshot", ".snapshots", "#snapshot", "@Recently-Snapshot", ".zfs"),
        *("@GMT-2026.05.01-00.00.00", ".ckpt"),
        *("@eaDir", "@tmp", ".@__thumb", ".AppleDouble", "__MACOSX", ".TemporaryItems"),
        *("lost+found", "FOUND.000", "System Volume Information"),
    ],
)
def test_what_a_system_keeps_of_its_own_is_left_out_by_name(tmp_path, name):
    touch(tmp_path / "a.wav")
    touch(tmp_path / name / "deleted.wav")
    touch(tmp_path / "may" / name / "deep" / "deleted.wav")

    assert find_files(tmp_path) == [b"a.wav"]
    walk_notices = notices(tmp_path)
    assert set(walk_notices) == {SET_ASIDE}
    assert f"2 directories were left out, with all that is in them: {name} (2)" in (
        walk_notices[SET_ASIDE].message
    )


@pytest.mark.parametrize(
    "name", ["recycle", "#recycled calls", "snapshot", "trash", "found.wave", "tmp", "@recycle2"]
)
def test_a_name_that_calls_may_have_is_walked(tmp_path, name):
    touch(tmp_path / name / "a.wav")

    assert len(find_files(tmp_path)) == 1


def test_a_file_of_such_a_name_is_a_file(tmp_path):
    touch(tmp_path / "lost+found", sounds.wav_bytes(bytes(100)))

    assert find_files(tmp_path) == [b"lost+found"]


def test_who_names_such_a_directory_means_it(tmp_path):
    touch(tmp_path / "~snapshot" / "nightly" / "a.wav")

    assert find_files(tmp_path / "~snapshot") == [b"nightly/a.wav"]


def test_a_suffix_said_to_be_raw_counts_as_audio(tmp_path):
    touch(tmp_path / "a.xyz")

    assert find_files(tmp_path, raw_suffixes=[b".xyz"]) == [b"a.xyz"]


def test_a_link_back_up_is_noticed_and_not_followed(tmp_path):
    touch(tmp_path / "a" / "1.wav")
    (tmp_path / "a" / "up").symlink_to(tmp_path)

    assert find_files(tmp_path) == [b"a/1.wav"]
    assert notices(tmp_path)[ErrorCode.PATH_LOOP].subject.endswith("/a/up")


def test_linked_directories_are_followed_but_only_once(tmp_path):
    touch(tmp_path / "elsewhere" / "1.wav")
    root = tmp_path / "root"
    root.mkdir()
    (root / "latest").symlink_to(tmp_path / "elsewhere")
    (root / "monday").symlink_to(tmp_path / "elsewhere")

    assert find_files(root) == [b"latest/1.wav"]
    assert notices(root)[REPEATED].subject.endswith("/root/monday")


def test_a_link_to_itself_is_handed_on_to_be_named(tmp_path):
    (tmp_path / "a.wav").symlink_to("a.wav")

    assert find_files(tmp_path) == [b"a.wav"]


def test_a_directory_that_vanishes_midway_is_a_notice(tmp_path):
    touch(tmp_path / "a.wav")
    vanished_path = touch(tmp_path / "b" / "1.wav")
    items = walk_paths([os.fsencode(tmp_path)])

    first = next(items)
    vanished_path.unlink()
    vanished_path.parent.rmdir()

    assert isinstance(first, FoundFile)
    assert [item.code for item in items] == [ErrorCode.FILE_VANISHED]


def test_a_directory_that_cannot_be_read_is_a_notice(tmp_path, monkeypatch):
    touch(tmp_path / "b" / "1.wav")
    touch(tmp_path / "c.wav")
    scandir = os.scandir

    def refusing(path):
        if path.endswith(b"/b"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)

    assert find_files(tmp_path) == [b"c.wav"]
    assert "Permission denied" in notices(tmp_path)[ErrorCode.FILE_UNREADABLE].message


def test_a_file_named_by_the_operator_is_handed_on_even_if_missing(tmp_path):
    path = os.fsencode(tmp_path / "missing.txt")

    assert list(walk_paths([path])) == [FoundFile(path, os.fsencode(tmp_path))]


def test_directories_may_be_deeper_than_python_recurses(tmp_path):
    depth = 200
    touch(tmp_path.joinpath(*["d"] * depth, "deep.wav"))
    limit = sys.getrecursionlimit()

    sys.setrecursionlimit(len(inspect.stack(0)) + depth // 2)
    try:
        names = find_files(tmp_path)
    finally:
        sys.setrecursionlimit(limit)

    assert names == [b"d/" * depth + b"deep.wav"]
