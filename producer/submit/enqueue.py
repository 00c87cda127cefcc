"""Wake the workers: messages to Redis after each commit, never more than the queue should hold."""

from __future__ import annotations

import time
from collections.abc import Sequence

from celery import Celery

from schema.publish import Publisher
from schema.settings import Settings
from schema.wire import Dispatch, broker_settings

#: After Redis failed, leave it alone for this long: the sweep sends what was not sent.
_PAUSE_S = 30.0


def celery_app(settings: Settings) -> Celery:
    """Return a Celery app that sends tasks by name, and has none."""
    app = Celery("callscribe-producer")
    app.conf.update(broker_settings(settings))
    return app


class Enqueuer:
    """Publishes what a submission commits, as far as there is room in the queue."""

    def __init__(self, publisher: Publisher, high_water: int) -> None:
        self._publisher = publisher
        self._high_water = high_water
        self._resume_at = 0.0
        #: Whether any message could not be sent.
        self.has_failed = False

    @property
    def failure(self) -> str:
        """Why Redis takes no messages, and what to do, in a sentence or two."""
        cause, remedy = self._publisher.failure or ("it does not answer", "")
        return f"Redis takes no messages: {cause}. {remedy}".rstrip()

    def capacity(self, *, urgent: bool = False) -> int:
        """Return how many more segment messages the queue should take now.

        What is urgent has a list of its own, which a night's backlog leaves empty.
        """
        if time.monotonic() < self._resume_at:
            return 0
        queued = self._publisher.queue_lengths()
        if queued is None:
            self._pause()
            return 0
        return max(0, self._high_water - (queued.urgent if urgent else queued.segments))

    def publish(self, dispatches: Sequence[Dispatch]) -> None:
        """Send messages; what cannot be sent is left to the sweep."""
        if not dispatches or time.monotonic() < self._resume_at:
            return
        if self._publisher.publish(dispatches) < len(dispatches):
            self._pause()

    def _pause(self) -> None:
        self.has_failed = True
        self._resume_at = time.monotonic() + _PAUSE_S
