"""A directory as an operator has one: a manifest, twins and bad files, all accounted for."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sqlalchemy import text

from producer.cli.exit_codes import ExitCode
from tests.acceptance.conftest import Fleet, words_of

pytestmark = pytest.mark.models

CALLS = 200
#: Two files of one content, where somebody speaks.
TWINS = (14, 15)


@pytest.fixture(scope="module")
def directory(fleet: Fleet, speech) -> Path:
    """Two hundred files of 1.5 s: two are twins, three are bad, and a manifest describes them."""
    samples, rate_hz = speech
    directory = fleet.calls / "night"
    directory.mkdir()
    rows = []
    for number in range(CALLS):
        name = f"call {number:03}.wav"
        start = rate_hz // 2 * (TWINS[0] if number == TWINS[1] else number)
        slice_ = samples[start : start + rate_hz * 3 // 2].mean(axis=1)
        soundfile.write(directory / name, slice_, rate_hz, subtype="ULAW")
        rows.append({"file": name, "call_id": f"id-{number}", "agent": f"agent {number % 5}"})
    (directory / "call 100.wav").write_bytes(b"")
    (directory / "call 101.wav").write_text("this is no audio at all\n" * 50)
    whole = (directory / "call 102.wav").read_bytes()
    (directory / "call 102.wav").write_bytes(whole[: len(whole) // 2])
    rows += [{"file": f"ghost {n}.wav", "call_id": f"ghost-{n}", "agent": ""} for n in range(2)]
    with (directory / "calls.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["file", "call_id", "agent"])
        writer.writeheader()
        writer.writerows(rows)
    return directory


def test_two_hundred_calls_are_all_accounted_for(fleet: Fleet, directory: Path, tmp_path: Path):
    said = fleet.producer(
        "submit",
        str(directory),
        "--manifest",
        str(directory / "calls.csv"),
        "--model",
        "whisper-tiny.en",
        "--wait",
        expect=ExitCode.INCOMPLETE,
    )

    assert said["recordings"] == {"total": CALLS, "done": CALLS - 3, "quarantined": 3}
    bad = {r["file"]: r["error"]["code"] for r in said["list"] if r["state"] == "quarantined"}
    assert bad == {
        "night/call 100.wav": "audio.empty",
        "night/call 101.wav": "audio.not-audio",
        "night/call 102.wav": "audio.truncated",
    }
    unmatched = [n["subject"] for n in said["notices"] if n["code"] == "manifest.unmatched-row"]
    assert len(unmatched) == 2
    assert all("ghost" in subject for subject in unmatched)
    _twins_were_decoded_once(fleet, said["submission"], tmp_path)


def _twins_were_decoded_once(fleet: Fleet, submission: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fleet.producer("export", submission, "--out", str(out), expect=ExitCode.INCOMPLETE)
    with fleet.ledger.connect() as connection:
        decoded = connection.execute(
            text(
                "select s.decode_key, array_agg(r.call_id order by r.call_id) as calls,"
                " sum(s.attempts) as attempts"
                " from segments s join recordings r on r.id = s.recording_id"
                " where r.submission_id = :id group by 1 having count(*) > 1"
            ),
            {"id": submission},
        ).all()
    assert [(row.calls, row.attempts) for row in decoded] == [(["id-14", "id-15"], 1)]
    assert len(list(out.rglob("*.json"))) == CALLS - 3


def test_submitting_it_again_decodes_nothing(fleet: Fleet, directory: Path):
    with fleet.ledger.connect() as connection:
        before = connection.scalar(text("select sum(attempts) from segments"))

    again = fleet.producer(
        "submit", str(directory), "--model", "whisper-tiny.en", "--wait", expect=ExitCode.INCOMPLETE
    )

    assert again["recordings"]["done"] == CALLS - 3
    with fleet.ledger.connect() as connection:
        assert connection.scalar(text("select sum(attempts) from segments")) == before


def test_a_forgotten_call_is_gone_and_its_twin_is_not(fleet: Fleet, tmp_path: Path):
    listed = fleet.producer("forget", "--call", "id-14")
    assert [(r["file"], r["call_id"]) for r in listed["list"]] == [("night/call 014.wav", "id-14")]
    assert not listed["erased"]

    erased = fleet.producer("forget", "--call", "id-14", "--yes")

    assert (erased["recordings"], erased["results"]) == (1, 0), "its twin needs the words"
    fleet.producer("forget", "--call", "id-14", "--yes", expect=ExitCode.NOTHING)
    with fleet.ledger.connect() as connection:
        submission = connection.scalar(
            text("select submission_id from recordings where call_id = 'id-15'")
        )
    out = tmp_path / "out"
    fleet.producer("export", str(submission), "--out", str(out), expect=ExitCode.INCOMPLETE)
    assert (out / "night" / "call 015.json").exists()
    assert not (out / "night" / "call 014.json").exists()


def test_a_stereo_call_is_a_dialogue_of_two_named_speakers(fleet: Fleet, speech, tmp_path: Path):
    samples, rate_hz = speech
    calls = fleet.calls / "dialogue"
    calls.mkdir()
    soundfile.write(calls / "call.wav", samples[: rate_hz * 30], rate_hz, subtype="ULAW")

    said = fleet.producer(
        "submit",
        str(calls),
        "--model",
        "whisper-tiny.en",
        "--speakers",
        "Anna,Bob",
        "--wait",
    )

    (transcript,) = fleet.transcripts(said["submission"], tmp_path / "out").values()
    speakers = [u["speaker"] for u in transcript["utterances"]]
    assert set(speakers) == {"Anna", "Bob"}
    assert sum(a != b for a, b in pairwise(speakers)) >= 3
    times = np.array([w[2:] for w in words_of(transcript)])
    assert (times[:, 0] <= times[:, 1]).all()
    assert times.max() <= transcript["duration_ms"]
    assert transcript["language"] == "en"
    assert {own["speaker"] for own in transcript["talk"]["speakers"]} == {"Anna", "Bob"}
    assert [own["talk"] for own in said["list"]] == [transcript["talk"]], "the ledger has it"

    pages = tmp_path / "pages"
    fleet.producer("export", said["submission"], "--format", "html", "--out", str(pages))
    names = [str(path.relative_to(pages)) for path in sorted(pages.rglob("*.*"))]
    assert names == ["dialogue/call.html", "dialogue/call.page.flac", "index.html"]
    heard, _ = soundfile.read(pages / "dialogue/call.page.flac", dtype="int16")
    given, _ = soundfile.read(calls / "call.wav", dtype="int16")
    assert np.array_equal(heard, given)
    assert 'href="dialogue/call.html"' in (pages / "index.html").read_text()


def test_silence_is_a_result_and_no_failure(fleet: Fleet, tmp_path: Path):
    calls = fleet.calls / "silence"
    calls.mkdir()
    soundfile.write(calls / "nobody.wav", np.zeros(80_000), 8_000)

    said = fleet.producer("submit", str(calls), "--wait")

    (transcript,) = fleet.transcripts(said["submission"], tmp_path / "out").values()
    assert transcript["utterances"] == []
    assert "no-speech" in transcript["flags"]
