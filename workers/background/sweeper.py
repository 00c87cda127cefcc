"""The sweep's clock: every few seconds, find what stalled and dispatch it again.

It runs in the reducer's process and, where Redis itself is in doubt, as a process of its own; any
number of replicas is safe (:mod:`schema.store.work.sweep`).
"""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path

import structlog

from schema.metrics import GIVEN_UP, LEASES_EXPIRED, REDISPATCHED, SWEEP_LAST
from schema.publish import Publisher
from schema.settings import SPOOL_ROOT, Settings
from schema.store.ledger import Ledger
from schema.store.read import recordings
from schema.store.work.seals import erase_old_seals
from schema.store.work.sweep import SENT_MAX, SweepResult, sweep
from schema.store.work.voices import erase_old_voices
from workers.background.spool_cleanup import remove_unused_copies
from workers.process import metrics

log = structlog.get_logger(__name__)

#: Seldom: the spool is on shared storage, and unused copies stay for an hour anyway.
_SPOOL_CLEANUP_S = 600.0
#: A queue of more than so many times the high water was filled by somebody else.
_FLOOD_FACTOR = 4


class Sweeper:
    """Sweeps a ledger and publishes what it finds."""

    def __init__(self, ledger: Ledger, publisher: Publisher, settings: Settings) -> None:
        self._ledger = ledger
        self._publisher = publisher
        self._settings = settings
        self._next_cleanup_s = time.monotonic()

    def run(self, stop: threading.Event) -> None:
        """Sweep until told to stop. An error is logged, and the next sweep tries again."""
        while not stop.wait(self._settings.sweep_s):
            try:
                self.sweep_once()
                self._clean_spool()
                self._erase_old_voices()
                self._erase_old_seals()
            except Exception:
                log.exception("sweep_failed")

    def sweep_once(self) -> SweepResult | None:
        """Sweep until nothing more is due; return the sum, or None if another sweep is running."""
        total: SweepResult | None = None
        for _ in range(1 + self._settings.high_water // SENT_MAX):
            result, sent = self._sweep()
            if result is None:
                break
            if total is None:
                total = result
            else:
                total.add(result)
            if not result.has_more or sent < len(result.dispatches):
                break
        return total

    def _sweep(self) -> tuple[SweepResult | None, int]:
        """Do one transaction of a sweep; return its result and how many messages were sent."""
        lengths = self._publisher.queue_lengths()
        high_water = self._settings.high_water
        messages_max = _FLOOD_FACTOR * high_water
        if lengths is not None and max(lengths.segments, lengths.reduces) > messages_max:
            log.error("queues_emptied", queues=self._publisher.empty_flooded(messages_max))
            lengths = self._publisher.queue_lengths()
        sweep_s = self._settings.sweep_s
        result = self._ledger.transact(
            partial(sweep, queue_lengths=lengths, high_water=high_water, interval_s=sweep_s)
        )
        metrics.set_gauge(SWEEP_LAST, time.time())
        if result is None:
            return None, 0
        sent = self._publisher.publish(result.dispatches)
        metrics.count(LEASES_EXPIRED, result.expired_leases)
        metrics.count(GIVEN_UP, result.given_up_count)
        metrics.count(REDISPATCHED, sent)
        if result.dispatches or result.given_up_count or result.finished_duplicates:
            log.info(
                "swept",
                dispatched=len(result.dispatches),
                sent=sent,
                expired=result.expired_leases,
                given_up=result.given_up_count,
                settled=result.finished_duplicates,
            )
        return result, sent

    def _erase_old_voices(self) -> None:
        """Erase the voices that nobody is to keep, a batch a sweep."""
        keep = self._settings.voices_keep
        keep_s = 0 if keep is None else round(keep.total_seconds())
        erase = partial(erase_old_voices, keep_s=keep_s, batch=SENT_MAX)
        if erased := self._ledger.transact(erase):
            log.info("voices_erased", segments=erased)

    def _erase_old_seals(self) -> None:
        """Erase sealed texts that will be nobody's transcript, a batch a sweep."""
        if erased := self._ledger.transact(partial(erase_old_seals, batch=SENT_MAX)):
            log.info("sealed_texts_erased", results=erased)

    def _clean_spool(self) -> None:
        if self._settings.spool is None or time.monotonic() < self._next_cleanup_s:
            return
        self._next_cleanup_s = time.monotonic() + _SPOOL_CLEANUP_S
        spool = Path(self._settings.root_path(SPOOL_ROOT))
        in_use = partial(self._ledger.transact, recordings.list_used_copies)
        if removed := remove_unused_copies(spool, in_use, time.time()):
            log.info("spool_tidied", removed=removed)
