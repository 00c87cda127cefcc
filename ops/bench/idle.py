"""What does a fleet that has nothing to do cost Postgres, and one of fifty that decodes? One table.

    python -m ops.bench.idle

Idle workers are real ones. The fifty that decode are simulated by threads, each with connections
and a kept lease of its own: they claim, wait as long as a decode takes, renewing as workers do, and
finish with 800 words; a real reducer stitches what they end, and sweeps.

Statements are counted in the server's log, by the session that sent them: one that ever claimed a
segment is a worker's, one that ever took the sweep's lock is the sweep's. Transactions are the
server's own count; those without a statement are the pings of connections that were idle.
"""

from __future__ import annotations

import argparse
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import psycopg
from sqlalchemy import text

from ops.bench.bed import Bed, cpu_seconds, open_bed
from ops.bench.nullworker import made_up_result
from ops.bench.report import print_table, say
from ops.local.process import Child
from ops.local.stack import reducer_command, worker_command
from schema.store.ledger import Ledger
from schema.store.work.segments import claim_segment, finish_segment, renew_lease
from schema.wire import Dispatch, Message
from workers.process.lease import LeaseRenewal

_LEASE_LIMIT_S = 3_600
#: Before a window begins: what starts has asked what it asks at a start.
_SETTLE_S = 5.0

KINDS = ("claim", "finish", "renew", "reduce", "sweep")


@dataclass(frozen=True, slots=True)
class Window:
    """What Postgres was asked in some seconds."""

    fleet: str
    seconds: float
    kinds: Counter[str]
    transactions: int
    cpu_s: float
    redis_commands: int


def main() -> None:
    """Measure idle workers, then a reducer beside them, then fifty workers that decode."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each measurement")
    parser.add_argument("--idle", type=int, default=6, help="real workers that have no work")
    parser.add_argument("--busy", type=int, default=50, help="simulated workers that decode")
    parser.add_argument("--decode", type=float, default=15.0, help="seconds a segment takes")
    arguments = parser.parse_args()
    with open_bed() as bed, ExitStack() as fleet:
        _log_statements(bed)
        workers = [_worker(bed, index) for index in range(arguments.idle)]
        _start(bed, fleet, workers)
        windows = [_watch(bed, f"{arguments.idle} idle workers", arguments.seconds)]
        reducer = bed.child("reducer", reducer_command("reducer"))
        _start(bed, fleet, [reducer])
        windows.append(_watch(bed, "and an idle reducer", arguments.seconds))
        with _busy(bed, arguments.busy, arguments.decode, arguments.seconds):
            name = f"and {arguments.busy} that decode {arguments.decode:.0f} s a segment"
            windows.append(_watch(bed, name, arguments.seconds))
        headings = ("fleet", *KINDS, "all", "transactions", "CPU %", "Redis")
        title = f"Statements a second on Postgres, over {arguments.seconds:.0f} s each"
        note = (
            f"lease {bed.settings.lease_s} s, sweep every {bed.settings.sweep_s} s. CPU: of one "
            "core, all of Postgres, writing the log included. Redis: commands a second."
        )
        print_table(bed, title, headings, [_row(window) for window in windows], note)


def _worker(bed: Bed, index: int) -> Child:
    return bed.child(f"idle{index}", worker_command(f"idle{index}"))


def _start(bed: Bed, fleet: ExitStack, children: Sequence[Child]) -> None:
    for child in children:
        child.start()
        fleet.callback(child.stop, grace_s=0.5)
    bed.wait_for_workers(children)


def _log_statements(bed: Bed) -> None:
    """Log every statement from now on, after the id of its session."""
    with psycopg.connect(bed.postgres.url, autocommit=True) as connection:
        connection.execute("alter system set log_statement = 'all'")
        connection.execute("alter system set log_line_prefix = '@%p '")
        connection.execute("select pg_reload_conf()")


def _watch(bed: Bed, fleet: str, seconds: float) -> Window:
    """Count for a while."""
    time.sleep(_SETTLE_S)
    say(f"{fleet}: {seconds:.0f} s")
    with psycopg.connect(bed.postgres.url, autocommit=True) as ours:
        logged = bed.postgres.log.stat().st_size
        before = (_transactions(ours), cpu_seconds([bed.postgres.pid]), _commands(bed))
        begun_s = time.monotonic()
        time.sleep(seconds)
        after = (_transactions(ours), cpu_seconds([bed.postgres.pid]), _commands(bed))
        passed_s = time.monotonic() - begun_s
        with bed.postgres.log.open("rb") as log:
            log.seek(logged)
            lines = log.read().decode("utf-8", "replace")
        kinds = kinds_of(statements(lines), ours.info.backend_pid)
    transactions, cpu_s, commands = (b - a for a, b in zip(before, after, strict=True))
    return Window(fleet, passed_s, kinds, int(transactions), cpu_s, int(commands))


def _transactions(connection: psycopg.Connection) -> float:
    query = "select xact_commit + xact_rollback from pg_stat_database where datname = %s"
    row = connection.execute(query, (connection.info.dbname,)).fetchone()
    return float(row[0]) if row else 0.0


def _commands(bed: Bed) -> float:
    with bed.celery.connection_for_write() as connection:
        stats = connection.default_channel.client.info("stats")
    return float(stats["total_commands_processed"])


def statements(log: str) -> Iterator[tuple[int, str]]:
    """Yield the statements in a log, each with the id of the session that sent it."""
    for entry in re.split(r"^@", log, flags=re.MULTILINE)[1:]:
        pid, _, said = entry.partition(" ")
        if found := re.match(r"LOG:\s+(?:statement|execute [^:]*):\s(.*)", said, re.DOTALL):
            yield int(pid), found.group(1)


def kinds_of(sent: Iterator[tuple[int, str]], ours: int) -> Counter[str]:
    """Count statements by kind; those of session ``ours`` are the measurement's own."""
    by_session: dict[int, list[str]] = {}
    for pid, statement in sent:
        if pid != ours:
            by_session.setdefault(pid, []).append(statement)
    kinds: Counter[str] = Counter()
    for session in by_session.values():
        if any("pg_try_advisory_xact_lock" in statement for statement in session):
            kinds["sweep"] += len(session)
        else:
            kinds.update(map(_kind, session))
    return kinds


def _kind(statement: str) -> str:
    """Return what a statement outside a sweep is for; a worker's are three."""
    if "taken as (" in statement:
        return "claim"
    if "kept as (" in statement:
        return "finish"
    if "set lease_expires_at = now()" in statement:
        return "renew"
    return "reduce"


@contextmanager
def _busy(bed: Bed, workers: int, decode_s: float, seconds: float) -> Iterator[None]:
    """Keep simulated workers at work, begun one after the other."""
    rounds = int((seconds + 2 * decode_s + 2 * _SETTLE_S) / decode_s) + 2
    waiting: SimpleQueue[Dispatch] = SimpleQueue()
    for dispatch in bed.fill(workers * rounds):
        waiting.put(dispatch)
    # What waits is for the simulated ones: the real reducer's sweep is not to send others for it.
    later = text("update segments set dispatched_at = now() + interval '1 hour'")
    bed.ledger.transact(lambda c: c.execute(later))
    fleet = [SimulatedWorker(bed, f"simulated{n}", decode_s) for n in range(workers)]
    threads = [
        threading.Thread(target=worker.run, args=(waiting, decode_s * number / workers))
        for number, worker in enumerate(fleet)
    ]
    for thread in threads:
        thread.start()
    try:
        time.sleep(decode_s)  # until the last has begun
        yield
    finally:
        for worker in fleet:
            worker.stop.set()
        for thread in threads:
            thread.join()


class SimulatedWorker:
    """Asks the ledger what a worker asks, when a worker asks it, and decodes nothing."""

    def __init__(self, bed: Bed, name: str, decode_s: float) -> None:
        self.stop = threading.Event()
        self._publisher = bed.publisher
        self._ledger = Ledger.open(bed.settings)
        self._lease_s = bed.settings.lease_s
        self._name = name
        self._decode_s = decode_s
        self._result = made_up_result()

    def run(self, waiting: SimpleQueue[Dispatch], pause_s: float) -> None:
        """Work, after a pause, until told to stop."""
        self.stop.wait(pause_s)
        while not self.stop.is_set():
            with suppress(Empty):
                self._work(waiting.get(timeout=self._decode_s).message)
        self._ledger.close()

    def _work(self, message: Message) -> None:
        ledger, lease_s = self._ledger, self._lease_s
        held = ledger.run_statement(
            lambda c: claim_segment(c, message, owner=self._name, lease_s=lease_s)
        )
        if held is None:
            return
        renewed = LeaseRenewal(
            lambda: ledger.run_statement(lambda c: renew_lease(c, held, lease_s=lease_s)),
            lease_s=lease_s,
            limit_s=_LEASE_LIMIT_S,
        )
        with renewed:
            self.stop.wait(self._decode_s)
        ended = ledger.run_statement(lambda c: finish_segment(c, held, self._result))
        self._publisher.publish([ended.reduce] if ended.reduce else [])


def _row(window: Window) -> list[str]:
    per_s = [window.kinds[kind] / window.seconds for kind in KINDS]
    figures = [*per_s, sum(per_s), window.transactions / window.seconds]
    return [
        window.fleet,
        *(f"{figure:.2f}" for figure in figures),
        f"{100 * window.cpu_s / window.seconds:.1f}",
        f"{window.redis_commands / window.seconds:.0f}",
    ]


if __name__ == "__main__":
    main()
