"""How long does retention take, and who waits for it? One table.

    python -m ops.bench.purge

A ledger of calls of one segment, each with a result and a transcript of 20 utterances, all erased
as ``producer forget --older-than`` erases them, but for a tenth, and vacuumed. Meanwhile another
connection does again and again what a worker does (claim a segment; here one that is gone) and a
producer (open a submission). Then as many calls come again: whether the room went to them.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from uuid import uuid4

from sqlalchemy import Connection, text

from ops.bench.bed import Bed, new_submission, open_bed
from ops.bench.report import milliseconds, print_table, say
from producer.erasure.retention import run_retention
from schema.store.erasure import forget, retention
from schema.store.ledger import Ledger
from schema.store.work.segments import claim_segment
from schema.wire import Message

_PAUSE_S = 0.02

_HEADINGS = ("", "times", "p50 ms", "p95 ms", "at most ms")

#: What transcribing would leave of calls that only were submitted.
_TRANSCRIBED = (
    "insert into results select decode_key, '{\"words\": []}', now() from segments"
    " where state = 'pending'",
    "update segments set state = 'done', result_key = decode_key, ended_at = now()"
    " where state = 'pending'",
    "insert into transcripts (id, recording_id, version, flags, speech_ms, worded_ms)"
    " select gen_random_uuid(), id, 1, '[]', 0, 0 from recordings where state = 'planned'",
    "insert into utterances select t.id, n, 0, 'agent', n * 5000, n * 5000 + 4000,"
    " 'we said this and that ' || n, '[]' from transcripts t"
    " join recordings r on r.id = t.recording_id and r.state = 'planned',"
    " generate_series(1, 20) n",
    "update recordings set state = 'done', open_segments = 0, ended_at = now()"
    " where state = 'planned'",
)


def main() -> None:
    """Fill a ledger, erase it all, and print what that took and who waited."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recordings", type=int, default=50_000)
    arguments = parser.parse_args()
    with open_bed() as bed:
        kept = arguments.recordings // 10
        gone = arguments.recordings - kept
        say(f"filling the ledger with {arguments.recordings:,} recordings")
        _fill(bed, gone)
        before = bed.ledger.transact(lambda c: c.execute(text("select now()")).scalar_one())
        _fill(bed, kept)
        _tidy(bed)
        sizes = [_megabytes(bed)]
        alone = _Prober(bed).run_for(5.0)
        erasing, vacuuming = _Prober(bed), _Prober(bed)
        erasing.start()
        batches, seconds = _purge(bed, before)
        during = erasing.stop()
        sizes.append(_megabytes(bed))
        vacuuming.start()
        vacuum_s = _timed(lambda: retention.vacuum_tables(bed.ledger.engine))
        beside = vacuuming.stop()
        sizes.append(_megabytes(bed))
        _fill(bed, gone)
        sizes.append(_megabytes(bed))
        rows = [("a batch of 100 erased", batches)]
        rows += [(f"{name}, nothing else", alone[name]) for name in alone]
        rows += [(f"{name}, while erasing", during[name]) for name in during]
        rows += [(f"{name}, while vacuuming", beside[name]) for name in beside]
        full, erased, vacuumed, again = (f"{size:,.0f} MB" for size in sizes)
        note = (
            f"{gone:,} of {arguments.recordings:,} recordings erased in {seconds:.0f} s, "
            f"vacuumed in {vacuum_s:.1f} s\nthe ledger: {full}, {erased} erased, "
            f"{vacuumed} vacuumed, {again} with as many again"
        )
        print_table(
            bed,
            "Retention: what it takes, and who waits for it",
            _HEADINGS,
            [[name, f"{len(values):,}", *_figures(values)] for name, values in rows],
            note,
        )


def _figures(seconds: list[float]) -> list[str]:
    return [milliseconds(seconds, percent) for percent in (50, 95, 100)]


def _fill(bed: Bed, recordings: int) -> None:
    bed.fill(recordings)
    bed.ledger.transact(_transcribe)


def _transcribe(connection: Connection) -> None:
    for statement in _TRANSCRIBED:
        connection.execute(text(statement))


def _megabytes(bed: Bed) -> float:
    """Return what the ledger's tables take, with their indexes."""
    query = text(
        "select sum(pg_total_relation_size(oid))::bigint from pg_class"
        " where relkind = 'r' and relnamespace = current_schema()::regnamespace"
    )
    size: int = bed.ledger.transact(lambda c: c.execute(query).scalar_one())
    return size / 1e6


def _timed(work: Callable[[], object]) -> float:
    """Return how long something takes, in seconds."""
    begun_s = time.monotonic()
    work()
    return time.monotonic() - begun_s


def _tidy(bed: Bed) -> None:
    with bed.ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("vacuum analyze"))


def _purge(bed: Bed, before: datetime) -> tuple[list[float], float]:
    """Erase what came before; return how long each batch took, and all of them, in seconds."""
    ends = [time.monotonic()]
    copies: list[bytes] = []
    run_retention(
        bed.ledger,
        before,
        copies.append,
        lambda _dispatches: None,
        lambda _done: ends.append(time.monotonic()),
    )
    left = bed.ledger.transact(lambda c: forget.preview_retention(c, before)).recordings
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
            self._note("claim", self._claim)
            self._note("open a submission", lambda: new_submission(self._ledger))
            time.sleep(_PAUSE_S)

    def _claim(self) -> object:
        nobodys = Message(uuid4(), uuid4())
        return self._ledger.run_statement(
            lambda c: claim_segment(c, nobodys, owner="w", lease_s=60)
        )

    def _note(self, name: str, work: Callable[[], object]) -> None:
        self._seconds[name].append(_timed(work))


if __name__ == "__main__":
    main()
