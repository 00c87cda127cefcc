"""The page of ``producer``'s commands, from the command line itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from rich.text import Text
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from ops.reference.markdown import head, table, to_page, wrap
from producer.cli.main import app

#: What stands for a value whose option names none, by its type.
_KINDS = {"str": "TEXT", "int": "NUMBER", "float": "NUMBER"}


def page() -> str:
    """Return the page, as Markdown."""
    return to_page(_lines())


def commands() -> Mapping[str, TyperCommand]:
    """Return every command of ``producer``, by name."""
    group = cast(TyperGroup, get_command(app))
    return cast(Mapping[str, TyperCommand], group.commands)


def examples(command: TyperCommand) -> list[str]:
    """Return the command lines that a command's help shows."""
    text = _plain(command.epilog or "")
    lines = re.split(r" · |\n", re.sub(r"^Examples?:\s*", "", text))
    return [line.strip() for line in lines if line.strip().startswith("producer ")]


def _lines() -> Iterator[str]:
    yield from head("Commands", "Every command of `producer`, with its options.", "producer/cli")
    yield wrap(
        "`producer COMMAND --help` prints the same. Each command ends with an [exit code]"
        "(exit-codes.md); a code in brackets is an [error code](error-codes.md). `producer"
        " --install-completion`, typed in bash, zsh or fish, completes commands and options in new"
        " terminals. Settings come from the [environment](settings.md)."
    )
    yield ""
    links = ((f"[`{name}`](#producer-{name})", _first(c)) for name, c in commands().items())
    yield from table(("Command", "What it does"), links)
    for name, command in commands().items():
        yield from _section(name, command)


def _section(name: str, command: TyperCommand) -> Iterator[str]:
    yield f"## producer {name}\n"
    for paragraph in _paragraphs(command):
        yield wrap(paragraph) + "\n"
    yield "```"
    yield from examples(command)
    yield "```\n"
    context = command.make_context(name, [], resilient_parsing=True)
    groups: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is not None:
            groups.setdefault(_group(parameter), []).append(_row(*record))
    for group, rows in groups.items():
        yield from table((group, "Meaning"), rows)


def _first(command: TyperCommand) -> str:
    """Return the first sentence of a command's help."""
    return re.split(r"(?<=[.])\s", _paragraphs(command)[0], maxsplit=1)[0]


def _paragraphs(command: TyperCommand) -> Sequence[str]:
    return [" ".join(part.split()) for part in _plain(command.help or "").split("\n\n")]


def _group(parameter: Any) -> str:
    """Return the heading of a parameter's table: the panel that its help stands in."""
    if parameter.param_type_name == "argument":
        return "Argument"
    panel = parameter.rich_help_panel
    return f"Option: {panel[0].lower()}{panel[1:]}" if panel else "Option"


def _row(spelling: str, meaning: str) -> tuple[str, str]:
    """Return a parameter as it is typed, and its help with its default and bounds."""
    # Of an argument that has a name, its type says nothing more.
    name = spelling if spelling.startswith("-") else spelling.partition(" ")[0]
    name = re.sub(r"<(\w+)[^>]*>", lambda kind: _KINDS.get(kind[1], kind[1].upper()), name)
    text, _, facts = _plain(meaning.replace("[", r"\[")).partition("  [")
    return f"`{name}`", " ".join([text, *map(_fact, filter(None, facts.rstrip("]").split("; ")))])


def _fact(text: str) -> str:
    if text.startswith("default: "):
        return f"Default: `{text.removeprefix('default: ')}`."
    if bounds := re.fullmatch(r"(\d+)<=x<=(\d+)", text):
        return f"From {int(bounds[1]):,} to {int(bounds[2]):,}."
    return f"{text.capitalize()}."


def _plain(text: str) -> str:
    return Text.from_markup(text).plain
