"""What a terminal's encoding lacks is escaped: no command fails, and JSON says the same."""

from __future__ import annotations

import io
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from producer.terminal import PlainConsole, degrade_output, json_for, spinner_for

ENCODINGS = ["ascii", "latin-1", "cp1252", "gb2312", "koi8-r"]


def stream(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)


def written(stream: io.TextIOWrapper) -> bytes:
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue()


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(said=st.text(st.characters(exclude_categories=["Cs"])))
def test_json_says_the_same_in_any_encoding(encoding: str, said: str):
    output = stream(encoding)

    output.write(json_for(output, json.dumps({"said": said}, ensure_ascii=False)))

    assert json.loads(written(output)) == {"said": said}


def test_json_is_as_people_read_it_where_that_can_be_written():
    assert json_for(stream("utf-8"), '"退款"') == '"退款"'


@given(said=st.text(st.one_of(st.characters(), st.sampled_from("\x1b\x9b\r\b\u202e[]"))))
def test_no_terminal_obeys_what_is_printed(said: str):
    output = io.StringIO()
    console = PlainConsole(file=output, force_terminal=True, color_system=None, width=80)
    table = Table("said", said)
    table.add_row(said, Text(said))

    console.print(said, soft_wrap=True)
    console.print(table)

    assert all(char.isprintable() or char == "\n" for char in output.getvalue())


@pytest.mark.parametrize("text", ["[bold]x[/bold]", "[/]", ":smile:", "[red]"])
def test_what_looks_like_markup_is_printed_as_it_is(text: str):
    output = io.StringIO()
    PlainConsole(file=output).print(text)
    assert output.getvalue() == f"{text}\n"


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(said=st.text())
def test_nothing_that_is_printed_fails(encoding: str, said: str):
    outputs = stream(encoding), stream(encoding)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", outputs[0])
        patch.setattr(sys, "stderr", outputs[1])
        degrade_output()
        for output in outputs:
            print(said, file=output)
            assert written(output)


def test_our_own_signs_have_others_that_everybody_has(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdout", stream("ascii"))
    degrade_output()

    print("3 done · 1 failed · Bäcker 😀…")

    assert written(sys.stdout) == b"3 done - 1 failed - B\\u00e4cker \\ud83d\\ude00...\n"
    assert (spinner_for(sys.stdout), spinner_for(stream("UTF-8"))) == ("line", "dots")


def test_half_of_a_character_ends_no_command_in_any_encoding(monkeypatch: pytest.MonkeyPatch):
    """JSON can hold one, and so can an argument."""
    monkeypatch.setattr(sys, "stdout", stream("utf-8"))
    degrade_output()

    print(json.dumps({"name": "x\ud800"}, ensure_ascii=False))

    assert json.loads(written(sys.stdout)) == {"name": "x\ud800"}
