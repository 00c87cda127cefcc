"""A worker that fails on demand: ``python -m ops.chaos.worker segments --name asr0``.

It decodes like any other, with real weights, but first looks for orders: files in the directory
that CHAOS_ORDERS names, which whoever drills the fleet puts there and takes away.

    hold, hold.NODE       every decode, or that of one host, waits until this is gone
    limit                 the limit of every decode, in seconds, in place of the usual one
    slow-start            the first decode of a process waits eight seconds, as large models do
    FILE.SEGMENT.WHAT     the decode of that segment of that recording, say "call.wav.2.die"

WHAT is "die" (as by the kernel's out-of-memory killer), "memory" (MemoryError), "error", or "hang"
(deaf to the soft limit). Of FunASR's models there are two more, obeyed where a GPU fails, in the
network: "oom", whose first minibatch does not fit, and "spoil", after which none computes anything
in this process, as after CUDA's illegal access. A file that says "once" is taken away by whoever
obeys it.

CHAOS_CLOCK_S sets this process's clock ahead by so many seconds.

CHAOS_DEVICE gives it the figures of a device's allocator, though it decodes on its CPU: 2 of 16 GB
for the weights, and at each segment's end 2 more that nothing uses, while there is "leak.NODE".
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schema.errors import CallscribeError
from schema.store.dispatches import segment_limit_s
from schema.store.work.segments import Claim
from workers.__main__ import main as run_worker
from workers.process import time_limit
from workers.process.lease import LeasedClaim
from workers.process.memory import DeviceFigures
from workers.segment import work
from workers.segment.pipeline import DecodedOrError, LoadedModels, SegmentDecoder

if TYPE_CHECKING:
    from workers.context import Worker

_POLL_S = 0.02
_SLOW_START_S = 8.0


class ObedientDecoder(SegmentDecoder):
    """The decoder of every worker, with orders obeyed before each decode."""

    def __init__(self, worker: Worker, orders: Path) -> None:
        settings = worker.settings
        super().__init__(settings, worker.read_samples if settings.reads_ahead else None)
        self._orders = orders
        self._holds = (orders / "hold", orders / f"hold.{settings.node}")
        self._started = False
        self._spoilt = False
        self._short = False

    def decode_all(self, claims: Sequence[LeasedClaim]) -> list[DecodedOrError]:
        """Obey what is ordered of each, then decode them."""
        if not self._started and (self._orders / "slow-start").exists():
            time.sleep(_SLOW_START_S)
        self._started = True
        while any(hold.exists() for hold in self._holds) and _any_is_wanted(claims):
            time.sleep(_POLL_S)
        for claim, _ in claims:
            for what, obey in _DEEDS.items():
                if self._is_ordered(claim, what):
                    obey()
            self._spoilt |= self._is_ordered(claim, "spoil")
        short = [self._is_ordered(claim, "oom") for claim, _ in claims]
        self._short = any(short)
        return super().decode_all(claims)

    def _decode_with(
        self, models: LoadedModels, claims: Sequence[LeasedClaim]
    ) -> list[DecodedOrError]:
        """Decode with a network that fails as ordered; FunASR's in minibatches as on a GPU."""
        if claims[0].claim.profile.decode.engine == "funasr":
            from workers.engines.funasr import recognizer as funasr

            funasr.CPU_OVERHEAD_MS = funasr.GPU_OVERHEAD_MS
        if not (self._short or self._spoilt):
            return super()._decode_with(models, claims)
        recognizer: Any = models.recognizer
        sound = recognizer._family
        recognizer._family = _Failing(sound, self._spoilt)
        try:
            return super()._decode_with(models, claims)
        finally:
            recognizer._family = sound

    def is_spoilt_by(self, error: Exception) -> bool:
        """Tell whether an order spoilt this process, as if it had a GPU."""
        return self._spoilt or super().is_spoilt_by(error)

    def _is_ordered(self, claim: Claim, what: str) -> bool:
        order = self._orders / f"{Path(claim.name).name}.{claim.index}.{what}"
        try:
            once = order.read_text() == "once"
        except FileNotFoundError:
            return False
        if once:
            order.unlink()
        return True


def _any_is_wanted(claims: Sequence[LeasedClaim]) -> bool:
    """Tell whether any of these segments' words are wanted still; each is asked again later."""
    for _, check_cancelled in claims:
        with suppress(CallscribeError):
            check_cancelled()
            return True
    return False


class _Failing:
    """A network that has no memory for its first minibatch, or computes nothing at all."""

    def __init__(self, sound: Any, spoilt: bool) -> None:
        self._sound = sound
        self._spoilt = spoilt
        self._failed = False
        self.dtype = sound.dtype

    def decode_batch(self, *arguments: Any) -> Any:
        """Fail, or decode."""
        import torch

        if self._spoilt:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if not self._failed:
            self._failed = True
            raise torch.OutOfMemoryError
        return self._sound.decode_batch(*arguments)


class MadeUpDevice:
    """The allocator of a device that is not there, with a leak if it is ordered to have one."""

    _STEP_BYTES = 2 * 1024**3

    def __init__(self, leak: Path) -> None:
        self._leak = leak
        self._kept = 0
        self._begun = False

    def reset_peak(self) -> None:
        """Note that a task begins."""
        self._begun = False

    def figures(self) -> DeviceFigures:
        """Return the weights, and what was never given back; at a task's end there may be more."""
        if self._begun and self._leak.exists():
            self._kept = min(7 * self._STEP_BYTES, self._kept + self._STEP_BYTES)
        self._begun = not self._begun
        step, total = self._STEP_BYTES, 8 * self._STEP_BYTES
        reserved = step + self._kept
        return DeviceFigures(step, reserved, min(reserved + step, total), total - reserved, total)

    def release(self) -> None:
        """Give back nothing."""


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _run_out_of_memory() -> None:
    raise MemoryError


def _fail() -> None:
    raise RuntimeError("ordered to fail")


def _hang() -> None:
    while True:
        with suppress(Exception):  # the soft limit's among them, which is the point
            time.sleep(3_600)


_DEEDS: dict[str, Callable[[], None]] = {
    "die": _die,
    "memory": _run_out_of_memory,
    "error": _fail,
    "hang": _hang,
}


def _obey_limits(order: Path) -> None:
    """Let decodes take as long as is ordered, and be ended soon where they do not hear it."""
    usual_s = segment_limit_s
    vars(time_limit)["_HARD_AFTER_S"] = 1.0

    def ordered_s(duration_ms: int) -> float:
        try:
            return float(order.read_text())
        except FileNotFoundError:
            return usual_s(duration_ms)

    vars(work)["segment_limit_s"] = ordered_s


def main() -> int:
    """Run a worker that obeys, by a clock that may be wrong."""
    if ahead_s := float(os.environ.get("CHAOS_CLOCK_S", "0")):
        right = time.time
        time.time = lambda: right() + ahead_s
    orders = Path(os.environ["CHAOS_ORDERS"])
    if os.environ.get("CHAOS_DEVICE"):
        device = MadeUpDevice(orders / f"leak.{os.environ['CALLSCRIBE_NODE']}")
        vars(work)["device_memory"] = lambda _: device
    _obey_limits(orders / "limit")
    return run_worker(
        prepare=lambda worker: setattr(worker, "segment_decoder", ObedientDecoder(worker, orders))
    )


if __name__ == "__main__":
    sys.exit(main())
