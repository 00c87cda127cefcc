"""What comes out of Redis is handed to Celery only if it is what we send: JSON, whole, and ours.

By itself Celery refuses a pickle but prints what it holds, and a body that is no base64, or a
header that is missing, ends the worker. Here each message is looked at first. What is refused is
off the queue by then, and is counted and logged without a byte of it; the work that it may have
meant is in the ledger, and the sweep sends a sound message.
"""

from __future__ import annotations

import base64
import json
from enum import StrEnum
from itertools import count
from queue import Empty
from typing import Annotated, Any, Literal

import structlog
from kombu.transport import TRANSPORT_ALIASES, redis
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schema.errors import BadRequest
from schema.metrics import REFUSED
from schema.wire import (
    REDUCE_QUEUE,
    REDUCE_RECORDING,
    SEGMENTS_QUEUE,
    TRANSCRIBE_SEGMENT,
    Message,
)
from workers import metrics

log = structlog.get_logger(__name__)

_TASK_QUEUES = (SEGMENTS_QUEUE, REDUCE_QUEUE)
_TASKS = (TRANSCRIBE_SEGMENT, REDUCE_RECORDING)

_JSON = "application/json"
#: What is logged of a content type, which whoever wrote the message chose.
_TYPE_MAX = 60


class Refusal(StrEnum):
    """Why a message is refused."""

    #: Not JSON, and so not even a message.
    UNREADABLE = "unreadable"
    #: A field is missing, damaged, or asks for what we never ask for: an ETA, compression.
    MALFORMED = "malformed"
    #: A pickle, YAML, msgpack: whatever could hold code, and all else that is no JSON.
    CONTENT_TYPE = "content-type"
    #: A task of another version, or of Celery's own.
    UNKNOWN_TASK = "unknown-task"
    #: Other fields, another version, or callbacks.
    NOT_OURS = "not-ours"


_Limits = Annotated[list[float | None], Field(min_length=2, max_length=2)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _DeliveryInfo(_Part):
    exchange: str
    routing_key: str


class _Properties(_Part):
    delivery_tag: str
    delivery_info: _DeliveryInfo
    body_encoding: Literal["base64"]


class _Envelope(_Part):
    """What kombu and Celery read of any message, a command of their remote control included."""

    content_encoding: Literal["utf-8"] = Field(alias="content-encoding")
    properties: _Properties
    headers: dict[str, Any]
    body: str


class _Headers(_Part):
    """Of a task's headers those that Celery acts upon, as far as we ever set them."""

    task: str
    id: str
    root_id: str | None = None
    parent_id: str | None = None
    argsrepr: str | None = None
    timelimit: _Limits | None = None
    retries: int = 0
    eta: None = None
    expires: None = None
    group: None = None
    shadow: None = None


def refusal_of(raw: Any, *, task: bool) -> Refusal | None:
    """Return why a message, as it was parsed from Redis, is refused, or None if it is sound.

    ``task`` is false for the commands of Celery's remote control, which have an envelope, too.
    """
    if not isinstance(raw, dict):
        return Refusal.MALFORMED
    if raw.get("content-type") != _JSON:
        return Refusal.CONTENT_TYPE
    try:
        envelope = _Envelope.model_validate(raw)
        body = json.loads(base64.b64decode(envelope.body, validate=True))
        if envelope.headers.get("compression") is not None:
            return Refusal.MALFORMED
        return _refusal_of_task(_Headers.model_validate(envelope.headers), body) if task else None
    except (ValidationError, ValueError, RecursionError):
        return Refusal.MALFORMED


def _refusal_of_task(headers: _Headers, body: Any) -> Refusal | None:
    if headers.task not in _TASKS:
        return Refusal.UNKNOWN_TASK
    match body:
        # Embedded are callbacks and the like: more tasks, which the worker would send.
        case [[], dict(kwargs), dict(embedded)] if not any(embedded.values()):
            try:
                Message.from_kwargs(kwargs)
            except BadRequest:
                return Refusal.NOT_OURS
            return None
    return Refusal.NOT_OURS


_refused = count(1)


def _refuse(reason: Refusal, queue: str | None = None, content_type: object = None) -> None:
    """Log a refusal, with the number of them in this process so far."""
    kind = content_type[:_TYPE_MAX] if isinstance(content_type, str) else None
    metrics.count(REFUSED)
    log.warning(
        "message_refused", reason=reason, queue=queue, content_type=kind, count=next(_refused)
    )


class Channel(redis.Channel):
    """kombu's channel; what it cannot read is refused, where it would raise and end the worker."""

    _client: Any = None

    def _brpop_read(self, **options: Any) -> Any:
        return self._reading(super()._brpop_read, **options)

    def _receive(self) -> Any:
        return self._reading(super()._receive)

    def _create_client(self, asynchronous: bool = False) -> Any:
        """Return a client: the same one each time, where kombu makes one for every command."""
        if asynchronous:  # It is tied to a connection of its own.
            return super()._create_client(asynchronous=True)  # type: ignore[no-untyped-call]
        if self._client is None or self._client.connection_pool is not self.pool:
            self._client = super()._create_client()  # type: ignore[no-untyped-call]
        return self._client

    def _reading(self, read: Any, **options: Any) -> Any:
        self.connection.handed_on = False
        try:
            return read(**options)
        except (Empty, *Transport.connection_errors, *Transport.channel_errors):
            raise
        except Exception:
            if self.connection.handed_on:
                raise  # It was read, and what failed is not the message.
            _refuse(Refusal.UNREADABLE)
            return True


class Transport(redis.Transport):
    """kombu's transport; what is refused is not kept, and Celery never sees it."""

    Channel = Channel

    #: Whether Celery was given the message that was read last.
    handed_on = False

    def _deliver(self, message: Any, queue: str) -> None:
        if reason := refusal_of(message, task=queue in _TASK_QUEUES):
            content_type = message.get("content-type") if isinstance(message, dict) else None
            _refuse(reason, queue, content_type)
        else:
            self.handed_on = True
            super()._deliver(message, queue)  # type: ignore[no-untyped-call]


def guard() -> None:
    """Let this process read Redis through :class:`Transport`, before it first connects."""
    TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), f"{__name__}:Transport"))
