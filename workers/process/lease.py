"""Leases that are renewed while their work goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Self

import structlog

from schema.errors import ErrorCode, LeaseLost

if TYPE_CHECKING:
    from schema.store.work.segments import Claim

log = structlog.get_logger(__name__)

#: Renewed at least this often: a renewal tells a worker that its work was cancelled.
_INTERVAL_MAX_S = 5.0


class LeasedClaim(NamedTuple):
    """A claim, and what raises once its lease is lost."""

    claim: Claim
    check_cancelled: Callable[[], None]


class LeaseRenewal:
    """Renews a lease three times in its length, or every 5 s, while its scope lasts.

    ``renew`` returns whether this worker still has the lease. A thread calls it until it returns
    False, the scope ends, or ``limit_s`` has passed: work that overran its hard limit must not keep
    its lease for ever. ``is_lost`` is set once another worker has the lease, or the work was
    cancelled. A renewal may run on after the scope's end; the ledger refuses it. Scopes may be
    nested: the first that ends also ends the renewal.
    """

    def __init__(self, renew: Callable[[], bool], *, lease_s: int, limit_s: int) -> None:
        self._renew = renew
        self.interval_s = min(lease_s / 3, _INTERVAL_MAX_S)
        self._renewals_remaining = max(1, int(limit_s / self.interval_s))
        self.is_lost = threading.Event()

    def __enter__(self) -> Self:
        _renewer.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        _renewer.remove(self)

    def raise_if_lost(self) -> None:
        """Raise once the lease is lost; to be called wherever the work can be broken off.

        Raises:
            LeaseLost: another worker has taken the work over, or it was cancelled.
        """
        if self.is_lost.is_set():
            raise LeaseLost(
                ErrorCode.LEASE_LOST, "this work", "another has taken it over, or it was cancelled"
            )

    def renew_once(self) -> bool:
        """Renew once; return whether to go on renewing."""
        self._renewals_remaining -= 1
        try:
            is_renewed = self._renew()
        except Exception as error:
            # Whatever it was, such as a ledger that is away: the lease may outlive it.
            log.warning("lease_not_renewed", error=f"{type(error).__name__}: {error}")
        else:
            if not is_renewed:
                self.is_lost.set()
                log.warning("lease_lost")
                return False
        return self._renewals_remaining > 0


class _Renewer:
    """The one thread that renews all leases of this process: one for each segment of a batch.

    To start and join a thread for each lease took as long as a segment's claim.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        #: When each lease is next renewed, by the monotonic clock.
        self._due_s: dict[LeaseRenewal, float] = {}
        self._sleeps_until_s = 0.0
        self._thread: threading.Thread | None = None

    def add(self, lease: LeaseRenewal) -> None:
        with self._condition:
            due_s = self._due_s[lease] = time.monotonic() + lease.interval_s
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
                self._thread.start()
            elif due_s < self._sleeps_until_s:
                self._condition.notify()

    def remove(self, lease: LeaseRenewal) -> None:
        with self._condition:
            self._due_s.pop(lease, None)

    def _run(self) -> None:
        while True:
            lease = self._wait_for_due()
            continues = lease.renew_once()
            with self._condition:
                if continues and lease in self._due_s:
                    self._due_s[lease] = time.monotonic() + lease.interval_s
                else:
                    self._due_s.pop(lease, None)

    def _wait_for_due(self) -> LeaseRenewal:
        with self._condition:
            while True:
                now_s = time.monotonic()
                lease = min(self._due_s, key=self._due_s.__getitem__, default=None)
                due_s = now_s + _INTERVAL_MAX_S if lease is None else self._due_s[lease]
                if lease is not None and due_s <= now_s:
                    return lease
                self._sleeps_until_s = due_s
                self._condition.wait(due_s - now_s)


#: One a process: a parent, which is forked, has no lease and so no thread.
_renewer = _Renewer()
