"""One table with what it was measured on: our versions, theirs, the machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from schema.profile import DECODE_VERSION, Profile

_PACKAGES = ("faster-whisper", "ctranslate2", "funasr", "torch", "jiwer")
_WIDTH = 140


def print_table(
    profile: Profile, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], note: str
) -> None:
    """Print a measurement's one table; below it a note, and what it was measured with."""
    caption = f"{note}\n{_measured_with(profile)}"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(width=_WIDTH).print(table)


def _measured_with(profile: Profile) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    decode = profile.decode
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {decode.model} {decode.precision}, scene "
        f"{decode.scene}, language {decode.language}, decode version {DECODE_VERSION}; Python "
        f"{platform.python_version()}, {packages}; {len(os.sched_getaffinity(0))} cores ({_cpu()})"
    )


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
