"""What does an export for a data lake take, in time and memory? One table.

    python -m ops.bench.export

Made-up calls of 60 utterances and 780 words each, written by ``producer export`` as a process of
its own; its peak is the resident memory that the kernel saw.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, text

from ops.bench.bed import Bed, open_bed
from ops.bench.report import print_table, say

_HEADINGS = ("format", "recordings", "s", "recordings/s", "file MB", "peak MB")

#: What transcribing would leave of calls that only were submitted.
_TRANSCRIBED = (
    "update recordings set state = 'done', open_segments = 0, ended_at = now()",
    "insert into transcripts (id, recording_id, version, language, flags, speech_ms, worded_ms)"
    " select gen_random_uuid(), id, 1, 'en', '[]', 200000, 190000 from recordings",
    """
    insert into utterances
    select t.id, n, n % 2, case n % 2 when 0 then 'agent' else 'customer' end, n * 5000,
           n * 5000 + 4000, said.text, said.words
      from transcripts t
     cross join generate_series(0, 59) n
     cross join lateral (
           select string_agg('word' || (n * 7 + w * 13) % 997, ' ' order by w) as text,
                  jsonb_agg(jsonb_build_array('word' || (n * 7 + w * 13) % 997,
                            n * 5000 + w * 300, n * 5000 + w * 300 + 250,
                            round(random()::numeric, 3)) order by w) as words
             from generate_series(0, 12) w) said
    """,
)


@dataclass(frozen=True, slots=True)
class Run:
    """One export: how long it took, what it wrote and held."""

    seconds: float
    file_bytes: int
    peak_bytes: int


def main() -> None:
    """Fill a ledger, a part of it at first, export it in each format, and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recordings", type=int, nargs="+", default=[500, 5_000])
    arguments = parser.parse_args()
    rows = []
    with open_bed() as bed:
        for count in arguments.recordings:
            say(f"filling the ledger with {count:,} recordings")
            bed.empty()
            bed.fill(count)
            bed.ledger.transact(_transcribe)
            for name in ("jsonl", "parquet"):
                run = _export(bed, name, bed.directory / f"{name}-{count}")
                rows.append(
                    [
                        name,
                        f"{count:,}",
                        f"{run.seconds:.1f}",
                        f"{count / run.seconds:.0f}",
                        f"{run.file_bytes / 1e6:.1f}",
                        f"{run.peak_bytes / 1e6:.0f}",
                    ]
                )
        print_table(bed, "Exports for a data lake", _HEADINGS, rows)


def _transcribe(connection: Connection) -> None:
    for statement in _TRANSCRIBED:
        connection.execute(text(statement))


def _export(bed: Bed, name: str, out: Path) -> Run:
    command = [sys.executable, "-m", "producer.cli", "export", "--format", name]
    begun_s = time.monotonic()
    process = subprocess.Popen(
        [*command, "--out", str(out), "--since", "2020-01-01"], env=bed.environment
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - begun_s
    # Told of its end, which it would else ask the kernel for in vain.
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"export --format {name} ended with {process.returncode}")
    (file,) = out.iterdir()
    return Run(seconds, file.stat().st_size, usage.ru_maxrss * 1024)


if __name__ == "__main__":
    main()
