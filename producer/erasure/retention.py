"""Retention: recordings of old calls erased, a hundred in a transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from uuid import UUID

from sqlalchemy import Connection

from schema.erasure_register import Register
from schema.errors import BadRequest
from schema.store.erasure import forget as store
from schema.store.erasure import retention
from schema.store.erasure.forget import Forgotten, confirm
from schema.store.ledger import Ledger
from schema.store.read.search import EVERYTHING, Filters
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
    purge goes on. A recording whose copy may not be removed stays, and is named; the others go.
    ``publish`` is given the messages to others who waited for words, ``advance``
    how many recordings are erased.
    """
    total = Forgotten()
    narrowed = filters != EVERYTHING
    run = ledger.transact(lambda c: retention.begin(c, before, narrowed=narrowed))
    erase = partial(_erase, ledger, run, remove_copy, register)
    refused: set[UUID] = set()
    while ids := ledger.transact(
        lambda c: store.older(c, before, filters, limit=_PASS, without=refused)
    ):
        for start in range(0, len(ids), _BATCH):
            batch = ids[start : start + _BATCH]
            for forgotten in _erase_apart(erase, batch, refused):
                confirm(register, forgotten)
                publish(forgotten.dispatches)
                total.add(forgotten)
            advance(total.recordings)
    left = ledger.transact(lambda c: store.count_older(c, before, filters))
    ledger.transact(lambda c: retention.end(c, run, left.spared))
    return total


def _erase_apart(
    erase: Callable[[Sequence[UUID]], Forgotten], batch: Sequence[UUID], refused: set[UUID]
) -> Iterator[Forgotten]:
    """Erase a batch, or each of it by itself where one may not be; it is among ``refused`` then."""
    try:
        yield erase(batch)
    except BadRequest as error:
        if len(batch) == 1:
            refused.update(batch)
            yield Forgotten(refused=[error])
            return
        for each in batch:
            yield from _erase_apart(erase, [each], refused)


def _erase(
    ledger: Ledger,
    run: int,
    remove_copy: Callable[[bytes], None],
    register: Register | None,
    batch: Sequence[UUID],
) -> Forgotten:
    def work(connection: Connection) -> Forgotten:
        forgotten = store.forget(connection, batch, remove_copy, register)
        retention.add(connection, run, forgotten)
        return forgotten

    return ledger.transact(work)
