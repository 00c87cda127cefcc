"""What the documents say is what the code does."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from ops.local.bootstrap import quickstart_options
from producer.cli.exit_codes import ExitCode
from producer.cli.main import app
from schema.errors import ErrorCode
from schema.settings import Limits, Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = {
    path: path.read_text()
    for path in [*ROOT.glob("*.md"), *(ROOT / "ops").rglob("*.md")]
    if ".callscribe" not in path.parts
}


@pytest.mark.parametrize("code", ErrorCode)
def test_the_readme_lists_every_error_code(code: ErrorCode):
    assert f"| `{code}` | {code.meaning} |" in README


def test_the_readme_lists_no_other_error_code():
    listed = re.findall(r"^\| `([a-z.-]+)` \|", README, re.MULTILINE)
    assert listed == [code.value for code in ErrorCode]


@pytest.mark.parametrize("code", ExitCode)
def test_the_readme_lists_every_exit_code(code: ExitCode):
    assert f"`{code.value}` {code.name.lower()}" in README


def test_the_readme_lists_every_setting():
    names = [f"CALLSCRIBE_{name}".upper() for name in Settings.model_fields if name != "limits"]
    missing = [name for name in names if f"`{name}`" not in README]
    assert missing == []
    for name, field in Limits.model_fields.items():
        assert field.init is False or f"_{name.upper()}" in README


@pytest.mark.parametrize("name", sorted(get_command(app).commands))
def test_every_command_is_documented_and_has_an_example(name: str):
    command = get_command(app).commands[name]
    assert f"producer {name}" in README
    assert command.help
    assert f"producer {name}" in (command.epilog or "")


EXAMPLES = [
    line.split("   ")[0].split(" && ")[0].strip().removeprefix("producer ")
    for page in PAGES.values()
    for line in re.findall(r"^(producer .*)$", page, re.MULTILINE)
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_parses(example: str):
    command_line = re.split(r" >>? ", example.split("#", maxsplit=1)[0])[0]
    words = shlex.split(command_line)
    command = get_command(app)
    name, sub, rest = command.resolve_command(command.make_context("producer", words), words)
    assert sub.make_context(name, rest, resilient_parsing=False).params is not None


def test_quickstarts_example_parses():
    options = quickstart_options(["--speakers", "agent,customer", "--keep"])
    assert options.speakers == "agent,customer"


def _anchors(page: str) -> set[str]:
    """What a page's headings are linked to by."""
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_between_pages_lead_somewhere(path: Path):
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)]*))?\)", PAGES[path])
    for target, anchor in links:
        linked = (path.parent / target).resolve() if target else path
        assert linked.exists(), target
        assert not anchor or anchor in _anchors(PAGES[linked]), f"{target}#{anchor}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_modules_and_tests_that_a_page_names_are_there(path: Path):
    tests = {found.name for found in (ROOT / "tests").rglob("test_*")}
    for module in re.findall(r"python -m ((?:ops|workers)[\w.]*\w)", PAGES[path]):
        assert importlib.util.find_spec(module), module
    for name in re.findall(r"`(?:tests/[\w/]*/)?(test_\w+)(?:\.py)?`", PAGES[path]):
        assert {name, f"{name}.py"} & tests, name


def practices() -> list[tuple[str, str]]:
    """Each row of the page of practices: its first column, and what its second one names."""
    lines = (ROOT / "ops/docs/practices.md").read_text().splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][1:]
    assert len(rows) == 31
    return [(row[0], name) for row in rows for name in re.findall(r"`([^`]+)`", row[1])]


@pytest.mark.parametrize(("practice", "name"), practices())
def test_what_the_page_of_practices_names_is_there(practice: str, name: str):
    if name.startswith("CALLSCRIBE_"):
        assert name.removesuffix("*") in README, practice
        return
    path, _, attribute = name.removesuffix(".py").partition(".")
    found = [p for p in (ROOT / f"{path}.py", ROOT / path) if p.exists()]
    assert found, practice
    if attribute:
        assert re.search(rf"^ *(def |class )?{attribute}\b", found[0].read_text(), re.M), practice
