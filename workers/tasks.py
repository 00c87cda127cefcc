"""The Celery tasks: thin doors to the route of a segment and the reduce of a recording.

Every end of a segment's work is recorded in the ledger, and the message is spent. A task raises
only where the ledger itself stays out of reach; its lease expires, and the sweep takes it up.
"""

from __future__ import annotations

from typing import Any

import structlog

from schema.errors import BadRequest
from schema.wire import REDUCE_RECORDING, TRANSCRIBE_SEGMENT, Message
from workers.app import app, worker
from workers.reduce import reduce_recording
from workers.segment import work_segment

log = structlog.get_logger(__name__)


@app.task(name=TRANSCRIBE_SEGMENT)
def _transcribe_segment(**kwargs: Any) -> None:
    if message := _message(kwargs):
        work_segment(worker, message)


@app.task(name=REDUCE_RECORDING)
def _reduce_recording(**kwargs: Any) -> None:
    if message := _message(kwargs):
        reduce_recording(worker, message)


def _message(kwargs: dict[str, Any]) -> Message | None:
    """Return the message, or None for one that is not ours: dropped, and the sweep knows better."""
    try:
        return Message.from_kwargs(kwargs)
    except BadRequest as error:
        log.warning("message_dropped", error=str(error))
        return None
