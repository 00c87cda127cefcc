"""The figures of the ledger, Redis and the spool, read anew at each scrape.

    python -m workers metrics          serves them at CALLSCRIBE_METRICS; one in a fleet is enough

A scrape always ends in seconds: what does not answer is said to be down, and its figures are left
out, so that no dashboard shows what was true an hour ago.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import structlog
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from schema import metrics as catalogue
from schema.metrics import Purging
from schema.publish import Publisher
from schema.settings import SPOOL_ROOT, Settings
from schema.store.ledger import Ledger
from schema.store.read.fleet import Figures, figures
from schema.wire import Queued
from workers.process.metrics import gauge

log = structlog.get_logger(__name__)

#: Prometheus gives a scrape 10 s unless told otherwise; nothing is waited for as long.
ANSWER_S = 8

T = TypeVar("T")


class Patient(Generic[T]):
    """Asks a question that may never be answered, and waits so long and no longer.

    While one is still open no other is asked: a server that hangs collects no threads.
    """

    def __init__(self, name: str, ask: Callable[[], T], limit_s: float = ANSWER_S) -> None:
        self._name = name
        self._ask = ask
        self._limit_s = limit_s
        self._free = threading.Semaphore()

    def start(self) -> Callable[[], T | None]:
        """Ask; what is returned waits for the answer, which is None where none came."""
        answers: list[T] = []
        answered = threading.Event()
        if not self._free.acquire(blocking=False):
            return lambda: None

        def run() -> None:
            try:
                answers.append(self._ask())
            except Exception as error:
                log.warning("figures_missing", of=self._name, error=type(error).__name__)
            finally:
                self._free.release()
                answered.set()

        threading.Thread(target=run, name=self._name, daemon=True).start()
        deadline_s = time.monotonic() + self._limit_s

        def wait() -> T | None:
            answered.wait(max(0.0, deadline_s - time.monotonic()))
            return answers[0] if answers else None

        return wait


class FleetFigures(Collector):
    """What Prometheus is told of all that the fleet shares."""

    def __init__(self, ledger: Ledger, publisher: Publisher, settings: Settings) -> None:
        self._settings = settings
        self._ledger = Patient("ledger", lambda: _timed(ledger))
        self._queued: Patient[Queued | None] = Patient("redis", publisher.queued)
        self._free = Patient("spool", lambda: _free_bytes(settings))

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Name nothing beforehand: being registered is no reason to ask anybody."""
        return iter(())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Ask all at once; yield what is known in the end."""
        ledger, queued, free = self._ledger.start(), self._queued.start(), self._free.start()
        yield from _of_ledger(ledger())
        yield from _of_redis(queued())
        yield from _of_spool(free(), self._settings)


def _timed(ledger: Ledger) -> tuple[Figures, float]:
    begun_s = time.monotonic()
    with ledger.reading() as connection:
        found = figures(connection)
    return found, time.monotonic() - begun_s


def _free_bytes(settings: Settings) -> int | None:
    if settings.spool is None:
        return None
    return shutil.disk_usage(settings.root_path(SPOOL_ROOT)).free


def _of_ledger(answer: tuple[Figures, float] | None) -> Iterator[GaugeMetricFamily]:
    yield gauge(catalogue.LEDGER_UP, answer is not None)
    if answer is None:
        return
    found, taken_s = answer
    yield gauge(catalogue.LEDGER_SECONDS, taken_s)
    yield gauge(catalogue.LEDGER_SEGMENTS, found.open_segments)
    yield gauge(catalogue.LEDGER_WAITING, found.waiting)
    yield gauge(catalogue.OLDEST_PENDING, found.oldest_pending_s)
    yield gauge(catalogue.LEDGER_LEASES_EXPIRED, found.expired)
    yield gauge(catalogue.LAST_HOUR_SEGMENTS, found.hour_segments)
    yield gauge(catalogue.LAST_HOUR_AUDIO, found.hour_audio_ms / 1000)
    yield gauge(catalogue.LAST_DAY_RECORDINGS, found.day_recordings)
    yield gauge(catalogue.OLDEST_EVENT, found.oldest_event_s)
    purged = found.purged
    if purged is not None:
        yield gauge(catalogue.PURGE_AGE, purged.age_s)
    erased, spared = (purged.recordings, purged.spared) if purged else (0, 0)
    yield gauge(catalogue.PURGED, {Purging.ERASED: erased, Purging.SPARED: spared})


def _of_redis(queued: Queued | None) -> Iterator[GaugeMetricFamily]:
    yield gauge(catalogue.REDIS_UP, queued is not None)
    if queued is not None:
        lengths = {"segments": queued.segments, "reduce": queued.reduces}
        yield gauge(catalogue.QUEUE, lengths)


def _of_spool(free: int | None, settings: Settings) -> Iterator[GaugeMetricFamily]:
    if free is not None:
        yield gauge(catalogue.SPOOL_FREE, free)
        yield gauge(catalogue.SPOOL_RESERVE, settings.spool_reserve_bytes)
