"""A measurement's one table, and below it when it was taken, with which versions, on what."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table


def print_table(
    title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], caption: str, *, width: int
) -> None:
    """Print rows whose first column is a name and whose others are figures."""
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    Console(width=width).print(table)


def measured_now() -> str:
    """Return the time, to the minute."""
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"


def versions_of(packages: Sequence[str]) -> str:
    """Return the versions of Python and of installed packages."""
    installed = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"Python {platform.python_version()}, {installed}"


def cores() -> str:
    """Return how many cores this process may use, and of what kind."""
    return f"{len(os.sched_getaffinity(0))} cores ({_cpu()})"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
