"""Give back the memory that a task borrowed, and measure that it was.

    with GpuMemory(device_memory(settings.device)) as memory:
        ...                                 # the task, in a function of its own
    log.info("task.memory", **asdict(memory.before), ...)

After any task the device has the loaded weights in use and nothing more, so a worker that has
decoded ten thousand segments is as big as one that has decoded ten. What its allocator keeps at
hand is given back by a rule and not by habit: the next task would ask for it again, and wait.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import traceback
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple, Self

#: Tasks between two full collections, each of a tenth of a second.
_FREEZE_GC_EVERY = 1_000

#: A process that reserves this share of the device after it was cleaned is replaced.
_FULL_SHARE = 0.9

#: With less than this share of the device free, other users of the device may find none.
_FREE_SHARE_MIN = 0.1
#: Beyond this share of what an allocator reserves, and a gigabyte, unused memory after a task is
#: fragmented: in pieces that fit nothing.
_UNUSED_SHARE_MAX = 0.75
_UNUSED_BYTES_MAX = 1 << 30

#: Parameters of glibc's mallopt, by their names and numbers in malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
#: No arena but the first, no block outside of the heap, none given back as soon as it is free, and
#: 64 MiB more at a time than is asked for.
_HEAP_OPTIONS = {
    _M_ARENA_MAX: 1,
    _M_MMAP_MAX: 0,
    _M_TRIM_THRESHOLD: 2**31 - 1,
    _M_TOP_PAD: 64 << 20,
}
#: With these a person has set up an allocator already.
_ALLOCATOR_VARIABLES = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")

_scopes = itertools.count(1)
_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
_mallopt = getattr(ctypes.CDLL(None), "mallopt", None)


class DeviceFigures(NamedTuple):
    """An accelerator's memory, in bytes, as its allocator counts it for this process.

    ``allocated`` is in use; ``reserved`` is that and what the allocator keeps at hand; ``peak``
    is the most that was in use since the scope began. ``free`` is the whole device's, other
    libraries' and processes' use included, of ``total``. All zero on a host without one.
    """

    allocated: int = 0
    reserved: int = 0
    peak: int = 0
    free: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class MemoryFigures:
    """What a process holds: resident bytes of the host's memory, and of its device's."""

    rss: int
    device: DeviceFigures


class DeviceMemory:
    """The allocator of the device that models run on.

    This one is for a CPU: there is nothing to give back, and CUDA is never touched.
    """

    def reset_peak(self) -> None:
        """Begin to count the peak anew."""

    def figures(self) -> DeviceFigures:
        """Return the present figures."""
        return DeviceFigures()

    def release(self) -> None:
        """Wait for the device, then hand cached memory back to it."""


class CudaMemory(DeviceMemory):
    """torch's caching allocator on one CUDA device.

    CTranslate2 allocates by itself: of what it holds only ``free`` tells.
    """

    def __init__(self, device: str) -> None:
        import torch

        self._cuda = torch.cuda
        self._device = torch.device(device)

    def reset_peak(self) -> None:
        """Begin to count the peak anew."""
        self._cuda.reset_peak_memory_stats(self._device)

    def figures(self) -> DeviceFigures:
        """Return the present figures."""
        free, total = self._cuda.mem_get_info(self._device)
        return DeviceFigures(
            allocated=self._cuda.memory_allocated(self._device),
            reserved=self._cuda.memory_reserved(self._device),
            peak=self._cuda.max_memory_allocated(self._device),
            free=free,
            total=total,
        )

    def release(self) -> None:
        """Wait for the device, then hand cached memory back to it."""
        with self._cuda.device(self._device):
            self._cuda.synchronize()
            self._cuda.empty_cache()


def device_memory(device: str) -> DeviceMemory:
    """Return the memory of a device as configured: "cpu", "cuda" or "cuda:1"."""
    return CudaMemory(device) if device.startswith("cuda") else DeviceMemory()


@dataclass(slots=True)
class GpuMemory:
    """A scope around one task; on its end everything the task borrowed is given back.

    ``before`` and ``after`` hold the figures once the scope has begun and ended; the peak in
    ``after`` is the task's. The task's own variables must be gone by then: run it as a function
    inside the scope.
    """

    device: DeviceMemory
    before: MemoryFigures = field(init=False)
    after: MemoryFigures = field(init=False)

    def __enter__(self) -> Self:
        self.device.reset_peak()
        self.before = self._figures()
        return self

    def __exit__(self, _: object, error: BaseException | None, trace: TracebackType | None) -> None:
        # A traceback keeps every tensor of the failed call alive, as long as the error is known.
        traceback.clear_frames(trace)
        _collect_garbage()
        if error is not None or is_wasteful(self.device.figures()):
            self.device.release()
        _trim_heap()
        self.after = self._figures()

    @property
    def is_device_full(self) -> bool:
        """Whether the task left the device nearly full, though it was cleaned.

        The weights, reserved from the beginning, do not count: a new process needs them too.
        """
        after, before = self.after.device, self.before.device
        return after.reserved > before.reserved and after.reserved >= _FULL_SHARE * after.total > 0

    def _figures(self) -> MemoryFigures:
        return MemoryFigures(resident_bytes(), self.device.figures())


def is_wasteful(figures: DeviceFigures) -> bool:
    """Tell whether what an allocator keeps at hand is to be given back.

    It is where the device is nearly full, so that a neighbour, or another library of this process,
    finds none; or where most of it is in no use, which is what fragmentation looks like. Of every
    other task the next one takes up the same memory, which it need not ask the driver for.
    """
    unused = figures.reserved - figures.allocated
    if not unused:
        return False
    if figures.free < _FREE_SHARE_MIN * figures.total:
        return True
    return unused > max(_UNUSED_BYTES_MAX, _UNUSED_SHARE_MAX * figures.reserved)


def limit_caches() -> None:
    """Keep libraries' own caches small, in this process and its children; before torch is loaded.

    oneDNN keeps what it prepared for each shape, a thousand of them by default, and every minibatch
    has a shape of its own: 25 MB in the first 200 segments on a CPU, 4 with this.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")
    # Segments of torch's allocator grow in place, so that minibatches of many sizes do not leave
    # holes that fit none. The second name is that of releases before 2.9.
    for variable in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        os.environ.setdefault(variable, "expandable_segments:True")


def keep_heap() -> bool:
    """Let this process and its children keep what they free until a task ends; say if they do.

    A model on a CPU frees its buffers after each call. glibc gives them back to the system, which
    hands them out anew a page at a time: a quarter of Whisper's time. Call it before anything large
    is allocated. It does nothing where there is no glibc, or where the environment sets up an
    allocator.
    """
    is_set_up = any(name.startswith(_ALLOCATOR_VARIABLES) for name in os.environ)
    if _mallopt is None or _malloc_trim is None or is_set_up:
        return False
    return all(_mallopt(option, value) for option, value in _HEAP_OPTIONS.items())


def freeze_gc() -> None:
    """Collect garbage, then exempt all remaining objects from later collections.

    Celery, SQLAlchemy and torch are 240,000 objects. To look through them at the end of each
    segment took longer than all its other bookkeeping. Call it when models are loaded or unloaded.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _collect_garbage() -> None:
    """Collect the task's cycles; only every thousandth time, look through all older objects."""
    if next(_scopes) % _FREEZE_GC_EVERY == 0:
        freeze_gc()
    else:
        gc.collect()
        gc.freeze()


def resident_bytes() -> int:
    """Return the resident set of this process, in bytes; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _trim_heap() -> None:
    """Give free heap back to the system, where the C library is glibc.

    Its arenas keep freed blocks below the newest live one: 40 MB over 300 segments of mixed
    length, none with this.
    """
    if _malloc_trim is not None:
        _malloc_trim(0)
