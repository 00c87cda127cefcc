"""What crosses Redis: task and queue names, and the messages.

A message holds a format version, an id and a dispatch token, nothing else: no audio, no path, no
name of a customer. Who may read Redis learns nothing of a call, and who may write to it can at
most wake a worker for work that the ledger already holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from schema.errors import BadRequest, ErrorCode

MESSAGE_VERSION = 1

#: Task names; a worker registers them, a producer only sends them.
TRANSCRIBE_SEGMENT = "transcribe_segment"
REDUCE_RECORDING = "reduce_recording"

#: Queues: GPU workers serve the first, the reducer the second.
SEGMENTS_QUEUE = "segments"
REDUCE_QUEUE = "reduce"

#: Before every key of ours in Redis, so that a shared server can be told apart.
KEY_PREFIX = "callscribe:"


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


@dataclass(frozen=True, slots=True)
class Dispatch:
    """A message about to be published, with what Flower shows of it and how long it may take."""

    task: str
    queue: str
    message: Message
    #: Readable arguments: "recording 1f3a9c2e, channel 0, segment 2 of 5, 4:52".
    label: str
    soft_limit_s: int
    hard_limit_s: int
