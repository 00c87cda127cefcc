"""A table says what the JSON says, in whole files, and its columns are documented."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producer.export import parquet
from producer.export.formats import to_jsonl
from producer.export.parquet import lake_schema, opened_table
from schema.errors import Misconfigured
from schema.records import CallInfo
from schema.span import Span
from schema.states import RecordingState
from schema.store.read.recordings import RecordingSummary, StoredTranscript
from schema.transcript import (
    Coverage,
    Gap,
    Repair,
    RepairOutcome,
    RepairReason,
    Seam,
    SeamRule,
    Utterance,
)
from schema.words import Word

DOC = Path(__file__).parents[4] / "ops" / "docs" / "parquet.md"

HELLO = Word("Hello", 500, 900, 0.912)
NI = Word("你", 2_000, 2_200)

#: Every list and every field has something in it: nothing may be lost on the way.
WHOLE = StoredTranscript(
    RecordingSummary(
        id=UUID(int=7),
        name="night/call.wav",
        state=RecordingState.PARTIAL,
        call=CallInfo(
            call_id="ACD-1",
            started_at=datetime(2026, 5, 1, 9, 30, 0, 7, tzinfo=UTC),
            direction="in",
            line="billing",
            agent="ann",
            customer="c-1",
            attributes={"skill": "gold", "queue": 4, "tags": ["é", None]},
        ),
        duration_ms=20_000,
        channels=2,
        flags=("dual-mono",),
        error_code="engine.failed",
        error_message="it fell",
    ),
    version=3,
    language="en",
    flags=("crosstalk:12", "noise-words:3"),
    speech_ms=4_000,
    worded_ms=3_000,
    utterances=(
        Utterance(0, "agent", "Hello", (HELLO,)),
        Utterance(None, "customer", "你", (NI,)),
    ),
    seams=(Seam(0, 0, SeamRule.ANCHOR, 5_000, 0.5, (HELLO,), (NI,)),),
    gaps=(Gap(1, "customer", Span(6_000, 7_000), "engine.failed"),),
    segments=(Coverage(0, 1, Span(0, 9_000), 4_000, 3_000),),
    repairs=(
        Repair(
            1,
            Span(1_000, 2_000),
            RepairReason.SEAM,
            RepairOutcome.REPAIRED,
            (HELLO,),
            (NI,),
            (SeamRule.ANCHOR, SeamRule.GAP),
            "zh",
            "engine.failed",
        ),
    ),
    languages=((0, "en"), (None, None)),
    stored_at=datetime(2026, 5, 2, tzinfo=UTC),
)


def empty(number: int) -> StoredTranscript:
    nobody = replace(
        WHOLE.recording, id=UUID(int=number), call=CallInfo(), error_code=None, duration_ms=None
    )
    return StoredTranscript(nobody, 1, None, (), 0, 0, (), ())


def written(path: Path, *transcripts: StoredTranscript) -> pq.ParquetFile:
    with opened_table(path) as add:
        for transcript in transcripts:
            add(transcript)
    return pq.ParquetFile(path)


def as_json(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as the JSON of the same recording has it."""
    for name in ("started_at", "stored_at"):
        row[name] = row[name].isoformat() if row[name] else None
    row["attributes"] = dict(row["attributes"])
    return row


@pytest.mark.parametrize("transcript", [WHOLE, empty(8)], ids=["whole", "empty"])
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
        found = written(tmp_path / name, *map(empty, range(5))).metadata
        return [found.row_group(i).num_rows for i in range(found.num_row_groups)]

    monkeypatch.setattr(parquet, "_GROUP_ROWS", 2)
    assert groups("rows") == [2, 2, 1]
    monkeypatch.setattr(parquet, "_GROUP_BYTES", 1)
    assert groups("bytes") == [1] * 5


def test_a_file_appears_once_it_is_whole(tmp_path: Path):
    path = tmp_path / "lake" / "a.parquet"
    with opened_table(path) as add:
        add(WHOLE)
        assert not path.exists()
    kept = path.read_bytes()

    def break_off() -> None:
        with opened_table(path) as add:
            add(empty(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert path.read_bytes() == kept
    assert list(path.parent.iterdir()) == [path]


def test_where_nothing_is_new_no_file_is_made(tmp_path: Path):
    with opened_table(tmp_path / "a.parquet"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(Misconfigured, match="--out"), opened_table(tmp_path / "file" / "a"):
        pass


def test_without_pyarrow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with (
        pytest.raises(Misconfigured, match=r"pip install .*'\.\[parquet\]'"),
        opened_table(tmp_path / "a"),
    ):
        pass


def paths(kind: pa.DataType, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield the name of each field, with [] for a list, and its type."""
    if pa.types.is_list(kind):
        yield from paths(kind.value_type, f"{prefix}[]")
    elif pa.types.is_struct(kind):
        for field in kind:
            yield from paths(field.type, f"{prefix}.{field.name}")
    else:
        yield prefix, str(kind)


def test_every_column_is_documented_and_no_other():
    documented = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|", DOC.read_text(), re.MULTILINE)
    fields = [each for column in lake_schema() for each in paths(column.type, column.name)]
    # A word is the same everywhere.
    fields = [("WORDS[]" + n.rpartition("[]")[2], t) for n, t in fields if is_word(n)][:4] + [
        each for each in fields if not is_word(each[0])
    ]
    assert sorted(documented) == sorted(fields)


def is_word(name: str) -> bool:
    return bool(re.search(r"(words|dropped_left|dropped_right|added|dropped)\[\]", name))
