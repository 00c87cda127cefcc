"""How much speech is decoded together: as much as the device's memory holds, learnt as it goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from schema.metrics import BUDGET_HALVINGS
from workers import metrics

log = structlog.get_logger(__name__)

#: Of the memory that is free, the share that minibatches may take: allocators need air.
_SHARE = 0.8

#: No budget is smaller: a region lasts at most this long, and has to be decoded somehow.
LEAST_MS = 30_000

#: On a CPU more does not gain: its caches are full with less.
CPU_MS = 120_000
MOST_MS = 3_600_000


@dataclass(slots=True)
class Budget:
    """Milliseconds of padded speech in one minibatch: members times the longest of them."""

    ms: int

    def learn(self, free_bytes: int, decode: Callable[[int], int]) -> None:
        """Set the budget by a trial: ``decode`` so many ms, and tell the bytes that it took."""
        taken = max(1, decode(LEAST_MS))
        affordable_ms = int(_SHARE * free_bytes / taken * LEAST_MS)
        self.ms = max(LEAST_MS, min(MOST_MS, affordable_ms))
        log.info("budget_learnt", minibatch_ms=self.ms, free_bytes=free_bytes, trial_bytes=taken)

    def halve(self) -> bool:
        """Take half from now on, after memory ran out; False if it is as small as can be."""
        if self.ms <= LEAST_MS:
            return False
        self.ms = max(LEAST_MS, self.ms // 2)
        log.warning("budget_halved", minibatch_ms=self.ms)
        metrics.count(BUDGET_HALVINGS)
        return True
