"""One table with what it was measured on: versions, cores, and the moment's other load."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence

from sqlalchemy import text

from ops import tables
from ops.bench.bed import Bed

_PACKAGES = ("celery", "kombu", "redis", "sqlalchemy", "psycopg")
_WIDTH = 120


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
    caption = "\n".join(filter(None, [note, _measured_on(bed)]))
    tables.print_table(title, headings, rows, caption, width=_WIDTH)


def say(line: str) -> None:
    """Tell how far a benchmark is, where it does not get into the table."""
    print(line, file=sys.stderr, flush=True)


def _measured_on(bed: Bed) -> str:
    with bed.ledger.connect() as connection:
        postgres = connection.scalar(text("show server_version"))
    with bed.celery.connection_for_write() as connection:
        server = connection.default_channel.client.info("server")["redis_version"]
    return (
        f"{tables.measured_now()}, {tables.versions_of(_PACKAGES)}, "
        f"Postgres {postgres}, Redis {server}\n"
        f"{tables.cores()}, load {os.getloadavg()[0]:.1f} at the end"
    )
