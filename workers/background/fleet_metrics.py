"""The figures of the ledger, Redis and the spool, read anew at each scrape.

    python -m workers metrics          serves them at CALLSCRIBE_METRICS; one in a fleet is enough

A scrape always ends in seconds. A source that does not answer is reported as down and its figures
are left out, so that no dashboard shows those of an hour ago.
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
from schema.metrics import RetentionOutcome
from schema.publish import Publisher
from schema.settings import SPOOL_ROOT, Settings
from schema.store.ledger import Ledger
from schema.store.read.fleet import LedgerFigures, read_figures
from schema.wire import QueueLengths
from workers.process.metrics import gauge

log = structlog.get_logger(__name__)

#: Below the 10 s that Prometheus gives a scrape by default.
QUERY_MAX_S = 8

T = TypeVar("T")


class BoundedQuery(Generic[T]):
    """A query that may never end; its caller waits for ``limit_s`` at most.

    While one runs no other is started: a server that hangs collects no threads.
    """

    def __init__(self, name: str, ask: Callable[[], T], limit_s: float = QUERY_MAX_S) -> None:
        self._name = name
        self._ask = ask
        self._limit_s = limit_s
        self._idle = threading.Semaphore()

    def start(self) -> Callable[[], T | None]:
        """Start the query; return what waits for its answer, None if there is none in time."""
        answers: list[T] = []
        if not self._idle.acquire(blocking=False):
            return lambda: None

        def run() -> None:
            try:
                answers.append(self._ask())
            except Exception as error:
                log.warning("figures_missing", of=self._name, error=type(error).__name__)
            finally:
                self._idle.release()

        thread = threading.Thread(target=run, name=self._name, daemon=True)
        thread.start()
        deadline_s = time.monotonic() + self._limit_s

        def wait() -> T | None:
            thread.join(max(0.0, deadline_s - time.monotonic()))
            return answers[0] if answers else None

        return wait


class FleetFigures(Collector):
    """The figures of all that a fleet shares, for Prometheus."""

    def __init__(self, ledger: Ledger, publisher: Publisher, settings: Settings) -> None:
        self._settings = settings
        self._ledger = BoundedQuery("ledger", lambda: _read_figures(ledger))
        self._redis = BoundedQuery("redis", publisher.queue_lengths)
        self._spool = BoundedQuery("spool", lambda: _free_bytes(settings))

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Describe nothing: to be registered is no reason to query anything."""
        return iter(())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Query all sources at once; yield what they answered in time."""
        ledger, redis, spool = self._ledger.start(), self._redis.start(), self._spool.start()
        yield from _ledger_gauges(ledger())
        yield from _redis_gauges(redis())
        yield from _spool_gauges(spool(), self._settings)


def _read_figures(ledger: Ledger) -> tuple[LedgerFigures, float]:
    start_s = time.monotonic()
    with ledger.connect() as connection:
        figures = read_figures(connection)
    return figures, time.monotonic() - start_s


def _free_bytes(settings: Settings) -> int | None:
    if settings.spool is None:
        return None
    return shutil.disk_usage(settings.root_path(SPOOL_ROOT)).free


def _ledger_gauges(answer: tuple[LedgerFigures, float] | None) -> Iterator[GaugeMetricFamily]:
    yield gauge(catalogue.LEDGER_UP, answer is not None)
    if answer is None:
        return
    figures, taken_s = answer
    yield gauge(catalogue.LEDGER_SECONDS, taken_s)
    yield gauge(catalogue.LEDGER_SEGMENTS, figures.open_segments)
    yield gauge(catalogue.LEDGER_WAITING, figures.waiting_segments)
    yield gauge(catalogue.OLDEST_PENDING, figures.oldest_pending_s)
    yield gauge(catalogue.LEDGER_LEASES_EXPIRED, figures.expired_leases)
    yield gauge(catalogue.LAST_HOUR_SEGMENTS, figures.hour_segments)
    yield gauge(catalogue.LAST_HOUR_AUDIO, figures.hour_audio_ms / 1000)
    yield gauge(catalogue.LAST_DAY_RECORDINGS, figures.day_recordings)
    yield gauge(catalogue.OLDEST_EVENT, figures.oldest_event_s)
    last = figures.last_retention
    if last is not None:
        yield gauge(catalogue.PURGE_AGE, last.age_s)
    counts = (last.recordings, last.unfinished_recordings) if last else (0, 0)
    yield gauge(catalogue.PURGED, dict(zip(RetentionOutcome, counts, strict=True)))


def _redis_gauges(lengths: QueueLengths | None) -> Iterator[GaugeMetricFamily]:
    yield gauge(catalogue.REDIS_UP, lengths is not None)
    if lengths is not None:
        yield gauge(catalogue.QUEUE, {"segments": lengths.segments, "reduce": lengths.reduces})


def _spool_gauges(free_bytes: int | None, settings: Settings) -> Iterator[GaugeMetricFamily]:
    if free_bytes is not None:
        yield gauge(catalogue.SPOOL_FREE, free_bytes)
        yield gauge(catalogue.SPOOL_RESERVE, settings.spool_reserve_bytes)
