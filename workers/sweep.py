"""The sweep's clock: every few seconds, find what stalled and dispatch it again.

It runs in the reducer's process and, where Redis itself is in doubt, as a process of its own; any
number of replicas is safe (:mod:`schema.store.sweep`).
"""

from __future__ import annotations

import threading

import structlog
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from schema.settings import Settings
from schema.store.ledger import Ledger
from schema.store.sweep import Swept, sweep
from workers.publish import Publisher

log = structlog.get_logger(__name__)


class Sweeper:
    """Sweeps a ledger and publishes what it finds."""

    def __init__(self, ledger: Ledger, publisher: Publisher, settings: Settings) -> None:
        self._ledger = ledger
        self._publisher = publisher
        self._settings = settings

    def run(self, stop: threading.Event) -> None:
        """Sweep until told to stop. An error is logged, and the next sweep tries again."""
        while not stop.wait(self._settings.sweep_s):
            try:
                self.once()
            except Exception:
                log.exception("sweep_failed")

    def once(self) -> Swept | None:
        """Sweep once; return what was done, or None where another sweep is under way."""
        queued = self._queued()
        swept = self._ledger.transact(
            lambda c: sweep(
                c,
                queued=queued,
                high_water=self._settings.high_water,
                interval_s=self._settings.sweep_s,
            )
        )
        if swept is None:
            return None
        sent = self._publisher.publish(swept.dispatches)
        if swept.dispatches or swept.given_up or swept.settled:
            log.info(
                "swept",
                dispatched=len(swept.dispatches),
                sent=sent,
                expired=swept.expired,
                given_up=swept.given_up,
                settled=swept.settled,
            )
        return swept

    def _queued(self) -> int:
        """Return the queue's length; with Redis out of reach, as if it were full.

        Then nothing pending is dispatched into the void, while the ledger's own work goes on.
        """
        try:
            return self._publisher.queued()
        except (OperationalError, RedisError, OSError) as error:
            log.warning("redis_unreachable", error=str(error))
            return self._settings.high_water
