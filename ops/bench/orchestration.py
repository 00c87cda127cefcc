"""What does a segment cost beside its decoding? One table.

    python -m ops.bench.orchestration

One worker with a null engine, whose every segment has 800 words, drains a queue; a bare Celery
worker with the same settings (prefork, one child, late acks, events on, JSON, no result backend, no
prefetch) drains a queue of tasks that do nothing. They take turns. Rates are medians of rounds,
over the tasks that ended after the last message was sent, and shares medians of each round's own.

From claim to finish is measured in the worker's child, by its monotonic clock: from before the
claim is asked until the finish's commit is answered. Round trips are counted on the wire, in
libpq's trace of 100 segments in a row: each is a ReadyForQuery, pings of the pool included.
Behind pgbouncer, in transaction mode, no statement is prepared; where the login has no time limits
of ours, each transaction sets them.
CPU is that of the worker, the reducer, Postgres and Redis together, a task, until all recordings
are reduced where a reducer is on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from sqlalchemy import text

from ops.bench import bareworker
from ops.bench.bed import Bed, cpu_seconds, open_bed, wait_until
from ops.bench.nullworker import TRACED
from ops.bench.report import milliseconds, print_table, say
from ops.bench.times import parse_times, steady
from ops.local.pooler import Pooler
from ops.local.process import Child
from ops.local.stack import reducer_command, worker_command
from schema.store.connection import limits_ms

_MODULE = "ops.bench.nullworker"
_PATIENCE_S = 300.0


@dataclass(frozen=True, slots=True)
class Kind:
    """What is measured in turns: no-ops, or recordings of some segments each."""

    name: str
    segments: int = 0


@dataclass(slots=True)
class Measured:
    """The rounds of one kind."""

    rates: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)


KINDS = (
    Kind("bare no-op"),
    Kind("segment, 1 a recording", 1),
    Kind("segment, 10 a recording", 10),
)


def main() -> None:
    """Measure without and with a reducer, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=500, help="tasks of a kind in a round")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    rows: list[Sequence[str]] = []
    with open_bed(high_water="100000") as bed:
        trips = _round_trips(bed)
        for reducing in (False, True):
            bed.empty()
            measured = _measure(bed, arguments.tasks, arguments.rounds, reducing=reducing)
            rows += _rows(measured, "on" if reducing else "off", "none", trips)
        with Pooler(bed.directory / "pooler", bed.postgres) as pooler:
            direct = bed.environment["CALLSCRIBE_DATABASE_URL"]
            bed.environment["CALLSCRIBE_DATABASE_URL"] = pooler.url
            for limits in ("each transaction", "the login"):
                if limits == "the login":
                    _limit_login(bed, pooler)
                bed.empty()
                trips = _round_trips(bed)
                bed.empty()
                measured = _measure(
                    bed, arguments.tasks, arguments.rounds, reducing=True, beside=[pooler.child]
                )
                rows += _rows(measured, "on", f"limits of {limits}", trips)
            bed.environment["CALLSCRIBE_DATABASE_URL"] = direct
        title = f"Orchestration: {arguments.rounds} rounds of {arguments.tasks} tasks, 800 words"
        headings = (
            "task",
            "reducer",
            "pooler",
            "tasks/s",
            "of bare",
            "CPU ms",
            "p50 ms",
            "p95 ms",
            "round trips",
        )
        print_table(bed, title, headings, rows)


def _limit_login(bed: Bed, pooler: Pooler) -> None:
    """Give the fleet's login its time limits, as ``producer migrate --roles`` does."""
    settings = bed.settings
    with bed.postgres.connect() as connection:
        for name, value in limits_ms(settings.lease_s, settings.lease_s).items():
            statement = f"alter role {bed.postgres.USER} set {name} = {value}"
            connection.execute(statement.encode())
    pooler.point_to(bed.postgres)


def _measure(
    bed: Bed, tasks: int, rounds: int, *, reducing: bool, beside: Sequence[Child] = ()
) -> dict[Kind, Measured]:
    directory = Path(tempfile.mkdtemp(prefix="times-", dir=bed.directory))
    bare = _worker(bed, bareworker.NAME, [sys.executable, "-m", bareworker.__name__], directory)
    null = _worker(bed, "null0", worker_command("null0", _MODULE), directory)
    reducer = bed.child("reducer", reducer_command("reducer", _MODULE))
    fleet = [reducer] if reducing else []
    measured = {kind: Measured() for kind in KINDS}
    with ExitStack() as stack:
        for child in (bare, null, *fleet):
            child.start()
            stack.callback(child.stop, grace_s=1.0)
        bed.wait_for_workers([bare, null, *fleet])
        for number in range(-1, rounds):  # one to prepare statements and fill caches
            for kind in KINDS:
                worker = null if kind.segments else bare
                taken = Measured() if number < 0 else measured[kind]
                count = tasks if number >= 0 else tasks // 5
                workers = [worker, *fleet, *beside]
                _drain(bed, kind, count, directory / worker.name, workers, taken)
                say(f"round {number + 1} of {rounds}, {kind.name}: {taken.rates[-1]:.0f}/s")
    return measured


def _worker(bed: Bed, name: str, command: Sequence[str], directory: Path) -> Child:
    return bed.child(name, command, {"BENCH_TIMES": str(directory / name)})


def _drain(
    bed: Bed, kind: Kind, tasks: int, times: Path, workers: Sequence[Child], measured: Measured
) -> None:
    """Send tasks, wait until they and their reduces ran, and add how fast they were."""
    before = _count(times)
    waiting = bed.fill(tasks // kind.segments, segments=kind.segments) if kind.segments else []
    pids = [bed.postgres.pid, bed.redis.pid, *(worker.pid for worker in workers)]
    used_s = cpu_seconds(pids)
    if kind.segments:
        bed.publisher.publish(waiting)
    else:
        _send_noops(bed, tasks)
    sent_s = time.monotonic()
    wait_until(lambda: _count(times) >= before + tasks, _PATIENCE_S)
    if len(workers) > 1:
        wait_until(lambda: _is_reduced(bed), _PATIENCE_S)
    measured.cpu_s.append((cpu_seconds(pids) - used_s) / tasks)
    rate, latencies_s = steady(parse_times(times.read_text())[before:], sent_s)
    measured.rates.append(rate)
    measured.latencies_s += latencies_s


def _send_noops(bed: Bed, tasks: int) -> None:
    with bareworker.create_app(bed.settings) as app:
        for _ in range(tasks):
            app.send_task(bareworker.NOOP, queue=bareworker.QUEUE)


def _count(times: Path) -> int:
    return times.read_bytes().count(b"\n") if times.exists() else 0


def _is_reduced(bed: Bed) -> bool:
    query = text("select count(*) from recordings where state in ('running', 'stitching')")
    return bool(bed.ledger.transact(lambda c: c.scalar(query)) == 0)


def _round_trips(bed: Bed) -> float:
    """Return the round trips to Postgres of one segment."""
    trace = bed.directory / "trace"
    times = bed.directory / "traced"
    for path in (trace, times):
        path.unlink(missing_ok=True)
    own = {"BENCH_TIMES": str(times), "BENCH_TRACE": str(trace)}
    worker = bed.child("traced", worker_command("traced", _MODULE), own)
    with worker:
        bed.wait_for_workers([worker])
        _drain(bed, Kind("traced", 2), 4 * TRACED, times, [worker], Measured())
        worker.stop(grace_s=1.0)
    sent = count_trips(trace.read_text())
    for query, count in sent.most_common():
        say(f"{count / TRACED:.2f} round trips a segment: {query}")
    return sent.total() / TRACED


def count_trips(trace: str) -> Counter[str]:
    """Return the round trips in libpq's trace, by what was asked.

    Its lines are tab-separated: perhaps a time, "F" (to the server) or "B" (back), the length, the
    message's name, its fields. Whatever goes to the server, one ReadyForQuery ends it.
    """
    trips: Counter[str] = Counter()
    asked = ""
    for line in trace.splitlines():
        fields = line.split("\t")
        if "ReadyForQuery" in fields:
            trips[asked] += 1
        elif "F" in fields and (name := fields[fields.index("F") + 2]) != "Sync":
            asked = f"{name} {fields[-1][:60].strip()}" if name in ("Parse", "Query") else name
    return trips


def _rows(
    measured: dict[Kind, Measured], reducer: str, pooler: str, trips: float
) -> list[list[str]]:
    bare = measured[KINDS[0]].rates
    rows = []
    for kind, one in measured.items():
        of_bare = median(rate / its for rate, its in zip(one.rates, bare, strict=True))
        row = [kind.name, reducer, pooler, f"{median(one.rates):.0f}", f"{100 * of_bare:.0f} %"]
        row.append(f"{1_000 * median(one.cpu_s):.2f}")
        if kind.segments:
            row += [milliseconds(one.latencies_s, percent) for percent in (50, 95)]
            row.append(f"{trips:.2f}")
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
