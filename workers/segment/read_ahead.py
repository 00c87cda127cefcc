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

#: Where a segment's audio lies, and its samples.
_SourceSamples = tuple[SegmentSource, Samples]


class ReceivedMessages:
    """What a parent tells its children of: a pipe made before they are forked.

    A hint that does not fit, or that a dying child had taken out, is lost and costs a wait.
    """

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)

    def send(self, message: Message) -> None:
        """Name a message that was received."""
        line = json.dumps(message.to_kwargs()).encode() + b"\n"
        with suppress(BlockingIOError):  # So short a write is whole, or not at all.
            os.write(self._write_end, line)

    def follow(self, handle: Callable[[Message], None]) -> None:
        """Note whatever is named from now on, in a thread that ends with the process."""

        def handle_all() -> None:
            for message in self.read_messages():
                handle(message)

        threading.Thread(target=handle_all, name="hints", daemon=True).start()

    def read_messages(self) -> Iterator[Message]:
        """Yield what is named, for ever."""
        with os.fdopen(os.dup(self._read_end), "rb") as lines:
            for line in lines:
                yield Message.from_kwargs(json.loads(line))


class ReadAhead:
    """Samples of segments that may be claimed soon.

    Args:
        find_source: says where a message's audio lies, or None where it is not needed.
        read: reads it here; :func:`workers.segment.audio.read_segment`.
        make_reader: makes what reads elsewhere, once for each thread.
        threads: how many segments are read at a time.
        segments_max: segments held at once: those about to be decoded, and the next.
    """

    def __init__(
        self,
        find_source: Callable[[Message], SegmentSource | None],
        read: Callable[[SegmentSource], Samples],
        make_reader: Callable[[], Callable[[SegmentSource], Samples]],
        *,
        threads: int = 1,
        segments_max: int = 2,
    ) -> None:
        self._find_source = find_source
        self._read = read
        self._segments_max = segments_max
        self._thread_local = threading.local()
        self._threads = ThreadPoolExecutor(
            threads, "ahead", initializer=lambda: setattr(self._thread_local, "read", make_reader())
        )
        self._lock = threading.Lock()
        self._futures: dict[UUID, Future[_SourceSamples | None]] = {}

    def start_reading(self, message: Message) -> None:
        """Begin to read what a message's segment will want; the oldest of too many are dropped."""
        with self._lock:
            while len(self._futures) >= self._segments_max:
                self._futures.pop(next(iter(self._futures))).cancel()
            self._futures[message.id] = self._threads.submit(self._read_message, message)

    def read_samples(self, segment_id: UUID, source: SegmentSource) -> Samples:
        """Return the samples of a segment that is claimed now: those read ahead, or read here.

        Whatever went wrong ahead is tried again here, and raises what reading raises.
        """
        with self._lock:
            future = self._futures.pop(segment_id, None)
        # One that waits behind another's reading is not waited for.
        if future is not None and not future.cancel():
            result = _result_or_none(future)
            if result is not None and result[0] == source:
                return result[1]
        return self._read(source)

    def _read_message(self, message: Message) -> _SourceSamples | None:
        source = self._find_source(message)
        return None if source is None else (source, self._thread_local.read(source))


def _result_or_none(future: Future[_SourceSamples | None]) -> _SourceSamples | None:
    try:
        return future.result()
    except CancelledError:
        return None
    except Exception as error:
        log.info("not_read_ahead", error=f"{type(error).__name__}: {error}")
        return None
