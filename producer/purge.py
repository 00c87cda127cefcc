"""Retention: recordings of old calls erased, a hundred in a transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from uuid import UUID

from sqlalchemy import Connection

from schema.register import Register
from schema.store import forget as store
from schema.store import purges
from schema.store.forget import Forgotten, confirm
from schema.store.ledger import Ledger
from schema.store.search import EVERYTHING, Filters
from schema.wire import Dispatch

#: As many as are erased in one transaction: while it runs, no submission is opened or sealed.
_BATCH = 100

#: As many as are looked for at a time.
_PASS = 10_000


def purge(
    ledger: Ledger,
    before: datetime,
    remove_copy: Callable[[bytes], None],
    publish: Callable[[Sequence[Dispatch]], object],
    advance: Callable[[int], None] = lambda _done: None,
    register: Register | None = None,
    filters: Filters = EVERYTHING,
) -> Forgotten:
    """Erase the recordings of calls before a moment, or some of them; return what that came to.

    Each batch is committed by itself, and counted in the ledger with it: broken off, the next
    purge goes on. ``publish`` is given the messages to others who waited for words, ``advance``
    how many recordings are erased.
    """
    total = Forgotten()
    narrowed = filters != EVERYTHING
    run = ledger.transact(lambda c: purges.begin(c, before, narrowed=narrowed))
    while ids := ledger.transact(lambda c: store.older(c, before, filters, limit=_PASS)):
        for start in range(0, len(ids), _BATCH):
            batch = ids[start : start + _BATCH]
            forgotten = ledger.transact(partial(_erase, run, batch, remove_copy, register))
            confirm(register, forgotten)
            publish(forgotten.dispatches)
            total.add(forgotten)
            advance(total.recordings)
    left = ledger.transact(lambda c: store.count_older(c, before, filters))
    ledger.transact(lambda c: purges.end(c, run, left.spared))
    return total


def _erase(
    run: int,
    batch: Sequence[UUID],
    remove_copy: Callable[[bytes], None],
    register: Register | None,
    connection: Connection,
) -> Forgotten:
    forgotten = store.forget(connection, batch, remove_copy, register)
    purges.add(connection, run, forgotten)
    return forgotten
