"""The reference pages are what the code says, and quote what it prints."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from ops.reference.__main__ import DIRECTORY, main
from ops.reference.commands import commands, examples
from ops.reference.pages import PAGES
from ops.reference.settings import SECTIONS, variable
from schema import metrics
from schema.advice import ADVICE
from schema.errors import ErrorCode
from schema.metrics import CATALOGUE, Metric
from schema.settings import Settings

ROOT = Path(__file__).parents[3]

#: Said by libraries, or never printed with a text of its own.
FOREIGN = {ErrorCode.ENGINE_FAILED, ErrorCode.CANCELLED}


@cache
def written() -> frozenset[str]:
    """The strings of the code that could be part of a message."""
    sources = [
        path
        for package in ("producer", "schema", "workers")
        for path in (ROOT / package).rglob("*.py")
        if path.name not in ("errors.py", "advice.py")
    ]
    constants = (
        node.value.strip()
        for path in sources
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    return frozenset(text for text in constants if len(text) >= 8 and " " in text)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_would_be_generated(name: str):
    assert (DIRECTORY / name).read_text() == PAGES[name](), "run: python -m ops.reference"


def test_every_page_of_the_reference_is_generated():
    assert {path.name for path in DIRECTORY.glob("*.md")} == set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_how_it_is_made(name: str):
    title, _, first, *_ = PAGES[name]().splitlines()
    assert title.startswith("# ")
    assert first[0].isupper()
    assert "`python -m ops.reference`" in PAGES[name]().partition("\n\n")[2]


def test_a_page_that_is_out_of_date_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("ops.reference.__main__.DIRECTORY", tmp_path)
    assert main([]) == 0
    assert main(["--check"]) == 0

    (tmp_path / "metrics.md").write_text("old")

    assert main(["--check"]) == 1
    assert "metrics.md is out of date: run python -m ops.reference" in capsys.readouterr().out


def test_every_setting_is_in_one_section_in_sentences():
    names = [variable(section.settings, name) for section in SECTIONS for name in section.names]
    assert len(names) == len(set(names))
    expected = {variable(Settings, name) for name in Settings.model_fields if name != "limits"}
    expected |= {n for n in names if n.startswith("CALLSCRIBE_MAX_")}
    assert set(names) == expected, "name it in a section of ops/reference/settings.py"
    for section in SECTIONS:
        for name in section.names:
            description = section.settings.model_fields[name].description
            assert description
            assert description[0].isupper()
            assert description.endswith(".")


@pytest.mark.parametrize("name", commands())
def test_every_command_has_examples_of_itself(name: str):
    lines = examples(commands()[name])
    assert lines
    assert all(line.startswith(f"producer {name}") for line in lines)


def test_every_metric_is_on_its_page():
    page = PAGES["metrics.md"]()
    assert [m.name for m in CATALOGUE if f"| `{m.name}` |" not in page] == []


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_has_advice_in_sentences(code: ErrorCode):
    advice = ADVICE[code]
    for text in (advice.causes, advice.by_itself, advice.do):
        assert text[0].isupper() or text[0] == "`"
        assert text.endswith(".")
        assert "  " not in text


@pytest.mark.parametrize("code", [code for code in ErrorCode if code not in FOREIGN])
def test_examples_are_messages_that_the_code_prints(code: ErrorCode):
    example = ADVICE[code].example
    assert example.startswith(f"[{code}] ") or code is ErrorCode.BROKER_UNREACHABLE
    assert any(text in example or example in text for text in written())


def test_every_metric_is_counted_or_set_somewhere():
    sources = "".join(path.read_text() for path in (ROOT / "workers").rglob("*.py"))
    constants = [name for name, value in vars(metrics).items() if isinstance(value, Metric)]
    assert [name for name in constants if not re.search(rf"\b{name}\b", sources)] == []
