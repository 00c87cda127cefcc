"""A lease is renewed while work goes on, and its loss is known."""

from __future__ import annotations

import threading

import pytest

from schema.errors import ErrorCode, LeaseLost, Transient
from workers.process.lease import LeaseRenewal


class Renewals:
    """Counts renewals, and answers each."""

    def __init__(self, *, held: bool = True, error: Exception | None = None) -> None:
        self.count = 0
        self._made = threading.Semaphore(0)
        self._held = held
        self._error = error

    def __call__(self) -> bool:
        self.count += 1
        self._made.release()
        if self._error is not None:
            raise self._error
        return self._held

    def wait(self, times: int) -> bool:
        return all(self._made.acquire(timeout=10) for _ in range(times))


def test_it_is_renewed_until_the_scope_ends():
    renewals, later = Renewals(), Renewals()
    with LeaseRenewal(renewals, lease_s=0.03, limit_s=60) as lease:
        assert renewals.wait(3)
    # One may be under way; another lease shows that time goes on.
    after = renewals.count
    with LeaseRenewal(later, lease_s=0.03, limit_s=60):
        assert later.wait(5)

    assert renewals.count <= after + 1
    assert not lease.is_lost.is_set()


def test_several_leases_are_renewed_side_by_side():
    slow, fast = Renewals(), Renewals()
    with LeaseRenewal(slow, lease_s=0.3, limit_s=60), LeaseRenewal(fast, lease_s=0.03, limit_s=60):
        assert fast.wait(3)
        assert slow.wait(1)

    assert fast.count > slow.count


def test_a_lease_that_another_took_is_known_to_be_lost():
    renewals = Renewals(held=False)
    with LeaseRenewal(renewals, lease_s=0.03, limit_s=60) as lease:
        lease.raise_if_lost()
        assert lease.is_lost.wait(10)
        with pytest.raises(LeaseLost):
            lease.raise_if_lost()

    assert renewals.count == 1


def test_a_ledger_that_is_away_is_asked_again():
    away = Renewals(error=Transient(ErrorCode.LEDGER_UNREACHABLE, "ledger", "away"))
    with LeaseRenewal(away, lease_s=0.03, limit_s=60) as lease:
        assert away.wait(2)
    assert not lease.is_lost.is_set()


def test_renewing_ends_at_the_limit():
    limited, other = Renewals(), Renewals()
    with LeaseRenewal(limited, lease_s=0.003, limit_s=0.005):
        assert limited.wait(5)
        with LeaseRenewal(other, lease_s=0.003, limit_s=60):
            assert other.wait(5)

    assert limited.count == 5
