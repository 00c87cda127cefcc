"""Files of an incremental export, and the cursor between two of them."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta, timezone
from io import StringIO
from pathlib import Path
from uuid import UUID

import pytest
from rich.console import Console

from producer.export.incremental import (
    STANDARD_OUTPUT,
    file_name,
    format_moment,
    open_lines,
    read_cursor,
    write_cursor,
)
from schema.errors import BadRequest, ErrorCode, Misconfigured
from schema.store.read.changes import Watermark

MOMENT = datetime(2026, 5, 1, 9, 30, 0, 7, tzinfo=timezone(timedelta(hours=2)))


def test_a_cursor_is_a_moment_to_the_microsecond(tmp_path: Path):
    cursor = tmp_path / "new" / "cursor"
    assert read_cursor(cursor) is None

    write_cursor(cursor, Watermark(MOMENT, 41, "7/00000001/5"))

    assert cursor.read_text() == ("2026-05-01T07:30:00.000007+00:00\nposition 41 7/00000001/5\n")
    assert read_cursor(cursor) == Watermark(MOMENT, 41, "7/00000001/5")


def test_a_cursor_that_is_no_file_is_refused_and_not_waited_for(tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    for path in (pipe, tmp_path, Path(os.devnull)):
        with pytest.raises(Misconfigured, match="it is not a file"):
            read_cursor(path)


def test_a_cursor_of_a_release_without_positions_is_a_moment(tmp_path: Path):
    cursor = tmp_path / "cursor"
    cursor.write_text("2026-05-01T07:30:00.000007+00:00\n")

    assert read_cursor(cursor) == Watermark(MOMENT)


def test_a_cursor_of_one_submission_has_its_position_too(tmp_path: Path):
    mark = Watermark(MOMENT, 0, "7/00000001/5")

    write_cursor(tmp_path / "cursor", mark, UUID(int=7))

    assert read_cursor(tmp_path / "cursor", UUID(int=7)) == mark
    with pytest.raises(BadRequest, match="cursor of exports of submission"):
        read_cursor(tmp_path / "cursor")


@pytest.mark.parametrize(
    "second",
    ["position", "position x y", "position 4", "position ² h", "x", f"position {10**22} h"],
)
def test_a_second_line_that_makes_no_sense_leaves_the_moment(tmp_path: Path, second: str):
    (tmp_path / "cursor").write_text(f"{format_moment(MOMENT)}\n{second}\n")

    assert read_cursor(tmp_path / "cursor") == Watermark(MOMENT)


def test_a_cursor_that_is_none_is_refused(tmp_path: Path):
    cursor = tmp_path / "cursor"
    cursor.write_bytes(b"\xff")

    with pytest.raises(BadRequest, match="cursor"):
        read_cursor(cursor)
    with pytest.raises(Misconfigured, match="--cursor"):
        read_cursor(tmp_path)


def test_a_cursor_that_cannot_be_written_has_a_code_of_its_own(tmp_path: Path):
    (tmp_path / "file").touch()

    with pytest.raises(Misconfigured, match="--cursor") as caught:
        write_cursor(tmp_path / "file" / "cursor", Watermark(MOMENT))
    assert caught.value.code is ErrorCode.FILE_UNWRITABLE


def test_a_file_is_named_by_whose_it_is_and_where_it_begins():
    assert file_name(None) == "transcripts.jsonl"
    assert file_name(MOMENT) == "transcripts-from-20260501T073000.000007Z.jsonl"
    assert file_name(MOMENT.astimezone(UTC)) == file_name(MOMENT)
    assert file_name(None, UUID(int=7)) == "transcripts-00000000.jsonl"


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path):
    def broken_off() -> None:
        with open_lines(tmp_path, "x.jsonl") as write:
            write("half")
            raise KeyError

    with pytest.raises(KeyError):
        broken_off()
    assert list(tmp_path.iterdir()) == []

    with open_lines(tmp_path, "x.jsonl") as write:
        write("退款\n")
        assert not (tmp_path / "x.jsonl").exists()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["退款\n"]


def test_a_files_name_is_on_the_disk_before_a_cursor_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    synced: list[tuple[str, list[str]]] = []

    def sync(descriptor: int) -> None:
        what = os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append((what, sorted(path.name for path in tmp_path.glob("lake/t.jsonl"))))

    monkeypatch.setattr(os, "fsync", sync)
    with open_lines(tmp_path / "lake", "t.jsonl") as write:
        write("{}\n")

    assert [held for what, held in synced if what == "lake"] == [["t.jsonl"]]


def test_no_line_makes_no_file_and_leaves_the_one_before(tmp_path: Path):
    (tmp_path / "x.jsonl").write_text("before\n")

    with open_lines(tmp_path, "x.jsonl"):
        pass

    assert [path.read_text() for path in tmp_path.iterdir()] == ["before\n"]


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").touch()

    with pytest.raises(Misconfigured, match="--out"), open_lines(tmp_path / "file", "x.jsonl"):
        pass


def test_a_dash_is_standard_output(capsys: pytest.CaptureFixture[str]):
    with open_lines(STANDARD_OUTPUT, "x.jsonl") as write:
        write("line\n")

    assert capsys.readouterr().out == "line\n"


def test_a_dash_is_standard_output_also_while_a_status_moves(capsys: pytest.CaptureFixture[str]):
    screen = StringIO()
    with (
        Console(file=screen, force_terminal=True, width=20).status("writing"),
        open_lines(STANDARD_OUTPUT, "lines") as write,
    ):
        write('{"text": "longer than the screen is wide"}\n')

    assert capsys.readouterr().out == '{"text": "longer than the screen is wide"}\n'
    assert "longer" not in screen.getvalue()


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59+00:00"])
def test_a_cursor_of_another_age_is_refused(tmp_path: Path, moment: str):
    (tmp_path / "cursor").write_text(f"{moment}\nposition 1 h\n")

    with pytest.raises(BadRequest, match="no export was written"):
        read_cursor(tmp_path / "cursor")
