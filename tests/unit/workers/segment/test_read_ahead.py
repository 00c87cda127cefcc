"""Audio read ahead: used for the segment that it was read for, and for no other."""

from __future__ import annotations

import threading
from dataclasses import replace
from uuid import UUID

import numpy as np
import pytest

from schema.errors import ErrorCode, Transient
from schema.pcm import Samples
from schema.records import AudioFormat, Location, SegmentSource
from schema.span import Span
from schema.wire import Message
from workers.segment.read_ahead import ReadAhead, ReceivedMessages

SOURCE = SegmentSource(
    Location("calls", b"one.wav"),
    AudioFormat("WAV", "PCM_16", 8_000, 1, 80_000),
    None,
    Span(0, 10_000),
    "ab" * 32,
)
MESSAGE = Message(UUID(int=1), UUID(int=2))


class Storage:
    """Storage that counts who reads what, and waits or fails when it is told to."""

    def __init__(self) -> None:
        self.reads: list[tuple[str, SegmentSource]] = []
        self.begun = threading.Event()
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.fails = 0

    def read(self, source: SegmentSource) -> Samples:
        self.reads.append((threading.current_thread().name, source))
        self.begun.set()
        assert self.goes_on.wait(30)
        if self.fails:
            self.fails -= 1
            raise Transient(ErrorCode.STORAGE_UNREACHABLE, "one.wav", "no answer")
        return np.full(len(self.reads), 0.5, np.float32)

    @property
    def here(self) -> int:
        """How often the thread that decodes had to read."""
        return sum(name == threading.current_thread().name for name, _ in self.reads)


@pytest.fixture
def storage() -> Storage:
    return Storage()


@pytest.fixture
def ahead(storage: Storage) -> ReadAhead:
    return ReadAhead(lambda _: SOURCE, storage.read, lambda: storage.read)


def test_what_was_read_ahead_is_not_read_again(ahead: ReadAhead, storage: Storage):
    wait_until_read(ahead, storage, MESSAGE)
    assert len(ahead.read_samples(MESSAGE.id, SOURCE)) == 1
    assert (len(storage.reads), storage.here) == (1, 0)


def test_a_reading_under_way_is_waited_for(ahead: ReadAhead, storage: Storage):
    storage.goes_on.clear()
    wait_until_read(ahead, storage, MESSAGE)
    threading.Timer(0.05, storage.goes_on.set).start()
    ahead.read_samples(MESSAGE.id, SOURCE)
    assert (len(storage.reads), storage.here) == (1, 0)


def test_a_reading_that_has_not_begun_is_not_waited_for(ahead: ReadAhead, storage: Storage):
    storage.goes_on.clear()
    wait_until_read(ahead, storage, replace(MESSAGE, id=UUID(int=7)))
    ahead.start_reading(MESSAGE)
    threading.Timer(0.05, storage.goes_on.set).start()
    ahead.read_samples(MESSAGE.id, SOURCE)
    assert storage.here == 1


def test_an_unexpected_segment_is_read_as_it_comes(ahead: ReadAhead, storage: Storage):
    ahead.read_samples(MESSAGE.id, SOURCE)
    assert (len(storage.reads), storage.here) == (1, 1)


def test_samples_of_another_source_are_not_taken_for_it(ahead: ReadAhead, storage: Storage):
    moved_source = replace(SOURCE, span=Span(10_000, 20_000))
    wait_until_read(ahead, storage, MESSAGE)
    ahead.read_samples(MESSAGE.id, moved_source)
    assert storage.reads[-1] == (threading.current_thread().name, moved_source)


def test_what_failed_ahead_is_tried_again(ahead: ReadAhead, storage: Storage):
    storage.fails = 1
    wait_until_read(ahead, storage, MESSAGE)
    ahead.read_samples(MESSAGE.id, SOURCE)
    assert (len(storage.reads), storage.here) == (2, 1)


def test_what_fails_again_raises_what_reading_raises(ahead: ReadAhead, storage: Storage):
    storage.fails = 2
    wait_until_read(ahead, storage, MESSAGE)
    with pytest.raises(Transient, match="no answer"):
        ahead.read_samples(MESSAGE.id, SOURCE)


def test_what_is_not_wanted_is_not_read(storage: Storage):
    source_found = threading.Event()

    def find(_: Message) -> None:
        source_found.set()

    ahead = ReadAhead(find, storage.read, lambda: storage.read)
    ahead.start_reading(MESSAGE)
    assert source_found.wait(30)
    assert storage.reads == []
    ahead.read_samples(MESSAGE.id, SOURCE)
    assert storage.here == 1


def test_no_more_than_two_segments_are_held(ahead: ReadAhead, storage: Storage):
    messages = [replace(MESSAGE, id=UUID(int=number)) for number in range(4)]
    for message in messages:
        wait_until_read(ahead, storage, message)
    for message in messages:
        ahead.read_samples(message.id, SOURCE)
    assert (len(storage.reads), storage.here) == (6, 2)


def test_children_hear_what_their_parent_received():
    hints = ReceivedMessages()
    messages = [replace(MESSAGE, id=UUID(int=number)) for number in range(3)]
    for message in messages:
        hints.send(message)
    received_messages = hints.read_messages()
    assert [next(received_messages) for _ in messages] == messages


def test_hints_that_nobody_takes_cost_the_parent_nothing():
    hints = ReceivedMessages()
    for _ in range(10_000):
        hints.send(MESSAGE)
    assert next(hints.read_messages()) == MESSAGE


def test_what_is_hinted_at_is_read(ahead: ReadAhead, storage: Storage):
    hints = ReceivedMessages()
    hints.follow(ahead.start_reading)
    hints.send(MESSAGE)
    assert storage.begun.wait(30)
    ahead.read_samples(MESSAGE.id, SOURCE)
    assert (len(storage.reads), storage.here) == (1, 0)


def test_several_threads_read_each_with_a_reader_of_its_own(storage: Storage):
    readers = []

    def reader():
        readers.append(threading.current_thread().name)
        return storage.read

    storage.goes_on.clear()
    ahead = ReadAhead(lambda _: SOURCE, storage.read, reader, threads=2, segments_max=4)
    messages = [replace(MESSAGE, id=UUID(int=number)) for number in range(2)]
    for message in messages:
        wait_until_read(ahead, storage, message)
    storage.goes_on.set()
    for message in messages:
        ahead.read_samples(message.id, SOURCE)
    assert (len(storage.reads), storage.here) == (2, 0)
    assert sorted(readers) == sorted({name for name, _ in storage.reads})


def wait_until_read(ahead: ReadAhead, storage: Storage, message: Message) -> None:
    """Expect a message, and wait until its segment is being read."""
    storage.begun.clear()
    ahead.start_reading(message)
    assert storage.begun.wait(30)
