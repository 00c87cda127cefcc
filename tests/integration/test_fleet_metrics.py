"""A scrape tells what the ledger, Redis and the spool say, and ends when one says nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ops.local.bootstrap import ROOT
from ops.local.sockets import free_port
from producer.erasure.retention import run_retention
from schema.metrics import CATALOGUE
from schema.settings import Settings
from schema.store.connection import create_ledger_engine
from schema.store.ledger import Ledger
from schema.wire import QueueLengths
from tests.factories import added, recording, transcribed
from workers.background.fleet_metrics import BoundedQuery, FleetFigures

QUEUED = QueueLengths(segments=3, reduces=1)


def scraped(ledger: Ledger, queued=lambda: QUEUED, spool: Path | None = None) -> dict[str, float]:
    settings = Settings(
        database_url="postgresql://", redis_url="redis://", spool=spool, spool_reserve_bytes=7
    )
    registry = CollectorRegistry()
    registry.register(FleetFigures(ledger, SimpleNamespace(queue_lengths=queued), settings))
    return {
        sample.name + "".join(sample.labels.values()): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


@pytest.fixture
def nobody() -> Iterator[Ledger]:
    """A ledger whose server is down."""
    ledger = Ledger(create_ledger_engine(f"postgresql://127.0.0.1:{free_port()}/none"))
    yield ledger
    ledger.close()


def test_a_scrape_tells_what_waits_and_where(ledger: Ledger, tmp_path: Path):
    added(ledger, recording("a", "b"))

    found = scraped(ledger, spool=tmp_path)

    assert found["callscribe_ledger_up"] == 1
    assert found["callscribe_ledger_segmentspending"] == 2
    assert found["callscribe_ledger_last_day_recordingsplanned"] == 1
    assert found["callscribe_queue_messagessegments"] == 3
    assert found["callscribe_spool_free_bytes"] > 0
    assert found["callscribe_spool_reserve_bytes"] == 7


def test_a_scrape_tells_when_retention_last_ran_if_it_ever_did(ledger: Ledger):
    never = scraped(ledger)
    transcribed(ledger)
    run_retention(ledger, datetime(2100, 1, 1, tzinfo=UTC), [].append, lambda _: None)

    found = scraped(ledger)

    assert "callscribe_ledger_purge_age_seconds" not in never
    assert never["callscribe_ledger_purge_recordingserased"] == 0
    assert found["callscribe_ledger_purge_age_seconds"] < 3_600
    assert found["callscribe_ledger_purge_recordingserased"] == 1
    assert found["callscribe_ledger_purge_recordingsspared"] == 0


def test_all_that_is_told_is_in_the_catalogue(ledger: Ledger, tmp_path: Path):
    known = {(metric.name, *sorted(metric.labels)) for metric in CATALOGUE}
    settings = Settings(database_url="postgresql://", redis_url="redis://", spool=tmp_path)
    collector = FleetFigures(ledger, SimpleNamespace(queue_lengths=lambda: QUEUED), settings)

    told = {
        (sample.name, *sorted(sample.labels))
        for family in collector.collect()
        for sample in family.samples
    }

    assert len(told) > 10
    assert told <= known


def test_a_ledger_that_is_down_is_said_to_be_and_has_no_figures(nobody: Ledger):
    found = scraped(nobody)

    assert found["callscribe_ledger_up"] == 0
    assert not [name for name in found if name.startswith("callscribe_ledger_s")]
    assert found["callscribe_redis_up"] == 1, "others are told all the same"


def test_a_redis_that_is_down_is_said_to_be_and_has_no_queue(ledger: Ledger):
    found = scraped(ledger, queued=lambda: None)

    assert found["callscribe_redis_up"] == 0
    assert not [name for name in found if name.startswith("callscribe_queue")]


def test_a_server_that_hangs_ends_no_scrape_and_is_asked_once():
    asked, over = [], threading.Event()

    def hang() -> None:
        asked.append(1)
        over.wait()

    patient = BoundedQuery("redis", hang, limit_s=0.01)
    try:
        assert patient.start()() is None
        assert patient.start()() is None
        assert asked == [1]
    finally:
        over.set()


def test_a_server_that_answers_again_is_asked_again():
    answers = iter([RuntimeError("away"), 5])

    def ask() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    patient = BoundedQuery("redis", ask)

    assert patient.start()() is None
    assert patient.start()() == 5


def test_a_process_that_has_nowhere_to_serve_ends_and_says_so(monkeypatch):
    monkeypatch.delenv("CALLSCRIBE_METRICS", raising=False)
    run = started({})
    assert run.returncode == 1
    assert "CALLSCRIBE_METRICS says where to serve" in run.stderr


def test_a_process_whose_address_is_taken_ends_and_says_so():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        run = started({"CALLSCRIBE_METRICS": f"127.0.0.1:{taken.getsockname()[1]}"})
    assert run.returncode == 1
    assert "CALLSCRIBE_METRICS: nothing can be served there" in run.stderr


def started(own: dict[str, str]) -> subprocess.CompletedProcess[str]:
    servers = {
        "CALLSCRIBE_DATABASE_URL": "postgresql://127.0.0.1:1/none",
        "CALLSCRIBE_REDIS_URL": "redis://127.0.0.1:1",
    }
    return subprocess.run(
        [sys.executable, "-m", "workers", "metrics"],
        env={**os.environ, **servers, **own},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
