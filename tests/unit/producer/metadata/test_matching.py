"""Rows of a manifest find their files, whoever spelled them."""

from __future__ import annotations

import os
import string
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.metadata.manifest import InterpretationCode
from producer.metadata.matching import ManifestRow, match_rows
from producer.sources.walk import FoundFile
from schema.errors import ErrorCode
from schema.records import CallInfo

BASE = b"/srv/calls"
MANIFEST = b"/srv/lists/m.csv"


def matched(rows: list[str], files: list[str]):
    """Return which row of a list each file has, by number, and the notices' codes."""
    found_files = [FoundFile(os.path.join(BASE, os.fsencode(name)), BASE) for name in files]
    given_rows = [
        ManifestRow(number, os.path.normpath(name.encode()), CallInfo(str(number)))
        for number, name in enumerate(rows)
    ]
    matches = match_rows(MANIFEST, given_rows, found_files)
    calls = {
        os.fsdecode(path)[len("/srv/calls/") :]: int(c.call_id) for path, c in matches.calls.items()
    }
    return calls, [notice.code for notice in matches.notices]


NFD = unicodedata.normalize("NFD", "M\u00fcller.wav")


@pytest.mark.parametrize(
    ("row", "file"),
    [
        ("may\\a.wav", "may/a.wav"),
        (".\\may\\a.wav", "may/a.wav"),
        ("D:\\rec\\a.wav", "a.wav"),
        ("d:/rec/a.wav", "may/a.wav"),
        ("\\\\nas\\rec\\a.wav", "may/a.wav"),
        ("\\\\nas\\rec\\may\\a.wav", "may/a.wav"),
        ("//nas/rec/a.wav", "a.wav"),
        ("/other/mount/a.wav", "a.wav"),
        ("..\\rec\\a.wav", "a.wav"),
        ("file:///C:/rec/a%20b.wav", "a b.wav"),
        ("smb://nas/rec/a.wav", "a.wav"),
        ("calls/may/a.wav", "may/a.wav"),
        ("x/calls/may/a.wav", "may/a.wav"),
        ("A.WAV", "a.wav"),
        ("MAY\\A.wav", "may/a.wav"),
        ("D:\\REC\\A.WAV", "a.wav"),
        ("a.wav ", "a.wav"),
        (" a.wav\u00a0", "a.wav"),
        ("may /a.wav", "may/a.wav"),
        ("M\u00fcller.wav", NFD),
        (NFD, "M\u00fcller.wav"),
        (NFD.upper(), "M\u00fcller.wav"),
        ("C:\\x\\" + NFD, "may/M\u00fcller.wav"),
        ("STRASSE.wav", "stra\u00dfe.wav"),
    ],
)
def test_another_spelling_finds_its_file_and_is_told(row, file):
    calls, codes = matched([row], [file, "other.wav"])

    assert calls == {file: 0}
    assert codes == [InterpretationCode.MANIFEST, ErrorCode.MANIFEST_UNMATCHED_FILE]


@pytest.mark.parametrize(
    ("row", "files"),
    [
        ("a.Wav", ["a.wav", "A.WAV"]),
        ("D:\\rec\\a.wav", ["may/a.wav", "june/a.wav"]),
        ("july/a.wav", ["may/a.wav"]),
        ("july\\a.wav", ["may/a.wav"]),
        ("D:\\rec\\july\\x\\a.wav", ["may/x/a.wav", "june/x/a.wav"]),
        ("D:\\rec\\", ["a.wav"]),
        ("/", ["a.wav"]),
        ("M\u00fcller.wav", ["june/" + NFD, "may/" + NFD]),
    ],
)
def test_what_is_not_unique_or_lies_elsewhere_is_matched_to_nothing(row, files):
    calls, codes = matched([row], files)

    assert calls == {}
    assert codes == [
        ErrorCode.MANIFEST_UNMATCHED_ROW,
        *[ErrorCode.MANIFEST_UNMATCHED_FILE] * len(files),
    ]


def test_the_end_of_a_path_tells_files_of_one_name_apart():
    calls, _ = matched(["D:\\rec\\may\\a.wav", "D:\\rec\\june\\a.wav"], ["may/a.wav", "june/a.wav"])

    assert calls == {"may/a.wav": 0, "june/a.wav": 1}


def test_names_that_differ_by_case_alone_stay_apart():
    calls, codes = matched(["ACD-1.wav", "acd-1.wav"], ["acd-1.wav", "ACD-1.wav"])

    assert calls == {"ACD-1.wav": 0, "acd-1.wav": 1}
    assert codes == []


def test_the_row_that_names_a_file_exactly_has_it():
    calls, codes = matched(["ACD-1.wav", "acd-1.wav"], ["acd-1.wav"])

    assert calls == {"acd-1.wav": 1}
    assert codes == [ErrorCode.MANIFEST_UNMATCHED_ROW]


def test_of_two_rows_that_name_a_file_equally_loosely_neither_has_it():
    calls, codes = matched(["A.wav", "a.WAV"], ["a.wav"])

    assert calls == {}
    assert codes.count(ErrorCode.MANIFEST_UNMATCHED_ROW) == 2


def test_many_rows_of_one_kind_are_one_notice():
    names = [f"{number}.wav" for number in range(1_000)]

    calls, codes = matched([f"D:\\rec\\{name}" for name in names], names)

    assert calls == {name: number for number, name in enumerate(names)}
    assert codes == [InterpretationCode.MANIFEST]


@pytest.mark.timeout(60)
def test_files_that_all_have_one_name_take_no_longer():
    names = [f"{number:05}/rec/audio.wav" for number in range(20_000)]

    calls, _ = matched([f"D:\\{name}".replace("/", "\\").upper() for name in names], names)
    lost, codes = matched(
        ["D:\\rec\\audio.wav"] * 1 + [f"{n}/audio.wav" for n in range(9_000)], names
    )

    assert len(calls) == len(names)
    assert lost == {}
    assert codes.count(ErrorCode.MANIFEST_UNMATCHED_ROW) == 9_001


PARTS = st.text(string.ascii_lowercase + "\u00e9\u00fc", min_size=1, max_size=3)
PATHS = st.lists(PARTS, min_size=1, max_size=3).map("/".join)


@given(st.sets(PATHS, max_size=12), st.randoms(use_true_random=False))
def test_no_file_goes_to_a_row_of_another_name(paths, random):
    files = sorted(paths)
    rows = [
        random.choice([str, str.upper, lambda p: p.replace("/", "\\"), lambda p: f"X:\\{p}"])(
            unicodedata.normalize(random.choice(["NFC", "NFD"]), path)
        )
        for path in files
    ]
    rows = list(dict.fromkeys(rows))

    def fold(path):
        return unicodedata.normalize("NFC", path).lower().replace("\\", "/").removeprefix("x:/")

    calls, _ = matched(rows, files)

    for file, row in calls.items():
        assert fold(rows[row]).rsplit("/", 1)[-1] == file.rsplit("/", 1)[-1]
    exact = {file for file in files if file in rows}
    assert exact <= {f for f in calls if rows[calls[f]] == f}
