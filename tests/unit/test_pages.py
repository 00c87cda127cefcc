"""The pages for people: short where they must be, reachable, and true in what they name."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import median

import pytest
import yaml
from typer.main import get_command

from ops.local.bootstrap import quickstart_options
from producer.cli.main import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "ops/docs"
INDEX = DOCS / "index.md"
PAGES = {
    path: path.read_text()
    for path in [*ROOT.glob("*.md"), *(ROOT / "ops").rglob("*.md")]
    if ".callscribe" not in path.parts
}
#: One screen each.
FRONT = (ROOT / "README.md", INDEX)
#: What is drawn there with paths of modules.
MAPS = (ROOT / "ARCHITECTURE.md", *(DOCS / "explain").glob("*.md"), DOCS / "operate/security.md")

on_each_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def fenced(page: str) -> Iterator[str]:
    """The lines of a page's blocks of code, each with the lines that a backslash joins to it."""
    for block in re.findall(r"^ *```[a-z]*\n(.*?)^ *```", page, re.DOTALL | re.MULTILINE):
        yield from (line.strip() for line in block.replace("\\\n", " ").splitlines())


def prose(page: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```", "", page, flags=re.DOTALL | re.MULTILINE)


def sentences(page: str) -> list[str]:
    """What a reader takes in at once: sentences, items of lists and cells of tables."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", prose(page))
    text = re.sub(r"^#.*$|^\|[-|]+\|$", "", text, flags=re.MULTILINE)
    pieces = re.split(r"(?<=[.?!])\*{0,2}\s|\n\n|\n(?=- |\|)|\|| · ", text)
    return [piece for piece in pieces if re.search(r"\w", piece)]


def links(page: str) -> list[tuple[str, str]]:
    """Each link within the repository: its target, empty for the page itself, and its anchor."""
    return re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)]*))?\)", prose(page))


def anchors(page: str) -> set[str]:
    """What a page's headings are linked to by."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


# How long


def test_the_readme_is_short():
    assert len(PAGES[FRONT[0]].splitlines()) <= 130


@pytest.mark.parametrize("path", FRONT, ids=lambda path: path.name)
def test_the_front_pages_are_quickly_read(path: Path):
    lengths = {piece: len(piece.split()) for piece in sentences(PAGES[path])}
    assert [piece for piece, words in lengths.items() if words > 30] == []
    assert median(lengths.values()) <= 14


@on_each_page
def test_a_page_begins_with_its_title(path: Path):
    assert re.match(r"# \S", PAGES[path])


# Where links lead


@on_each_page
def test_links_lead_somewhere(path: Path):
    for target, anchor in links(PAGES[path]):
        linked = (path.parent / target).resolve() if target else path
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked.read_text()), f"{target}#{anchor}"


def test_each_page_is_in_the_index():
    indexed_pages = {(DOCS / target).resolve() for target, _ in links(PAGES[INDEX]) if target}
    missing = {path for path in PAGES if path.is_relative_to(DOCS)} - indexed_pages - {INDEX}
    assert missing == set()


def test_the_readme_leads_to_the_index():
    assert ("ops/docs/index.md", "") in links(PAGES[FRONT[0]])


# What examples name

EXAMPLES = [
    line.partition("#")[0].partition(" && ")[0].strip().removeprefix("producer ")
    for page in PAGES.values()
    for line in fenced(page)
    if line.startswith("producer ")
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_of_the_producer_parses(example: str):
    words = shlex.split(re.split(r" >>? ", example)[0])
    command = get_command(app)
    if words == ["--version"]:
        return
    name, sub, rest = command.resolve_command(command.make_context("producer", words), words)
    assert sub.make_context(name, rest, resilient_parsing=False).params is not None


@on_each_page
def test_commands_in_sentences_have_their_options(path: Path):
    commands = get_command(app).commands
    for text in re.findall(r"`producer ([^`]+)`", prose(PAGES[path])):
        words = re.split(r"[\s=]+", text)
        if words[0].startswith("-") or words[0].isupper():
            continue
        assert words[0] in commands, text
        options = {o for p in commands[words[0]].params for o in (*p.opts, *p.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= options | {"--help"}, text


@cache
def names_of_tests() -> frozenset[str]:
    """Names of directories, modules and functions of tests."""
    files = list((ROOT / "tests").rglob("test_*"))
    modules = [file.read_text() for file in files if file.suffix == ".py"]
    functions = (name for text in modules for name in re.findall(r"^def (test_\w+)", text, re.M))
    return frozenset({file.stem for file in files}.union(functions))


@on_each_page
def test_modules_and_tests_that_a_page_names_are_there(path: Path):
    for module in re.findall(r"python -m ((?:ops|workers|producer)[\w.]*\w)", PAGES[path]):
        assert importlib.util.find_spec(module), module
    for test in re.findall(r"`(?:tests/[\w/]*/)?(test_\w+)(?:\.py|\[[^`]*\])?`", PAGES[path]):
        assert test in names_of_tests(), test


@on_each_page
def test_files_that_a_page_names_are_there(path: Path):
    """Those of examples, too; what somebody makes by copying an example is not there yet."""
    copies = {"ops/compose.env"}
    for file in re.findall(r"(?<![\w/.-])(?:ops|tests)/[\w./@*-]+", PAGES[path]):
        plain = file.rstrip("./")
        is_file = (ROOT / plain).exists() or (ROOT / f"{plain}.py").exists()
        assert is_file or plain in copies or list(ROOT.glob(plain)), file


@pytest.mark.parametrize("path", MAPS, ids=lambda path: path.name)
def test_modules_that_a_map_draws_are_there(path: Path):
    rooms = r"(?:^|[\s`(])((?:producer|workers|schema|engines|segment)/[\w/]+)"
    for module in re.findall(rooms, PAGES[path], re.MULTILINE):
        places = (ROOT / module, ROOT / "workers" / module)
        assert any(p.is_dir() or p.with_suffix(".py").exists() for p in places), module


def test_quickstarts_example_parses():
    options = quickstart_options(["--speakers", "agent,customer", "--keep"])
    assert options.speakers == "agent,customer"


# The runbook's first table


def test_the_runbook_begins_with_each_alert_and_how_bad_it_is():
    rules = yaml.safe_load((ROOT / "ops/prometheus/rules.yml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule]
    rows = re.findall(
        r"^\| \[(\w+)\]\(#\w+\) \| (\w+) \|", PAGES[DOCS / "operate/runbook.md"], re.M
    )
    assert rows == [(alert["alert"], alert["labels"]["severity"]) for alert in alerts]
