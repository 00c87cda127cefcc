"""Files of an export: one for each recording, below the directory, whatever the names."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from uuid import uuid4

import pytest

from producer.export.files import _assign_stems, _write, parse_formats
from schema.errors import BadRequest, ErrorCode, Misconfigured
from schema.records import CallInfo
from schema.states import RecordingState
from schema.store.read.recordings import RecordingSummary


def named(*names: str) -> list[str]:
    recordings = [
        RecordingSummary(uuid4(), n, RecordingState.DONE, CallInfo(), 1, 1, (), None, None)
        for n in names
    ]
    return [stem for _, stem in _assign_stems(recordings)]


def test_a_recording_keeps_its_place_and_loses_its_suffix():
    assert named("night/call.wav", "day/call.wav") == ["night/call", "day/call"]


def test_recordings_that_differ_in_suffix_keep_it():
    assert named("call.mp3", "call.wav") == ["call.mp3", "call.wav"]


@pytest.mark.parametrize(
    "names",
    [
        ("x.wav", "x.mp3", "x.wav.flac"),
        ("x.wav.flac", "x.wav", "x.mp3"),
        ("same.wav", "same.wav", "same.wav"),
        ("a/../b.wav", "b.wav"),
        ("Call.wav", "call.wav"),
        ("Night/call.wav", "night/call.wav"),
        ("Call.wav", "call.mp3", "CALL.ogg"),
        ("M\u00fcller.wav", "Mu\u0308ller.wav", "m\u00fcller.wav"),
        ("stra\u00dfe.wav", "strasse.wav"),
        ("call .wav", "call.wav", "call..wav"),
        (f"{'x' * 250}A.wav", f"{'x' * 250}a.wav", f"{'x' * 250}b.wav"),
    ],
)
def test_no_two_recordings_are_written_to_one_file(names: tuple[str, ...]):
    stems = named(*names)

    assert len({unicodedata.normalize("NFC", stem.casefold()) for stem in stems}) == len(names)


def test_a_directory_called_as_a_file_leaves_the_file_its_place(tmp_path: Path):
    for stem in named("call.json/a.wav", "call.wav"):
        _write(tmp_path / f"{stem}.json", "{}")

    assert sorted(path.name for path in tmp_path.rglob("*.json")) == ["a.json", "call.json"]


@pytest.mark.parametrize("name", ["../../etc/passwd.wav", "/etc/passwd.wav", "./../x.wav", ".."])
def test_no_name_leads_out_of_the_directory(name: str):
    (stem,) = named(name)
    assert not stem.startswith("/")
    assert ".." not in stem.split("/")


@pytest.mark.parametrize("name", ["x" * 250 + ".wav", "语" * 120 + ".wav"])
def test_a_name_too_long_for_a_file_system_is_cut(name: str, tmp_path: Path):
    first, second = named(name, f"{name}2.wav")
    assert first != second

    _write(tmp_path / f"{first}.json", "{}")

    assert [path.read_text() for path in tmp_path.iterdir()] == ["{}"]


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").touch()

    with pytest.raises(Misconfigured, match="--out") as caught:
        _write(tmp_path / "file" / "call.json", "{}")
    assert caught.value.code is ErrorCode.FILE_UNWRITABLE


def test_an_unknown_format_is_refused_with_the_known_ones():
    assert parse_formats("json, srt") == ["json", "srt"]
    for wrong in ("pdf", ""):
        with pytest.raises(BadRequest, match="json,txt,srt,vtt,csv"):
            parse_formats(wrong)
