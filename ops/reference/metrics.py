"""The page of metrics, from schema.metrics."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from ops.reference.markdown import head, table, to_page, wrap
from schema.errors import ErrorCode
from schema.metrics import CATALOGUE, SECONDS_BUCKETS, Metric, MetricKind, MetricsRole

_CODES = tuple(code.value for code in ErrorCode)

#: What a name ends in, before "_total", and the unit that it says.
_UNITS = {
    "timestamp_seconds": "Unix time, s",
    "seconds": "s",
    "bytes": "bytes",
    "ratio": "ratio",
    "up": "0 or 1",
}

_INTRODUCTION = (
    "A process serves metrics if [`CALLSCRIBE_METRICS`](settings.md#metrics) is set. No metric"
    " names a recording, a path or a customer. [Monitoring](../operate/monitoring.md) says how to"
    " collect them; the [runbook](../operate/runbook.md) says what to do when an alert comes."
)


def page() -> str:
    """Return the page, as Markdown."""
    return to_page(_lines())


def _lines() -> Iterator[str]:
    yield from head(
        "Metrics", "Every metric that Prometheus finds, by the process.", "schema/metrics.py"
    )
    yield wrap(_INTRODUCTION) + "\n"
    for sources, metrics in groupby(CATALOGUE, lambda metric: metric.sources):
        yield f"## {_title(sources)}\n"
        yield from table(("Metric", "Type", "Unit", "Labels", "Meaning"), map(_row, metrics))
    bounds = ", ".join(f"{bound:g}" for bound in SECONDS_BUCKETS)
    yield wrap(
        "A histogram has the series `_bucket`, `_sum` and `_count`. Its buckets end at"
        f" {bounds} seconds."
    )


def _title(sources: tuple[MetricsRole, ...]) -> str:
    if sources == tuple(MetricsRole):
        return "Served by every process"
    return "Served by " + " and ".join(f"`python -m workers {source}`" for source in sources)


def _row(metric: Metric) -> tuple[str, ...]:
    labels = "; ".join(f"`{name}`: {_values(values)}" for name, values in metric.labels.items())
    return (f"`{metric.name}`", metric.kind, _unit(metric), labels, f"{metric.meaning}.")


def _unit(metric: Metric) -> str:
    bare = metric.name.removesuffix("_total") if metric.kind is MetricKind.COUNTER else metric.name
    return next((unit for end, unit in _UNITS.items() if bare.endswith(f"_{end}")), "count")


def _values(values: object) -> str:
    if values == _CODES:
        return "an [error code](error-codes.md)"
    return ", ".join(f"`{value}`" for value in values) if isinstance(values, tuple) else ""
