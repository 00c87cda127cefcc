"""A worker's metrics, by :mod:`schema.metrics`; its child counts, and its parent serves them.

Counts are in files that both map into memory, in a directory of the parent's own. There is one
child at a time, so that each goes on counting where the last one was killed. Without an address to
serve at, the counts stay in the process.
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

import prometheus_client as prometheus
import structlog
from prometheus_client import CollectorRegistry, values
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from schema import metrics as catalogue
from schema.metrics import MetricKind, MetricsRole, SegmentOutcome, Stage, served_by
from schema.settings import Address

if TYPE_CHECKING:
    from workers.process.memory import MemoryFigures

log = structlog.get_logger(__name__)

#: Counters begin at 0 where they have so few series: Prometheus sees no increase from nothing.
_ZEROED_MAX = 12

#: The size of a map: more than all series of a role take. Allocated on disk first, since a write
#: into a map on a full disk would kill the worker.
_MAP_BYTES = 1 << 16
#: One map for each kind and process, by prometheus-client's naming.
_KINDS = ("counter", "histogram", "gauge_livemostrecent")
_PARENT, _CHILD = "parent", "child"

_PREFIX = "callscribe-metrics-"
#: An unlocked directory is a killed worker's, unless it is so young that it is about to be locked.
_ABANDONED_AFTER_S = 60.0

# When a counter was made says nothing that its resets do not.
prometheus.disable_created_metrics()

_registry = CollectorRegistry()
_families: dict[str, Any] = {}
_directory: Path | None = None
_server: Any = None


class StageSeconds(NamedTuple):
    """Where a segment's time went."""

    read: float
    vad: float
    asr: float
    voices: float = 0.0


def count(metric: catalogue.Metric, amount: float = 1, **labels: str) -> None:
    """Count an event, or so much of a unit.

    Raises:
        ValueError: a label has a value that the catalogue does not list.
    """
    _series(metric, labels).inc(amount)


def set_gauge(metric: catalogue.Metric, value: float, **labels: str) -> None:
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
    audio_ms: int, speech_ms: int, seconds: StageSeconds, store_s: float, memory: MemoryFigures
) -> None:
    """Count a segment that was decoded and stored, and show the memory as it left it."""
    count(catalogue.SEGMENTS, outcome=SegmentOutcome.DONE)
    count(catalogue.AUDIO, audio_ms / 1000, outcome=SegmentOutcome.DONE)
    count(catalogue.SPEECH, speech_ms / 1000)
    stages = {**seconds._asdict(), Stage.STORE: store_s}
    if not seconds.voices:
        # Nobody asked for them.
        del stages[Stage.VOICES]
    for stage, stage_s in stages.items():
        observe(catalogue.STAGES, stage_s, stage=stage)
    if stage_s := sum(stages.values()):
        set_gauge(catalogue.TIMES_REAL_TIME, audio_ms / 1000 / stage_s)
    show_memory(memory)


def count_cached(audio_ms: int) -> None:
    """Count a segment whose result the ledger had already."""
    count(catalogue.SEGMENTS, outcome=SegmentOutcome.CACHED)
    count(catalogue.AUDIO, audio_ms / 1000, outcome=SegmentOutcome.CACHED)


def show_memory(memory: MemoryFigures) -> None:
    """Show the memory of the process, and of its device if it has one."""
    set_gauge(catalogue.RESIDENT, memory.rss)
    device = memory.device
    if not device.total:
        return
    unused = device.reserved - device.allocated
    set_gauge(catalogue.DEVICE_USED, device.allocated)
    set_gauge(catalogue.DEVICE_RESERVED, device.reserved)
    set_gauge(catalogue.DEVICE_PEAK, device.peak)
    set_gauge(catalogue.DEVICE_FREE, device.free)
    set_gauge(catalogue.DEVICE_CAPACITY, device.total)
    set_gauge(catalogue.DEVICE_FRAGMENTATION, unused / device.reserved if device.reserved else 0.0)


def _series(metric: catalogue.Metric, labels: dict[str, str]) -> Any:
    for name, value in labels.items():
        if value not in metric.labels[name]:
            raise ValueError(f"{metric.name}: {name} is never {value!r}")
    family = _family(metric)
    return family.labels(**{k: str(v) for k, v in labels.items()}) if metric.labels else family


def _family(metric: catalogue.Metric) -> Any:
    if metric.name not in _families:
        _families[metric.name] = _create_family(metric)
    return _families[metric.name]


def _create_family(metric: catalogue.Metric) -> Any:
    options: dict[str, Any] = {"labelnames": tuple(metric.labels), "registry": _registry}
    if metric.kind is MetricKind.COUNTER:
        return prometheus.Counter(metric.name, metric.meaning, **options)
    if metric.kind is MetricKind.HISTOGRAM:
        buckets = catalogue.SECONDS_BUCKETS
        return prometheus.Histogram(metric.name, metric.meaning, buckets=buckets, **options)
    return prometheus.Gauge(
        metric.name, metric.meaning, multiprocess_mode="livemostrecent", **options
    )


def _prepare(source: MetricsRole) -> None:
    """Create a role's metrics, at 0 but for those of many series."""
    for metric in served_by(source):
        if metric is catalogue.UP:
            continue
        family = _family(metric)
        if metric.labels and prod(map(len, metric.labels.values())) <= _ZEROED_MAX:
            for label_values in product(*metric.labels.values()):
                family.labels(*map(str, label_values))


class _RoleCollector(Collector):
    """The gauge that a process of a role is up."""

    def __init__(self, source: MetricsRole) -> None:
        self._source = source

    def collect(self) -> Iterable[prometheus.Metric]:
        return [gauge(catalogue.UP, {self._source: 1})]


def gauge(metric: catalogue.Metric, figures: Mapping[str, float] | float) -> GaugeMetricFamily:
    """Return a gauge: a value for each value of its one label, or a value where it has none."""
    family = GaugeMetricFamily(metric.name, metric.meaning, labels=tuple(metric.labels))
    if not isinstance(figures, Mapping):
        family.add_metric((), figures)
        return family
    for label, value in figures.items():
        family.add_metric([str(label)], value)
    return family


def serve_forked(source: MetricsRole, address: Address | None) -> None:
    """Serve the counts of the children to be forked; nothing without an address.

    An error is logged: a worker without metrics still works.
    """
    global _directory  # noqa: PLW0603 - one a process, like the server
    if address is None:
        return
    try:
        _directory = _make_directory()
        _share_values(_directory)
        _prepare(source)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(_directory))
        _serve(registry, source, address)
    except OSError as error:
        _log_not_served(error)


def serve_alone(source: MetricsRole, address: Address | None) -> None:
    """Serve the counts of this process; nothing without an address. An error is logged."""
    if address is None:
        return
    try:
        _prepare(source)
        _serve(_registry, source, address)
    except OSError as error:
        _log_not_served(error)


def _log_not_served(error: OSError) -> None:
    log.error("metrics_not_served", error=f"{type(error).__name__}: {error.strerror}")


def serve_collector(collector: Collector, source: MetricsRole, address: Address) -> None:
    """Serve what a collector reads at each scrape.

    Raises:
        OSError: the address is in use, or not this host's.
    """
    registry = CollectorRegistry()
    registry.register(collector)
    _serve(registry, source, address)


def _serve(registry: CollectorRegistry, source: MetricsRole, address: Address) -> None:
    global _server
    registry.register(_RoleCollector(source))
    _server, _ = prometheus.start_http_server(address.port, address.host, registry)
    log.info("metrics_served", host=address.host, port=_server.server_port)


def start_child() -> None:
    """Begin to count in a new child; the gauges of the one before it are cleared."""
    if _server is not None:
        # The parent's: a child that outlived it would keep its successor from the address.
        _server.socket.close()
    if _directory is not None:
        _clear_gauges(_directory)
    count(catalogue.CHILDREN)


def _clear_gauges(directory: Path) -> None:
    """Mark the last child's map as unused, by its first bytes; it stays in place.

    prometheus-client would remove it, and the next one might find no space on the disk.
    """
    for path in directory.glob(f"gauge_*_{_CHILD}.db"):
        with path.open("r+b") as file:
            file.write(bytes(8))


def close() -> None:
    """Stop serving, and remove the maps."""
    global _directory, _server  # noqa: PLW0603 - one a process
    if _server is not None:
        _server.shutdown()
        _server.server_close()
        _server = None
    if _directory is not None:
        shutil.rmtree(_directory, ignore_errors=True)
        _directory = None


def _share_values(directory: Path) -> None:
    """Keep the values of all metrics created from now on in maps, one for each process."""
    for kind, process in product(_KINDS, (_PARENT, _CHILD)):
        with (directory / f"{kind}_{process}.db").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, _MAP_BYTES)
    parent = os.getpid()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    values.ValueClass = values.MultiProcessValue(
        lambda: _PARENT if os.getpid() == parent else _CHILD
    )


def _make_directory() -> Path:
    """Make a directory that stays locked while this process or a child of it lives."""
    for leftover in _abandoned_directories():
        shutil.rmtree(leftover, ignore_errors=True)
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX))
    fcntl.flock(os.open(directory, os.O_RDONLY), fcntl.LOCK_EX)
    return directory


def _abandoned_directories() -> Iterator[Path]:
    """Yield the directories of killed workers: nobody has them locked any more."""
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            status = directory.lstat()
            if status.st_uid != os.geteuid() or time.time() - status.st_mtime < _ABANDONED_AFTER_S:
                continue
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield directory
            finally:
                os.close(descriptor)
