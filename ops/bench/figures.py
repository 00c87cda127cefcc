"""What a scrape of the ledger costs beside a drop folder that is never sealed. One table.

    python -m ops.bench.figures

The ledger holds one submission that was opened months ago and is open still, as ``producer submit
--watch`` leaves it: a million segments, calls of two segments each, 5,000 calls a day, all done but
one in a hundred. Prometheus asks for the figures every 30 s for as long as the fleet stands. They
are timed in an empty ledger, in that one, and in the same with 50,000 segments that wait.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping

from sqlalchemy import text

from ops.bench.bed import Bed, new_submission, open_bed
from ops.bench.report import milliseconds, print_table, say
from schema.store.read.fleet import read_figures

_HEADINGS = ("ledger", "p50, ms", "p95, ms", "most, ms", "rows read")
_CALLS_A_DAY = 5_000

_GROWTH = (
    """
    insert into recordings
           (id, submission_id, state, created_at, ended_at, source_root, source_path, name,
            duration_ms, flags, attributes, open_segments, reduce_dispatches, reduce_attempts)
    select md5('r' || n)::uuid, :submission, case when n % 100 = 0 then 'failed' else 'done' end,
           now() - n * interval '1 day' / :a_day, now() - n * interval '1 day' / :a_day,
           'calls', ('night/' || n || '.wav')::bytea, 'night/' || n || '.wav', 300000, '[]', '{}',
           0, 1, 0
      from generate_series(0, :calls - 1) n
    """,
    """
    insert into segments
           (id, recording_id, kind, channel, index, start_ms, end_ms, pcm_digest, decode_key,
            force, state, error_code, ended_at, attempts, strikes, dispatch_token, dispatches)
    select md5('g' || n)::uuid, md5('r' || n / 2)::uuid, 'plan', n % 2, 0, 0, 300000,
           md5('p' || n) || md5('q' || n), md5('k' || n) || md5('l' || n), false,
           case when n % 200 = 0 then 'failed' else 'done' end,
           case when n % 200 = 0 then 'audio.changed' end,
           now() - n / 2 * interval '1 day' / :a_day, 1, 0, md5('t' || n)::uuid, 1
      from generate_series(0, 2 * :calls - 1) n
    """,
)

_READ = text(
    "select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)) from pg_stat_user_tables"
)


def main() -> None:
    """Time, grow, time, let a backlog come, time, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--segments", type=int, default=1_000_000, help="that have ended")
    parser.add_argument("--backlog", type=int, default=50_000, help="segments that wait")
    parser.add_argument("--samples", type=int, default=30, help="scrapes of each ledger")
    arguments = parser.parse_args()
    with open_bed() as bed:
        rows = [_row(bed, "empty", arguments.samples)]
        _grow(bed, arguments.segments // 2)
        rows.append(_row(bed, f"{arguments.segments:,} segments, ended", arguments.samples))
        bed.fill(arguments.backlog)
        rows.append(_row(bed, f"and {arguments.backlog:,} that wait", arguments.samples))
        title = "A scrape of the ledger, beside a drop folder that is never sealed"
        print_table(bed, title, _HEADINGS, rows)


def _grow(bed: Bed, calls: int) -> None:
    submission = new_submission(bed.ledger).id
    values = {"submission": submission, "calls": calls, "a_day": _CALLS_A_DAY}
    for statement in _GROWTH:
        _execute(bed, statement, {k: v for k, v in values.items() if f":{k}" in statement})
        say(f"filled {statement.split()[2]}")
    with bed.ledger.engine.connect() as connection:
        autocommit = connection.execution_options(isolation_level="AUTOCOMMIT")
        autocommit.execute(text("vacuum analyze"))


def _execute(bed: Bed, statement: str, values: Mapping[str, object]) -> None:
    bed.ledger.transact(lambda c: c.execute(text(statement), values))


def _row(bed: Bed, ledger: str, samples: int) -> list[str]:
    seconds = []
    before = _read(bed)
    for _ in range(samples):
        with bed.ledger.connect() as connection:
            begun_s = time.monotonic()
            read_figures(connection)
            seconds.append(time.monotonic() - begun_s)
    read = (_read(bed) - before) / samples
    most = f"{1_000 * max(seconds):.2f}"
    return [ledger, milliseconds(seconds, 50), milliseconds(seconds, 95), most, f"{read:,.0f}"]


def _read(bed: Bed) -> int:
    """Return how many rows all sessions have read so far."""
    with bed.ledger.engine.connect() as connection:
        autocommit = connection.execution_options(isolation_level="AUTOCOMMIT")
        autocommit.execute(text("select pg_stat_force_next_flush()"))
        autocommit.execute(text("select 1"))
        return int(autocommit.scalar(_READ) or 0)


if __name__ == "__main__":
    main()
