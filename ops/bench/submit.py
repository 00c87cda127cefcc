"""How fast are ten thousand small recordings handed in, and in how much memory? One table.

    python -m ops.bench.submit

The whole command is ``producer submit`` on generated files of one second, no two alike: walked,
probed, scanned, ledgered and queued. "Once probed" begins with what probing yields and ends with
rows in Postgres (a recording's and its segment's) and messages in Redis. Beside it, what one would
write first: an INSERT of one row, a commit and a ``send_task`` for each recording. All of them send
a message for every recording: the high water is raised for that.

Each measurement is a process of its own; peak memory is that of the process and its children,
sampled, pages that they share counted for each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import psycopg
import soundfile

from ops.bench.bed import Bed, batches, calls, new_submission, open_bed, tree_bytes
from ops.bench.report import print_table, say
from ops.local.bootstrap import ROOT
from ops.local.stack import producer_command
from producer.submit.enqueue import Enqueuer, celery_app
from schema.publish import Publisher
from schema.settings import Settings, load_settings
from schema.store.intake import submissions
from schema.store.ledger import Ledger
from schema.wire import SEGMENTS_QUEUE, TRANSCRIBE_SEGMENT

_RATE_HZ = 8_000
_SAMPLE_S = 0.1

#: Rows and messages a recording, by way.
_ROWS = {"whole": 2, "once-probed": 2, "one-by-one": 1}
_NAMES = {
    "whole": "producer submit, whole command",
    "once-probed": "once probed: ledger and queue",
    "one-by-one": "INSERT, commit, send_task for each",
}


@dataclass(frozen=True, slots=True)
class Run:
    """One process that handed recordings in."""

    way: str
    recordings: int
    seconds: float
    peak_bytes: int


def main() -> None:
    """Measure a tenth and all of the recordings each way, and print; or be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recordings", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3, help="of all but the whole command")
    parser.add_argument("--be", choices=sorted(_WAYS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.be:
        seconds = _WAYS[arguments.be](load_settings(), arguments.recordings)
        print(json.dumps({"seconds": seconds}))
        return
    counts = (arguments.recordings // 10, arguments.recordings)
    with open_bed(high_water=str(10 * arguments.recordings)) as bed:
        with psycopg.connect(bed.postgres.url) as connection:
            connection.execute(_PLAIN_TABLE)
        runs = [_whole(bed, count) for count in counts]
        for _ in range(arguments.rounds):
            runs += [_part(bed, way, count) for count in counts for way in _WAYS]
        headings = ("way", "recordings", "s", "recordings/s", "rows/s", "messages/s", "peak MB")
        title = "Submit: recordings of one second, medians"
        print_table(bed, title, headings, _rows(runs))


def _whole(bed: Bed, recordings: int) -> Run:
    directory = bed.directory / "calls" / f"{recordings}"
    _write(directory, recordings)
    say(f"{recordings} files written")
    begun_s = time.monotonic()
    _, peak_bytes = _watched(bed, producer_command("submit", str(directory)))
    seconds = time.monotonic() - begun_s
    return _checked(bed, Run("whole", recordings, seconds, peak_bytes))


def _part(bed: Bed, way: str, recordings: int) -> Run:
    command = [sys.executable, "-m", "ops.bench.submit", "--be", way]
    output, peak_bytes = _watched(bed, [*command, "--recordings", str(recordings)])
    run = Run(way, recordings, json.loads(output)["seconds"], peak_bytes)
    return _checked(bed, run)


def _checked(bed: Bed, run: Run) -> Run:
    """Return the run, if all that it handed in is there; the next one finds nothing of it."""
    queued = bed.publisher.queue_lengths()
    if queued is None or queued.segments != run.recordings:
        sys.exit(f"{run.way}: {queued} messages for {run.recordings} recordings")
    bed.empty()
    say(f"{_NAMES[run.way]}, {run.recordings}: {run.recordings / run.seconds:.0f}/s")
    return run


def _watched(bed: Bed, command: Sequence[str]) -> tuple[str, int]:
    """Run a program; return its output, and the most memory that it and its children held."""
    peak_bytes = 0
    with subprocess.Popen(
        command, env=bed.environment, cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None:
            peak_bytes = max(peak_bytes, tree_bytes(process.pid))
            time.sleep(_SAMPLE_S)
        output = process.stdout.read() if process.stdout else ""
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with code {process.returncode}")
    return output, peak_bytes


def _write(directory: Path, recordings: int) -> None:
    """Write calls of one second: noise that swells, so that none is silent and no two are equal."""
    directory.mkdir()
    swell = np.linspace(0.01, 0.2, _RATE_HZ, dtype=np.float32)
    for number in range(recordings):
        noise = np.random.default_rng(number).standard_normal(_RATE_HZ, dtype=np.float32)
        soundfile.write(directory / f"call-{number:06}.wav", noise * swell, _RATE_HZ, "PCM_16")


def _once_probed(settings: Settings, recordings: int) -> float:
    """Do as ``producer submit`` does with what was probed; return the seconds."""
    ledger = Ledger.open(settings)
    enqueuer = Enqueuer(Publisher(celery_app(settings)), settings.high_water)
    submission = new_submission(ledger)
    begun_s = time.monotonic()
    for batch in batches(calls(recordings)):
        room = enqueuer.capacity()
        add = partial(submissions.add_recordings, submission=submission, batch=batch, capacity=room)
        enqueuer.publish(ledger.transact(add).dispatches)
    ledger.transact(lambda c: submissions.seal_submission(c, submission.id))
    return time.monotonic() - begun_s


_PLAIN_TABLE = """
    create table bench_calls (
        id uuid primary key, path bytea not null, digest text not null, frames bigint not null,
        state text not null default 'pending', created_at timestamptz not null default now())
"""


def _one_by_one(settings: Settings, recordings: int) -> float:
    """Do as one would at first; return the seconds."""
    app = celery_app(settings)
    begun_s = time.monotonic()
    with psycopg.connect(settings.database_url.get_secret_value()) as connection:
        for call in calls(recordings):
            row = connection.execute(
                "insert into bench_calls (id, path, digest, frames)"
                " values (gen_random_uuid(), %s, %s, %s) returning id",
                (call.source.path, call.content_digest, call.format.frames),
            ).fetchone()
            connection.commit()
            kwargs = {"id": str(row and row[0])}
            app.send_task(TRANSCRIBE_SEGMENT, kwargs=kwargs, queue=SEGMENTS_QUEUE)
    return time.monotonic() - begun_s


_WAYS: dict[str, Callable[[Settings, int], float]] = {
    "once-probed": _once_probed,
    "one-by-one": _one_by_one,
}


def _rows(runs: Sequence[Run]) -> list[list[str]]:
    rows = []
    for way, name in _NAMES.items():
        for recordings in sorted({run.recordings for run in runs}):
            own = [run for run in runs if (run.way, run.recordings) == (way, recordings)]
            seconds = median(run.seconds for run in own)
            rate = recordings / seconds
            rows.append(
                [
                    name,
                    f"{recordings:,}",
                    f"{seconds:.1f}",
                    f"{rate:.0f}",
                    f"{rate * _ROWS[way]:.0f}",
                    f"{rate:.0f}",
                    f"{max(run.peak_bytes for run in own) / 1e6:.0f}",
                ]
            )
    return rows


if __name__ == "__main__":
    main()
