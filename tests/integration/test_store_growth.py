"""Work on one recording reads that recording, however much waits beside it.

Statistics are older than a backlog: in a large ledger they are not gathered anew for a night.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import TextClause, text

from schema.store.ledger import Ledger
from schema.store.work import reduces, segments
from schema.store.work.sweep import sweep
from schema.transcript import Draft
from schema.wire import QueueLengths
from tests.factories import added, recording, result, unique

DRAFT = Draft(None, (), 0, 0, (), ())

_WAITING = 400
_READ = text(
    "select sum(idx_tup_read) from pg_stat_user_indexes where indexrelname like 'segments%pending%'"
)
_READ_OPEN = text(
    "select sum(idx_tup_read) from pg_stat_user_indexes"
    " where indexrelname in ('recordings_open_ix', 'recordings_stitching_ix')"
)
_READ_HERE = text(
    "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables where relname = 'segments'"
)


def finished(ledger: Ledger, count: int) -> None:
    for dispatch in added(ledger, *(recording(unique("pcm")) for _ in range(count))).dispatches:
        claim = ledger.run_statement(
            lambda c, d=dispatch: segments.claim_segment(c, d.message, owner="w", lease_s=60)
        )
        ledger.run_statement(lambda c, held=claim: segments.finish_segment(c, held, result("hi")))


@pytest.fixture
def backlog(ledger: Ledger) -> Ledger:
    """A ledger in which much waits, of which the planner does not know."""
    finished(ledger, 50)
    with ledger.engine.connect() as connection:
        autocommit = connection.execution_options(isolation_level="AUTOCOMMIT")
        autocommit.execute(text("vacuum analyze segments, recordings"))
    added(ledger, *(recording(unique("pcm")) for _ in range(_WAITING)))
    return ledger


def read_by(ledger: Ledger, act: Callable[[], object], read: TextClause = _READ) -> int:
    """Return how many entries of indexes of what waits an act has read."""
    before = _read(ledger, read)
    act()
    return _read(ledger, read) - before


def _read(ledger: Ledger, read: TextClause) -> int:
    with ledger.engine.connect() as connection:
        autocommit = connection.execution_options(isolation_level="AUTOCOMMIT")
        autocommit.execute(text("select pg_stat_force_next_flush()"))
        autocommit.execute(text("select 1"))
        return int(autocommit.scalar(read) or 0)


def test_a_finish(backlog: Ledger):
    assert read_by(backlog, lambda: finished(backlog, 10)) < _WAITING


def test_a_segments_way_from_its_claim_to_its_reduce(backlog: Ledger):
    """The planner believes that nothing is open, and walks what is, if it may."""

    def worked() -> None:
        for dispatch in added(backlog, *(recording(unique("pcm")) for _ in range(10))).dispatches:
            claim = backlog.run_statement(
                lambda c, d=dispatch: segments.claim_segment(c, d.message, owner="w", lease_s=60)
            )
            assert backlog.run_statement(
                lambda c, held=claim: segments.renew_lease(c, held, lease_s=60)
            )
            end = backlog.run_statement(
                lambda c, held=claim: segments.finish_segment(c, held, result("hi"))
            )
            held = backlog.run_statement(
                lambda c, m=end.reduce.message: reduces.claim_reduce(c, m, owner="r", lease_s=60)
            )
            assert backlog.run_statement(lambda c, h=held: reduces.renew_reduce(c, h, lease_s=60))
            backlog.transact(lambda c, h=held: reduces.store_transcript(c, h, [], DRAFT))

    assert read_by(backlog, worked, _READ_OPEN) < _WAITING


def test_a_submit(backlog: Ledger):
    batch = [recording(unique("pcm")) for _ in range(10)]
    assert read_by(backlog, lambda: added(backlog, *batch)) < _WAITING


@pytest.mark.parametrize("room", [0, 5])
def test_a_sweep_reads_what_it_sends(backlog: Ledger, room: int):
    """Whatever lay in Redis is lost: all of it is due."""
    high_water = 10
    lost = "update segments set dispatched_at = now() - interval '1 hour' where state = 'pending'"
    backlog.transact(lambda c: c.execute(text(lost)))

    with backlog.engine.begin() as connection:
        # A table as small as this one is read faster than any index.
        connection.execute(text("set local enable_seqscan = off"))
        before = connection.scalar(_READ_HERE)
        queued = QueueLengths(high_water - room, 0)
        done = sweep(connection, queue_lengths=queued, high_water=high_water, interval_s=15)
        read = connection.scalar(_READ_HERE) - before

    assert len(done.dispatches) == room
    assert read < _WAITING / 4
