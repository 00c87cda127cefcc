"""How long a claimed segment's decode may take, enforced by the process that decodes.

Celery's own limits come with the message, and so from whoever can write to Redis: one of a fifth of
a second would have good calls given up. These limits are the claim's. A decode that exceeds them
gets Celery's exception. One that does not react, since it is deep in a library, ends with its
process, which is then replaced. If that fails too, the parent's limit ends it (:mod:`workers.app`).
"""

from __future__ import annotations

import faulthandler
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded

#: From the exception to the end of the process.
_HARD_AFTER_S = 30.0


@contextmanager
def limit_time(limit_s: float) -> Iterator[None]:
    """Let the main thread of a process stay in this scope for so long.

    A thread of C, which needs no lock of Python's, ends the process and prints its stack.

    Raises:
        SoftTimeLimitExceeded: it took longer.
    """
    previous_handler = signal.signal(signal.SIGALRM, _raise_time_limit)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    faulthandler.dump_traceback_later(limit_s + _HARD_AFTER_S, exit=True)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, previous_handler)


def _raise_time_limit(_number: int, _frame: Any) -> None:
    raise SoftTimeLimitExceeded
