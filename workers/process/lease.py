"""A lease kept alive while its work goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import structlog

from schema.errors import ErrorCode, LeaseLost

log = structlog.get_logger(__name__)

#: Renewed at least this often, since it is how a worker hears that its work was cancelled.
_PAUSE_MAX_S = 5.0


class KeptLease:
    """Renews a lease three times in its length, or every 5 s, while its scope lasts.

    ``renew`` returns whether the lease is still held. It is called by a thread of its own until it
    says no, the scope ends, or ``limit_s`` has passed: work that overran its hard limit must not
    hold on for ever. ``lost`` is set once the lease is known to be another's, or cancelled. A
    renewal under way as the scope ends may come after it; the ledger refuses it. A scope may be
    entered within another: the lease is let go of as the first of them ends.
    """

    def __init__(self, renew: Callable[[], bool], *, lease_s: int, limit_s: int) -> None:
        self._renew = renew
        self.pause_s = min(lease_s / 3, _PAUSE_MAX_S)
        self._renewals = max(1, int(limit_s / self.pause_s))
        self.lost = threading.Event()

    def __enter__(self) -> Self:
        _keeper.keep(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _keeper.let_go(self)

    def carry_on(self) -> None:
        """Return if the work is still wanted; to be called wherever it can be left.

        Raises:
            LeaseLost: it is another's by now, or cancelled.
        """
        if self.lost.is_set():
            raise LeaseLost(
                ErrorCode.LEASE_LOST, "this work", "another has taken it over, or it was cancelled"
            )

    def renewed(self) -> bool:
        """Renew once; return whether it should be renewed again."""
        self._renewals -= 1
        try:
            held = self._renew()
        except Exception as error:
            # Whatever it was, say a ledger that is away: the lease may outlive it.
            log.warning("lease_not_renewed", error=f"{type(error).__name__}: {error}")
        else:
            if not held:
                self.lost.set()
                log.warning("lease_lost")
                return False
        return self._renewals > 0


class _Keeper:
    """The thread that renews this process's leases.

    One for all of them: to start and to join one for each cost a segment as much as its claim.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        #: When each is to be renewed, by the monotonic clock.
        self._due_s: dict[KeptLease, float] = {}
        self._sleeps_until_s = 0.0
        self._thread: threading.Thread | None = None

    def keep(self, lease: KeptLease) -> None:
        """Renew a lease from now on."""
        with self._changed:
            due_s = self._due_s[lease] = time.monotonic() + lease.pause_s
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
                self._thread.start()
            elif due_s < self._sleeps_until_s:
                self._changed.notify()

    def let_go(self, lease: KeptLease) -> None:
        """Renew a lease no more."""
        with self._changed:
            self._due_s.pop(lease, None)

    def _run(self) -> None:
        while True:
            lease = self._next()
            again = lease.renewed()
            with self._changed:
                if again and lease in self._due_s:
                    self._due_s[lease] = time.monotonic() + lease.pause_s
                else:
                    self._due_s.pop(lease, None)

    def _next(self) -> KeptLease:
        """Wait for the next lease that is due."""
        with self._changed:
            while True:
                now_s = time.monotonic()
                lease = min(self._due_s, key=lambda each: self._due_s[each], default=None)
                due_s = now_s + _PAUSE_MAX_S if lease is None else self._due_s[lease]
                if lease is not None and due_s <= now_s:
                    return lease
                self._sleeps_until_s = due_s
                self._changed.wait(due_s - now_s)


#: Of this process: a parent, which is forked, holds no lease and so has no thread.
_keeper = _Keeper()
