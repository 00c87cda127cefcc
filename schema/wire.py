"""What crosses Redis: task and queue names, and the messages.

A message holds a format version, an id and a dispatch token, nothing else: no audio, no path, no
name of a customer. Who may read Redis learns nothing of a call; a message that someone forges can
at most wake a worker for work that the ledger already holds. (Celery's remote control goes through
Redis as well; of that a worker does what looks and changes nothing.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from schema.errors import BadRequest, ErrorCode
from schema.settings import NAMESPACE, BrokerSettings
from schema.urls import tls_options

MESSAGE_VERSION = 1

#: Task names; a worker registers them, a producer only sends them.
TRANSCRIBE_SEGMENT = "transcribe_segment"
REDUCE_RECORDING = "reduce_recording"

#: Queues: GPU workers serve the first, the reducer the second.
SEGMENTS_QUEUE = "segments"
REDUCE_QUEUE = "reduce"


class Priority(IntEnum):
    """Which messages a worker takes first: on Redis, 0 before all others."""

    #: Urgent calls, and work that a worker began and lost, since a recording waits for it. One list
    #: for both: a worker of an earlier version also takes from it first, and would never read a
    #: third.
    URGENT = 0
    NORMAL = 5


#: What ends a task for which no limit of its own did: no segment takes so long.
BACKSTOP_S = 2 * 3600 + 600


def key_prefix(namespace: str = NAMESPACE) -> str:
    """Return what is before every key and channel of a fleet in Redis, Celery's own included.

    A namespace has no colon, so that no prefix begins another.
    """
    return f"{namespace}:"


@dataclass(frozen=True, slots=True)
class Message:
    """A wake-up for the row ``id``; dropped unless ``token`` is the row's latest dispatch."""

    id: UUID
    token: UUID

    def to_kwargs(self) -> dict[str, Any]:
        """Return the task's keyword arguments."""
        return {"v": MESSAGE_VERSION, "id": str(self.id), "token": str(self.token)}

    @classmethod
    def from_kwargs(cls, kwargs: dict[str, Any]) -> Message:
        """Rebuild a message.

        Raises:
            BadRequest: another format version, or not a message of ours.
        """
        if kwargs.get("v") != MESSAGE_VERSION or set(kwargs) != {"v", "id", "token"}:
            raise BadRequest(ErrorCode.OPTION_INVALID, "message", "not a message of this version")
        try:
            return cls(UUID(kwargs["id"]), UUID(kwargs["token"]))
        except (ValueError, TypeError, AttributeError):
            raise BadRequest(ErrorCode.OPTION_INVALID, "message", "ids are not UUIDs") from None


#: How both sides speak to Redis, as Celery settings, in the usual namespace. JSON only, so that a
#: message can hold no code; time-outs, since a frozen Redis otherwise blocks a producer for ever;
#: no replay on a time-out, since the message may have arrived.
BROKER_SETTINGS: Mapping[str, Any] = {
    "task_serializer": "json",
    "accept_content": ["json"],
    "event_serializer": "json",
    "task_ignore_result": True,
    "task_create_missing_queues": False,
    "task_default_queue": SEGMENTS_QUEUE,
    "task_queues": {SEGMENTS_QUEUE: {}, REDUCE_QUEUE: {}},
    "task_send_sent_event": True,
    "broker_connection_retry_on_startup": True,
    "broker_channel_error_retry": True,
    "broker_transport_options": {
        "global_keyprefix": key_prefix(),
        # Each is a list of its own.
        "priority_steps": [priority.value for priority in Priority],
        # Nothing extends a message's visibility while its task runs; the lease decides who works,
        # so that this only has to outlast twice the longest hard limit.
        "visibility_timeout": 6 * 3600,
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
        # At a time: a parent that puts back a million does nothing else for half an hour.
        "unacked_restore_limit": 100,
        "socket_timeout": 10,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 25,
        "retry_on_timeout": False,
    },
}


def broker_settings(settings: BrokerSettings) -> dict[str, Any]:
    """Return :data:`BROKER_SETTINGS` with this host's broker, in its namespace.

    TLS is said beside the URL and not in it: Flower reads it there alone.
    """
    url = settings.redis_url.get_secret_value()
    in_namespace = settings_in_namespace(settings.namespace)
    if not url.startswith("rediss:"):
        return {**in_namespace, "broker_url": url}
    url_without_options = url.partition("?")[0]
    return {**in_namespace, "broker_url": url_without_options, "broker_use_ssl": tls_options(url)}


def settings_in_namespace(namespace: str) -> dict[str, Any]:
    """Return :data:`BROKER_SETTINGS` in a namespace."""
    options = BROKER_SETTINGS["broker_transport_options"]
    in_namespace = {**options, "global_keyprefix": key_prefix(namespace)}
    return {**BROKER_SETTINGS, "broker_transport_options": in_namespace}


class RedisClient(Protocol):
    """The part of a Redis client that tells how long a queue is, and empties it."""

    def llen(self, name: str) -> Any:
        """Return the length of a list."""

    def delete(self, *names: str) -> Any:
        """Delete keys."""


class QueueLengths(NamedTuple):
    """How many messages wait in Redis, by queue; ``urgent`` of the segments' are taken first."""

    segments: int
    reduces: int
    urgent: int = 0


def read_queue_lengths(client: RedisClient) -> QueueLengths:
    """Return how many messages wait in Redis, given a client that adds the key prefix."""
    segments, reduces = (
        [int(client.llen(key)) for key in queue_keys(queue)]
        for queue in (SEGMENTS_QUEUE, REDUCE_QUEUE)
    )
    return QueueLengths(sum(segments), sum(reduces), urgent=segments[0])


def empty_flooded(client: RedisClient, messages_max: int) -> list[str]:
    """Delete the lists that are longer than ``messages_max``; return their queues."""
    flooded = [
        (queue, key)
        for queue in (SEGMENTS_QUEUE, REDUCE_QUEUE)
        for key in queue_keys(queue)
        if int(client.llen(key)) > messages_max
    ]
    for _, key in flooded:
        client.delete(key)
    return [queue for queue, _ in flooded]


def queue_keys(queue: str) -> list[str]:
    """Return the lists that make up a queue in Redis, the one that is taken from first before.

    By kombu's naming, without the namespace's prefix.
    """
    return [f"{queue}\x06\x16{p.value}" if p else queue for p in Priority]


#: The type of each of kombu's keys that is always called the same, as Redis says it, without the
#: prefix.
KEY_TYPES: Mapping[str, str] = {
    **{key: "list" for queue in (SEGMENTS_QUEUE, REDUCE_QUEUE) for key in queue_keys(queue)},
    "unacked": "hash",
    "unacked_index": "zset",
    "unacked_mutex": "string",
    "_kombu.binding_deadlines": "zset",
    **{
        f"_kombu.{table}.{exchange}": "set"
        for table in ("binding", "binding_permanent")
        for exchange in (
            *(SEGMENTS_QUEUE, REDUCE_QUEUE, "celeryev", "celery.pidbox", "reply.celery.pidbox"),
        )
    },
}


@dataclass(frozen=True, slots=True)
class Dispatch:
    """A message about to be published, with what Flower shows of it and how long it may take."""

    task: str
    queue: str
    message: Message
    #: Readable arguments: "recording 1f3a9c2e ch 0 seg 2 9:44-14:52, submission ...".
    label: str
    soft_limit_s: int
    hard_limit_s: int
    priority: Priority = Priority.NORMAL

    def send_options(self) -> dict[str, Any]:
        """Return the options of Celery's ``send_task``."""
        return {
            "kwargs": self.message.to_kwargs(),
            "queue": self.queue,
            "priority": self.priority,
            "argsrepr": self.label,
            "kwargsrepr": "{}",
            "soft_time_limit": self.soft_limit_s,
            "time_limit": self.hard_limit_s,
        }
