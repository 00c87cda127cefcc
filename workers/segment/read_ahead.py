"""The next segments' audio, read while those before them are decoded.

    parent   receives a message while its child decodes, and names it in a pipe
      child  has processes read what it names; whoever claims a segment finds its samples here

A GPU decodes five minutes of speech in less time than a file of it takes to be opened, decoded,
digested and resampled: one after the other, the GPU would wait for most of the time. Nothing is
claimed ahead: what was read and is not claimed here after all, since it was cancelled or
another worker took it, is let go of. On a CPU this gains nothing, for there the decoding itself
takes all of a core.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from uuid import UUID

import structlog

from schema.pcm import Samples
from schema.records import SegmentSource
from schema.wire import Message

log = structlog.get_logger(__name__)


class Hints:
    """What a parent tells its children of: a pipe made before they are forked.

    A hint that does not fit, or that a dying child had taken out, is lost and costs a wait.
    """

    def __init__(self) -> None:
        self._out, self._in = os.pipe()
        os.set_blocking(self._in, False)

    def send(self, message: Message) -> None:
        """Name a message that was received."""
        line = json.dumps(message.to_kwargs()).encode() + b"\n"
        with suppress(BlockingIOError):  # So short a write is whole, or not at all.
            os.write(self._in, line)

    def follow(self, note: Callable[[Message], None]) -> None:
        """Note whatever is named from now on, in a thread that ends with the process."""

        def note_all() -> None:
            for message in self.received():
                note(message)

        threading.Thread(target=note_all, name="hints", daemon=True).start()

    def received(self) -> Iterator[Message]:
        """Yield what is named, for ever."""
        with os.fdopen(os.dup(self._out), "rb") as lines:
            for line in lines:
                yield Message.from_kwargs(json.loads(line))


class ReadAhead:
    """Samples of segments that may be claimed soon.

    Args:
        find: says where the audio of a message's segment lies, or None where it is not wanted.
        read: reads it here; :func:`workers.segment.audio.read_segment`.
        reader: makes what reads elsewhere, of which each thread has one of its own.
        threads: how many segments are read at a time.
        most: segments held at once: those about to be decoded, and the next.
    """

    def __init__(
        self,
        find: Callable[[Message], SegmentSource | None],
        read: Callable[[SegmentSource], Samples],
        reader: Callable[[], Callable[[SegmentSource], Samples]],
        *,
        threads: int = 1,
        most: int = 2,
    ) -> None:
        self._find = find
        self._read = read
        self._most = most
        self._own = threading.local()
        self._threads = ThreadPoolExecutor(
            threads, "ahead", initializer=lambda: setattr(self._own, "read", reader())
        )
        self._lock = threading.Lock()
        self._ahead: dict[UUID, Future[tuple[SegmentSource, Samples] | None]] = {}

    def expect(self, message: Message) -> None:
        """Begin to read what a message's segment will want; the oldest of too many are dropped."""
        with self._lock:
            while len(self._ahead) >= self._most:
                self._ahead.pop(next(iter(self._ahead))).cancel()
            self._ahead[message.id] = self._threads.submit(self._look, message)

    def samples(self, segment_id: UUID, source: SegmentSource) -> Samples:
        """Return the samples of a segment that is claimed now: those read ahead, or read here.

        Whatever went wrong ahead is tried again here, and raises what reading raises.
        """
        with self._lock:
            ahead = self._ahead.pop(segment_id, None)
        # One that waits behind another's reading is not waited for.
        if ahead is not None and not ahead.cancel():
            found = _outcome(ahead)
            if found is not None and found[0] == source:
                return found[1]
        return self._read(source)

    def _look(self, message: Message) -> tuple[SegmentSource, Samples] | None:
        source = self._find(message)
        return None if source is None else (source, self._own.read(source))


def _outcome(
    ahead: Future[tuple[SegmentSource, Samples] | None],
) -> tuple[SegmentSource, Samples] | None:
    try:
        return ahead.result()
    except CancelledError:
        return None
    except Exception as error:
        log.info("not_read_ahead", error=f"{type(error).__name__}: {error}")
        return None
