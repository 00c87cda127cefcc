"""What an operator may ask of workers through Celery's remote control, beside Celery's own.

    celery -A workers.app control deep_clean

``deep_clean``: before its next segment a worker unloads everything that it could load again, the
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

#: How often a clean was requested; made before the fork.
_request_count = get_context("fork").Value("Q", 0)
#: How many of these requests this process has met; a new one has nothing to unload.
_done_count = 0
#: A model takes half a minute to load, and anybody who may write to Redis may ask.
_PAUSE_S = 60.0
_requested_at_s = -_PAUSE_S


@control_command()
def deep_clean(state: Any) -> dict[str, str]:  # noqa: ARG001
    """Unload models and caches before the next segment."""
    global _requested_at_s  # noqa: PLW0603 - one a parent, which alone takes commands
    if time.monotonic() - _requested_at_s < _PAUSE_S:
        return {"ok": "asked within the last minute; nothing is done a second time"}
    _requested_at_s = time.monotonic()
    request_clean()
    return {"ok": "models and caches go before the next segment"}


def request_clean() -> None:
    """Ask the child for a deep clean."""
    with _request_count.get_lock():
        _request_count.value += 1


def mark_requests_done() -> None:
    """Count all requests so far as met: a new child has nothing to unload."""
    global _done_count  # noqa: PLW0603 - one a process, like the number it is compared with
    _done_count = _request_count.value


def clean_if_requested(worker: Worker) -> bool:
    """Clean if a request came since the last clean; return whether one did."""
    if _request_count.value == _done_count:
        return False
    mark_requests_done()
    with GpuMemory(device_memory(worker.settings.device)) as memory:
        worker.segment_decoder.unload()
    metrics.show_memory(memory.after)
    log.info(
        "deep_cleaned",
        rss_before_bytes=memory.before.rss,
        rss_after_bytes=memory.after.rss,
        device_before=memory.before.device._asdict(),
        device_after=memory.after.device._asdict(),
    )
    return True
