"""What does an export for a data lake take, in time and memory, and the ledger on disk? One table.

    python -m ops.bench.export

Made-up calls of 60 utterances and 780 words each, written by ``producer export`` as a process of
its own; its peak is the resident memory that the kernel saw.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, text

from ops.bench.bed import Bed, open_bed
from ops.bench.nullworker import made_up_result
from ops.bench.report import print_table, say

_WORDS = 780

_HEADINGS = ("format", "recordings", "s", "recordings/s", "file MB", "peak MB")

#: What transcribing would leave of calls that only were submitted; ``:body`` is a result's.
_TRANSCRIBED = (
    "insert into results select decode_key, cast(:body as json), now() from segments",
    "update segments set state = 'done', result_key = decode_key, ended_at = now()",
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
           select string_agg(chosen.word, ' ' order by w) as text,
                  jsonb_agg(jsonb_build_array(chosen.word, n * 5000 + w * 300,
                            n * 5000 + w * 300 + 200 + chosen.chance % 90,
                            (chosen.chance % 1000) / 1000.0) order by w) as words
             from generate_series(0, 12) w
            cross join lateral (
                  -- Of 5,000 words one, which is another in each call.
                  select abs(hashtext(t.id::text || n * 13 + w)) as chance) own
            cross join lateral (
                  select 'word' || own.chance % 5000 as word, own.chance) chosen) said
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
        empty = _megabytes(bed)
        for count in arguments.recordings:
            say(f"filling the ledger with {count:,} recordings")
            bed.empty()
            bed.fill(count)
            bed.ledger.transact(_transcribe)
            ledger = _megabytes(bed) - empty
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
        note = f"the last ledger: {ledger:.0f} MB, {1000 * ledger / count:.0f} kB a recording"
        print_table(bed, "Exports for a data lake", _HEADINGS, rows, note)


def _transcribe(connection: Connection) -> None:
    body = json.dumps(made_up_result(_WORDS).to_json())
    for statement in _TRANSCRIBED:
        bound = {"body": body} if ":body" in statement else {}
        connection.execute(text(statement), bound)


def _megabytes(bed: Bed) -> float:
    """Return what the ledger takes, with its indexes."""
    query = text("select pg_database_size(current_database())")
    size: int = bed.ledger.transact(lambda c: c.execute(query).scalar_one())
    return size / 1e6


def _export(bed: Bed, name: str, out: Path) -> Run:
    command = [sys.executable, "-m", "producer.cli", "export", "--format", name]
    begun_s = time.monotonic()
    process = subprocess.Popen(
        [*command, "--out", str(out), "--since", "2020-01-01"], env=bed.environment
    )
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.kill()
        raise
    seconds = time.monotonic() - begun_s
    # Told of its end, which it would else ask the kernel for in vain.
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"export --format {name} ended with {process.returncode}")
    (file,) = out.iterdir()
    return Run(seconds, file.stat().st_size, usage.ru_maxrss * 1024)


if __name__ == "__main__":
    main()
