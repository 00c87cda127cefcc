"""What commands print: results to standard output, messages about them to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import RenderableType
from rich.status import Status

from producer.cli.tables import printable
from producer.terminal import PlainConsole, json_for, spinner_for
from schema.errors import CallscribeError
from schema.records import Notice

out = PlainConsole(soft_wrap=False)
err = PlainConsole(stderr=True)


def count_of(count: int, noun: str) -> str:
    """Return a count as people write it: 1 recording, 2,000 recordings."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def show_status(text: str) -> Status:
    """Show that work goes on, in signs that the terminal has."""
    return err.status(text, spinner=spinner_for(sys.stderr))


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    sys.stdout.write(json_for(sys.stdout, text) + "\n")


def print_result(value: Any, view: RenderableType, *, as_json: bool) -> None:
    """Print a result: as JSON for scripts, or as people read it."""
    if as_json:
        print_json(value)
    else:
        out.print(view)


def print_notices(notices: Iterable[Notice]) -> None:
    """Print what was noticed beside recordings, a line each."""
    for notice in notices:
        line = f"[{notice.code}] {notice.subject}: {notice.message}"
        err.print(printable(line), soft_wrap=True)


def print_errors(errors: Iterable[CallscribeError]) -> None:
    """Print errors that did not end the command, a line each."""
    for error in errors:
        err.print(printable(str(error)), soft_wrap=True)
