"""What we add to Celery's consumer, as its boot steps."""

from __future__ import annotations

from typing import Any

import structlog
from celery import bootsteps

from schema.settings import load_settings
from workers.process.liveness import HEARTBEAT_S, HeartbeatFile

log = structlog.get_logger(__name__)

#: The events of a tenth of a second are sent together.
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


class BatchedEvents(bootsteps.StartStopStep):  # type: ignore[misc]
    """Sends the events of tasks ten times a second, where Celery publishes every few at once.

    To publish them is a third of what a worker's parent does. Each event has its own time, so that
    a monitor shows the same, a moment later.
    """

    requires = ("celery.worker.consumer.events:Events",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._is_scheduled = False

    def start(self, consumer: Any) -> None:
        """Let events wait, from the first on that the new connection's dispatcher is given."""

        def wait() -> None:
            if not self._is_scheduled:
                self._is_scheduled = True
                consumer.hub.call_later(_EVENTS_WAIT_S, self.stop, consumer)

        self._is_scheduled = False
        if consumer.hub and consumer.event_dispatcher:
            consumer.event_dispatcher.on_send_buffered = wait

    def stop(self, consumer: Any) -> None:
        """Send what waits."""
        self._is_scheduled = False
        if consumer.event_dispatcher:
            consumer.event_dispatcher.flush()


class Heartbeat(bootsteps.StartStopStep):  # type: ignore[misc]
    """Writes for probes that the loop runs, and its queues (``liveness``).

    While Redis is away there is no such loop, and the file says so.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)
    label = "life"

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        name = consumer.hostname.partition("@")[0]
        self._file = HeartbeatFile(load_settings(), name)
        self._timer: Any = None
        self._write(None)

    def start(self, consumer: Any) -> None:
        """Begin to write the file."""

        def beat() -> None:
            self._write([queue.name for queue in consumer.task_consumer.queues])

        beat()
        self._timer = consumer.hub.call_repeatedly(HEARTBEAT_S, beat)

    def stop(self, consumer: Any) -> None:  # noqa: ARG002
        """Write that there is no connection."""
        if self._timer is not None:
            self._timer.cancel()
        self._write(None)

    def _write(self, queues: list[str] | None) -> None:
        try:
            self._file.write(queues)
        except OSError as error:
            log.warning("life_not_noted", error=str(error))
