"""Manifests, sidecars and shares as people keep them, handed in to a real ledger."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from schema.errors import ErrorCode
from tests.integration.test_submit import Door, door

__all__ = ["door"]


@pytest.mark.parametrize(
    ("encoding", "delimiter"),
    [("utf-8-sig", ";"), ("utf-16", "\t"), ("utf-16-le", ","), ("cp1252", "|")],
)
def test_a_spreadsheet_describes_its_calls(door: Door, encoding: str, delimiter: str):
    door.tone("may/a.wav")
    manifest = door.calls.parent / "calls.csv"
    rows = [
        ["File Name", "Call ID", " agent", "Started_At", ""],
        ["D:\\rec\\may\\A.WAV", "ACD-20431", "J\u00fcrgen", "2020-01-01T00:00:00Z", ""],
        ["", "", "", "", ""],
    ]
    text = "".join(delimiter.join(row) + "\r\n" for row in rows)
    manifest.write_bytes(f"sep={delimiter}\r\n{text}".encode(encoding))

    summary = door.submit(manifest=manifest)

    call = door.recordings(summary)["may/a.wav"].call
    assert (call.call_id, call.agent) == ("ACD-20431", "J\u00fcrgen")
    assert call.started_at == datetime(2020, 1, 1, tzinfo=UTC)
    assert call.attributes == {}
    assert {code for code, _ in door.notices(summary)} == {"manifest.understood"}
    assert summary.unmatched_rows == 0


def test_a_bad_date_a_bad_row_and_an_odd_sidecar_cost_themselves(door: Door):
    for number in range(3):
        door.tone(f"{number}.wav", hz=300 + number)
    (door.calls / "2.json").write_text('{"agent": "Ada", "started_at": "soon", "line": "sales"}')
    manifest = door.calls / "calls.csv"
    manifest.write_text(
        "file,call_id,started_at\n"
        "0.wav,c-0,0001-01-01T00:00:00Z\n"
        "1.wav,c-1,2026-05-01T09:00:00Z\n"
        "2.wav,c-2,2026-05-01T09:00:00Z,and,more\n"
    )

    summary = door.submit(manifest=manifest)

    calls = {name: own.call for name, own in door.recordings(summary).items()}
    assert [calls[f"{n}.wav"].call_id for n in range(3)] == ["c-0", "c-1", None]
    assert calls["0.wav"].started_at is None
    assert (calls["2.wav"].agent, calls["2.wav"].line) == ("Ada", "sales")
    subjects = [(code, subject.rsplit("/", 1)[-1]) for code, subject in door.notices(summary)]
    assert sorted(subjects) == [
        (ErrorCode.MANIFEST_INVALID, "calls.csv, line 4"),
        (ErrorCode.MANIFEST_INVALID, "calls.csv: started_at"),
        (ErrorCode.MANIFEST_UNMATCHED_FILE, "2.wav"),
        (ErrorCode.SIDECAR_INVALID, "2.json"),
    ]


def test_what_was_deleted_on_a_share_is_not_handed_in(door: Door):
    door.tone("a.wav")
    for name in ("#recycle", "@Recycle", "$RECYCLE.BIN", "~snapshot/hourly.0"):
        door.tone(f"{name}/a.wav")

    summary = door.submit()

    assert set(door.recordings(summary)) == {"a.wav"}
    assert [code for code, _ in door.notices(summary)] == ["directories.set-aside"]
