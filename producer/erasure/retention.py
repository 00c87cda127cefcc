"""Retention: recordings of old calls erased, a hundred in a transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from uuid import UUID

from sqlalchemy import Connection

from schema.erasure_register import ErasureRegister
from schema.errors import BadRequest
from schema.store.erasure import forget, retention
from schema.store.erasure.forget import ErasureResult, confirm_erasure
from schema.store.ledger import Ledger
from schema.store.read.search import NO_FILTERS, Filters
from schema.wire import Dispatch

#: As many as are erased in one transaction: while it runs, no submission is opened or sealed.
_BATCH = 100

#: As many as are looked for at a time.
_PAGE = 10_000


def run_retention(
    ledger: Ledger,
    cutoff: datetime,
    remove_copy: Callable[[bytes], None],
    publish: Callable[[Sequence[Dispatch]], object],
    advance: Callable[[int], None] = lambda _count: None,
    register: ErasureRegister | None = None,
    filters: Filters = NO_FILTERS,
) -> ErasureResult:
    """Erase the recordings of calls before the cutoff, or some of them; return what that came to.

    Each batch is committed by itself, and counted in the ledger with it: broken off, the next
    purge goes on. A recording whose copy may not be removed stays, and is named; the others go.
    ``publish`` is given the messages to others who waited for words, ``advance``
    how many recordings are erased.
    """
    total = ErasureResult()
    has_filters = filters != NO_FILTERS
    run_id = ledger.transact(lambda c: retention.begin_run(c, cutoff, has_filters=has_filters))
    erase = partial(_erase_in_transaction, ledger, run_id, remove_copy, register)
    refused_ids: set[UUID] = set()
    find = partial(forget.find_expired_recordings, cutoff=cutoff, filters=filters, limit=_PAGE)
    while ids := ledger.transact(partial(find, excluded_ids=refused_ids)):
        for start in range(0, len(ids), _BATCH):
            batch = ids[start : start + _BATCH]
            for erasure in _erase_batch(erase, batch, refused_ids):
                confirm_erasure(register, erasure)
                publish(erasure.dispatches)
                total.add(erasure)
            advance(total.recordings)
    preview = ledger.transact(lambda c: forget.preview_retention(c, cutoff, filters))
    ledger.transact(lambda c: retention.end_run(c, run_id, preview.unfinished_recordings))
    return total


def _erase_batch(
    erase: Callable[[Sequence[UUID]], ErasureResult], batch: Sequence[UUID], refused_ids: set[UUID]
) -> Iterator[ErasureResult]:
    """Erase a batch, or each of it by itself where one may not be; ``refused_ids`` has it then."""
    try:
        yield erase(batch)
    except BadRequest as error:
        if len(batch) == 1:
            refused_ids.update(batch)
            yield ErasureResult(refusals=[error])
            return
        for recording_id in batch:
            yield from _erase_batch(erase, [recording_id], refused_ids)


def _erase_in_transaction(
    ledger: Ledger,
    run: int,
    remove_copy: Callable[[bytes], None],
    register: ErasureRegister | None,
    batch: Sequence[UUID],
) -> ErasureResult:
    def erase_batch(connection: Connection) -> ErasureResult:
        erasure = forget.erase_recordings(connection, batch, remove_copy, register)
        retention.add_to_run(connection, run, erasure)
        return erasure

    return ledger.transact(erase_batch)
