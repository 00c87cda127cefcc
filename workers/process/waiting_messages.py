"""The messages that this worker's parent has for its child: what may be decoded together next.

    parent   receives a message, sends it through a pipe (read_ahead.ReceivedMessages)
      child  notes it here; the first task decodes others too, whose own tasks find nothing to do

Redis chose them, in its order, for this worker: no other worker's turn is taken.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from schema.wire import Message

#: Messages remembered at most: one that was then given to another worker never comes.
_MESSAGES_MAX = 256
_UNKNOWN = object()


class WaitingMessages:
    """Messages that the parent received and whose tasks have not begun; for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: OrderedDict[Message, None] = OrderedDict()
        self._handled_elsewhere: OrderedDict[Message, None] = OrderedDict()
        self._begun_tasks: OrderedDict[Message, None] = OrderedDict()

    def add(self, message: Message) -> None:
        """Add a message that the parent received."""
        with self._lock:
            if message not in self._begun_tasks:
                _add(self._waiting, message)

    def begin(self, message: Message) -> bool:
        """Note that a message's task begins; return False if an earlier task did its work."""
        with self._lock:
            self._waiting.pop(message, None)
            # It may come through the pipe after its task has begun.
            _add(self._begun_tasks, message)
            return self._handled_elsewhere.pop(message, _UNKNOWN) is _UNKNOWN

    def in_order(self) -> list[Message]:
        """Return the messages that wait, in the order that they came."""
        with self._lock:
            return list(self._waiting)

    def mark_handled(self, message: Message) -> None:
        """Note that the present task does a message's work: its own will have nothing to do."""
        with self._lock:
            self._waiting.pop(message, None)
            _add(self._handled_elsewhere, message)


def _add(messages: OrderedDict[Message, None], message: Message) -> None:
    messages[message] = None
    while len(messages) > _MESSAGES_MAX:
        messages.popitem(last=False)
