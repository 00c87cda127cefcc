"""Whatever a task borrowed is given back when it ends, however it ends."""

import gc
import os
import platform
import subprocess
import sys
import weakref
from dataclasses import dataclass, field

import pytest

from workers.process.memory import (
    DeviceFigures,
    DeviceMemory,
    GpuMemory,
    device_memory,
    freeze_gc,
    is_wasteful,
    resident_bytes,
)


@dataclass
class FakeDevice:
    """An allocator that keeps what it is told was used, until it is released."""

    reserved: int = 0
    peak: int = 0
    calls: list[str] = field(default_factory=list)

    def use(self, size: int) -> None:
        self.reserved = max(self.reserved, size)
        self.peak = max(self.peak, size)

    def reset_peak(self) -> None:
        self.calls.append("reset")
        self.peak = 0

    def figures(self) -> DeviceFigures:
        return DeviceFigures(reserved=self.reserved, peak=self.peak)

    def release(self) -> None:
        self.calls.append("release")
        self.reserved = 0


@dataclass
class LeakyDevice(FakeDevice):
    """An allocator that never gives back ``stuck`` bytes of what was used."""

    stuck: int = 0

    def figures(self) -> DeviceFigures:
        return DeviceFigures(reserved=self.reserved, peak=self.peak, total=1_000)

    def release(self) -> None:
        self.reserved = min(self.reserved, self.stuck)


class Cycle:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.itself = self


def test_what_the_next_task_takes_up_again_is_kept_at_hand_and_the_peak_told():
    device = FakeDevice(peak=99)
    with GpuMemory(device) as memory:
        device.use(70)
    assert device.calls == ["reset"]
    assert memory.before.device.peak == 0
    assert (memory.after.device.peak, memory.after.device.reserved) == (70, 70)


GIB = 1 << 30


@pytest.mark.parametrize(
    ("allocated", "reserved", "free", "wasteful"),
    [
        # Two of eight gigabytes at hand: the next task takes them up.
        (4 * GIB, 6 * GIB, 60 * GIB, False),
        # Nothing is unused: there is nothing to give back, however full the device.
        (70 * GIB, 70 * GIB, 0, False),
        # A neighbour finds nothing.
        (4 * GIB, 6 * GIB, 7 * GIB, True),
        # Most of it is in pieces that fit nothing.
        (1 * GIB, 9 * GIB, 60 * GIB, True),
        # Of a small model that is little.
        (GIB // 10, GIB, 60 * GIB, False),
    ],
)
def test_the_cache_is_emptied_by_rule(allocated, reserved, free, wasteful):
    figures = DeviceFigures(allocated, reserved, reserved, free, 80 * GIB)
    assert is_wasteful(figures) is wasteful


def test_memory_is_given_back_when_the_task_fails():
    device = FakeDevice()
    device.use(70)
    with pytest.raises(RuntimeError, match="decode"), GpuMemory(device):
        raise RuntimeError("decode")
    assert device.reserved == 0


def test_what_a_failed_call_held_is_dropped_while_its_error_is_known():
    seen = []

    def task():
        borrowed = Cycle()
        seen.append(weakref.ref(borrowed))
        raise RuntimeError("decode")

    with pytest.raises(RuntimeError, match="decode") as caught, GpuMemory(DeviceMemory()):
        task()
    assert caught.value.__traceback__ is not None
    assert seen[0]() is None


def test_cycles_are_collected():
    gc.collect()
    gc.disable()
    try:
        with GpuMemory(DeviceMemory()):
            seen = weakref.ref(Cycle())
    finally:
        gc.enable()
    assert seen() is None


def test_the_resident_set_is_told():
    assert sys.platform != "linux" or resident_bytes() > 1 << 20


def test_a_cpu_host_has_no_device():
    assert type(device_memory("cpu")) is DeviceMemory
    assert device_memory("cpu").figures() == DeviceFigures()


def test_what_is_loaded_is_no_longer_looked_through_and_what_is_let_go_is_found():
    loaded = Cycle()
    seen = weakref.ref(loaded)
    try:
        freeze_gc()
        assert gc.get_freeze_count() > 0
        del loaded
        gc.collect()
        assert seen() is not None
        freeze_gc()
        assert seen() is None
    finally:
        gc.unfreeze()


@pytest.mark.parametrize(
    ("weights", "stuck", "is_stuck"),
    [(300, 300, False), (300, 899, False), (300, 900, True), (950, 950, False)],
)
def test_a_process_that_cannot_clean_its_device_is_to_be_replaced(weights, stuck, is_stuck):
    """But not for the weights that the next one would hold as well."""
    device = LeakyDevice(reserved=weights, stuck=stuck)
    with GpuMemory(device) as memory:
        device.use(990)
    assert memory.is_device_full is is_stuck


def test_a_host_without_a_device_is_never_stuck():
    with GpuMemory(DeviceMemory()) as memory:
        pass
    assert memory.is_device_full is False


def test_after_each_of_a_thousand_tasks_the_device_is_at_its_baseline():
    device = LeakyDevice(reserved=300, stuck=300)
    for task in range(1_000):
        with GpuMemory(device) as memory:
            device.use(300 + task)
        assert memory.after.device.reserved == memory.before.device.reserved == 300
        assert memory.after.device.peak == 300 + task


_CHURN = """
import resource, sys
from workers.process.memory import DeviceMemory, GpuMemory, keep_heap, resident_bytes

kept = sys.argv[1] == "keep" and keep_heap()
before_bytes = resident_bytes()
with GpuMemory(DeviceMemory()):
    for _ in range(20):
        b"x" * (40 << 20)  # 10,240 pages, freed at once
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
with GpuMemory(DeviceMemory()):
    for _ in range(20):
        b"x" * (40 << 20)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
print(kept, faults, resident_bytes() - before_bytes)
"""


def churn(how: str, **environment: str) -> tuple[bool, int, int]:
    """Return whether the heap is kept, the page faults of a task, and the bytes left after it."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", _CHURN, how],
        env={**inherited, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    kept, faults, left_bytes = done.stdout.split()
    return kept == "True", int(faults), int(left_bytes)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_a_kept_heap_is_asked_for_once_a_task_and_given_back_after_it():
    kept, faults, left_bytes = churn("keep")
    _, usual_faults, _ = churn("usual")

    assert kept
    assert usual_faults > 20 * 10_000
    assert faults < usual_faults / 10
    assert left_bytes < 8 << 20


def test_an_allocator_that_a_person_has_set_up_is_left():
    kept, _, _ = churn("keep", MALLOC_ARENA_MAX="2")

    assert not kept
