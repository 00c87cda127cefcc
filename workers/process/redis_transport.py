"""Celery gets a message from Redis only if it is one that we send: JSON, whole, and ours.

By itself Celery refuses a pickle but prints its content, and a body that is no base64, or a missing
header, ends the worker. Here each message is checked first. A refused one is off the queue by then,
and is counted and logged without a byte of it. The work that it may have meant is in the ledger,
and the sweep sends a sound message.

Whoever writes to Redis can also send a worker commands. Of Celery's remote control only those pass
that look and change nothing of a worker's work; every other list holds tasks. Time limits are the
claim's (:mod:`workers.process.time_limit`), never a message's.
"""

from __future__ import annotations

import base64
import json
import time
from enum import StrEnum
from itertools import count
from queue import Empty
from typing import Any, Literal

import structlog
from kombu.transport import TRANSPORT_ALIASES, redis, virtual
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schema.errors import BadRequest
from schema.metrics import REFUSED
from schema.wire import REDUCE_QUEUE, REDUCE_RECORDING, SEGMENTS_QUEUE, TRANSCRIBE_SEGMENT, Message
from workers.process import metrics

log = structlog.get_logger(__name__)

#: The only list that a task comes from, and goes back to.
_QUEUES = {TRANSCRIBE_SEGMENT: SEGMENTS_QUEUE, REDUCE_RECORDING: REDUCE_QUEUE}

#: A message of ours has some 1,500 characters; beyond this many nothing is read as JSON.
MESSAGE_MAX = 1 << 20
#: How deep it is nested, ours being four levels; far below what ends Python when it is written.
_DEPTH_MAX = 32
_ID_MAX = 100
_LABEL_MAX = 1_000

_JSON = "application/json"
_UUID = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
#: So much of a content type is logged: the sender chose it.
_CONTENT_TYPE_CHARS_MAX = 60


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
    #: A task of ours in a list that it does not belong to.
    WRONG_QUEUE = "wrong-queue"
    #: Other fields, another version, or callbacks.
    NOT_OURS = "not-ours"
    #: A command that would change what a worker does, or that replies where nobody asked.
    COMMAND = "command"
    #: More commands than anybody asks in a second; they are not looked at.
    FLOOD = "flood"


#: The commands of remote control that pass: to look, and to unload models.
COMMANDS = frozenset(
    {
        *("ping", "stats", "active", "registered", "active_queues", "conf", "scheduled"),
        *("reserved", "revoked", "enable_events", "heartbeat", "deep_clean"),
    }
)

#: The end of a mailbox's name, by kombu's naming.
_MAILBOX = ".celery.pidbox"
_REPLIES = "reply.celery.pidbox"
_DESTINATIONS_MAX = 10_000
#: Of a worker's commands so many are looked at in a second. Flower asks ten as it starts.
_COMMANDS_MAX = 100
#: How long a reply of remote control waits to be fetched.
_REPLY_LIFETIME_S = 60


class _StrictModel(BaseModel):
    model_config = ConfigDict(strict=True)


class _DeliveryInfo(_StrictModel):
    exchange: str
    routing_key: str


class _Properties(_StrictModel):
    delivery_tag: str = Field(max_length=_ID_MAX)
    priority: int | None = Field(None, ge=0, le=9)
    delivery_info: _DeliveryInfo
    body_encoding: Literal["base64"]


class _Envelope(_StrictModel):
    """What kombu and Celery read of any message, a command of their remote control included."""

    content_encoding: Literal["utf-8"] = Field(alias="content-encoding")
    properties: _Properties
    headers: dict[str, Any]
    body: str


class _Headers(_StrictModel):
    """Of a task's headers those that Celery acts upon, as far as we ever set them."""

    task: str
    id: str = Field(max_length=_ID_MAX)
    root_id: str | None = Field(None, max_length=_ID_MAX)
    parent_id: str | None = Field(None, max_length=_ID_MAX)
    argsrepr: str | None = Field(None, max_length=_LABEL_MAX)
    kwargsrepr: str | None = Field(None, max_length=_LABEL_MAX)
    lang: str | None = Field(None, max_length=_ID_MAX)
    origin: str | None = Field(None, max_length=_LABEL_MAX)
    ignore_result: bool | None = None
    group_index: None = None
    timelimit: list[float | None] | None = Field(None, min_length=2, max_length=2)
    retries: int = 0
    eta: None = None
    expires: None = None
    group: None = None
    shadow: None = None


class _ReplyTo(_StrictModel):
    """Where a command is answered: the sender's queue, of a random name."""

    exchange: Literal["reply.celery.pidbox"]
    routing_key: str = Field(pattern=_UUID)


class _CommandOptions(_StrictModel, extra="forbid"):
    """The arguments of a command that only reads; any other argument is refused."""

    safe: bool | None = None
    builtins: bool | None = None
    with_defaults: bool | None = None
    taskinfoitems: list[str] | None = Field(None, max_length=0)


class _Command(_StrictModel, extra="forbid"):
    """A command of remote control. By pattern it asks nobody: one can take for ever to match."""

    method: str
    arguments: _CommandOptions | None = None
    destination: list[str] | None = Field(None, max_length=_DESTINATIONS_MAX)
    pattern: None = None
    matcher: None = None
    ticket: str | None = Field(None, pattern=_UUID)
    reply_to: _ReplyTo | None = None


class UnreadableMessage(Exception):
    """What came out of Redis is no JSON, or longer than any message."""


def parse(text: str) -> Any:
    """Return what a message's text holds; nothing in it makes an object of ours or of kombu's.

    Raises:
        UnreadableMessage: no JSON, too deep, or over :data:`MESSAGE_MAX` characters.
    """
    if len(text) > MESSAGE_MAX:
        raise UnreadableMessage
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise UnreadableMessage from None
    _check_depth(value)
    return value


def _decode_body(encoded: str) -> Any:
    return parse(base64.b64decode(encoded, validate=True).decode())


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(_DEPTH_MAX):
        parts = [part for part in level if isinstance(part, dict | list)]
        if not parts:
            return
        level = [v for part in parts for v in (part.values() if isinstance(part, dict) else part)]
    raise UnreadableMessage


def refusal_of(raw: Any, *, queue: str | None) -> Refusal | None:
    """Return why a message, as it was parsed from Redis, is refused, or None if it is sound.

    ``queue`` is the list that a task was in; None for the commands of Celery's remote control,
    which have an envelope, too. Of those, what looks is let through: :data:`COMMANDS`.
    """
    if not isinstance(raw, dict):
        return Refusal.MALFORMED
    if raw.get("content-type") != _JSON:
        return Refusal.CONTENT_TYPE
    try:
        envelope = _Envelope.model_validate(raw)
        body = _decode_body(envelope.body)
        if envelope.headers.get("compression") is not None:
            return Refusal.MALFORMED
        if queue is None:
            return _refusal_of_command(body)
        return _refusal_of_task(_Headers.model_validate(envelope.headers), body, queue)
    except (ValueError, UnreadableMessage):  # pydantic's are ValueErrors, too.
        return Refusal.MALFORMED


def _refusal_of_task(headers: _Headers, body: Any, queue: str) -> Refusal | None:
    if headers.task not in _QUEUES:
        return Refusal.UNKNOWN_TASK
    if _QUEUES[headers.task] != queue:
        return Refusal.WRONG_QUEUE
    match body:
        # Embedded are callbacks and the like: more tasks, which the worker would send.
        case [[], dict(kwargs), dict(embedded)] if not any(embedded.values()):
            try:
                Message.from_kwargs(kwargs)
            except BadRequest:
                return Refusal.NOT_OURS
            return None
    return Refusal.NOT_OURS


def _queue_of(payload: Any) -> str:
    """Return the list of a message's task; empty where it names none of ours."""
    match payload:
        case {"headers": {"task": str(task)}}:
            return _QUEUES.get(task, "")
    return ""


def _refusal_of_command(body: Any) -> Refusal | None:
    try:
        command = _Command.model_validate(body)
    except ValidationError:
        return Refusal.COMMAND
    return None if command.method in COMMANDS else Refusal.COMMAND


#: What a body embeds: nothing that comes after a task.
_EMBEDDED = dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))


def _rebuild_message(message: dict[str, Any], queue: str, *, is_task: bool) -> dict[str, Any]:
    """Return a message that is not refused, rebuilt of nothing but what was checked.

    It goes back into the list that it was in, whatever it says itself. A command keeps no header: a
    clock that is far ahead would make the answers of all others look old.
    """
    # What Celery reads of a task's headers, or shows; all else stays where it was.
    fields = _Headers.model_fields
    headers = message["headers"] if is_task else {}
    properties = message["properties"]
    body = _decode_body(message["body"])
    if is_task:
        body = [[], Message.from_kwargs(body[1]).to_kwargs(), _EMBEDDED]
    return {
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
        **{name: message[name] for name in ("content-type", "content-encoding")},
        "headers": {name: value for name, value in headers.items() if name in fields},
        "properties": {
            **{name: properties[name] for name in ("delivery_tag", "body_encoding")},
            "priority": properties.get("priority") or 0,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
        },
    }


def _is_for_other_workers(message: Any, mailbox: str) -> bool:
    """Tell whether a command is for other workers alone: each worker receives all commands."""
    try:
        destination = _decode_body(message["body"])["destination"]
    except (UnreadableMessage, ValueError, TypeError, LookupError):
        return False
    return isinstance(destination, list) and mailbox.removesuffix(_MAILBOX) not in destination


class _CommandRate:
    """The commands of this second: to answer thousands would stop everything else."""

    def __init__(self) -> None:
        self._second, self._count = 0, 0

    def admit(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._count = second, 0
        self._count += 1
        if self._count == _COMMANDS_MAX + 1:
            _refuse(Refusal.FLOOD)
        return self._count <= _COMMANDS_MAX


_command_rate = _CommandRate()
_refusal_count = count(1)


def _refuse(reason: Refusal, queue: str | None = None, content_type: object = None) -> None:
    """Log a refusal, with the number of them in this process so far."""
    short_type = content_type[:_CONTENT_TYPE_CHARS_MAX] if isinstance(content_type, str) else None
    total = next(_refusal_count)
    metrics.count(REFUSED)
    log.warning("message_refused", reason=reason, queue=queue, content_type=short_type, count=total)


class QoS(redis.QoS):
    """kombu's record of unacknowledged messages; one that cannot be put back is refused.

    In kombu, one such entry keeps every other from being put back, for ever.
    """

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Put a message back into its list."""
        try:
            super().restore_by_tag(tag, client, leftmost)  # type: ignore[no-untyped-call]
        except (*Transport.connection_errors, *Transport.channel_errors):
            raise
        except Exception:
            with self.channel.conn_or_acquire(client) as connection, connection.pipeline() as pipe:
                self._remove_from_indices(tag, pipe).execute()  # type: ignore[no-untyped-call]
            _refuse(Refusal.UNREADABLE)


class DeliveredMessage(virtual.Message):
    """kombu's message without its time limits.

    What was in Redis goes back there unchanged: a worker of an earlier release applies them.
    """

    def __init__(self, payload: dict[str, Any], channel: Any = None, **options: Any) -> None:
        super().__init__(payload, channel, **options)  # type: ignore[no-untyped-call]
        if "timelimit" in self.headers:
            self.headers = {**self.headers, "timelimit": [None, None]}


class Channel(redis.Channel):
    """kombu's channel; it refuses what it cannot read, where kombu would end the worker.

    It has a fixed list of queues: kombu reads them from sets in Redis, which anybody can change.
    """

    QoS = QoS
    Message = DeliveredMessage
    _client: Any = None

    def _do_restore_message(
        self, payload: Any, _exchange: Any, _routing_key: Any, pipe: Any, leftmost: bool = False
    ) -> None:
        """Put a message back into its task's list, whatever the message says.

        One that is not ours is refused, where kombu would log it.
        """
        queue = _queue_of(payload)
        if reason := refusal_of(payload, queue=queue):
            _refuse(reason)
        else:
            super()._do_restore_message(payload, "", queue, pipe, leftmost)  # type: ignore[no-untyped-call]

    def _lookup(self, exchange: str, routing_key: str, default: Any = None) -> list[str]:  # noqa: ARG002
        if exchange == _REPLIES:
            return self._reply_lists(routing_key)
        queue = routing_key or exchange
        return [queue] if queue in _QUEUES.values() else []

    def _reply_lists(self, routing_key: str) -> list[str]:
        queue = f"{routing_key}.{_REPLIES}"
        # kombu's client adds the prefix to its own commands only.
        key = self.global_keyprefix + self.keyprefix_queue % _REPLIES
        with self.conn_or_acquire() as client:
            is_waiting = client.sismember(key, self.sep.join([routing_key, "", queue]))
        return [queue] if is_waiting else []

    def _size(self, queue: str) -> int:
        """Return how many messages wait in a list; commands wait in none."""
        if queue.endswith(_MAILBOX):
            return 0
        return int(super()._size(queue))  # type: ignore[no-untyped-call]

    def _put(self, queue: str, message: Any, **options: Any) -> None:
        """Put a message into a list; an answer that nobody fetches does not stay."""
        super()._put(queue, message, **options)  # type: ignore[no-untyped-call]
        if queue.endswith(_REPLIES):
            with self.conn_or_acquire() as client:
                client.pexpire(queue, 1000 * _REPLY_LIFETIME_S)

    def _brpop_read(self, **options: Any) -> Any:
        return self._refuse_unreadable(super()._brpop_read, **options)

    def _receive_one(self, client: Any) -> Any:
        return self._refuse_unreadable(super()._receive_one, c=client)

    def _create_client(self, asynchronous: bool = False) -> Any:
        """Return a client: the same one each time, where kombu makes one for every command."""
        if asynchronous:  # It is tied to a connection of its own.
            return super()._create_client(asynchronous=True)  # type: ignore[no-untyped-call]
        if self._client is None or self._client.connection_pool is not self.pool:
            self._client = super()._create_client()  # type: ignore[no-untyped-call]
        return self._client

    def _refuse_unreadable(self, read: Any, **options: Any) -> Any:
        self.connection.has_delivered = False
        try:
            return read(**options)
        except (Empty, *Transport.connection_errors, *Transport.channel_errors):
            raise
        except Exception:
            if self.connection.has_delivered:
                raise  # It was read, and what failed is not the message.
            _refuse(Refusal.UNREADABLE)
            return True


class Transport(redis.Transport):
    """kombu's transport; it drops what is refused, and Celery never sees it."""

    Channel = Channel

    #: Whether Celery was given the message that was read last.
    has_delivered = False

    def _deliver(self, message: Any, queue: str) -> None:
        if queue.endswith(_MAILBOX) and (
            _is_for_other_workers(message, queue) or not _command_rate.admit()
        ):
            return
        is_task = not queue.endswith(_MAILBOX)
        if reason := refusal_of(message, queue=queue if is_task else None):
            content_type = message.get("content-type") if isinstance(message, dict) else None
            _refuse(reason, queue, content_type)
        else:
            self.has_delivered = True
            super()._deliver(_rebuild_message(message, queue, is_task=is_task), queue)  # type: ignore[no-untyped-call]


def install_transport() -> None:
    """Make this process read Redis through :class:`Transport`; to be called before it connects."""
    # kombu's own parser makes objects of marked values, and logs what it cannot read.
    redis.loads = parse  # type: ignore[assignment, attr-defined]
    TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), f"{__name__}:Transport"))
