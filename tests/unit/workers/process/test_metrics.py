"""A child counts, its parent serves; who succeeds a child that died goes on counting."""

from __future__ import annotations

import os
import socket
import sys
import textwrap
from pathlib import Path
from subprocess import run
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from schema import metrics as catalogue
from schema.metrics import MetricsRole
from schema.settings import Address
from workers.process import metrics
from workers.process.memory import DeviceFigures, MemoryFigures
from workers.process.metrics import StageSeconds

LOOPBACK = Address("127.0.0.1", 0)


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> CollectorRegistry:
    """Nothing counted by another test, and nothing of ours left in the process."""
    registry = CollectorRegistry()
    monkeypatch.setattr(metrics, "_registry", registry)
    monkeypatch.setattr(metrics, "_families", {})
    return registry


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


def test_a_label_takes_no_value_that_the_catalogue_does_not_list(own_registry):
    with pytest.raises(ValueError, match=r"never '/mnt/calls/x\.wav'"):
        metrics.count(catalogue.ERRORS, code="/mnt/calls/x.wav")
    assert list(own_registry.collect()) == []


def test_a_decoded_segment_is_counted_with_its_stages_and_its_memory(own_registry):
    device = DeviceFigures(allocated=30, reserved=40, peak=70, free=50, total=100)
    metrics.count_decoded(
        60_000, 45_000, StageSeconds(1.0, 2.0, 2.5), 0.5, MemoryFigures(7, device)
    )

    assert value(own_registry, "callscribe_segments_total", outcome="done") == 1
    assert value(own_registry, "callscribe_audio_seconds_total", outcome="done") == 60
    assert value(own_registry, "callscribe_speech_seconds_total") == 45
    for stage, seconds in {"read": 1.0, "vad": 2.0, "asr": 2.5, "store": 0.5}.items():
        assert value(own_registry, "callscribe_stage_seconds_sum", stage=stage) == seconds
    assert value(own_registry, "callscribe_times_real_time_ratio") == 10
    assert value(own_registry, "callscribe_resident_bytes") == 7
    assert value(own_registry, "callscribe_device_peak_bytes") == 70
    assert value(own_registry, "callscribe_device_fragmentation_ratio") == 0.25


def test_a_host_without_a_device_shows_none(own_registry):
    metrics.show_memory(MemoryFigures(7, DeviceFigures()))

    assert value(own_registry, "callscribe_resident_bytes") == 7
    assert not [m for m in own_registry.collect() if m.name.startswith("callscribe_device")]


@pytest.mark.parametrize("source", [MetricsRole.SEGMENTS, MetricsRole.REDUCE, MetricsRole.SWEEP])
def test_a_role_serves_what_the_catalogue_says_and_counters_from_zero(source, own_registry):
    metrics._prepare(source)

    families = {metric.name: metric for metric in own_registry.collect()}
    expected = {metric.name.removesuffix("_total") for metric in catalogue.served_by(source)}
    assert set(families) == expected - {"callscribe_up"}


#: A parent with one child after another. What each prints is checked by the test.
PROGRAM = """
import os, signal, sys
from urllib.request import urlopen
from schema import metrics as catalogue
from schema.metrics import MetricsRole
from schema.settings import Address
from workers.process import metrics
from workers.process.memory import DeviceFigures, MemoryFigures

def child(work):
    pid = os.fork()
    if not pid:
        metrics.start_child()
        work()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)

def scraped():
    with urlopen(f"http://127.0.0.1:{metrics._server.server_port}/metrics") as answer:
        return answer.read().decode()

metrics.serve_forked(MetricsRole.SEGMENTS, Address("127.0.0.1", 0))
"""


def in_a_parent(body: str, temporary: Path) -> str:
    done = run(
        [sys.executable, "-c", PROGRAM + textwrap.dedent(body)],
        env={**os.environ, "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def samples(text: str) -> dict[str, float]:
    """Return what was scraped, by name and labels."""
    scraped = text[text.index("# HELP") :]
    return {
        sample.name + "".join(sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(scraped)
        for sample in family.samples
    }


def test_counts_go_on_where_a_killed_child_left_them(tmp_path: Path):
    out = in_a_parent(
        """
        child(lambda: metrics.count(catalogue.SEGMENTS, 2, outcome="done"))
        child(lambda: metrics.count(catalogue.SEGMENTS, 3, outcome="done"))
        print(scraped())
        """,
        tmp_path,
    )

    found = samples(out)
    assert found["callscribe_segments_totaldone"] == 5
    assert found["callscribe_segments_totalknown"] == 0
    assert found["callscribe_children_started_total"] == 2
    assert found["callscribe_upsegments"] == 1


def test_a_gauge_dies_with_the_child_that_set_it(tmp_path: Path):
    show = "child(lambda: metrics.show_memory(MemoryFigures(7, DeviceFigures())))"
    first = in_a_parent(f"{show}\nprint(scraped())", tmp_path)
    assert samples(first)["callscribe_resident_bytes"] == 7

    second = in_a_parent(f"{show}\nchild(lambda: None)\nprint(scraped())", tmp_path)
    assert "callscribe_resident_bytes" not in samples(second)


def test_what_is_counted_has_its_room_before_it_is_written(tmp_path: Path):
    """A write into a map that the disk has no room for ends a process: SIGBUS."""
    out = in_a_parent(
        """
        before = {p.name: p.stat().st_blocks * 512 for p in metrics._directory.iterdir()}
        child(lambda: metrics.count(catalogue.ERRORS, code="engine.failed"))
        after = {p.name: p.stat().st_blocks * 512 for p in metrics._directory.iterdir()}
        print(before == after, min(before.values()) >= 1 << 16)
        """,
        tmp_path,
    )

    assert out.splitlines()[-1] == "True True"


def test_a_child_does_not_hold_its_parents_address(tmp_path: Path):
    """Else one that outlives its parent keeps the next worker from serving."""
    out = in_a_parent(
        """
        socket = metrics._server.socket.fileno()
        def closed():
            try:
                os.fstat(socket)
            except OSError:
                metrics.count(catalogue.SEGMENTS, outcome="done")
        child(closed)
        print(scraped())
        """,
        tmp_path,
    )

    assert samples(out)["callscribe_segments_totaldone"] == 1


def test_what_was_shared_is_removed_at_the_end_or_by_the_next_worker(tmp_path: Path):
    in_a_parent("metrics.close()", tmp_path)
    assert list(tmp_path.iterdir()) == []

    in_a_parent("", tmp_path)  # ends like one that was killed: nothing is closed
    (leftover,) = tmp_path.iterdir()
    in_a_parent("metrics.close()", tmp_path)
    assert leftover.exists(), "perhaps its owner is about to lock it"

    os.utime(leftover, (0, 0))
    in_a_parent("metrics.close()", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_living_workers_counts_are_left_alone(tmp_path: Path):
    out = in_a_parent(
        """
        os.utime(metrics._directory, (0, 0))
        print(list(metrics._abandoned_directories()))
        """,
        tmp_path,
    )

    assert out.splitlines()[-1] == "[]"


def test_a_worker_that_cannot_serve_works_all_the_same(monkeypatch, tmp_path: Path):
    out = in_a_parent(
        """
        taken = Address("127.0.0.1", metrics._server.server_port)
        metrics._server.socket.listen()
        metrics.serve_forked(MetricsRole.SEGMENTS, taken)
        metrics.count(catalogue.SEGMENTS, outcome="done")
        print("works")
        """,
        tmp_path,
    )

    assert "metrics_not_served" in out
    assert out.splitlines()[-1] == "works"


def test_a_sweep_that_cannot_serve_sweeps_all_the_same(own_registry):
    with socket.create_server((LOOPBACK.host, 0)) as taken:
        metrics.serve_alone(MetricsRole.SWEEP, Address(LOOPBACK.host, taken.getsockname()[1]))

    assert metrics._server is None
    metrics.count(catalogue.LEASES_EXPIRED)


def test_without_an_address_nothing_is_shared_or_served():
    metrics.serve_forked(MetricsRole.SEGMENTS, None)
    metrics.start_child()

    assert metrics._directory is None
    assert metrics._server is None


def test_a_process_of_its_own_serves_what_it_counts(own_registry):
    metrics.serve_alone(MetricsRole.SWEEP, LOOPBACK)
    try:
        metrics.count(catalogue.LEASES_EXPIRED, 2)
        url = f"http://127.0.0.1:{metrics._server.server_port}/metrics"
        with urlopen(url) as answer:
            found = samples(answer.read().decode())
    finally:
        metrics.close()

    assert found["callscribe_leases_expired_total"] == 2
    assert found["callscribe_upsweep"] == 1
    assert not [name for name in found if name.endswith("_created")]
