"""A lease is renewed while work goes on, and its loss is known."""

from __future__ import annotations

import threading

from schema.errors import ErrorCode, Transient
from workers.lease import KeptLease


def test_it_is_renewed_until_the_scope_ends():
    renewed = threading.Semaphore(0)

    def renew() -> bool:
        renewed.release()
        return True

    with KeptLease(renew, lease_s=0.03, limit_s=60) as lease:
        assert all(renewed.acquire(timeout=10) for _ in range(3))

    assert not lease.lost.is_set()
    assert threading.active_count() >= 1
    assert not any(thread.name == "lease" for thread in threading.enumerate())


def test_a_lease_that_another_took_is_known_to_be_lost():
    with KeptLease(lambda: False, lease_s=0.03, limit_s=60) as lease:
        assert lease.lost.wait(10)


def test_a_ledger_that_is_away_is_asked_again():
    asked = threading.Semaphore(0)

    def renew() -> bool:
        asked.release()
        raise Transient(ErrorCode.LEDGER_UNREACHABLE, "ledger", "away")

    with KeptLease(renew, lease_s=0.03, limit_s=60) as lease:
        assert all(asked.acquire(timeout=10) for _ in range(2))
    assert not lease.lost.is_set()


def test_renewing_ends_at_the_limit():
    calls: list[int] = []

    def renew() -> bool:
        calls.append(1)
        return True

    with KeptLease(renew, lease_s=0.003, limit_s=0.005) as lease:
        lease._thread.join(10)

    assert len(calls) == 5
