"""Work on one recording reads that recording, however much waits beside it.

Statistics are older than a backlog: in a large ledger they are not gathered anew for a night.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import text

from schema.store import work
from schema.store.ledger import Ledger
from tests.factories import added, recording, result, unique

_WAITING = 400
_READ = text(
    "select sum(idx_tup_read) from pg_stat_user_indexes where indexrelname like 'segments%pending%'"
)


def finished(ledger: Ledger, count: int) -> None:
    for dispatch in added(ledger, *(recording(unique("pcm")) for _ in range(count))).dispatches:
        claim = ledger.single(lambda c, d=dispatch: work.claim(c, d.message, owner="w", lease_s=60))
        ledger.single(lambda c, held=claim: work.finish(c, held, result("hi")))


@pytest.fixture
def backlog(ledger: Ledger) -> Ledger:
    """A ledger in which much waits, of which the planner does not know."""
    finished(ledger, 50)
    with ledger.engine.connect() as connection:
        autocommit = connection.execution_options(isolation_level="AUTOCOMMIT")
        autocommit.execute(text("vacuum analyze segments, recordings"))
    added(ledger, *(recording(unique("pcm")) for _ in range(_WAITING)))
    return ledger


def read_by(ledger: Ledger, act: Callable[[], object]) -> int:
    """Return how many entries of indexes of what waits an act has read."""
    before = _read(ledger)
    act()
    return _read(ledger) - before


def _read(ledger: Ledger) -> int:
    with ledger.engine.connect() as connection:
        autocommit = connection.execution_options(isolation_level="AUTOCOMMIT")
        autocommit.execute(text("select pg_stat_force_next_flush()"))
        autocommit.execute(text("select 1"))
        return int(autocommit.scalar(_READ) or 0)


def test_a_finish(backlog: Ledger):
    assert read_by(backlog, lambda: finished(backlog, 10)) < _WAITING


def test_a_submit(backlog: Ledger):
    batch = [recording(unique("pcm")) for _ in range(10)]
    assert read_by(backlog, lambda: added(backlog, *batch)) < _WAITING
