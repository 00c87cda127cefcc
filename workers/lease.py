"""A lease kept alive while its work goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

import structlog

log = structlog.get_logger(__name__)


class KeptLease:
    """Renews a lease three times in its length, from a thread of its own.

    ``renew`` returns whether the lease is still held. It is called until it says no, the scope
    ends, or ``limit_s`` has passed: work that overran its hard limit must not hold on for ever.
    ``lost`` is set once the lease is known to be another's.
    """

    def __init__(self, renew: Callable[[], bool], *, lease_s: int, limit_s: int) -> None:
        self._renew = renew
        self._pause_s = lease_s / 3
        self._renewals = max(1, int(limit_s / self._pause_s))
        self._done = threading.Event()
        self.lost = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        for _ in range(self._renewals):
            if self._done.wait(self._pause_s):
                return
            try:
                held = self._renew()
            except Exception as error:
                # Whatever it was, say a ledger that is away: the lease may outlive it.
                log.warning("lease_not_renewed", error=f"{type(error).__name__}: {error}")
                continue
            if not held:
                self.lost.set()
                log.warning("lease_lost")
                return
