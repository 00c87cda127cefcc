"""Whatever a task borrowed is given back when it ends, however it ends."""

import gc
import sys
import weakref
from dataclasses import dataclass, field

import pytest

from workers.memory import (
    DeviceFigures,
    GpuMemory,
    NoDevice,
    device_memory,
    resident_bytes,
    settle,
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


class Cycle:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.itself = self


def test_the_cache_is_emptied_once_and_the_peak_kept():
    device = FakeDevice(peak=99)
    with GpuMemory(device) as memory:
        device.use(70)
    assert device.calls == ["reset", "release"]
    assert memory.before.device.peak == 0
    assert (memory.after.device.peak, memory.after.device.reserved) == (70, 0)


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

    with pytest.raises(RuntimeError, match="decode") as caught, GpuMemory(NoDevice()):
        task()
    assert caught.value.__traceback__ is not None
    assert seen[0]() is None


def test_cycles_are_collected():
    gc.collect()
    gc.disable()
    try:
        with GpuMemory(NoDevice()):
            seen = weakref.ref(Cycle())
    finally:
        gc.enable()
    assert seen() is None


def test_the_resident_set_is_told():
    assert sys.platform != "linux" or resident_bytes() > 1 << 20


def test_a_cpu_host_has_no_device():
    assert isinstance(device_memory("cpu"), NoDevice)
    assert device_memory("cpu").figures() == DeviceFigures()


def test_what_is_loaded_is_no_longer_looked_through_and_what_is_let_go_is_found():
    loaded = Cycle()
    seen = weakref.ref(loaded)
    try:
        settle()
        assert gc.get_freeze_count() > 0
        del loaded
        gc.collect()
        assert seen() is not None
        settle()
        assert seen() is None
    finally:
        gc.unfreeze()
