"""How much speech is decoded together: as much as the device's memory holds, learnt as it goes."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from schema.metrics import BUDGET_HALVINGS
from workers.process import metrics

log = structlog.get_logger(__name__)

#: Of the memory that is free, the share that minibatches may take: allocators need air.
_SHARE = 0.8

#: A region lasts at most this long, and has to be decoded somehow.
MIN_BUDGET_MS = 30_000

#: On a CPU more does not gain: its caches are full with less.
CPU_BUDGET_MS = 120_000
MAX_BUDGET_MS = 3_600_000

#: Minibatches that must fit before the budget is doubled, after memory ran out once; twice as many
#: after each time that it ran out again.
_FITS_BEFORE_DOUBLING = 100


class Budget:
    """Milliseconds of padded speech in one minibatch: members times the longest of them.

    Memory may have run out because of a neighbour's short peak: the budget is halved, and doubled
    again once enough minibatches have fitted.
    """

    def __init__(self, ms: int) -> None:
        self.ms = self._limit_ms = ms
        self._fits, self._fits_before_doubling = 0, _FITS_BEFORE_DOUBLING
        self._shortages = 0

    def learn(self, free_bytes: int, measure_bytes: Callable[[int], int]) -> None:
        """Set the budget by a trial: ``measure_bytes`` decodes so many ms, and returns its peak."""
        trial_bytes = max(1, measure_bytes(MIN_BUDGET_MS))
        affordable_ms = int(_SHARE * free_bytes / trial_bytes * MIN_BUDGET_MS)
        self.ms = self._limit_ms = max(MIN_BUDGET_MS, min(MAX_BUDGET_MS, affordable_ms))
        log.info(
            "budget_learnt", minibatch_ms=self.ms, free_bytes=free_bytes, trial_bytes=trial_bytes
        )

    def halve(self) -> bool:
        """Halve the budget after memory ran out; return False where it is at its minimum."""
        if self.ms <= MIN_BUDGET_MS:
            return False
        if self._fits or self.ms == self._limit_ms:
            self._fits_before_doubling = _FITS_BEFORE_DOUBLING << min(self._shortages, 10)
            self._shortages += 1
        self._fits = 0
        self.ms = max(MIN_BUDGET_MS, self.ms // 2)
        log.warning("budget_halved", minibatch_ms=self.ms)
        metrics.count(BUDGET_HALVINGS)
        return True

    def record_success(self) -> None:
        """Count a minibatch that fitted; after enough of them, double the budget."""
        if self.ms >= self._limit_ms:
            return
        self._fits += 1
        if self._fits >= self._fits_before_doubling:
            self._fits = 0
            self.ms = min(self._limit_ms, 2 * self.ms)
            log.info("budget_doubled", minibatch_ms=self.ms)
