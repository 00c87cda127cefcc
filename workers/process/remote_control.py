"""What an operator may ask of workers through Celery's remote control, beside Celery's own.

    celery -A workers.app control deep_clean

``deep_clean``: before its next segment a worker lets go of everything that it could load again, the
models among it, and gives the memory back. The command reaches the parent; the child, which holds
the memory, reads a number that both share.
"""

from __future__ import annotations

import time
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import structlog
from celery.worker.control import control_command

from workers.process import metrics
from workers.process.memory import GpuMemory, device_memory

if TYPE_CHECKING:
    from workers.context import Worker

log = structlog.get_logger(__name__)

#: How often it was asked for, made before the fork.
_asked = get_context("fork").Value("Q", 0)
#: How often this process has done it; a new one has nothing to let go of.
_done = 0
#: A model takes half a minute to load, and anybody who may write to Redis may ask.
_PAUSE_S = 60.0
_asked_at_s = -_PAUSE_S


@control_command()
def deep_clean(state: Any) -> dict[str, str]:  # noqa: ARG001
    """Let go of models and caches before the next segment."""
    global _asked_at_s  # noqa: PLW0603 - one a parent, which alone takes commands
    if time.monotonic() - _asked_at_s < _PAUSE_S:
        return {"ok": "asked within the last minute; nothing is done a second time"}
    _asked_at_s = time.monotonic()
    ask()
    return {"ok": "models and caches go before the next segment"}


def ask() -> None:
    """Ask the child for a deep clean."""
    with _asked.get_lock():
        _asked.value += 1


def forget_earlier() -> None:
    """Begin anew, in a child that has just begun: what was asked before it is done."""
    global _done  # noqa: PLW0603 - one a process, like the number it is compared with
    _done = _asked.value


def clean_if_asked(worker: Worker) -> bool:
    """Clean, if that was asked for since the last time; tell whether it was."""
    if _asked.value == _done:
        return False
    forget_earlier()
    with GpuMemory(device_memory(worker.settings.device)) as memory:
        worker.route.unload()
    metrics.show_memory(memory.after)
    log.info(
        "deep_cleaned",
        rss_before_bytes=memory.before.rss,
        rss_after_bytes=memory.after.rss,
        device_before=memory.before.device._asdict(),
        device_after=memory.after.device._asdict(),
    )
    return True
