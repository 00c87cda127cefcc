"""One table with what it was measured on: versions, cores, and the moment's other load."""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from ops.bench.bed import Bed

_PACKAGES = ("celery", "kombu", "redis", "sqlalchemy", "psycopg")


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least ``percent`` of all values do not exceed.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values")
    rank = math.ceil(percent / 100 * len(values))
    return sorted(values)[max(0, rank - 1)]


def milliseconds(seconds: Sequence[float], percent: float) -> str:
    """Return a percentile of durations in seconds as it is printed, in milliseconds."""
    return f"{1_000 * percentile(seconds, percent):.2f}"


def print_table(
    bed: Bed, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], note: str = ""
) -> None:
    """Print the one table of a benchmark; below it a note, the versions and the machine."""
    caption = "\n".join(filter(None, [note, _machine(bed)]))
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)


def say(line: str) -> None:
    """Tell how far a benchmark is, where it does not get into the table."""
    print(line, file=sys.stderr, flush=True)


def _machine(bed: Bed) -> str:
    with bed.ledger.reading() as connection:
        postgres = connection.scalar(text("show server_version"))
    with bed.celery.connection_for_write() as connection:
        server = connection.default_channel.client.info("server")["redis_version"]
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, Python {platform.python_version()}, {packages}, "
        f"Postgres {postgres}, Redis {server}\n"
        f"{len(os.sched_getaffinity(0))} cores ({_cpu()}), load {os.getloadavg()[0]:.1f} at the end"
    )


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
