"""The catalogue of metrics: names as Prometheus wants them, and labels that can say no secret."""

from __future__ import annotations

import re

import pytest

from schema.metrics import CATALOGUE, Metric, MetricKind, MetricsRole, served_by
from schema.settings import Address

#: The units that we use, as Prometheus' conventions spell them. A bare count has none.
UNITS = ("seconds", "bytes", "ratio")


def each(metric: Metric) -> str:
    return metric.name


def test_the_catalogue_has_every_name_once():
    names = [metric.name for metric in CATALOGUE]
    assert len(names) == len(set(names)) > 30


@pytest.mark.parametrize("metric", CATALOGUE, ids=each)
def test_a_name_follows_prometheus_rules(metric: Metric):
    assert re.fullmatch(r"callscribe(_[a-z]+)+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind is MetricKind.COUNTER)
    # What Prometheus adds to a histogram's name may end nothing else's.
    assert not re.search(r"_(bucket|sum|count|created|info)$", metric.name)
    assert metric.meaning
    assert not metric.meaning.endswith(".")


@pytest.mark.parametrize("metric", CATALOGUE, ids=each)
def test_a_unit_comes_last_and_is_a_base_unit(metric: Metric):
    bare = metric.name.removesuffix("_total")
    parts = bare.split("_")
    assert not set(parts) & {"ms", "milliseconds", "minutes", "hours", "mib", "gib", "percent"}
    assert all(part not in UNITS for part in parts[:-1])


@pytest.mark.parametrize("metric", CATALOGUE, ids=each)
def test_every_value_of_every_label_is_known_beforehand(metric: Metric):
    for name, values in metric.labels.items():
        assert re.fullmatch(r"[a-z]+", name)
        assert values
        assert all(re.fullmatch(r"[a-z][a-z.-]*", value) for value in values)


@pytest.mark.parametrize("source", MetricsRole)
def test_every_process_says_that_it_is_there(source: MetricsRole):
    assert "callscribe_up" in {metric.name for metric in served_by(source)}


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:9808", "127.0.0.1", 9808),
        ("9808", "127.0.0.1", 9808),
        (":9808", "127.0.0.1", 9808),
        ("0.0.0.0:0", "0.0.0.0", 0),  # noqa: S104
        ("[::1]:9808", "::1", 9808),
        ("gpu7.internal:9808", "gpu7.internal", 9808),
    ],
)
def test_figures_are_served_on_loopback_unless_told_otherwise(text: str, host: str, port: int):
    assert Address.parse(text) == (host, port)


@pytest.mark.parametrize("text", ["", "localhost", "::1:9808", "host:", "host:99999", "a:b:1"])
def test_what_is_no_address_is_refused(text: str):
    with pytest.raises(ValueError, match="is not host:port"):
        Address.parse(text)
