"""A table says what the JSON says, in whole files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from producer.export import parquet
from producer.export.formats import to_jsonl
from producer.export.parquet import open_table
from schema.errors import Misconfigured
from schema.store.read.transcripts import StoredTranscript
from tests.unit.producer.export.transcripts import UNTIMED, WHOLE, empty


def written(path: Path, *transcripts: StoredTranscript) -> pq.ParquetFile:
    with open_table(path) as add:
        for transcript in transcripts:
            add(transcript)
    return pq.ParquetFile(path)


def as_json(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as the JSON of the same recording has it."""
    for name in ("started_at", "stored_at"):
        row[name] = row[name].isoformat() if row[name] else None
    row["attributes"] = dict(row["attributes"])
    return row


@pytest.mark.parametrize(
    "transcript", [WHOLE, UNTIMED, empty(8)], ids=["whole", "untimed", "empty"]
)
def test_a_row_says_all_that_a_line_of_json_says(transcript: StoredTranscript, tmp_path: Path):
    (row,) = written(tmp_path / "a.parquet", transcript).read().to_pylist()

    expected = json.loads(to_jsonl(transcript))
    for name, value in expected["attributes"].items():
        if not isinstance(value, str):
            expected["attributes"][name] = json.dumps(value, ensure_ascii=False)
    assert as_json(row) == expected


def test_what_is_gathered_is_bounded_by_rows_and_by_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def groups(name: str) -> list[int]:
        metadata = written(tmp_path / name, *map(empty, range(5))).metadata
        return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]

    monkeypatch.setattr(parquet, "_GROUP_ROWS", 2)
    assert groups("rows") == [2, 2, 1]
    monkeypatch.setattr(parquet, "_GROUP_BYTES", 1)
    assert groups("bytes") == [1] * 5


def test_a_file_appears_once_it_is_whole(tmp_path: Path):
    path = tmp_path / "lake" / "a.parquet"
    with open_table(path) as add:
        add(WHOLE)
        assert not path.exists()
    old_bytes = path.read_bytes()

    def break_off() -> None:
        with open_table(path) as add:
            add(empty(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert path.read_bytes() == old_bytes
    assert list(path.parent.iterdir()) == [path]


def test_where_nothing_is_new_no_file_is_made(tmp_path: Path):
    with open_table(tmp_path / "a.parquet"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(Misconfigured, match=r"unwritable.*--out"),
        open_table(tmp_path / "file" / "a"),
    ):
        pass


def test_without_pyarrow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with (
        pytest.raises(Misconfigured, match=r"pip install .*'\.\[parquet\]'"),
        open_table(tmp_path / "a"),
    ):
        pass
