"""The Celery tasks: thin doors to the route of a segment and the reduce of a recording.

A message that is none of ours never comes here (:mod:`workers.process.redis_transport`).

Every end of a segment's work is recorded in the ledger, and the message is spent. A task raises
only where the ledger itself stays out of reach; its lease expires, and the sweep takes it up.
"""

from __future__ import annotations

from typing import Any

from schema.wire import REDUCE_RECORDING, TRANSCRIBE_SEGMENT, Message
from workers.app import app, worker
from workers.process.remote_control import clean_if_requested
from workers.segment.work import requeue_once, transcribe_segment
from workers.transcript.reduce import reduce_recording


@app.task(name=TRANSCRIBE_SEGMENT)
def _transcribe_segment(**kwargs: Any) -> None:
    message = Message.from_kwargs(kwargs)
    clean_if_requested(worker)
    if not worker.waiting_messages.begin(message):
        return
    if worker.requeues_first_message:
        requeue_once(worker, message)
    else:
        transcribe_segment(worker, message, worker.waiting_messages)


@app.task(name=REDUCE_RECORDING)
def _reduce_recording(**kwargs: Any) -> None:
    reduce_recording(worker, Message.from_kwargs(kwargs))
