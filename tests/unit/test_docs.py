"""What the documents say is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from producer.cli.exit_codes import ExitCode
from producer.cli.main import app
from schema.errors import ErrorCode
from schema.settings import Limits, Settings

ROOT = Path(__file__).parents[2]


def _reference(name: str) -> str:
    return (ROOT / "ops/docs/reference" / name).read_text()


@pytest.mark.parametrize("code", ErrorCode)
def test_the_reference_lists_every_error_code_and_what_to_do(code: ErrorCode):
    page = _reference("error-codes.md")
    anchor = code.value.replace(".", "")
    assert f"| [`{code}`](#{anchor}) | {code.meaning} |" in page
    assert f"\n### {code}\n" in page


def test_the_reference_lists_no_other_error_code():
    listed = re.findall(r"^\| \[`([a-z.-]+)`\]", _reference("error-codes.md"), re.MULTILINE)
    assert listed == [code.value for code in ErrorCode]


@pytest.mark.parametrize("code", ExitCode)
def test_the_reference_lists_every_exit_code(code: ExitCode):
    row = f"| `{code.value}` | {code.name.lower()} | {code.meaning} |"
    assert row in _reference("exit-codes.md")


def test_the_reference_lists_every_setting():
    page = _reference("settings.md")
    names = [f"CALLSCRIBE_{name}".upper() for name in Settings.model_fields if name != "limits"]
    names += [
        f"CALLSCRIBE_MAX_{name}".upper()
        for name, field in Limits.model_fields.items()
        if field.init is not False
    ]
    assert [name for name in names if f"| `{name}` |" not in page] == []


@pytest.mark.parametrize("name", sorted(get_command(app).commands))
def test_every_command_is_in_the_reference_and_has_an_example(name: str):
    command = get_command(app).commands[name]
    page = _reference("commands.md")
    section = page.partition(f"\n## producer {name}\n")[2].partition("\n## ")[0]
    assert command.help
    assert f"\nproducer {name}" in section
    assert f"producer {name}" in (command.epilog or "")


def practices() -> list[tuple[str, str]]:
    """Each row of the page of practices: its first column, and what its second one names."""
    lines = (ROOT / "ops/docs/operate/practices.md").read_text().splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][1:]
    assert len(rows) > 20, "the page has another form"
    return [(row[0], name) for row in rows for name in re.findall(r"`([^`]+)`", row[1])]


@pytest.mark.parametrize(("practice", "name"), practices())
def test_what_the_page_of_practices_names_is_there(practice: str, name: str):
    if name.startswith("CALLSCRIBE_"):
        assert name.removesuffix("*") in _reference("settings.md"), practice
        return
    path, _, attribute = name.removesuffix(".py").partition(".")
    found = [p for p in (ROOT / f"{path}.py", ROOT / path) if p.exists()]
    assert found, practice
    if attribute:
        assert re.search(rf"^ *(def |class )?{attribute}\b", found[0].read_text(), re.M), practice
