"""Is the ledger as fast with a million segments, and a backlog, as when it was empty? One table.

    python -m ops.bench.growth

Each operation is timed in an empty ledger; in one that holds a million segments, calls of two
segments each, 99 in 100 done, each with a result and each call with a transcript of a few words;
and in the same with 50,000 more segments that wait. Statistics are gathered before the backlog
comes, as in production, where a night's calls are too few of all to have them gathered anew. Status
is that of one submission of 1,000 calls, as large in each.

The note tells of an hour without a worker, simulated: the sweep runs every CALLSCRIBE_SWEEP_S
seconds of a clock that is not waited for; the rows' times are shifted back instead. Half way, Redis
is emptied.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import redis
from sqlalchemy import text

from ops.bench.bed import Bed, batches, calls, new_submission, open_bed
from ops.bench.nullworker import made_up_result
from ops.bench.report import milliseconds, percentile, print_table, say
from ops.local.process import ProcessError
from ops.local.servers import redis_client_url
from schema.store.read.progress import read_progress
from schema.store.work.reduces import claim_reduce
from schema.store.work.segments import Claim, claim_segment, finish_segment
from schema.store.work.sweep import sweep
from schema.wire import Dispatch, QueueLengths
from schema.words import SegmentResult
from workers.background.sweeper import Sweeper

T = TypeVar("T")

_STATUS_CALLS = 1_000
_HOUR_S = 3_600

_HEADINGS = (
    *("operation", "empty p50", "p95", "large p50", "p95", "x"),
    *("backlog p50", "p95", "x"),
)
_OPERATIONS = ("claim", "finish", "reduce claim", "submit of 100", "sweep", "status")


@dataclass(slots=True)
class Timed:
    """Durations in seconds, by operation."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def run(self, operation: str, work: Callable[[], T]) -> T:
        """Do something, and note how long it took."""
        begun_s = time.monotonic()
        outcome = work()
        self.seconds.setdefault(operation, []).append(time.monotonic() - begun_s)
        return outcome


@dataclass(slots=True)
class Hour:
    """What an hour without a worker came to."""

    waiting: int = 0
    sweeps_s: list[float] = field(default_factory=list)
    longest_queue: int = 0
    redispatched: int = 0
    after_the_loss: int = 0


def main() -> None:
    """Measure, grow, measure, let a backlog come, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--segments", type=int, default=1_000_000, help="in the large ledger")
    parser.add_argument("--samples", type=int, default=300, help="of each operation")
    parser.add_argument("--backlog", type=int, default=50_000, help="segments without a worker")
    arguments = parser.parse_args()
    with open_bed() as bed:
        empty = _measure(bed, arguments.samples)
        bed.empty()
        grow(bed, arguments.segments)
        large = _measure(bed, arguments.samples)
        _end_all(bed)
        bed.publisher.publish(bed.fill(arguments.backlog, room=bed.settings.high_water))
        waiting = _measure(bed, arguments.samples)
        hour = _hour(bed)
        rows = [_row(operation, (empty, large, waiting)) for operation in _OPERATIONS]
        title = (
            f"Growth, in milliseconds: an empty ledger, {arguments.segments:,} segments, and "
            f"{arguments.backlog:,} more that wait"
        )
        print_table(bed, title, _HEADINGS, rows, _said_of(hour, bed))


def _said_of(hour: Hour, bed: Bed) -> str:
    p50, p95 = (milliseconds(hour.sweeps_s, percent) for percent in (50, 95))
    return (
        f"An hour, {hour.waiting:,} segments and no worker: {len(hour.sweeps_s)} sweeps, p50 {p50} "
        f"ms, p95 {p95} ms; at most {hour.longest_queue:,} messages in Redis, high water "
        f"{bed.settings.high_water:,}; {hour.redispatched:,} rows dispatched again, "
        f"{hour.after_the_loss:,} of them by the sweep after Redis was emptied half way."
    )


def _row(operation: str, states: Sequence[Timed]) -> list[str]:
    row = [operation]
    first = percentile(states[0].seconds[operation], 50)
    for number, state in enumerate(states):
        seconds = state.seconds[operation]
        row += [milliseconds(seconds, percent) for percent in (50, 95)]
        if number:
            row.append(f"{percentile(seconds, 50) / first:.2f}")
    return row


def _measure(bed: Bed, samples: int) -> Timed:
    """Time every operation; the ledger already holds what it holds."""
    timed = Timed()
    ledger = bed.ledger
    status_of = new_submission(ledger)
    bed.fill(_STATUS_CALLS, segments=2, to=status_of)
    words = made_up_result()
    for dispatch in bed.fill(samples):
        held = timed.run("claim", partial(_claim, bed, dispatch))
        ended = timed.run("finish", partial(_finish, bed, held, words))
        timed.run("reduce claim", partial(_claim_reduce, bed, ended))
    submission = new_submission(ledger)
    for batch in batches(calls(samples * 10)):
        timed.run("submit of 100", partial(bed.add, submission, batch, len(batch)))
    for _ in range(samples // 5):
        timed.run("sweep", partial(_sweep, bed))
        timed.run("status", lambda: ledger.transact(lambda c: read_progress(c, status_of.id)))
    say(f"measured: {', '.join(timed.seconds)}")
    return timed


def _claim(bed: Bed, dispatch: Dispatch) -> Claim:
    held = bed.ledger.run_statement(
        lambda c: claim_segment(c, dispatch.message, owner="a", lease_s=600)
    )
    if held is None:
        raise ProcessError(f"{dispatch.label} could not be claimed")
    return held


def _finish(bed: Bed, held: Claim, words: SegmentResult) -> Dispatch:
    ended = bed.ledger.run_statement(lambda c: finish_segment(c, held, words))
    if ended.reduce is None:
        raise ProcessError(f"{held.name} did not ask for its reduce")
    return ended.reduce


def _claim_reduce(bed: Bed, dispatch: Dispatch) -> None:
    message = dispatch.message
    if not bed.ledger.run_statement(lambda c: claim_reduce(c, message, owner="a", lease_s=600)):
        raise ProcessError(f"{dispatch.label} could not be claimed")


def _sweep(bed: Bed) -> None:
    """Sweep as a reducer does, where Redis holds a message for every row that waits."""
    settings = bed.settings
    bed.ledger.transact(
        lambda c: sweep(
            c,
            queue_lengths=QueueLengths(settings.high_water, settings.high_water),
            high_water=settings.high_water,
            interval_s=settings.sweep_s,
        )
    )


#: The calls of years, 10,000 to a submission; every hundredth has failed.
_GROWTH = (
    """
    insert into submissions (id, key, state, title, profile, force, sealed_at)
    select md5('s' || n)::uuid, 'grown ' || n, 'sealed', 'night ' || n, :profile, false, now()
      from generate_series(0, (:calls - 1) / 10000) n
    """,
    """
    insert into recordings
           (id, submission_id, state, ended_at, source_root, source_path, name, audio_root,
            audio_path, container, encoding, rate_hz, channels, frames, duration_ms, size_bytes,
            content_digest, flags, call_id, attributes, open_segments, reduce_dispatches,
            reduce_attempts)
    select md5('r' || n)::uuid, md5('s' || n / 10000)::uuid,
           case when n % 100 = 0 then 'partial' else 'done' end, now(), 'calls',
           ('night/' || n || '.wav')::bytea, 'night/' || n || '.wav', 'calls',
           ('night/' || n || '.wav')::bytea, 'WAV', 'ULAW', 8000, 2, 2400000, 300000, 4800000,
           md5('c' || n) || md5('d' || n), '[]', n::text, '{"team": "north"}', 0, 1, 0
      from generate_series(0, :calls - 1) n
    """,
    """
    insert into results (decode_key, body)
    select md5('k' || n) || md5('l' || n),
           '{"words": {"texts": ["hello", "there"], "gaps_ms": [400, 20], "lengths_ms": [300, 280],
                       "confidences": [900, 800]},
             "speech": [[400, 1000]], "language": "en", "tags": {}}'
      from generate_series(0, 2 * :calls - 1) n
     where n % 200 <> 0
    """,
    """
    insert into segments
           (id, recording_id, kind, channel, index, start_ms, end_ms, pcm_digest, decode_key,
            force, state, result_key, ended_at, attempts, strikes, dispatch_token, dispatched_at,
            dispatches, leased_at)
    select md5('g' || n)::uuid, md5('r' || n / 2)::uuid, 'plan', n % 2, 0, 0, 300000,
           md5('p' || n) || md5('q' || n), md5('k' || n) || md5('l' || n), false,
           case when n % 200 = 0 then 'failed' else 'done' end,
           case when n % 200 <> 0 then md5('k' || n) || md5('l' || n) end,
           now(), 1, 0, md5('t' || n)::uuid, now(), 1, now()
      from generate_series(0, 2 * :calls - 1) n
    """,
    """
    insert into transcripts (id, recording_id, version, language, flags, speech_ms, worded_ms)
    select md5('v' || n)::uuid, md5('r' || n)::uuid, 1, 'en', '[]', 1200, 1160
      from generate_series(0, :calls - 1) n
    """,
)


def grow(bed: Bed, segments: int) -> None:
    """Fill the ledger with what ended long ago."""
    profile = new_submission(bed.ledger).profile.model_dump_json()
    for statement in _GROWTH:
        execute(bed, statement, calls=segments // 2, profile=profile)
        say(f"filled {statement.split()[2]}")
    with bed.ledger.engine.connect() as connection:
        autocommit = connection.execution_options(isolation_level="AUTOCOMMIT")
        autocommit.execute(text("vacuum analyze"))
    say(f"{segments:,} segments in the ledger")


def _end_all(bed: Bed) -> None:
    """Leave nothing that waits, so that the backlog is all there is to dispatch."""
    statements = (
        "update segments set state = 'failed', ended_at = now() where state <> 'done'",
        "update recordings set state = 'failed', open_segments = 0, ended_at = now()"
        " where state in ('planned', 'running', 'stitching')",
    )
    for statement in statements:
        execute(bed, statement)


def execute(bed: Bed, statement: str, **values: object) -> None:
    """Run a statement in a transaction, with those of the values that it names."""
    known = {name: value for name, value in values.items() if f":{name}" in statement}
    bed.ledger.transact(lambda c: c.execute(text(statement), known))


_LATER = """
    update segments set dispatched_at = dispatched_at - make_interval(secs => :pause_s)
     where state = 'pending' and dispatched_at is not null
"""


def _hour(bed: Bed) -> Hour:
    """Sweep for an hour, in which nobody takes a message."""
    hour = Hour(waiting=_waiting(bed))
    pause_s = bed.settings.sweep_s
    sweeper = Sweeper(bed.ledger, bed.publisher, bed.settings)
    sweeps = _HOUR_S // pause_s
    for number in range(sweeps):
        hour.longest_queue = max(hour.longest_queue, _queued(bed))
        if lost := number == sweeps // 2:
            with redis.Redis.from_url(redis_client_url(bed.redis.url)) as client:
                client.flushall()
        begun_s = time.monotonic()
        swept = sweeper.sweep_once()
        hour.sweeps_s.append(time.monotonic() - begun_s)
        dispatched = len(swept.dispatches) if swept else 0
        hour.redispatched += dispatched
        hour.after_the_loss += dispatched if lost else 0
        hour.longest_queue = max(hour.longest_queue, _queued(bed))
        execute(bed, _LATER, pause_s=pause_s)
        if number % 24 == 0:
            say(f"sweep {number + 1} of {sweeps}: {1_000 * hour.sweeps_s[-1]:.0f} ms")
    return hour


def _waiting(bed: Bed) -> int:
    query = text("select count(*) from segments where state = 'pending'")
    return int(bed.ledger.transact(lambda c: c.execute(query).scalar_one()))


def _queued(bed: Bed) -> int:
    queued = bed.publisher.queue_lengths()
    return 0 if queued is None else queued.segments


if __name__ == "__main__":
    main()
