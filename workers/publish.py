"""Messages to Redis, after the commit that they tell of."""

from __future__ import annotations

from collections.abc import Iterable

import structlog
from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from schema.wire import Dispatch, queued

log = structlog.get_logger(__name__)


class Publisher:
    """Sends messages; one that cannot be sent is the sweep's to send again."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def publish(self, dispatches: Iterable[Dispatch]) -> int:
        """Send messages until one fails; return how many were sent.

        A failure is logged and not raised: the ledger holds the work, the message may even have
        arrived, and a second one does no harm.
        """
        sent = 0
        for dispatch in dispatches:
            try:
                self._app.send_task(**dispatch.send_options(), retry=False)
            except (OperationalError, RedisError, OSError) as error:
                log.warning("publish_failed", error=str(error), sent=sent)
                break
            sent += 1
        return sent

    def queued(self) -> int:
        """Return how many segment messages wait in Redis.

        Raises:
            OperationalError, RedisError: Redis is out of reach.
        """
        with self._app.connection_for_write() as connection:
            return queued(connection.default_channel.client)
