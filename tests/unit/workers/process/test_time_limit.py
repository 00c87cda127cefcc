"""A decode is told when its time is over; one that does not hear ends with its process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from workers.process.time_limit import limit_time


def wait_for_ever() -> None:
    while True:
        time.sleep(0.01)


def test_what_takes_longer_is_told():
    with pytest.raises(SoftTimeLimitExceeded), limit_time(0.05):
        wait_for_ever()


def test_what_ends_in_time_is_left_alone_and_so_is_what_comes_after():
    before = signal.getsignal(signal.SIGALRM)

    with limit_time(3_600):
        pass

    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is before


def test_limits_end_with_what_failed():
    with pytest.raises(KeyError), limit_time(3_600):
        raise KeyError

    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


#: In a loop of C that holds Python's lock, where no signal is heard.
_DEAF = """
from workers.process import time_limit as limits
limits._HARD_AFTER_S = 0.2
with limits.limit_time(0.2):
    sum(range(10**12))
"""


def test_what_does_not_hear_ends_with_its_process():
    ended = subprocess.run([sys.executable, "-c", _DEAF], capture_output=True, check=False)

    assert ended.returncode == 1
    assert b"Timeout" in ended.stderr
