"""How long does retention take, and who waits for it? One table.

    python -m ops.bench.purge

A ledger of calls of one segment, each with a result and a transcript of 20 utterances, all erased
as ``producer forget --older-than`` erases them. Meanwhile another connection does again and again
what a worker does (claim a segment; here one that is gone) and a producer (open a submission).
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from uuid import uuid4

from sqlalchemy import Connection, text

from ops.bench.bed import Bed, new_submission, open_bed
from ops.bench.report import milliseconds, print_table, say
from producer.purge import purge
from schema.store import forget
from schema.store.ledger import Ledger
from schema.store.work import claim
from schema.wire import Message

_PAUSE_S = 0.02

_HEADINGS = ("", "times", "p50 ms", "p95 ms", "at most ms")

#: What transcribing would leave of calls that only were submitted.
_TRANSCRIBED = (
    "insert into results select decode_key, '{\"words\": []}', now() from segments",
    "update segments set state = 'done', result_key = decode_key, ended_at = now()",
    "update recordings set state = 'done', open_segments = 0, ended_at = now()",
    "insert into transcripts (id, recording_id, version, flags, speech_ms, worded_ms)"
    " select gen_random_uuid(), id, 1, '[]', 0, 0 from recordings",
    "insert into utterances select id, n, 0, 'agent', n * 5000, n * 5000 + 4000,"
    " 'we said this and that ' || n, '[]' from transcripts,"
    " generate_series(1, 20) n",
)


def main() -> None:
    """Fill a ledger, erase it all, and print what that took and who waited."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recordings", type=int, default=50_000)
    arguments = parser.parse_args()
    with open_bed() as bed:
        say(f"filling the ledger with {arguments.recordings:,} recordings")
        bed.fill(arguments.recordings)
        bed.ledger.transact(_transcribe)
        _tidy(bed)
        alone = _Prober(bed).run_for(5.0)
        prober = _Prober(bed)
        prober.start()
        batches, seconds = _purge(bed)
        during = prober.stop()
        rows = [("a batch of 100 erased", batches)]
        rows += [(f"{name}, nothing else", alone[name]) for name in alone]
        rows += [(f"{name}, meanwhile", during[name]) for name in during]
        note = f"{arguments.recordings:,} recordings erased in {seconds:.0f} s"
        print_table(
            bed,
            "Retention: what it takes, and who waits for it",
            _HEADINGS,
            [[name, f"{len(values):,}", *_figures(values)] for name, values in rows],
            note,
        )


def _figures(seconds: list[float]) -> list[str]:
    return [milliseconds(seconds, percent) for percent in (50, 95, 100)]


def _transcribe(connection: Connection) -> None:
    for statement in _TRANSCRIBED:
        connection.execute(text(statement))


def _tidy(bed: Bed) -> None:
    with bed.ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("vacuum analyze"))


def _purge(bed: Bed) -> tuple[list[float], float]:
    """Erase everything; return how long each batch took, and all of them, in seconds."""
    before = bed.ledger.transact(lambda c: c.execute(text("select now()")).scalar_one())
    ends = [time.monotonic()]
    copies: list[bytes] = []
    purge(
        bed.ledger,
        before,
        copies.append,
        lambda _dispatches: None,
        lambda _done: ends.append(time.monotonic()),
    )
    left = bed.ledger.transact(lambda c: forget.count_older(c, before)).recordings
    if left:
        raise AssertionError(f"{left} recordings are left")
    batches = [end - begin for begin, end in pairwise(ends)]
    return batches, ends[-1] - ends[0]


class _Prober:
    """What others do of the ledger, timed, on a connection of their own."""

    def __init__(self, bed: Bed) -> None:
        self._ledger = Ledger.open(bed.settings)
        self._seconds: dict[str, list[float]] = {"claim": [], "open a submission": []}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._probe)

    def start(self) -> None:
        """Begin, beside the caller."""
        self._thread.start()

    def stop(self) -> dict[str, list[float]]:
        """End; return how long each thing took, each time, in seconds."""
        self._over.set()
        self._thread.join()
        self._ledger.close()
        return self._seconds

    def run_for(self, seconds: float) -> dict[str, list[float]]:
        """Do it for a while, and nothing else."""
        self.start()
        time.sleep(seconds)
        return self.stop()

    def _probe(self) -> None:
        while not self._over.is_set():
            self._timed("claim", self._claim)
            self._timed("open a submission", lambda: new_submission(self._ledger))
            time.sleep(_PAUSE_S)

    def _claim(self) -> object:
        nobodys = Message(uuid4(), uuid4())
        return self._ledger.single(lambda c: claim(c, nobodys, owner="w", lease_s=60))

    def _timed(self, name: str, work: Callable[[], object]) -> None:
        begun_s = time.monotonic()
        work()
        self._seconds[name].append(time.monotonic() - begun_s)


if __name__ == "__main__":
    main()
