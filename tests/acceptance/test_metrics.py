"""A real fleet that is watched: its children count, its parents serve, and a Prometheus scrapes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
from prometheus_client.parser import text_string_to_metric_families

from ops.chaos.alerts import CAUSES, Cause, Drill, postgres_down, redis_down, spool_full, watch
from ops.chaos.field import wait_for
from ops.chaos.watched import Prometheus, Watched, dashboard_queries
from ops.local.process import ProcessError
from tests.unit.ops.test_alerts import RULES

pytestmark = pytest.mark.models

CALL = "0171-5550123.wav"
ROLES = ("asr0", "reducer", "metrics")


def figures(watched: Watched, name: str) -> dict[str, float]:
    """Return what a part serves, by name and labels' values."""
    return {
        ":".join((sample.name, *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(watched.page(name))
        for sample in family.samples
    }


@pytest.fixture(scope="module")
def watched(models: Path, speech, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A fleet of one worker, where each part serves, and what it has transcribed."""
    watched = Watched(tmp_path_factory.mktemp("watched") / "fleet", models=models, workers=1)
    samples, rate_hz = speech
    soundfile.write(watched.field.calls / CALL, samples[: rate_hz * 16], rate_hz)
    with watched:
        watched.field.wait(watched.field.submit())
        yield watched


def test_what_the_child_did_its_parent_serves(watched: Watched):
    found = figures(watched, "asr0")

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
    found = figures(watched, "reducer")

    assert found["callscribe_reduces_total:done"] >= 1
    assert found["callscribe_reduce_seconds_count"] >= 1
    assert found["callscribe_sweep_last_timestamp_seconds"] > 0
    assert found["callscribe_up:reduce"] == 1


def test_one_process_tells_of_the_ledger_and_of_redis(watched: Watched):
    found = figures(watched, "metrics")

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
    before = figures(watched, "asr0")
    watched.field.kill_child(worker)

    def begun_anew() -> dict[str, float] | None:
        found = figures(watched, "asr0")
        starts = "callscribe_children_started_total"
        return found if found[starts] == before[starts] + 1 else None

    found = wait_for(begun_anew, what="a new child")
    assert found["callscribe_segments_total:done"] == before["callscribe_segments_total:done"]
    assert "callscribe_resident_bytes" not in found, "the dead child's memory is nobody's"

    watched.field.wait(watched.field.submit())
    after = figures(watched, "asr0")
    done = "callscribe_segments_total:done"
    assert after[done] == 2 * before[done], "decoded anew, since it was forced"
    assert after["callscribe_resident_bytes"] > 1 << 26


def started(watched: Watched, *, hasty: bool) -> Prometheus:
    try:
        return watched.prometheus(hasty=hasty)
    except ProcessError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def prometheus(watched: Watched) -> Iterator[Prometheus]:
    """One that scrapes the fleet, by our configuration, every second."""
    with started(watched, hasty=False) as prometheus:
        yield prometheus


def test_a_prometheus_scrapes_them_all_and_answers_every_query(
    prometheus: Prometheus, watched: Watched
):
    wait_for(prometheus.all_up, what="a scrape of every target")
    watched.field.wait(watched.field.submit())
    # A host that decodes on its CPU has no device, and nothing waits for an attempt.
    queries = {*dashboard_queries(), *(rule["expr"] for rule in RULES if "record" in rule)}
    wanted = {query for query in queries if "callscribe_device" not in query}

    wait_for(lambda: not prometheus.unanswered(wanted), what="an answer to every query")


def test_a_prometheus_evaluates_every_rule_and_raises_no_alert(prometheus: Prometheus):
    def evaluated() -> list[dict[str, Any]] | None:
        groups = (prometheus.asked("rules") or {"groups": []})["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        return rules if rules and all(rule["health"] != "unknown" for rule in rules) else None

    rules = wait_for(evaluated, what="an evaluation of all rules")
    assert {rule["health"] for rule in rules} == {"ok"}
    assert len(rules) == len(RULES)
    assert not [r["name"] for r in rules if r.get("state") == "firing"]


@pytest.fixture(scope="module")
def drill(watched: Watched) -> Iterator[Drill]:
    """The same fleet under a Prometheus for which an hour is a minute."""
    with started(watched, hasty=True) as prometheus:
        wait_for(prometheus.all_up, what="a scrape of every target")
        yield Drill(watched, prometheus, watched.field.calls, {})


@pytest.mark.parametrize("cause", [spool_full, redis_down, postgres_down], ids=lambda c: c.__name__)
def test_an_alert_comes_with_its_cause_and_goes_with_it(drill: Drill, cause: Cause):
    """Those that take seconds; ``python -m ops.chaos.alerts`` raises every one."""
    if cause is spool_full and drill.fleet.spool is None:
        pytest.skip("nothing may be mounted here")

    seen = watch(drill, cause, CAUSES[cause])

    assert [each.alert for each in seen] == list(CAUSES[cause])
    assert all(each.is_right for each in seen)
