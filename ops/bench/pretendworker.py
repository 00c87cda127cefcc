"""A worker whose device is pretended: it reads real audio, then waits as for a GPU.

    BENCH_DEVICE_MS=100 BENCH_TIMES=FILE python -m ops.bench.pretendworker segments --name asr0

To wait costs a core nothing, as it does while a GPU computes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ops.bench.times import Times
from schema.store.work import Claim
from schema.words import SegmentResult
from workers.__main__ import main
from workers.transcribe import Route, StageSeconds

if TYPE_CHECKING:
    from workers.app import Worker


class PretendRoute(Route):
    """Reads a segment as every worker does, and says nothing of it after a while."""

    def __init__(self, worker: Worker, device_s: float, times: Times) -> None:
        super().__init__(worker.settings, worker.samples if worker.settings.reads_ahead else None)
        self._device_s = device_s
        self._times = times

    def decode(
        self, claim: Claim, carry_on: Callable[[], None]
    ) -> tuple[SegmentResult, StageSeconds]:
        """Read, note when the device begins and ends, and return a silent segment."""
        carry_on()
        self._read(claim)
        begun_s = time.monotonic()
        time.sleep(self._device_s)
        self._times.add(begun_s, time.monotonic())
        return SegmentResult((), (), None), StageSeconds(read=0.0, vad=0.0, asr=0.0)


def prepare(worker: Worker) -> None:
    """Put the pretended device in place of the models."""
    device_s = float(os.environ["BENCH_DEVICE_MS"]) / 1000
    worker.route = PretendRoute(worker, device_s, Times(os.environ["BENCH_TIMES"]))


if __name__ == "__main__":
    sys.exit(main(prepare=prepare))
