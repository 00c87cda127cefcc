"""A real fleet that is watched: its children count, its parents serve, and a Prometheus scrapes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import soundfile
import yaml
from prometheus_client.parser import text_string_to_metric_families

from ops.chaos.field import Field, wait_for
from ops.local import debian
from ops.local.process import Child, ProcessError
from ops.local.sockets import free_port
from ops.local.stack import Part
from tests.unit.ops.test_alerts import PANELS, PROMETHEUS, RULES

pytestmark = pytest.mark.models

CALL = "0171-5550123.wav"
ROLES = ("asr0", "reducer", "ledger")


@dataclass
class Watched:
    """A fleet of one worker, where each part serves, and what it has transcribed."""

    field: Field
    ports: dict[str, int]

    def page(self, name: str) -> str:
        with urlopen(f"http://127.0.0.1:{self.ports[name]}/metrics") as answer:
            return answer.read().decode()

    def figures(self, name: str) -> dict[str, float]:
        """Return what a part serves, by name and labels' values."""
        return {
            ":".join((sample.name, *sample.labels.values())): sample.value
            for family in text_string_to_metric_families(self.page(name))
            for sample in family.samples
        }


@pytest.fixture(scope="module")
def watched(models: Path, speech, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    directory = tmp_path_factory.mktemp("watched")
    ports = {name: free_port() for name in ROLES}

    def own(name: str) -> dict[str, str]:
        return {"CALLSCRIBE_METRICS": f"127.0.0.1:{ports[name]}"}

    field = Field(directory, models=models, workers=1, own=own)
    field.stack.parts["reducer"] = Part(own("reducer"))
    samples, rate_hz = speech
    soundfile.write(field.calls / CALL, samples[: rate_hz * 16], rate_hz)
    ledger = Child(
        "ledger",
        [sys.executable, "-m", "workers", "metrics"],
        directory / "ledger.log",
        environment={**field.stack.environment, **own("ledger")},
    )
    with field, ledger:
        field.wait(field.submit())
        yield Watched(field, ports)


def test_what_the_child_did_its_parent_serves(watched: Watched):
    found = watched.figures("asr0")

    segments = watched.field.scalar("select count(*) from segments where state = 'done'")
    assert found["callscribe_segments_total:done"] == segments >= 2
    assert found["callscribe_segments_total:failed"] == 0
    audio_ms = watched.field.scalar("select sum(end_ms - start_ms) from segments")
    assert found["callscribe_audio_seconds_total:done"] == pytest.approx(float(audio_ms) / 1000)
    for stage in ("read", "vad", "asr", "store"):
        assert found[f"callscribe_stage_seconds_count:{stage}"] == segments
        assert found[f"callscribe_stage_seconds_sum:{stage}"] > 0
    assert found["callscribe_resident_bytes"] > 1 << 26
    assert found["callscribe_times_real_time_ratio"] > 0
    assert found["callscribe_up:segments"] == 1


def test_the_reducer_tells_of_reduces_and_of_the_sweep(watched: Watched):
    found = watched.figures("reducer")

    assert found["callscribe_reduces_total:done"] >= 1
    assert found["callscribe_reduce_seconds_count"] >= 1
    assert found["callscribe_sweep_last_timestamp_seconds"] > 0
    assert found["callscribe_up:reduce"] == 1


def test_one_process_tells_of_the_ledger_and_of_redis(watched: Watched):
    found = watched.figures("ledger")

    assert found["callscribe_ledger_up"] == found["callscribe_redis_up"] == 1
    assert found["callscribe_ledger_last_day_recordings:done"] == 1
    assert found["callscribe_ledger_last_hour_segments:done"] >= 2
    assert found["callscribe_queue_messages:segments"] == 0
    assert found["callscribe_spool_free_bytes"] > 0


@pytest.mark.parametrize("name", ROLES)
def test_no_figure_names_a_call_an_id_a_path_or_a_server(watched: Watched, name: str):
    secrets = {
        "0171",
        str(watched.field.scalar("select id from recordings limit 1")),
        str(watched.field.calls.parent),
        watched.field.stack.postgres.url,
        watched.field.stack.redis.url,
    }
    page = watched.page(name)
    assert not [secret for secret in secrets if secret in page]


def test_counts_go_on_after_a_child_was_killed(watched: Watched):
    (worker,) = watched.field.workers
    before = watched.figures("asr0")
    watched.field.kill_child(worker)

    def begun_anew() -> dict[str, float] | None:
        found = watched.figures("asr0")
        starts = "callscribe_children_started_total"
        return found if found[starts] == before[starts] + 1 else None

    found = wait_for(begun_anew, what="a new child")
    assert found["callscribe_segments_total:done"] == before["callscribe_segments_total:done"]
    assert "callscribe_resident_bytes" not in found, "the dead child's memory is nobody's"

    watched.field.wait(watched.field.submit())
    after = watched.figures("asr0")
    done = "callscribe_segments_total:done"
    assert after[done] == 2 * before[done], "decoded anew, since it was forced"
    assert after["callscribe_resident_bytes"] > 1 << 26


@pytest.fixture(scope="module")
def prometheus(watched: Watched, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a Prometheus that scrapes the fleet, by our configuration, every second."""
    try:
        program = debian.find_prometheus() / "prometheus"
    except ProcessError as error:
        pytest.skip(str(error))
    directory = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s"}
    config["global"] |= {"evaluation_interval": "1s"}
    config["rule_files"] = [str(PROMETHEUS / "rules.yml")]
    jobs = {"callscribe-workers": "asr0", "callscribe-reducers": "reducer"}
    for job in config["scrape_configs"]:
        name = jobs.get(job["job_name"], "ledger")
        job.pop("scrape_interval", None)
        job["static_configs"][0]["targets"] = [f"127.0.0.1:{watched.ports[name]}"]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [
        str(program),
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with Child("prometheus", command, directory / "prometheus.log"):
        yield port


def asked(port: int, what: str, **parameters: str) -> Any:
    """Return what Prometheus answers, or None while it does not."""
    try:
        url = f"http://127.0.0.1:{port}/api/v1/{what}?{urlencode(parameters)}"
        with urlopen(url) as answer:
            return json.load(answer)["data"]
    except URLError:
        return None


def test_a_prometheus_scrapes_them_all_and_answers_every_query(prometheus: int, watched: Watched):
    def all_up() -> bool:
        found = asked(prometheus, "targets", state="active") or {"activeTargets": []}
        return [target["health"] for target in found["activeTargets"]] == ["up"] * len(ROLES)

    wait_for(all_up, what="a scrape of every target")
    watched.field.wait(watched.field.submit())
    # A host that decodes on its CPU has no device, and nothing waits for an attempt.
    queries = {target["expr"] for panel in PANELS for target in panel["targets"]}
    queries |= {rule["expr"] for rule in RULES if "record" in rule}
    wanted = {query for query in queries if "callscribe_device" not in query}

    def unanswered() -> set[str]:
        return {query for query in wanted if not asked(prometheus, "query", query=query)["result"]}

    wait_for(lambda: not unanswered(), what="an answer to every query")


def test_a_prometheus_evaluates_every_rule_and_raises_no_alert(prometheus: int):
    def evaluated() -> list[dict[str, Any]] | None:
        groups = (asked(prometheus, "rules") or {"groups": []})["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        return rules if rules and all(rule["health"] != "unknown" for rule in rules) else None

    rules = wait_for(evaluated, what="an evaluation of all rules")
    assert {rule["health"] for rule in rules} == {"ok"}
    assert len(rules) == len(RULES)
    assert not [r["name"] for r in rules if r.get("state") == "firing"]
