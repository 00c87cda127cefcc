"""Random faults over real work, for as long as you like: is any word lost, doubled or moved?

    python -m ops.chaos.soak --minutes 20 --seed 7
    python -m ops.chaos.soak --hosts            # workers on networks of their own, to be parted
    python -m ops.chaos.soak --together 4       # workers that decode four segments a claim
    python -m ops.chaos.soak --pooler --standby sync    # pgbouncer, and a failover in the middle

A fleet of its own (Postgres, Redis, two workers with real weights, a reducer) transcribes the same
calls over and over while one fault after another is done to it, at random moments: every kind as
often as any other, in an order that follows from the seed. At the end everything is let go on, and
each submission that was acknowledged must have ended with the words and times of an undisturbed run
of workers that decode one segment at a time. Prints one table; the exit code is 0 only if nothing
was lost, doubled, condemned or changed. Of submissions that an asynchronous standby did not have
when it took over, how many there were is told: they are the ledger's loss, not the fleet's.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from uuid import UUID

import soundfile
import structlog
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from ops.chaos.field import LEASE_S, Field, Words
from ops.chaos.network import Network
from ops.chaos.oracle import broken
from ops.local.console import say
from ops.local.models import fetch
from ops.local.samples import compose
from schema.store.dispatches import segment_dispatch
from schema.wire import SEGMENTS_QUEUE, key_prefix, queue_keys

#: Seconds of the sample call that each recording begins at, and how long each is.
_STARTS_S = (0, 15, 30, 45, 60, 75)
_LENGTH_S = 25
#: Between the end of one fault and the next.
_PAUSE_S = (1.0, 5.0)
#: How long what is frozen or away stays so: within what everybody retries, and beyond.
_AWAY_S = (0.5, 1.7 * LEASE_S)
#: Submissions under way at once.
_OPEN = 2
_END_S = 600.0

_FAILOVER = "failover to the standby"

Fault = Callable[[Field, random.Random], None]


class Feeder(threading.Thread):
    """Submits the calls again and again, as an operator's script does: until it is told yes.

    Those of a directory below the field's, where one is given.
    """

    def __init__(self, field: Field, directory: Path | None = None) -> None:
        super().__init__(name="feeder", daemon=True)
        self._field = field
        self._directory = directory
        self._stop_asked = threading.Event()
        self.acknowledged: list[UUID] = []
        self.refusals = 0
        #: Acknowledged by a ledger that was lost with them.
        self.lost = 0

    def run(self) -> None:
        """Submit until told to stop."""
        while not self._stop_asked.wait(0.2):
            with suppress(Exception):  # a ledger that is away will be back
                if self._open() >= _OPEN:
                    continue
                self._submit()

    def _submit(self) -> None:
        try:
            self.acknowledged.append(self._field.submit(directory=self._directory))
        except RuntimeError:
            self.refusals += 1  # the same command again goes on where it was

    def _open(self) -> int:
        return sum(not self._field.is_finished(each) for each in self.acknowledged[-_OPEN:])

    def forget_what_the_ledger_lost(self) -> None:
        """Leave out what an asynchronous standby never had."""
        with self._field.ledger.connect() as connection:
            here = set(connection.scalars(text("select id from submissions")))
        self.lost = len(set(self.acknowledged) - here)
        self.acknowledged = [each for each in self.acknowledged if each in here]

    def finish(self) -> None:
        """Stop, once the submit under way is acknowledged."""
        self._stop_asked.set()
        self.join()


def kill_child(field: Field, rng: random.Random) -> None:
    """Kill a process that decodes."""
    field.kill_child(rng.choice(field.workers))


def kill_worker(field: Field, rng: random.Random) -> None:
    """Kill a worker, parent and child."""
    field.kill(rng.choice(field.workers))


def stop_worker(field: Field, rng: random.Random) -> None:
    """Tell a worker to stop, as a rollout does."""
    worker = rng.choice(field.workers)
    worker.kill(signal.SIGTERM)
    worker.wait(30)


def freeze_child(field: Field, rng: random.Random) -> None:
    """Freeze a process that decodes until its lease is another's, and let it go on."""
    pid = field.child_of(rng.choice(field.workers))
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(LEASE_S + rng.uniform(1, 4))
        os.kill(pid, signal.SIGCONT)


def lose_message(field: Field, rng: random.Random) -> None:
    """Freeze a worker whole, and kill it with the message that it may just have been sent."""
    worker = rng.choice(field.workers)
    worker.kill(signal.SIGSTOP)
    time.sleep(rng.uniform(0.1, 0.9))
    field.kill(worker)


def fail_decode(field: Field, rng: random.Random) -> None:
    """Let one decode run out of memory, raise an error, or end its process."""
    name = rng.choice(_names(field))
    what = rng.choice(["memory", "error", "die"])
    order = field.order(f"{name}.{rng.randrange(2)}.{what}", "once")
    deadline = time.monotonic() + 10
    while order.exists() and time.monotonic() < deadline:
        time.sleep(0.1)


def cancel_work(field: Field, rng: random.Random) -> None:
    """Cancel a submission of some of the calls while it is worked on."""
    _run(field, "cancel", str(_begun(field, rng)))


def forget_work(field: Field, rng: random.Random) -> None:
    """Cancel such a submission, and erase it: its words are those of others that are worked on."""
    submission = str(_begun(field, rng))
    _run(field, "cancel", submission)
    _run(field, "forget", "--submission", submission, "--yes")


def _begun(field: Field, rng: random.Random) -> UUID:
    submission = field.plan(*rng.sample(_names(field), 3))
    field.publisher.publish(field.dispatches(submission))
    time.sleep(rng.uniform(0.0, 4.0))
    return submission


def _run(field: Field, *arguments: str) -> None:
    with field.producer(*arguments) as producer:
        producer.communicate(timeout=60)


def _names(field: Field) -> list[str]:
    return sorted(path.name for path in field.calls.iterdir())


def kill_reducer_child(field: Field, _rng: random.Random) -> None:
    """Kill the process that stitches and sweeps."""
    field.kill_child(field.reducer)


def kill_reducer(field: Field, _rng: random.Random) -> None:
    """Kill the reducer, parent and child."""
    field.kill(field.reducer)


def freeze_reducer(field: Field, rng: random.Random) -> None:
    """Freeze the reducer, sweep and all."""
    field.reducer.kill_tree(signal.SIGSTOP)
    time.sleep(rng.uniform(*_AWAY_S))
    field.reducer.kill_tree(signal.SIGCONT)


def kill_producer(field: Field, rng: random.Random) -> None:
    """Kill the next submit somewhere on its way."""
    time.sleep(rng.uniform(0.0, 2.0))
    field.kill_producer()


def empty_redis(field: Field, _rng: random.Random) -> None:
    """FLUSHALL."""
    with field.redis as client:
        client.flushall()


def restart_redis(field: Field, _rng: random.Random) -> None:
    """Kill Redis; it comes back with what it had appended."""
    field.stack.redis.restart(immediate=True)


def lose_redis_data(field: Field, _rng: random.Random) -> None:
    """Kill Redis and lose its disk."""
    field.lose_redis_data()


def freeze_redis(field: Field, rng: random.Random) -> None:
    """Freeze Redis."""
    field.stack.redis.freeze()
    time.sleep(rng.uniform(*_AWAY_S))
    field.stack.redis.thaw()


def stop_redis(field: Field, rng: random.Random) -> None:
    """Stop Redis for a while."""
    field.stack.redis.stop()
    time.sleep(rng.uniform(*_AWAY_S))
    field.stack.redis.start()


def fill_redis(field: Field, rng: random.Random) -> None:
    """Leave Redis no memory for a while."""
    field.configure_redis(maxmemory="1mb")
    time.sleep(rng.uniform(*_AWAY_S))
    field.configure_redis(maxmemory="0")


def restart_postgres(field: Field, _rng: random.Random) -> None:
    """Restart Postgres as after a power cut."""
    field.stack.postgres.restart(immediate=True)


def stop_postgres(field: Field, rng: random.Random) -> None:
    """Stop Postgres for a while."""
    field.stack.postgres.stop(immediate=True)
    time.sleep(rng.uniform(*_AWAY_S))
    field.stack.postgres.start()


def freeze_postgres(field: Field, rng: random.Random) -> None:
    """Freeze every process of Postgres."""
    field.stack.postgres.freeze()
    time.sleep(rng.uniform(*_AWAY_S))
    field.stack.postgres.thaw()


def fill_disk(field: Field, rng: random.Random) -> None:
    """Leave Postgres no room on its disk for a while."""
    if disk := field.disk:
        disk.fill()
        time.sleep(rng.uniform(*_AWAY_S))
        disk.free()


def part_from_postgres(field: Field, rng: random.Random) -> None:
    """Cut a worker's host off from Postgres until its lease is another's."""
    _part(field, rng, "postgres")


def part_from_redis(field: Field, rng: random.Random) -> None:
    """Cut a worker's host off from Redis for as long."""
    _part(field, rng, "redis")


def _part(field: Field, rng: random.Random, service: str) -> None:
    if network := field.network:
        network.cut(rng.choice(field.workers).name, service)
        time.sleep(LEASE_S + rng.uniform(0, 6))
        network.mend()


def deliver_twice(field: Field, _rng: random.Random) -> None:
    """Send every message of every segment under way once more, ten times."""
    query = text(
        "select s.*, r.submission_id from segments s join recordings r on r.id = s.recording_id"
        " where s.state in ('pending', 'leased')"
    )
    rows = field.ledger.transact(lambda c: c.execute(query).mappings().all())
    for _ in range(10):
        field.publisher.publish(segment_dispatch(row) for row in rows)


def send_nonsense(field: Field, rng: random.Random) -> None:
    """Send a task that nobody knows, and what is no message at all."""
    with suppress(Exception):
        field.celery.send_task("of_another_version", kwargs={}, queue=SEGMENTS_QUEUE)
    with field.redis as client:
        client.lpush(key_prefix() + rng.choice(queue_keys(SEGMENTS_QUEUE)), rng.choice(_NONSENSE))


_NONSENSE = (
    b"{}",
    b"\x80\x04not json",
    b'{"body": "!", "headers": {}, "properties": {"body_encoding": "base64",'
    b' "delivery_tag": "x", "delivery_info": {}}, "content-type": "application/json"}',
)

FAULTS: Mapping[str, Fault] = {
    fault.__name__.replace("_", " "): fault
    for fault in (
        kill_child,
        kill_worker,
        stop_worker,
        freeze_child,
        lose_message,
        fail_decode,
        cancel_work,
        forget_work,
        kill_reducer_child,
        kill_reducer,
        freeze_reducer,
        kill_producer,
        empty_redis,
        restart_redis,
        lose_redis_data,
        freeze_redis,
        stop_redis,
        fill_redis,
        restart_postgres,
        stop_postgres,
        freeze_postgres,
        fill_disk,
        part_from_postgres,
        part_from_redis,
        deliver_twice,
        send_nonsense,
    )
}


def main() -> int:
    """Run the drill that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000))
    parser.add_argument("--hosts", action="store_true", help="a network namespace for each worker")
    parser.add_argument("--together", type=int, default=1, help="segments decoded together")
    parser.add_argument("--pooler", action="store_true", help="pgbouncer before Postgres")
    parser.add_argument(
        "--standby", choices=["sync", "async"], help="with --pooler: promoted in the middle"
    )
    arguments = parser.parse_args()
    if arguments.standby and not arguments.pooler:
        parser.error("--standby goes with --pooler, which leads to it")
    # That a ledger is away is the point here, and no news.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    network = Network(("asr0", "asr1"), ("postgres", "redis")) if arguments.hosts else None
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="callscribe-soak-"))
        if network is not None:
            stack.enter_context(network)
        return soak(
            Path(directory),
            arguments.minutes,
            arguments.seed,
            network,
            together=arguments.together,
            pooled=arguments.pooler,
            standby=arguments.standby,
        )


def soak(
    directory: Path,
    minutes: float,
    seed: int,
    network: Network | None = None,
    *,
    together: int = 1,
    pooled: bool = False,
    standby: str | None = None,
) -> int:
    """Run the drill in a directory; return 0 if nothing was lost, doubled or changed."""
    done: Counter[str] = Counter()
    baseline = _undisturbed(directory)
    with Field(
        directory / "field", models=fetch(), network=network, together=together, pooled=pooled
    ) as field:
        if standby is not None:
            field.stack.add_standby(synchronous=standby == "sync")
        compose_calls(directory / "samples", field.calls)
        feeder = Feeder(field)
        feeder.start()
        deadline = time.monotonic() + 60 * minutes
        middle = deadline - 30 * minutes if standby is not None else math.inf
        for name, fault, rng in _schedule(seed, _possible(field)):
            if time.monotonic() > deadline:
                break
            if time.monotonic() > middle:
                say("failover: Postgres is killed, its standby takes over")
                field.fail_over()
                middle = math.inf
                done[_FAILOVER] += 1
            left_s = deadline - time.monotonic()
            say(f"{name}; {left_s / 60:.1f} min to go, {len(feeder.acknowledged)} submissions")
            with suppress(ProcessLookupError, TimeoutError):
                fault(field, rng)
            field.heal()
            done[name] += 1
            time.sleep(rng.uniform(*_PAUSE_S))
        feeder.finish()
        feeder.forget_what_the_ledger_lost()
        say("waiting for the end of the last ones")
        for submission in feeder.acknowledged:
            field.wait(submission, _END_S)
        return _report(field, feeder, baseline, done, seed)


def _undisturbed(directory: Path) -> dict[str, Words]:
    """Return the words of a fleet whose workers decode one segment at a time, in peace."""
    with Field(directory / "undisturbed", models=fetch()) as field:
        compose_calls(directory / "samples", field.calls)
        say("the undisturbed run")
        submission = field.submit()
        field.wait(submission)
        return field.words(submission)


def compose_calls(samples: Path, calls: Path) -> None:
    """Cut the recordings of a drill out of the longest sample call."""
    call, rate_hz = soundfile.read(compose(samples).directory / "call-1005.wav", always_2d=True)
    for start_s in _STARTS_S:
        part = call[start_s * rate_hz : (start_s + _LENGTH_S) * rate_hz]
        soundfile.write(calls / f"from-{start_s:02}.wav", part, rate_hz, subtype="PCM_16")


def _possible(field: Field) -> list[str]:
    """Return the faults that can be done here: not every user may mount a disk or has hosts."""
    possible = set(FAULTS)
    if field.disk is None:
        possible -= {"fill disk"}
    if field.network is None:
        possible -= {"part from postgres", "part from redis"}
    return sorted(possible)


def _schedule(seed: int, names: list[str]) -> Iterator[tuple[str, Fault, random.Random]]:
    """Yield faults for ever, each kind once before any comes again."""
    rng = random.Random(seed)  # noqa: S311 (a drill, not a secret)
    while True:
        for name in rng.sample(names, len(names)):
            yield name, FAULTS[name], rng


def _report(
    field: Field, feeder: Feeder, baseline: dict[str, Words], done: Counter[str], seed: int
) -> int:
    acknowledged = feeder.acknowledged
    found = [field.words(submission) for submission in acknowledged]
    lost = sum(len(baseline.keys() - words.keys()) for words in found)
    changed = sum(
        words[name] != baseline[name] for words in found for name in words.keys() & baseline.keys()
    )
    wrong = broken(field.ledger)
    table = Table(title=f"{done.total()} faults, seed {seed}")
    table.add_column("fault")
    table.add_column("times", justify="right")
    for name in (*FAULTS, _FAILOVER):
        table.add_row(name, str(done[name]))
    table.add_section()
    for name, value in {
        "submissions acknowledged": len(acknowledged),
        "submits that had to be repeated": feeder.refusals,
        "submissions that an asynchronous standby lacked": feeder.lost,
        "recordings": len(acknowledged) * len(baseline),
        "segments": field.scalar("select count(*) from segments"),
        "claims beyond the first": field.scalar(
            "select coalesce(sum(attempts - 1), 0) from segments where attempts > 1"
        ),
        "most strikes of a segment": field.scalar("select max(strikes) from segments"),
        "late writes fenced": field.logged("write_fenced"),
        "claims decoded alone after others": field.logged("decoded_alone"),
        "recordings lost": lost,
        "recordings with changed words or times": changed,
        **{f"BROKEN: {name}": count for name, count in wrong.items()},
    }.items():
        table.add_row(name, str(value))
    Console(width=100).print(table)
    return 1 if lost or changed or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
