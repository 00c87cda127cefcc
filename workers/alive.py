"""Whether a worker of this host answers and takes work: for the probes of whatever runs it.

A ping alone is answered by a worker that takes from no queue any more. What answers is the parent,
even while a segment is decoded.
"""

from __future__ import annotations

import socket

from celery import Celery

from schema.settings import load_settings
from schema.wire import REDUCE_QUEUE, SEGMENTS_QUEUE, broker_settings

#: How long an answer may take.
_PATIENCE_S = 10.0


def complaint(name: str) -> str | None:
    """Return what is wrong with the worker of this host that has a name, or None."""
    node = f"{name}@{socket.gethostname()}"
    with Celery(set_as_current=False) as app:
        app.conf.update(broker_settings(load_settings()))
        inspect = app.control.inspect([node], timeout=_PATIENCE_S, limit=1)
        try:
            answer = inspect.active_queues()
        except Exception as error:  # whatever the transport makes of a Redis that is away
            return f"Redis does not answer ({type(error).__name__})"
    if not answer:
        return f"{node} does not answer"
    queues = {queue["name"] for queue in answer.get(node) or ()}
    if not queues & {SEGMENTS_QUEUE, REDUCE_QUEUE}:
        return f"{node} answers, and takes work from no queue: start it again"
    return None
