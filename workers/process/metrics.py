"""What a worker counts, by :mod:`schema.metrics`; its child counts, and its parent serves it.

Counts lie in files that both map into memory, in a directory of the parent's own. There is one
child at a time, so that each goes on counting where the last one was killed. Without an address to
serve at, what is counted stays in the process, and nobody sees it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import product
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    disable_created_metrics,
    start_http_server,
    values,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from schema import metrics as catalogue
from schema.metrics import Kind, Outcome, Source, Stage, served_by
from schema.settings import Address

if TYPE_CHECKING:
    from workers.process.memory import MemoryFigures

log = structlog.get_logger(__name__)

#: Counters begin at 0 where they have so few series: Prometheus sees no increase from nothing.
_ZEROED_MAX = 12

#: Of each map: more than all series of a role take. On disk before it is written to, since a write
#: into a map for which there is no room would kill the worker, on a segment that is innocent.
_MAP_BYTES = 1 << 16
#: One map for each kind and process, by prometheus-client's naming.
_KINDS = ("counter", "histogram", "gauge_livemostrecent")
_PARENT, _CHILD = "parent", "child"

_PREFIX = "callscribe-metrics-"
#: A directory that nobody holds is a killed worker's, unless it is about to be taken.
_LEFTOVER_S = 60.0

# When a counter was made says nothing that its resets do not.
disable_created_metrics()

_registry = CollectorRegistry()
_families: dict[str, Any] = {}
_directory: Path | None = None
_server: Any = None


class StageSeconds(NamedTuple):
    """Where a segment's time went."""

    read: float
    vad: float
    asr: float


def count(metric: catalogue.Metric, amount: float = 1, **labels: str) -> None:
    """Count an event, or so much of a unit.

    Raises:
        ValueError: a label has a value that the catalogue does not list.
    """
    _series(metric, labels).inc(amount)


def show(metric: catalogue.Metric, value: float, **labels: str) -> None:
    """Set a gauge.

    Raises:
        ValueError: a label has a value that the catalogue does not list.
    """
    _series(metric, labels).set(value)


def observe(metric: catalogue.Metric, value: float, **labels: str) -> None:
    """Add a value to a histogram.

    Raises:
        ValueError: a label has a value that the catalogue does not list.
    """
    _series(metric, labels).observe(value)


def count_decoded(
    audio_ms: int, speech_ms: int, seconds: StageSeconds, store_s: float, after: MemoryFigures
) -> None:
    """Count a segment that was decoded and stored, and show the memory as it left it."""
    count(catalogue.SEGMENTS, outcome=Outcome.DONE)
    count(catalogue.AUDIO, audio_ms / 1000, outcome=Outcome.DONE)
    count(catalogue.SPEECH, speech_ms / 1000)
    stages = {**seconds._asdict(), Stage.STORE: store_s}
    for stage, taken_s in stages.items():
        observe(catalogue.STAGES, taken_s, stage=stage)
    if taken_s := sum(stages.values()):
        show(catalogue.TIMES_REAL_TIME, audio_ms / 1000 / taken_s)
    show_memory(after)


def count_known(audio_ms: int) -> None:
    """Count a segment whose words the ledger had already."""
    count(catalogue.SEGMENTS, outcome=Outcome.KNOWN)
    count(catalogue.AUDIO, audio_ms / 1000, outcome=Outcome.KNOWN)


def show_memory(after: MemoryFigures) -> None:
    """Show what the process holds; of a device only where there is one."""
    show(catalogue.RESIDENT, after.rss)
    device = after.device
    if not device.total:
        return
    unused = device.reserved - device.allocated
    show(catalogue.DEVICE_USED, device.allocated)
    show(catalogue.DEVICE_RESERVED, device.reserved)
    show(catalogue.DEVICE_PEAK, device.peak)
    show(catalogue.DEVICE_FREE, device.free)
    show(catalogue.DEVICE_CAPACITY, device.total)
    show(catalogue.DEVICE_FRAGMENTATION, unused / device.reserved if device.reserved else 0.0)


def _series(metric: catalogue.Metric, labels: dict[str, str]) -> Any:
    for name, value in labels.items():
        if value not in metric.labels[name]:
            raise ValueError(f"{metric.name}: {name} is never {value!r}")
    family = _family(metric)
    return family.labels(**{k: str(v) for k, v in labels.items()}) if metric.labels else family


def _family(metric: catalogue.Metric) -> Any:
    if metric.name not in _families:
        _families[metric.name] = _made(metric)
    return _families[metric.name]


def _made(metric: catalogue.Metric) -> Any:
    options: dict[str, Any] = {"labelnames": tuple(metric.labels), "registry": _registry}
    if metric.kind is Kind.COUNTER:
        return Counter(metric.name, metric.meaning, **options)
    if metric.kind is Kind.HISTOGRAM:
        buckets = catalogue.SECONDS_BUCKETS
        return Histogram(metric.name, metric.meaning, buckets=buckets, **options)
    return Gauge(metric.name, metric.meaning, multiprocess_mode="livemostrecent", **options)


def _prepare(source: Source) -> None:
    """Make what a role counts, each at 0 but for those of many series."""
    for metric in served_by(source):
        if metric is catalogue.UP:
            continue
        family = _family(metric)
        if metric.labels and prod(map(len, metric.labels.values())) <= _ZEROED_MAX:
            for each in product(*metric.labels.values()):
                family.labels(*map(str, each))


class _Role(Collector):
    """Says that a process is there, and as what."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def collect(self) -> Iterable[Metric]:
        """Return the one gauge."""
        return [gauge(catalogue.UP, {self._source: 1})]


def gauge(metric: catalogue.Metric, found: Mapping[str, float] | float) -> GaugeMetricFamily:
    """Return a gauge: a value for each value of its one label, or a value where it has none."""
    family = GaugeMetricFamily(metric.name, metric.meaning, labels=tuple(metric.labels))
    if not isinstance(found, Mapping):
        family.add_metric((), found)
        return family
    for label, value in found.items():
        family.add_metric([str(label)], value)
    return family


def serve_forked(source: Source, address: Address | None) -> None:
    """Serve what a child will count, which is not forked yet; nothing without an address.

    A worker that cannot be watched still works: what goes wrong is logged.
    """
    global _directory  # noqa: PLW0603 - one a process, like the server
    if address is None:
        return
    try:
        _directory = _own_directory()
        _share(_directory)
        _prepare(source)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(_directory))
        _serve(registry, source, address)
    except OSError as error:
        _not_served(error)


def serve_alone(source: Source, address: Address | None) -> None:
    """Serve what this process itself counts; nothing without an address.

    What goes wrong is logged, and no reason not to work.
    """
    if address is None:
        return
    try:
        _prepare(source)
        _serve(_registry, source, address)
    except OSError as error:
        _not_served(error)


def _not_served(error: OSError) -> None:
    log.error("metrics_not_served", error=f"{type(error).__name__}: {error.strerror}")


def serve(collector: Collector, source: Source, address: Address) -> None:
    """Serve what a collector finds at each scrape.

    Raises:
        OSError: the address cannot be had.
    """
    registry = CollectorRegistry()
    registry.register(collector)
    _serve(registry, source, address)


def _serve(registry: CollectorRegistry, source: Source, address: Address) -> None:
    global _server
    registry.register(_Role(source))
    _server, _ = start_http_server(address.port, address.host, registry)
    log.info("metrics_served", host=address.host, port=_server.server_port)


def begin_child() -> None:
    """Begin to count in a child that has just begun; its predecessor's gauges are no more."""
    if _server is not None:
        # The parent's: a child that outlived it would keep its successor from the address.
        _server.socket.close()
    if _directory is not None:
        _forget_gauges(_directory)
    count(catalogue.CHILDREN)


def _forget_gauges(directory: Path) -> None:
    """Say of the last child's map that none of it is used, by its first bytes; it stays in place.

    Removed, as prometheus-client would, the next one might find no room.
    """
    for path in directory.glob(f"gauge_*_{_CHILD}.db"):
        with path.open("r+b") as file:
            file.write(bytes(8))


def close() -> None:
    """Serve no more, and remove what was shared."""
    global _directory, _server  # noqa: PLW0603 - one a process
    if _server is not None:
        _server.shutdown()
        _server.server_close()
        _server = None
    if _directory is not None:
        shutil.rmtree(_directory, ignore_errors=True)
        _directory = None


def _share(directory: Path) -> None:
    """Let all that is made from now on be counted in maps in a directory, each of one process."""
    for kind, process in product(_KINDS, (_PARENT, _CHILD)):
        with (directory / f"{kind}_{process}.db").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, _MAP_BYTES)
    parent = os.getpid()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    values.ValueClass = values.MultiProcessValue(
        lambda: _PARENT if os.getpid() == parent else _CHILD
    )


def _own_directory() -> Path:
    """Make a directory that is locked as long as this process or a child of it lives."""
    for leftover in _leftovers():
        shutil.rmtree(leftover, ignore_errors=True)
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX))
    fcntl.flock(os.open(directory, os.O_RDONLY), fcntl.LOCK_EX)
    return directory


def _leftovers() -> Iterator[Path]:
    """Yield directories whose worker was killed: nobody holds them any more."""
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            found = directory.lstat()
            if found.st_uid != os.geteuid() or time.time() - found.st_mtime < _LEFTOVER_S:
                continue
            held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield directory
            finally:
                os.close(held)
