"""How much speech is decoded together: as much as the device's memory holds, learnt as it goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from schema.metrics import BUDGET_HALVINGS
from workers.process import metrics

log = structlog.get_logger(__name__)

#: Of the memory that is free, the share that minibatches may take: allocators need air.
_SHARE = 0.8

#: No budget is smaller: a region lasts at most this long, and has to be decoded somehow.
LEAST_MS = 30_000

#: On a CPU more does not gain: its caches are full with less.
CPU_MS = 120_000
MOST_MS = 3_600_000


#: Minibatches that fit before more is tried again, after memory ran out once; twice as many after
#: each time that it ran out again.
_PATIENCE = 100


@dataclass(slots=True)
class Budget:
    """Milliseconds of padded speech in one minibatch: members times the longest of them.

    What runs out of memory may have been a neighbour's moment: half is agreed on, and doubled again
    once enough minibatches have fitted.
    """

    ms: int
    _learnt_ms: int = field(init=False)
    _fitted: int = field(init=False, default=0)
    _patience: int = field(init=False, default=_PATIENCE)
    _times: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._learnt_ms = self.ms

    def learn(self, free_bytes: int, decode: Callable[[int], int]) -> None:
        """Set the budget by a trial: ``decode`` so many ms, and tell the bytes that it took."""
        taken = max(1, decode(LEAST_MS))
        affordable_ms = int(_SHARE * free_bytes / taken * LEAST_MS)
        self.ms = self._learnt_ms = max(LEAST_MS, min(MOST_MS, affordable_ms))
        log.info("budget_learnt", minibatch_ms=self.ms, free_bytes=free_bytes, trial_bytes=taken)

    def halve(self) -> bool:
        """Take half from now on, after memory ran out; False if it is as small as can be."""
        if self.ms <= LEAST_MS:
            return False
        if self._fitted or self.ms == self._learnt_ms:
            self._patience = _PATIENCE << min(self._times, 10)
            self._times += 1
        self._fitted = 0
        self.ms = max(LEAST_MS, self.ms // 2)
        log.warning("budget_halved", minibatch_ms=self.ms)
        metrics.count(BUDGET_HALVINGS)
        return True

    def held(self) -> None:
        """Note that a minibatch fitted; after enough of them take twice as much again."""
        if self.ms >= self._learnt_ms:
            return
        self._fitted += 1
        if self._fitted >= self._patience:
            self._fitted = 0
            self.ms = min(self._learnt_ms, 2 * self.ms)
            log.info("budget_doubled", minibatch_ms=self.ms)
