"""How long a claimed segment's decode may take, kept by the process that decodes.

Celery's own limits come with the message, and so from whoever can write to Redis: one of a fifth of
a second would have good calls given up. These are the claim's. A decode that outlasts them is told,
as Celery tells it; one that does not hear, since it is deep in a library, ends with its process,
which is then replaced. Should that fail, too, the parent's own limit ends it (:mod:`workers.app`).
"""

from __future__ import annotations

import faulthandler
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded

#: From being told to being ended.
_HARD_AFTER_S = 30.0


@contextmanager
def limited(limit_s: float) -> Iterator[None]:
    """Let what is done in this, by the main thread of a process, take so long.

    The end comes from a thread of C that needs no lock of Python's, and says where it was.

    Raises:
        SoftTimeLimitExceeded: it took longer.
    """
    before = signal.signal(signal.SIGALRM, _tell)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    faulthandler.dump_traceback_later(limit_s + _HARD_AFTER_S, exit=True)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


def _tell(_number: int, _frame: Any) -> None:
    raise SoftTimeLimitExceeded
