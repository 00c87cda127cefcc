"""The messages that this worker's parent holds for its child: what may be worked together next.

    parent   receives a message, and names it in a pipe (workers.segment.read_ahead.Hints)
      child  notes it here; the task of the first takes others along; theirs find nothing to do

Redis chose them, in its order, for this worker: nobody's turn is taken.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from schema.wire import Message

#: Names kept at most: a message that was named and then given to another worker never comes.
_MOST = 256
_UNKNOWN = object()


class Waiting:
    """Messages that are here and whose tasks have not begun; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: OrderedDict[Message, None] = OrderedDict()
        self._taken: OrderedDict[Message, None] = OrderedDict()
        self._begun: OrderedDict[Message, None] = OrderedDict()

    def note(self, message: Message) -> None:
        """Note a message that the parent received."""
        with self._lock:
            if message not in self._begun:
                _add(self._waiting, message)

    def begin(self, message: Message) -> bool:
        """Note that a message's task begins; False where an earlier task took it along."""
        with self._lock:
            self._waiting.pop(message, None)
            # Its name may come through the pipe after its task has.
            _add(self._begun, message)
            return self._taken.pop(message, _UNKNOWN) is _UNKNOWN

    def following(self) -> list[Message]:
        """Return the messages that wait, in the order that they came."""
        with self._lock:
            return list(self._waiting)

    def take(self, message: Message) -> None:
        """Note that a message's work is taken along: its task will have nothing to do."""
        with self._lock:
            self._waiting.pop(message, None)
            _add(self._taken, message)


def _add(messages: OrderedDict[Message, None], message: Message) -> None:
    messages[message] = None
    while len(messages) > _MOST:
        messages.popitem(last=False)
