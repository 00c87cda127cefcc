"""What we add to Celery's consumer, as its boot steps."""

from __future__ import annotations

from typing import Any

import structlog
from celery import bootsteps

from schema.settings import load_settings
from workers.process.liveness import BEAT_S, LifeNote

log = structlog.get_logger(__name__)

#: Events of tasks wait this long for others to be sent with.
_EVENTS_WAIT_S = 0.1


class BrokerInfo(bootsteps.StartStopStep):  # type: ignore[misc]
    """What Flower and ``celery inspect stats`` show of the broker: its address, no password.

    Celery's own answer leaves the password of a URL with a socket in it.
    """

    requires = ("celery.worker.consumer.connection:Connection",)

    def info(self, consumer: Any) -> dict[str, Any]:
        """Return what takes the place of the connection's own answer."""
        connection = consumer.connection
        return {"broker": {"url": connection.as_uri() if connection else "not connected"}}


class EventsTogether(bootsteps.StartStopStep):  # type: ignore[misc]
    """Events of tasks are sent ten times a second, where Celery publishes each few by themselves.

    Publishing them is a third of what a worker's parent does. Each event says when it happened, so
    that whoever watches sees the same, a moment later.
    """

    requires = ("celery.worker.consumer.events:Events",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._waiting = False

    def start(self, consumer: Any) -> None:
        """Let events wait, from the first on that the new connection's dispatcher is given."""

        def wait() -> None:
            if not self._waiting:
                self._waiting = True
                consumer.hub.call_later(_EVENTS_WAIT_S, self._send, consumer)

        self._waiting = False
        if consumer.hub and consumer.event_dispatcher:
            consumer.event_dispatcher.on_send_buffered = wait

    def stop(self, consumer: Any) -> None:
        """Send what waits."""
        self._send(consumer)

    def _send(self, consumer: Any) -> None:
        self._waiting = False
        if consumer.event_dispatcher:
            consumer.event_dispatcher.flush()


class Life(bootsteps.StartStopStep):  # type: ignore[misc]
    """Notes for probes that the loop runs, and what it takes from (``liveness``).

    While Redis is away there is no such loop, and the note says so.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)
    label = "life"

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        name = consumer.hostname.partition("@")[0]
        self._note = LifeNote(load_settings(), name)
        self._beats: Any = None
        self._write(None)

    def start(self, consumer: Any) -> None:
        """Begin to note."""

        def beat() -> None:
            self._write([queue.name for queue in consumer.task_consumer.queues])

        beat()
        self._beats = consumer.hub.call_repeatedly(BEAT_S, beat)

    def stop(self, consumer: Any) -> None:  # noqa: ARG002
        """Note that there is no connection."""
        if self._beats is not None:
            self._beats.cancel()
        self._write(None)

    def _write(self, queues: list[str] | None) -> None:
        try:
            self._note.write(queues)
        except OSError as error:
            log.warning("life_not_noted", error=str(error))
