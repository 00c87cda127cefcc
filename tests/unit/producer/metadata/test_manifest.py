"""Tables as spreadsheets and switches write them read back as what was written."""

from __future__ import annotations

import csv
import io
import os
import unicodedata

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from producer.metadata.calls import load_manifest
from producer.metadata.manifest import InterpretationCode, read_table
from producer.metadata.text_encodings import check_encoding
from schema.errors import BadRequest, ErrorCode

HEADERS = [
    ["file", "call_id", "agent"],
    ["Call ID", "File Name", "Agent Name"],
    ["\u00dcbersicht", "Filename", "Call-Id", "AGENT"],
    ["file"],
]
FIELDS = {"call_id": "call_id", "agent": "agent", "agent_name": "agent"}
ENCODINGS = {
    "utf-8": "",
    "utf-8-sig": "",
    "utf-16": "",
    "utf-16-le": "",
    "utf-16-be": "",
    "utf-32": "",
    "utf-16-be with its mark": "\ufeff",
    "cp1252": "",
}
LINE_ENDS = ["\r\n", "\n", "\r"]
#: Nobody's cells, and none of ours: control characters that a cell cannot hold, and surrogates.
TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("\n,;|\t'"))
WESTERN = st.text(
    st.sampled_from("".join(bytes([b]).decode("cp1252", "ignore") for b in range(32, 256)) + "\n")
)


@pytest.fixture
def read(tmp_path):
    def read(data: bytes | str, name="m.csv"):
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return read_table(os.fsencode(path))

    return read


def written(rows, delimiter, line_end, quoting, sep):
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter, lineterminator=line_end, quoting=quoting).writerows(rows)
    return (f"sep={delimiter}{line_end}" if sep else "") + file.getvalue()


def is_utf_8_by_chance(data):
    text = data.decode("utf-8", "surrogateescape")
    return any(char > "\x7f" and not "\udc80" <= char <= "\udcff" for char in text)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(
    data=st.data(),
    header=st.sampled_from(HEADERS),
    encoding=st.sampled_from(sorted(ENCODINGS)),
    delimiter=st.sampled_from(",;\t|"),
    line_end=st.sampled_from(LINE_ENDS),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    sep=st.booleans(),
    trailing=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_a_table_reads_back_however_it_was_written(
    tmp_path, data, header, encoding, delimiter, line_end, quoting, sep, trailing
):
    # A writer quotes no line's end but its own.
    texts = (WESTERN if encoding == "cp1252" else TEXT).map(lambda t: t.replace("\n", line_end))
    texts = texts.filter(lambda text: not text.strip().startswith('="'))
    files = texts.filter(str.strip)
    column = next(at for at, name in enumerate(header) if name.lower().startswith("file"))
    cells = [files if at == column else texts for at in range(len(header))]
    rows = data.draw(st.lists(st.tuples(*cells), min_size=1, max_size=5))
    columns, lines = trailing if len(header) > 1 else (0, trailing[1])
    table = [[*row, *[""] * columns] for row in [header, *rows]]
    table += [[""] * len(table[0])] * lines
    text = ENCODINGS[encoding] + written(table, delimiter, line_end, quoting, sep)
    written_bytes = text.encode(encoding.split()[0])
    if encoding == "cp1252":
        # Two of its characters that make one of UTF-8 are taken for that.
        assume(not is_utf_8_by_chance(written_bytes))
    path = tmp_path / "m.csv"
    path.write_bytes(written_bytes)

    read = read_table(os.fsencode(path))

    assert [record.values["file"] for record in read.records] == [row[column] for row in rows]
    for at, name in enumerate(header):
        field = FIELDS.get(name.lower().replace(" ", "_").replace("-", "_"))
        if field:
            expected = [row[at].strip() or None for row in rows]
            assert [record.values.get(field) for record in read.records] == expected
    assert all(notice.code == InterpretationCode.MANIFEST for notice in read.notices)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(data=st.binary(max_size=200), name=st.sampled_from(["m.csv", "m.jsonl"]))
def test_whatever_a_manifest_holds_it_is_read_or_refused(tmp_path, data, name):
    path = tmp_path / name
    path.write_bytes(data if name == "m.jsonl" else b"file,started_at\n" + data)

    try:
        table = load_manifest(os.fsencode(path))
    except BadRequest as error:
        assert error.code in {ErrorCode.MANIFEST_INVALID, ErrorCode.MANIFEST_DUPLICATE}  # noqa: PT017
    else:
        assert all(row.file for row in table.rows)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("file,Call ID, agent,Started_At", {"call_id": "1", "agent": "2", "started_at": "3"}),
        ("File Name;callId;AGENT;Call Date", {"call_id": "1", "agent": "2", "started_at": "3"}),
        (
            "Filename|CALL-ID|Agent Name|StartTime",
            {"call_id": "1", "agent": "2", "started_at": "3"},
        ),
        ("FILE\tcall id\tAgent\tstart_time", {"call_id": "1", "agent": "2", "started_at": "3"}),
        ("\u200bfile,Call\u00a0ID,agent_name,x", {"call_id": "1", "agent": "2", "x": "3"}),
        ("file,call_id,Call ID,Agent ID", {"call_id": "1", "Call ID": "2", "agent": "3"}),
        ("file,Agent ID,Agent Name,Date", {"Agent ID": "1", "agent": "2", "Date": "3"}),
    ],
)
def test_a_header_is_understood_as_people_write_it(read, header, expected):
    delimiter = next(candidate for candidate in ",;\t|" if candidate in header)

    table = read(f"{header}\na.wav,1,2,3\n".replace(",", delimiter))

    assert table.records[0].values == {"file": "a.wav", **expected}
    (notice,) = table.notices
    assert notice.code == InterpretationCode.MANIFEST
    assert "understood " in notice.message


def test_fields_under_their_own_names_need_no_notice(read):
    assert read("file,call_id,campaign\na.wav,1,spring\n").notices == []


@pytest.mark.parametrize(
    ("date", "time", "expected"),
    [
        ("2026-05-01", "09:30", "2026-05-01 09:30"),
        ("2026-05-01", "2026-05-01 09:30", "2026-05-01 09:30"),
        ("2026-05-01", "", "2026-05-01"),
        ("", "2026-05-01 09:30", "2026-05-01 09:30"),
    ],
)
def test_a_date_and_its_time_of_day_are_one_moment(read, date, time, expected):
    table = read(f"file,Call Date,Call Time\na.wav,{date},{time}\n")

    assert table.records[0].values == {"file": "a.wav", "started_at": expected}


def test_rows_may_end_early_and_columns_may_have_no_name(read):
    table = read("file,agent,,note,,\na.wav,Ada,x,y,,\nb.wav\nc.wav,Eve,,,,,,\n,,,\n\n")

    assert [record.values for record in table.records] == [
        {"file": "a.wav", "agent": "Ada", "column (3)": "x", "note": "y"},
        {"file": "b.wav"},
        {"file": "c.wav", "agent": "Eve"},
    ]


def test_columns_of_one_name_are_kept_apart(read):
    table = read("file,note,note\na.wav,x,y\n")

    assert table.records[0].values == {"file": "a.wav", "note": "x", "note (3)": "y"}
    assert "note" in table.notices[0].message


def test_digits_that_excel_was_told_are_text_lose_its_spelling(read):
    table = read('file,call_id\n"=""a.wav""","=""0049"""\nb.wav,="0050"\n')

    assert [record.values["call_id"] for record in table.records] == ["0049", "0050"]
    assert [record.file for record in table.records] == [b"a.wav", b"b.wav"]


def test_what_is_above_a_header_is_no_row_and_lines_are_those_of_the_file(read):
    table = read("sep=;\r\nCalls of May\r\n\r\nFile;Agent\r\na.wav;Ada\r\n;Eve\r\n")

    assert [(record.line, record.values["agent"]) for record in table.records] == [(5, "Ada")]
    assert [notice.subject.rsplit(", ")[-1] for notice in table.notices] == ["line 4", "line 6"]


def test_the_line_is_that_on_which_a_row_begins(read):
    table = read('file,note\na.wav,"one\ntwo\nthree"\nb.wav,x\n')

    assert [record.line for record in table.records] == [2, 5]


def test_windows_1252_is_told(read):
    table = read("file,agent\na.wav,J\u00fcrgen \u20ac\n".encode("cp1252"))

    assert table.records[0].values["agent"] == "J\u00fcrgen \u20ac"
    assert "Windows-1252" in table.notices[0].message


def test_a_stray_name_in_utf_8_does_not_garble_the_rest(read):
    table = read("file,agent\nb.wav,J\u00fcrgen \u674e\n".encode() + b"\xff.wav,Ada\n")

    assert [r.values["agent"] for r in table.records] == ["J\u00fcrgen \u674e", "Ada"]
    assert table.records[1].file == b"\xff.wav"


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"PK\x03\x04", "workbook"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "workbook"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b'ID;PWXL;N;E\r\nC;Y1;X1;K"file"\r\n', "SYLK"),
        (b"\xef\xbb\xbf\r\n<html><table><tr><td>file</td></tr></table>", "HTML"),
        (b'<?xml version="1.0"?><Workbook><Row>file</Row></Workbook>', "XML"),
        (b"%PDF-1.7", "PDF"),
    ],
)
@pytest.mark.parametrize("name", ["calls.csv", "calls.jsonl"])
def test_what_is_no_table_is_named_as_what_it_is(read, head: bytes, kind: str, name: str):
    with pytest.raises(BadRequest, match=kind):
        read(head + bytes(100), name)


@pytest.mark.parametrize(
    ("encoding", "agent"),
    [
        ("gb18030", "\u738b\u5c0f\u660e"),
        ("cp1251", "\u0410\u043d\u043d\u0430"),
        ("shift_jis", "\u7530\u4e2d"),
        ("big5", "\u738b\u5c0f\u660e"),
    ],
)
def test_text_is_read_in_the_encoding_that_is_given(tmp_path, encoding: str, agent: str):
    for name, text in {
        "calls.csv": f"file,agent\n{agent}.wav,{agent}\n",
        "calls.jsonl": f'{{"file": "{agent}.wav", "agent": "{agent}"}}\n',
    }.items():
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))

        (record,) = read_table(os.fsencode(path), check_encoding(encoding)).records

        assert record.values["agent"] == agent
        assert record.file == f"{agent}.wav".encode(encoding)


def test_what_is_utf_8_is_that_whatever_encoding_is_given(tmp_path):
    path = tmp_path / "calls.csv"
    path.write_bytes("\ufefffile,agent\na.wav,J\u00fcrgen\n".encode())

    (record,) = read_table(os.fsencode(path), "gb18030").records

    assert record.values["agent"] == "J\u00fcrgen"


@pytest.mark.parametrize("name", ["hex", "zlib", "rot13", "klingon", "", "\0"])
def test_an_encoding_that_is_none_of_text_is_refused(name: str):
    with pytest.raises((LookupError, ValueError)):
        check_encoding(name)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
def test_json_lines_are_read_in_any_encoding_and_by_near_names(read, encoding):
    text = (
        '{"File Name": "a.wav", "callId": 7}\r\n{"File Name": "b.wav", "agent": "J\u00fcrgen"}\r\n'
    )

    table = read(text.encode(encoding), "m.jsonl")

    assert [record.values for record in table.records] == [
        {"file": "a.wav", "call_id": 7},
        {"file": "b.wav", "agent": "J\u00fcrgen"},
    ]


def test_a_decomposed_header_is_the_same(read):
    names = "file,r\u00e9gion\na.wav,nord\n"

    assert read(unicodedata.normalize("NFD", names)).records[0].values["file"] == "a.wav"
