"""Alerts and dashboards ask for what there is, in queries that Prometheus understands.

promtool says the rest: it causes each alert's condition, and looks whether the alert comes.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from ops.chaos.alerts import CAUSES
from ops.chaos.watched import hastened
from ops.local import debian
from ops.local.process import ProcessError
from schema.metrics import CATALOGUE

OPS = Path(__file__).parents[3] / "ops"
PROMETHEUS = OPS / "prometheus"

RULES = [
    rule
    for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
DASHBOARD = json.loads((OPS / "grafana" / "dashboards" / "callscribe.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [rule["expr"] for rule in RULES] + [t["expr"] for p in PANELS for t in p["targets"]]

#: Every name that a query may ask for, with its labels beside those of the scrape.
LABELS: dict[str, dict[str, Any]] = {
    name: dict(metric.labels) for metric in CATALOGUE for name in metric.samples
}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
OF_THE_SCRAPE = {"instance", "job", "le"}


def parts(query: str, kind: type[Any]) -> Iterator[Any]:
    """Yield the parts of a query that are of a kind.

    Raises:
        ValueError: Prometheus would not understand it.
    """
    found: list[Any] = []
    promql_parser.walk(promql_parser.parse(query), found.append)
    yield from (part for part in found if isinstance(part, kind))


def selectors(query: str) -> list[Any]:
    return list(parts(query, promql_parser.VectorSelector))


def grouped_by(query: str) -> set[str]:
    modifiers = [part.modifier for part in parts(query, promql_parser.AggregateExpr)]
    return {label for modifier in modifiers if modifier for label in modifier.labels}


@pytest.mark.parametrize("query", sorted(set(QUERIES)))
def test_a_query_asks_for_metrics_and_labels_of_the_catalogue(query: str):
    asked = selectors(query)
    assert asked
    labels = set(OF_THE_SCRAPE)
    for selector in asked:
        if selector.name in RECORDED:
            continue
        known = LABELS[selector.name]
        labels |= set(known)
        for matcher in selector.matchers.matchers:
            assert matcher.value in known[matcher.name]
    assert grouped_by(query) <= labels


def test_every_metric_is_looked_at_by_an_alert_or_the_dashboard():
    asked = {selector.name for query in QUERIES for selector in selectors(query)}
    unseen = [metric.name for metric in CATALOGUE if not asked & set(metric.samples)]
    assert unseen == []


@pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_and_where_the_runbook_has_it(alert: dict[str, Any]):
    assert alert["labels"]["severity"] in {"critical", "warning", "info"}
    assert alert["annotations"]["summary"]
    anchor = alert["alert"].lower()
    assert alert["annotations"]["runbook"] == f"ops/docs/operate/runbook.md#{anchor}"


def test_the_runbook_has_a_whole_section_for_each_alert_and_for_nothing_else():
    sections = (OPS / "docs" / "operate" / "runbook.md").read_text().split("\n## ")[1:]
    assert [section.splitlines()[0] for section in sections] == [r["alert"] for r in ALERTS]
    for section in sections:
        assert re.findall(r"^\*\*(\w+)\.\*\*", section, re.MULTILINE) == ["Means", "Look", "Do"]


def test_every_alert_is_caused_by_a_test_of_rules():
    tests = yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text())["tests"]
    caused = {
        case["alertname"]
        for test in tests
        for case in test.get("alert_rule_test", ())
        if case.get("exp_alerts")
    }
    quiet = {
        case["alertname"]
        for test in tests
        for case in test.get("alert_rule_test", ())
        if not case.get("exp_alerts")
    }
    names = {alert["alert"] for alert in ALERTS}
    assert caused == names
    assert quiet == names


def test_the_dashboards_panels_lie_beside_each_other_and_explain_themselves():
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert all(panel["description"] and panel["title"] for panel in PANELS)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_what_is_provisioned_names_no_host_and_no_path_of_ours():
    datasources, dashboards = (
        yaml.safe_load((OPS / "grafana" / "provisioning" / name).read_text())
        for name in ("datasources/prometheus.yml", "dashboards/callscribe.yml")
    )
    assert datasources["datasources"][0]["url"] == "${PROMETHEUS_URL}"
    assert dashboards["providers"][0]["options"]["path"] == "${CALLSCRIBE_DASHBOARDS}"


def test_what_is_scraped_and_served_is_on_loopback():
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    targets = [
        target
        for job in config["scrape_configs"]
        for static in job["static_configs"]
        for target in static["targets"]
    ]
    assert len(targets) == len(set(targets)) == 4
    assert all(target.startswith("127.") for target in targets)


@pytest.fixture(scope="module")
def promtool() -> Path:
    """Prometheus' own tool; ops/test unpacks it wherever there is an apt-get with a mirror."""
    try:
        return debian.find_prometheus() / "promtool"
    except ProcessError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "--lint=all", "--lint-fatal", "rules.yml"),
        ("test", "rules", "rules_test.yml"),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_prometheus_own_tool_finds_nothing_wrong(promtool: Path, arguments: tuple[str, ...]):
    done = subprocess.run(
        [promtool, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_rule_that_is_wrong_is_found_by_the_tests_of_rules(promtool: Path, tmp_path: Path):
    rules = (PROMETHEUS / "rules.yml").read_text()
    (tmp_path / "rules.yml").write_text(rules.replace("> 3\n", "> 30\n"))
    (tmp_path / "rules_test.yml").write_text((PROMETHEUS / "rules_test.yml").read_text())
    done = subprocess.run(
        [promtool, "test", "rules", "rules_test.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "CallscribeRecycling" in done.stdout + done.stderr


def test_hastened_rules_ask_the_same_of_a_shorter_time():
    rules = (PROMETHEUS / "rules.yml").read_text()
    hasty = hastened(rules)

    assert "[5s]" in hasty
    assert "[1m]" in hasty
    assert "4 * 3600 / 60" in hasty
    assert "_seconds) > 300 / 60" in hasty
    assert not re.search(r"\[\d+h\]|for: \d+[mh]\b", hasty)
    slow, fast = (yaml.safe_load(text)["groups"] for text in (rules, hasty))
    assert [len(group["rules"]) for group in slow] == [len(group["rules"]) for group in fast]


def test_every_alert_is_caused_on_a_real_fleet_too():
    raised = [alert for alerts in CAUSES.values() for alert in alerts]
    assert sorted(raised) == sorted(alert["alert"] for alert in ALERTS)
