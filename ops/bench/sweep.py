"""What does a sweep cost where most of a large ledger waits? One table, and the plans.

    python -m ops.bench.sweep

A million segments, 600,000 of which wait, as after a night without workers. The sweep is timed
where Redis is full, where it is empty, and beside a fleet that claims and finishes what it is sent:
with the statistics of before the backlog, with those of now, and while the indexes are being built.
"""

from __future__ import annotations

import argparse
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import psycopg
from sqlalchemy import Connection, text

from ops.bench.bed import Bed, new_submission, open_bed
from ops.bench.growth import execute, grow
from ops.bench.nullworker import made_up_result
from ops.bench.report import milliseconds, print_table
from schema.migrate import concurrent_indexes, migrate_ledger
from schema.store.ledger import Ledger
from schema.store.work.segments import claim_segment, finish_segment
from schema.store.work.sweep import SweepResult, sweep
from schema.wire import TRANSCRIBE_SEGMENT, Dispatch, QueueLengths

_HEADINGS = ("ledger", "Redis", "sweeps", "p50", "p95", "max", "sent each", "finishes/s")

#: What the backlog is made of: calls of ten segments, none of which was ever sent.
_BACKLOG = (
    """
    insert into recordings
           (id, submission_id, state, source_root, source_path, name, audio_root, audio_path,
            container, encoding, rate_hz, channels, frames, duration_ms, size_bytes, content_digest,
            flags, attributes, open_segments, reduce_dispatches, reduce_attempts)
    select md5('w' || n)::uuid, :submission, 'planned', 'calls', ('new/' || n)::bytea, 'new/' || n,
           'calls', ('new/' || n)::bytea, 'WAV', 'ULAW', 8000, 2, 24000000, 3000000, 48000000,
           md5('n' || n), '[]', '{}', 10, 0, 0
      from generate_series(0, :calls - 1) n
    """,
    """
    insert into segments
           (id, recording_id, kind, channel, index, start_ms, end_ms, pcm_digest, decode_key,
            force, state, attempts, strikes, dispatch_token, dispatches)
    select md5('x' || n)::uuid, md5('w' || n / 10)::uuid, 'plan', n % 2, n % 10 / 2,
           n % 10 / 2 * 300000, (n % 10 / 2 + 1) * 300000, md5('y' || n), md5('y' || n) || 'k',
           false, 'pending', 0, 0, gen_random_uuid(), 0
      from generate_series(0, 10 * :calls - 1) n
    """,
)


@dataclass(slots=True)
class Fleet:
    """Threads that claim and finish whatever is put before them."""

    ledger: Ledger
    waiting: queue.SimpleQueue[Dispatch] = field(default_factory=queue.SimpleQueue)
    finished: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def work(self) -> None:
        """Claim and finish until told to stop."""
        words = made_up_result()
        while not self.stop.is_set():
            try:
                message = self.waiting.get(timeout=0.1).message
            except queue.Empty:
                continue
            own = partial(claim_segment, message=message, owner="a", lease_s=600)
            held = self.ledger.run_statement(own)
            if held is not None:
                self.ledger.run_statement(partial(finish_segment, claim=held, result=words))
                self.finished += 1


@contextmanager
def _fleet(bed: Bed, threads: int) -> Iterator[Fleet]:
    fleet = Fleet(bed.ledger)
    working = [threading.Thread(target=fleet.work, daemon=True) for _ in range(threads)]
    for thread in working:
        thread.start()
    yield fleet
    fleet.stop.set()
    for thread in working:
        thread.join()


def main() -> None:
    """Fill, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--segments", type=int, default=400_000, help="that have ended")
    parser.add_argument("--backlog", type=int, default=600_000, help="segments that wait")
    parser.add_argument("--sweeps", type=int, default=40, help="of each kind")
    arguments = parser.parse_args()
    with open_bed() as bed:
        # Statistics are gathered here, and no more: a backlog comes faster than they are.
        grow(bed, arguments.segments)
        execute(bed, "alter table segments set (autovacuum_enabled = off)")
        submission = new_submission(bed.ledger).id
        for statement in _BACKLOG:
            execute(bed, statement, calls=arguments.backlog // 10, submission=submission)
        rows = _measured(bed, "statistics of before the backlog", arguments.sweeps)
        _autocommit(bed, "vacuum analyze")
        rows += _measured(bed, "statistics of now", arguments.sweeps)
        plans = _plans(bed)
        for index in concurrent_indexes():
            execute(bed, f"drop index {index.name}")
        rows += _measured(bed, "indexes being built", 3)
        migrate_ledger(bed.ledger.engine)
        title = f"The sweep, in milliseconds: {arguments.backlog:,} segments wait"
        print_table(bed, title, _HEADINGS, rows)
        print(plans)


def _autocommit(bed: Bed, statement: str) -> None:
    with bed.ledger.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text(statement))


def _measured(bed: Bed, name: str, sweeps: int) -> list[list[str]]:
    high_water = bed.settings.high_water
    full = [_timed(bed, QueueLengths(high_water, high_water)) for _ in range(sweeps)]
    empty = [_timed(bed, QueueLengths(0, 0)) for _ in range(sweeps)]
    rows = [_row(name, "full", full), _row(name, "empty", empty)]
    with _fleet(bed, threads=3) as fleet:
        begun_s = time.monotonic()
        beside = []
        for _ in range(sweeps):
            beside.append(_timed(bed, QueueLengths(fleet.waiting.qsize(), 0)))
            for dispatch in beside[-1][1].dispatches:
                if dispatch.task == TRANSCRIBE_SEGMENT:
                    fleet.waiting.put(dispatch)
            time.sleep(0.5)
        rate = fleet.finished / (time.monotonic() - begun_s)
    return [*rows, _row(name, "a fleet's", beside, f"{rate:,.0f}")]


def _timed(bed: Bed, queued: QueueLengths) -> tuple[float, SweepResult]:
    settings = bed.settings
    begun_s = time.monotonic()
    swept = bed.ledger.transact(
        lambda c: sweep(
            c, queue_lengths=queued, high_water=settings.high_water, interval_s=settings.sweep_s
        )
    )
    return time.monotonic() - begun_s, swept or SweepResult()


def _row(
    name: str, redis: str, timed: Sequence[tuple[float, SweepResult]], rate: str = ""
) -> list[str]:
    seconds = [each for each, _ in timed]
    sent = sum(len(swept.dispatches) for _, swept in timed) // len(timed)
    times = [milliseconds(seconds, percent) for percent in (50, 95, 100)]
    return [name, redis, f"{len(timed)}", *times, f"{sent:,}", rate]


_EXPLAIN = (
    "load 'auto_explain'",
    "set local auto_explain.log_min_duration = 0",
    "set local auto_explain.log_analyze = on",
    "set local auto_explain.log_timing = off",
    "set local auto_explain.log_level = 'notice'",
)


def _plans(bed: Bed) -> str:
    """Return which way each of a sweep's queries goes."""
    found: list[str] = []

    def explained(connection: Connection) -> None:
        for statement in _EXPLAIN:
            connection.exec_driver_sql(statement)
        raw = cast(psycopg.Connection[Any], connection.connection.driver_connection)
        raw.add_notice_handler(lambda notice: found.append(str(notice.message_primary)))
        settings = bed.settings
        sweep(
            connection,
            queue_lengths=QueueLengths(0, 0),
            high_water=settings.high_water,
            interval_s=settings.sweep_s,
        )

    bed.ledger.transact(explained)
    return "\n\n".join(found)


if __name__ == "__main__":
    main()
