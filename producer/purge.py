"""Retention: recordings of old calls erased, a hundred in a transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial

from schema.store import forget as store
from schema.store.forget import Forgotten
from schema.store.ledger import Ledger
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
) -> Forgotten:
    """Erase the recordings of calls before a moment; return what that came to.

    Each batch is committed by itself: broken off, the next purge goes on. ``publish`` is given the
    messages to others who waited for words, ``advance`` how many recordings are erased.
    """
    total = Forgotten()
    while ids := ledger.transact(lambda c: store.older(c, before, limit=_PASS)):
        for start in range(0, len(ids), _BATCH):
            batch = ids[start : start + _BATCH]
            erase = partial(store.forget, recordings=batch, remove_copy=remove_copy)
            forgotten = ledger.transact(erase)
            publish(forgotten.dispatches)
            total.add(forgotten)
            advance(total.recordings)
    return total
