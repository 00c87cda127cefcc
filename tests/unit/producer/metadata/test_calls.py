import json
import os
import pickle
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from producer.metadata.calls import (
    NAME_UNMATCHED,
    CallDescription,
    NamePattern,
    describe_call,
    load_manifest,
    merge_calls,
    read_sidecars,
)
from producer.sources.walk import FoundFile, LocalDisk
from schema.errors import BadRequest, ErrorCode
from schema.records import CallInfo

NINE = datetime(2024, 5, 1, 9, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture
def manifest(tmp_path):
    def load(text, name="calls.csv", zone=None):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_manifest(os.fsencode(path), zone)

    return load


@pytest.fixture
def files(tmp_path):
    def file(*names, base="."):
        root = os.fsencode(os.path.normpath(tmp_path / base))
        return [FoundFile(os.path.join(root, os.fsencode(name)), root) for name in names]

    return file


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("1735689600.120", "1735689600.120"),
        ("1735689600.12", "1735689600.12"),
        ("12345678901234567890.0", "12345678901234567890"),
        ("1234.0", "1234"),
        ("1.5e3", "1500"),
        ("0.10", "0.10"),
        ("-7", "-7"),
    ],
)
def test_an_id_that_is_a_number_keeps_its_digits(manifest, tmp_path, written: str, read: str):
    loaded = manifest(f'{{"file": "a.wav", "call_id": {written}, "n": 1.50}}\n', "calls.jsonl")
    (tmp_path / "b.json").write_text(f'{{"call_id": {written}}}')

    assert loaded.rows[0].call.call_id == read
    assert json.dumps(loaded.rows[0].call.attributes) == '{"n": 1.5}'
    assert sidecar_of(tmp_path / "b.wav").call.call_id == read
    assert pickle.loads(pickle.dumps(loaded.rows[0].call)) == loaded.rows[0].call  # noqa: S301


@pytest.mark.parametrize(
    "written", ["\u200bACD-2", " ACD-2\u00a0", "\ufeffACD-2\u200f", "\u202aACD-2\u202c"]
)
def test_what_nobody_sees_is_no_part_of_an_id(manifest, written: str):
    for name, text in {
        "calls.csv": f"file,call_id\na.wav,{written}\n",
        "calls.jsonl": json.dumps({"file": "a.wav", "call_id": written}),
    }.items():
        assert manifest(text, name).rows[0].call.call_id == "ACD-2"


@pytest.mark.parametrize("nothing", ["NULL", "nan", "None", "n/a", "#N/A", "#REF!", "undefined"])
def test_a_word_for_nothing_is_no_calls_id(manifest, nothing: str):
    loaded = manifest(f"file,call_id,line\na.wav,{nothing},sales\n")

    assert (loaded.rows[0].call.call_id, loaded.rows[0].call.line) == (None, "sales")
    assert nothing in loaded.notices[0].message


def test_blanks_are_no_id_and_a_person_may_be_called_null(manifest):
    loaded = manifest('{"file": "a.wav", "call_id": " \\u200b ", "agent": "Null"}', "calls.jsonl")

    assert (loaded.rows[0].call.call_id, loaded.rows[0].call.agent) == (None, "Null")


@pytest.mark.parametrize(
    ("recording", "sidecar"),
    [("CALL.WAV", "CALL.JSON"), ("CALL.WAV", "CALL.WAV.json"), ("CALL.Wav", "CALL.JSON")],
)
def test_recorders_that_write_capitals_write_capitals(tmp_path, recording: str, sidecar: str):
    (tmp_path / sidecar).write_text('{"agent": "Ada"}')

    assert sidecar_of(tmp_path / recording).call.agent == "Ada"


def test_fields_that_are_left_out_are_named_as_far_as_anybody_reads(manifest):
    names = ",".join(f"column{n}" for n in range(5_000))
    values = ",".join(["x" * 40] * 5_000)

    loaded = manifest(f"file,call_id,{names}\na.wav,c-1,{values}\n")

    assert loaded.rows[0].call.call_id == "c-1"
    assert len(loaded.notices) == 21
    assert "other fields" in loaded.notices[-1].message


@pytest.mark.parametrize("rounded", ["1.23457E+15", "1,23457E+15", "1E+12", "-4.9E+100"])
def test_an_id_that_a_spreadsheet_rounded_is_none(manifest, rounded: str):
    loaded = manifest(f'file,call_id,agent\na.wav,"{rounded}",Ada\n')

    assert (loaded.rows[0].call.call_id, loaded.rows[0].call.agent) == (None, "Ada")
    assert "a spreadsheet rounded it" in loaded.notices[0].message


@pytest.mark.parametrize("own", ["E15", "1e5", "12E5", "1.5E", "A1.2E+15", "2E+1"])
def test_an_id_that_only_looks_like_it_is_kept(manifest, own: str):
    assert manifest(f"file,call_id\na.wav,{own}\n").rows[0].call.call_id == own


def sidecar_of(path):
    (description,) = read_sidecars([os.fsencode(path)], LocalDisk().read)
    return description


def refusal(load, *args, **options):
    with pytest.raises(BadRequest) as caught:
        load(*args, **options)
    return caught.value


def test_a_csv_gives_fields_and_attributes(manifest):
    rows = manifest(
        "file,call_id,started_at,direction,line,agent,customer,campaign,note\n"
        "a.wav,17,2024-05-01T09:00:00Z,in,sales,Ada,Bob,spring,\n"
    ).rows

    (row,) = rows
    assert (row.line, row.file) == (2, b"a.wav")
    assert row.call == CallInfo("17", NINE, "in", "sales", "Ada", "Bob", {"campaign": "spring"})


def test_json_lines_give_the_same_and_any_attribute(manifest):
    lines = [{"file": "./x/../a.wav", "call_id": 17, "started_at": "2024-05-01T11:00:00+02:00"}]
    lines.append({"file": "b.wav", "tags": ["x", {"y": None}], "text": "a\u2028b"})

    rows = manifest("\n\n".join(map(json.dumps, lines)), "calls.jsonl").rows

    assert [(row.line, row.file) for row in rows] == [(1, b"a.wav"), (3, b"b.wav")]
    assert rows[0].call == CallInfo("17", NINE)
    assert rows[1].call.attributes == {"tags": ["x", {"y": None}], "text": "a\u2028b"}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_spreadsheets_of_any_country_are_read(manifest, delimiter):
    text = "\ufefffile,agent\r\na.wav,Ada\r\n".replace(",", delimiter)

    assert manifest(text).rows[0].call.agent == "Ada"


def test_names_of_files_need_not_be_utf_8(manifest, files):
    table = manifest(b"file,agent\n\xff.wav,Ada\n")

    (file,) = files(b"\xff.wav".decode("utf-8", "surrogateescape"))
    assert table.match([file]).calls[file.path].agent == "Ada"


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("a.csv", "name,agent\na.wav,Ada\n", 1),
        ("a.csv", "file,agent,agent\na.wav,Ada,Eve\n", 1),
        ("a.csv", "file,agent\n,Ada\n", 2),
        ("a.csv", "file,started_at\na.wav,2024-05-01T09:00:00\n", 2),
        ("a.jsonl", '{"file": 7}\n', 1),
        ("a.jsonl", '{"file": "a.wav", "x": ' + "[" * 100_000 + "\n", 1),
    ],
)
def test_a_manifest_of_which_nothing_is_understood_is_refused_by_a_line(manifest, name, text, line):
    error = refusal(manifest, text, name)

    assert error.code is ErrorCode.MANIFEST_INVALID
    assert error.subject.endswith(f"{name}, line {line}")


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("a.csv", "file,agent\na.wav,Ada\nb.wav,Eve,extra\n", 3),
        ("a.csv", 'file,agent\nb.wav,"Ada\na.wav,Ada\n', 2),
        ("a.csv", 'file,agent\nb.wav,"A"da\na.wav,Ada\n', 2),
        ("a.csv", "file,agent\n,Eve\na.wav,Ada\n", 2),
        ("a.jsonl", '{"file": "a.wav", "agent": "Ada"}\n[1]\n', 2),
        ("a.jsonl", '{"file": "b.wav"\n{"file": "a.wav", "agent": "Ada"}\n', 1),
    ],
)
def test_a_row_that_cannot_be_understood_costs_itself_and_is_named(
    manifest, files, name, text, line
):
    table = manifest(text, name)

    (file,) = files("a.wav")
    matches = table.match([file])

    assert matches.calls == {file.path: CallInfo(agent="Ada")}
    assert [notice.code for notice in matches.notices] == [ErrorCode.MANIFEST_INVALID]
    assert matches.notices[0].subject.endswith(f"{name}, line {line}")


@pytest.mark.parametrize(
    ("name", "text", "field"),
    [
        ("a.csv", "file,agent,started_at\na.wav,Ada,0001-01-01T00:00:00Z\n", "started_at"),
        ("a.csv", "file,agent,started_at\na.wav,Ada,yesterday\n", "started_at"),
        ("a.csv", "file,agent,line\na.wav,Ada," + "x" * 6_000 + "\n", "line"),
        ("a.csv", "file,agent,line\na.wav,Ada,\0\n", "line"),
        ("a.jsonl", '{"file": "a.wav", "agent": "Ada", "line": ["sales"]}\n', "line"),
        ("a.jsonl", '{"file": "a.wav", "agent": "Ada", "x": NaN}\n', "x"),
        ("a.jsonl", '{"file": "a.wav", "agent": "Ada", "x": 1e999}\n', "x"),
        ("a.jsonl", '{"file": "a.wav", "agent": "Ada", "x": "\\u0000"}\n', "x"),
        ("a.jsonl", '{"file": "a.wav", "agent": "Ada", "line": "\\ud800"}\n', "line"),
    ],
)
def test_a_field_that_cannot_be_understood_costs_itself_and_is_named(
    manifest, files, name, text, field
):
    (file,) = files("a.wav")
    matches = manifest(text, name, BERLIN).match([file])

    assert matches.calls == {file.path: CallInfo(agent="Ada")}
    (notice,) = matches.notices
    assert notice.code == ErrorCode.MANIFEST_INVALID
    assert notice.subject.endswith(f"{name}: {field}")
    assert "1 row" in notice.message


def test_fields_left_out_of_many_rows_are_one_notice(manifest):
    text = "file,started_at\n" + "".join(f"{n}.wav,soon\n" for n in range(1_000))

    (notice,) = manifest(text, zone=BERLIN).notices

    assert "1000 rows: line 2 (" in notice.message


def test_a_manifest_whose_moments_all_lack_a_zone_asks_for_it(manifest):
    error = refusal(manifest, "file,started_at\na.wav,x\nb.wav,2024-05-01 09:00:00\n")

    assert error.subject.endswith("line 3")
    assert "--zone" in error.remedy


def test_a_manifest_that_is_not_there_is_named(tmp_path):
    error = refusal(load_manifest, os.fsencode(tmp_path / "gone.csv"))

    assert error.code is ErrorCode.MANIFEST_INVALID
    assert "gone.csv" in error.subject


def test_a_moment_without_zone_takes_the_one_given(manifest):
    table = manifest("file,started_at\na.wav,2024-05-01T11:00:00\n", zone=BERLIN)

    assert table.rows[0].call.started_at == NINE


@pytest.mark.parametrize("names", ["a.wav,./a.wav", "x/a.wav,x/a.wav"])
def test_two_rows_of_one_file_are_refused_with_both_lines(manifest, names):
    first, second = names.split(",")

    error = refusal(manifest, f"file,agent\n{first},Ada\nb.wav,Bob\n{second},Eve\n")

    assert error.code is ErrorCode.MANIFEST_DUPLICATE
    assert "lines 2 and 4" in error.cause


def test_two_rows_that_turn_out_to_name_one_file_are_refused(manifest, files):
    table = manifest("file,agent\nx/a.wav,Ada\na.wav,Eve\n")

    error = refusal(table.match, files("x/a.wav"))

    assert error.code is ErrorCode.MANIFEST_DUPLICATE
    assert "lines 2 and 3" in error.cause


@pytest.mark.parametrize("name", ["2024/may/a.wav", "may/a.wav", "a.wav"])
def test_a_row_names_a_file_from_the_manifest_or_from_what_was_submitted_or_barely(
    manifest, files, name
):
    # The manifest lies beside 2024/, and 2024/ was submitted.
    table = manifest(f"file,agent\n{name},Ada\n")
    (file,) = files("may/a.wav", base="2024")

    matches = table.match([file])

    assert matches.calls == {file.path: CallInfo(agent="Ada")}
    assert matches.notices == ()


def test_a_bare_name_that_two_files_have_is_matched_to_neither(manifest, files):
    table = manifest("file,agent\na.wav,Ada\n")

    matches = table.match(files("x/a.wav", "y/a.wav"))

    assert matches.calls == {}
    assert "2 files" in matches.notices[0].message
    assert [notice.code for notice in matches.notices] == [
        ErrorCode.MANIFEST_UNMATCHED_ROW,
        ErrorCode.MANIFEST_UNMATCHED_FILE,
        ErrorCode.MANIFEST_UNMATCHED_FILE,
    ]


def test_a_path_prevails_over_a_bare_name(manifest, files):
    table = manifest("file,agent\na.wav,Ada\nx/a.wav,Eve\n")
    top, inner = files("a.wav", "x/a.wav")

    assert table.match([top, inner]).calls == {
        top.path: CallInfo(agent="Ada"),
        inner.path: CallInfo(agent="Eve"),
    }


def test_rows_and_files_left_over_are_all_listed(manifest, files):
    table = manifest("file,agent\na.wav,Ada\ngone1.wav,Eve\ngone2.wav,Eve\n")

    notices = table.match(files("a.wav", "new.wav")).notices

    assert [(notice.code, notice.subject.rsplit("/", 1)[1]) for notice in notices] == [
        (ErrorCode.MANIFEST_UNMATCHED_ROW, "calls.csv, line 3: gone1.wav"),
        (ErrorCode.MANIFEST_UNMATCHED_ROW, "calls.csv, line 4: gone2.wav"),
        (ErrorCode.MANIFEST_UNMATCHED_FILE, "new.wav"),
    ]


@pytest.mark.parametrize(
    "file", ["s3://bucket/calls/in/a.wav", "calls/in/a.wav", "in/a.wav", "a.wav"]
)
def test_an_object_is_named_by_its_url_its_key_or_as_a_file_is(manifest, file):
    found = FoundFile(b"s3://bucket/calls/in/a.wav", b"s3://bucket/calls", b"calls/in/a.wav", 1)
    table = manifest(f"file,call_id\n{file},17\n")

    assert table.match([found]).calls == {found.path: CallInfo("17")}


@pytest.mark.parametrize("name", ["call.json", "call.wav.json"])
def test_a_sidecar_is_found_beside_its_recording(tmp_path, name):
    (tmp_path / name).write_text('{"call_id": 17, "agent": "Ada", "score": 0.5}')

    description = sidecar_of(tmp_path / "call.wav")

    assert description.call == CallInfo(call_id="17", agent="Ada", attributes={"score": 0.5})


def test_without_a_sidecar_there_is_nothing_to_say(tmp_path):
    assert sidecar_of(tmp_path / "call.wav") is None


def test_each_recording_has_its_own_sidecar_in_their_order(tmp_path):
    numbers = range(200)
    for number in numbers:
        (tmp_path / f"{number}.json").write_text(f'{{"call_id": {number}}}')
    paths = [os.fsencode(tmp_path / f"{number}.wav") for number in numbers]

    description = list(read_sidecars(paths, LocalDisk().read))

    assert [item.call.call_id for item in description] == [str(number) for number in numbers]


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b" " * (1024**2 + 1)],
)
def test_a_sidecar_that_cannot_be_understood_is_noticed_and_does_no_harm(tmp_path, data):
    (tmp_path / "call.json").write_bytes(data)

    path = tmp_path / "call.wav"
    call, (notice,) = describe_call(os.fsencode(path), CallInfo(agent="Ada"), sidecar_of(path))

    assert call == CallInfo(agent="Ada")
    assert notice.code == ErrorCode.SIDECAR_INVALID
    assert "submitted without it" in notice.message


@pytest.mark.parametrize(
    ("odd", "field"),
    [
        ('"started_at": "2024-05-01T09:00:00"', "started_at"),
        ('"started_at": "soon"', "started_at"),
        ('"started_at": "9999-12-31T00:00:00Z"', "started_at"),
        ('"agent": true', "agent"),
        ('"agent": {"name": "Ada"}', "agent"),
        ('"customer": "' + "x" * 501 + '"', "customer"),
        ('"score": NaN', "score"),
        ('"score": 1' + "0" * 5_000 + ', "agent": []', "agent"),
        ('"deep": ' + "[" * 40 + "]" * 40, "deep"),
        ('"note": "\\u0000"', "note"),
        ('"note": "' + "x" * 70_000 + '"', "note"),
    ],
)
def test_one_odd_field_of_a_sidecar_costs_itself_and_is_named(tmp_path, odd, field):
    (tmp_path / "call.json").write_text(f'{{"call_id": "c-1", {odd}, "campaign": "spring"}}')

    description = sidecar_of(tmp_path / "call.wav")

    assert description.call.call_id == "c-1"
    assert description.call.attributes["campaign"] == "spring"
    assert getattr(description.call, field, None) is None
    (notice,) = description.notices
    assert notice.code == ErrorCode.SIDECAR_INVALID
    assert f"left out: {field} (" in notice.message


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
def test_a_sidecar_is_read_in_any_encoding(tmp_path, encoding):
    (tmp_path / "call.json").write_bytes('{"agent": "J\u00fcrgen"}'.encode(encoding))

    assert sidecar_of(tmp_path / "call.wav").call == CallInfo(agent="J\u00fcrgen")


def test_fields_of_sidecars_under_other_names_are_told_once(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.json").write_text(f'{{"Call ID": {number}.0, "Agent Name": "Ada"}}')

    read = read_sidecars([os.fsencode(tmp_path / f"{n}.wav") for n in range(3)], LocalDisk().read)
    description = list(read)

    assert [item.call for item in description] == [CallInfo(str(n), agent="Ada") for n in range(3)]
    assert [len(item.notices) for item in description] == [1, 0, 0]
    assert "'Call ID' as call_id" in description[0].notices[0].message


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        (
            "{started_at:%Y%m%d-%H%M%S%z}_{agent}_{call_id}.wav",
            "20240501-110000+0200_Ada_17.wav",
            CallInfo("17", NINE, agent="Ada"),
        ),
        ("{started_at}_*.wav", "2024-05-01T09:00:00Z_x.wav", CallInfo(started_at=NINE)),
        ("{line}/*/{agent}.*", "in/sales/may/Ada.mp3", CallInfo(line="sales", agent="Ada")),
        ("{agent}-{call_id}.wav", "Ada-17-2.wav", CallInfo("17-2", agent="Ada")),
        ("{{{team}}}.wav", "{blue}.wav", CallInfo(attributes={"team": "blue"})),
        ("{agent}.w+v", "Ada.w+v", CallInfo(agent="Ada")),
    ],
)
def test_a_name_is_read_by_its_pattern(pattern, name, expected):
    assert NamePattern(pattern).read(os.fsencode(f"/calls/{name}")) == CallDescription(expected)


@pytest.mark.parametrize("name", ["Ada.wav", "20240501-110000_Ada.mp3"])
def test_a_name_that_does_not_fit_is_noticed(name):
    pattern = NamePattern("{started_at:%Y%m%d-%H%M%S}_{agent}.wav", BERLIN)

    description = pattern.read(os.fsencode(name))

    assert description.call == CallInfo()
    assert [notice.code for notice in description.notices] == [NAME_UNMATCHED]


@pytest.mark.parametrize("date", ["20241345-000000", "00010101-000000", "99991231-235959"])
def test_an_odd_date_in_a_name_costs_itself(date):
    pattern = NamePattern("{started_at:%Y%m%d-%H%M%S}_{agent}.wav", BERLIN)

    description = pattern.read(os.fsencode(f"{date}_Ada.wav"))

    assert description.call == CallInfo(agent="Ada")
    assert "started_at" in description.notices[0].message


def test_a_moment_in_a_name_takes_the_zone_given():
    pattern = NamePattern("{started_at:%Y%m%d-%H%M%S}.wav", BERLIN)

    assert pattern.read(b"20240501-110000.wav") == CallDescription(CallInfo(started_at=NINE))


@pytest.mark.parametrize(
    "pattern",
    [
        "{started_at:%Y%m%d}.wav",
        "{started_at:%Q%z}.wav",
        "{agent}_{agent}.wav",
        "{agent:%Y}.wav",
        "{}.wav",
        "{agent!r}.wav",
        "{agent",
        "agent}",
    ],
)
def test_a_pattern_that_cannot_be_understood_is_refused(pattern):
    error = refusal(NamePattern, pattern)

    assert error.code is ErrorCode.OPTION_INVALID
    assert pattern in error.subject


def test_each_field_is_taken_from_the_first_that_has_it(tmp_path):
    (tmp_path / "Eve_17.json").write_text('{"agent": "Bob", "line": "sales", "x": 2, "y": 2}')
    pattern = NamePattern("{agent}_{call_id}.wav")

    path = tmp_path / "Eve_17.wav"
    from_manifest = CallInfo(agent="Ada", attributes={"x": 1})

    call, notices = describe_call(os.fsencode(path), from_manifest, sidecar_of(path), pattern)

    assert call == CallInfo("17", line="sales", agent="Ada", attributes={"x": 1, "y": 2})
    assert notices == ()


def test_nothing_merges_to_nothing():
    assert merge_calls(None, None) == CallInfo()
