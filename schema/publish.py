"""Messages to Redis, after the commit that they tell of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

import structlog

from schema.broker import explain_redis_error
from schema.wire import Dispatch, QueueLengths, RedisClient, empty_flooded, read_queue_lengths

log = structlog.get_logger(__name__)

T = TypeVar("T")


class MessageSender(Protocol):
    """The part of a Celery app that sends messages."""

    def send_task(self, name: str, /, **options: Any) -> Any:
        """Send one message."""

    def connection_for_write(self) -> Any:
        """Return a connection to the broker."""


class Publisher:
    """Sends messages; one that cannot be sent is the sweep's to send again."""

    def __init__(self, app: MessageSender) -> None:
        self._app = app
        #: Why Redis last refused, and what to do; None while it never did.
        self.failure: tuple[str, str] | None = None

    def publish(self, dispatches: Iterable[Dispatch]) -> int:
        """Send messages until one fails; return how many were sent.

        A failure is logged and not raised, whatever the transport makes of it: the ledger holds
        the work, the message may even have arrived, and a second one does no harm.
        """
        sent = 0
        for dispatch in dispatches:
            try:
                self._app.send_task(dispatch.task, **dispatch.send_options(), retry=False)
            except Exception as error:
                self.failure = explain_redis_error(error)
                log.warning("publish_failed", error=self.failure[0], sent=sent)
                break
            sent += 1
        return sent

    def empty_flooded(self, messages_max: int) -> list[str]:
        """Delete lists of more than ``messages_max`` messages; return those of their queues.

        Nobody of ours sends so many. What was among them is in the ledger.
        """
        return self._ask_or_none(lambda client: empty_flooded(client, messages_max)) or []

    def queue_lengths(self) -> QueueLengths | None:
        """Return how many messages wait in Redis, or None where it does not answer."""
        return self._ask_or_none(read_queue_lengths)

    def _ask_or_none(self, ask: Callable[[RedisClient], T]) -> T | None:
        try:
            with self._app.connection_for_write() as connection:
                return ask(connection.default_channel.client)
        except Exception as error:
            self.failure = explain_redis_error(error)
            log.warning("redis_unreachable", error=self.failure[0])
            return None
