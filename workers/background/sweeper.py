"""The sweep's clock: every few seconds, find what stalled and dispatch it again.

It runs in the reducer's process and, where Redis itself is in doubt, as a process of its own; any
number of replicas is safe (:mod:`schema.store.work.sweep`).
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import structlog

from schema.metrics import GIVEN_UP, LEASES_EXPIRED, REDISPATCHED, SWEEP_LAST
from schema.publish import Publisher
from schema.settings import SPOOL_ROOT, Settings
from schema.store.ledger import Ledger
from schema.store.read import recordings
from schema.store.work.sweep import SENT_MAX, Swept, sweep
from workers.background.spool_cleanup import tidy
from workers.process import metrics

log = structlog.get_logger(__name__)

#: The spool is looked through this seldom: it is on shared storage, and copies may lie an hour.
_TIDY_S = 600.0
#: Lists of so many times the high water were filled by somebody else.
_FLOOD = 4


class Sweeper:
    """Sweeps a ledger and publishes what it finds."""

    def __init__(self, ledger: Ledger, publisher: Publisher, settings: Settings) -> None:
        self._ledger = ledger
        self._publisher = publisher
        self._settings = settings
        self._tidy_at_s = time.monotonic()

    def run(self, stop: threading.Event) -> None:
        """Sweep until told to stop. An error is logged, and the next sweep tries again."""
        while not stop.wait(self._settings.sweep_s):
            try:
                self.once()
                self._tidy()
            except Exception:
                log.exception("sweep_failed")

    def once(self) -> Swept | None:
        """Sweep until there is nothing left to be done at once; return what was done.

        None where another sweep is under way.
        """
        total: Swept | None = None
        for _ in range(1 + self._settings.high_water // SENT_MAX):
            swept, sent = self._sweep()
            if swept is None:
                break
            if total is None:
                total = swept
            else:
                total.add(swept)
            if not swept.more or sent < len(swept.dispatches):
                break
        return total

    def _sweep(self) -> tuple[Swept | None, int]:
        """Do one transaction of a sweep; return what was done, and how many messages were sent."""
        queued = self._publisher.queued()
        most = _FLOOD * self._settings.high_water
        if queued is not None and max(queued.segments, queued.reduces) > most:
            log.error("queues_emptied", queues=self._publisher.empty_flooded(most))
            queued = self._publisher.queued()
        swept = self._ledger.transact(
            lambda c: sweep(
                c,
                queued=queued,
                high_water=self._settings.high_water,
                interval_s=self._settings.sweep_s,
            )
        )
        metrics.show(SWEEP_LAST, time.time())
        if swept is None:
            return None, 0
        sent = self._publisher.publish(swept.dispatches)
        metrics.count(LEASES_EXPIRED, swept.expired)
        metrics.count(GIVEN_UP, swept.given_up)
        metrics.count(REDISPATCHED, sent)
        if swept.dispatches or swept.given_up or swept.settled:
            log.info(
                "swept",
                dispatched=len(swept.dispatches),
                sent=sent,
                expired=swept.expired,
                given_up=swept.given_up,
                settled=swept.settled,
            )
        return swept, sent

    def _tidy(self) -> None:
        """Now and then, remove copies from the spool that nothing will read any more."""
        if self._settings.spool is None or time.monotonic() < self._tidy_at_s:
            return
        self._tidy_at_s = time.monotonic() + _TIDY_S
        spool = Path(self._settings.root_path(SPOOL_ROOT))
        removed = tidy(spool, lambda: self._ledger.transact(recordings.copies_in_use), time.time())
        if removed:
            log.info("spool_tidied", removed=removed)
