"""Matroska and WebM: a walk over clusters and blocks, of known and of unknown size.

Sources: RFC 8794 (EBML) and RFC 9559 (Matroska).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import BinaryIO

from producer.intake.containers.account import LATEST_START_MS, Account, Break, Layout
from producer.intake.containers.tags import tag_end
from producer.intake.containers.window import Window

_EBML = 0x1A45DFA3
_SEGMENT = 0x18538067
_CLUSTER = 0x1F43B675
_TRACK_ENTRY = 0xAE
#: Looked into; of all else the body is passed over.
_NESTS = frozenset({_SEGMENT, _CLUSTER, 0x1549A966, 0x1654AE6B, _TRACK_ENTRY, 0xA0})
_TIMESTAMP_SCALE, _TRACK_NUMBER, _TRACK_TYPE = 0x2AD7B1, 0xD7, 0x83
_TIMESTAMP, _SIMPLE_BLOCK, _BLOCK, _BLOCK_DURATION = 0xE7, 0xA3, 0xA1, 0x9B
_BLOCKS = frozenset({_SIMPLE_BLOCK, _BLOCK})
_NUMBERS = frozenset({_TIMESTAMP_SCALE, _TRACK_NUMBER, _TRACK_TYPE, _TIMESTAMP, _BLOCK_DURATION})
_AUDIO = 2
#: An element's header: an id of four bytes and a size of eight.
_HEADER_BYTES = 12
_CLUSTER_MARK, _EBML_MARK = _CLUSTER.to_bytes(4, "big"), _EBML.to_bytes(4, "big")


@dataclass(slots=True)
class _Track:
    number: int = 0
    type: int = 0
    first_ms: float | None = None
    last_ms: float = -1.0
    blocks: int = 0


def parse_matroska(file: BinaryIO, _: int, size: int) -> Layout:
    """Parse the elements of a file."""
    return _Parser(file, size).run()


@dataclass(slots=True)
class _File:
    """One file of those that were joined."""

    start: int
    tracks: list[_Track] = field(default_factory=list)
    scale_ns: int = 1_000_000

    @property
    def end_ms(self) -> float:
        """When the last block of audio begins, on the recording's clock."""
        audio = [track for track in self.tracks if track.type == _AUDIO and track.blocks]
        first_ms = min((track.first_ms or 0.0 for track in audio), default=0.0)
        # A clock that begins later than anybody joins a call is another's.
        begun_ms = first_ms if first_ms > LATEST_START_MS else 0.0
        return max((track.last_ms - begun_ms for track in audio), default=0.0)


class _Parser:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self._window, self._size = Window(file, 0, size), size
        self._files: list[_File] = []
        self._cluster_units = 0
        self._block: _Track | None = None
        self._breaks: list[Break] = []
        self._unread_bytes = 0
        #: Where the segment ends, where that is stated.
        self._segment_end = 0
        #: How much the segment's size says that the file lacks.
        self._missing_bytes = 0

    def run(self) -> Layout:
        offset = 0
        while offset < self._size:
            header = _read_header(self._window, offset)
            if header is None or (not self._files and header[0] != _EBML):
                offset = self._skip_stray(offset)
                continue
            name, body, length = header
            offset = self._enter(offset, name, body, length)
        if self._missing_bytes and not self._breaks:
            self._add_break(f"its header promises {self._missing_bytes} bytes more than it holds")
        starts = [file.start for file in self._files]
        files = tuple(zip(starts, [*starts[1:], self._size], strict=False))
        # Until the last block of audio begins: how long that is, the decoder knows.
        duration_ms = round(sum(file.end_ms for file in self._files))
        account = Account(duration_ms if files else None, tuple(self._breaks), self._unread_bytes)
        return Layout(files or ((0, self._size),), account)

    def _enter(self, offset: int, name: int, body: int, length: int | None) -> int:
        """Look at an element; return where the next begins."""
        if name == _EBML:
            self._files.append(_File(offset))
            return body + (length or 0)
        file = self._files[-1]
        if name == _TRACK_ENTRY:
            file.tracks.append(_Track())
        if name in _NESTS:
            # A segment that is said to go on behind the file's end lacks whole clusters.
            if name == _SEGMENT and length is not None:
                self._segment_end = body + length
                self._missing_bytes = max(body + length - self._size, 0)
            return body
        end = body + (length or 0)
        if end > self._size:
            self._add_break(f"its last element lacks {end - self._size} bytes")
            self._missing_bytes = 0
            return self._size
        if name in _BLOCKS:
            self._add_block(file, body)
        elif name in _NUMBERS:
            number = int.from_bytes(self._window.peek(body, min(length or 0, 8)), "big")
            self._set_number(file, name, number)
        return end

    def _add_block(self, file: _File, body: int) -> None:
        head = self._window.peek(body, 8)
        if len(head) < 8 or not head[0]:
            return
        width = 9 - head[0].bit_length()
        number = int.from_bytes(head[:width], "big") & (1 << 7 * width) - 1
        offset = int.from_bytes(head[width : width + 2], "big", signed=True)
        track = next((track for track in file.tracks if track.number == number), None)
        if track is not None:
            ms = (self._cluster_units + offset) * file.scale_ns / 1e6
            track.first_ms = ms if track.first_ms is None else min(track.first_ms, ms)
            track.last_ms, track.blocks = max(track.last_ms, ms), track.blocks + 1
            self._block = track

    def _set_number(self, file: _File, name: int, number: int) -> None:
        if name == _TIMESTAMP:
            self._cluster_units = number
        elif name == _TIMESTAMP_SCALE:
            file.scale_ns = number or 1_000_000
        elif name == _BLOCK_DURATION and self._block is not None:
            self._block.last_ms += number * file.scale_ns / 1e6
        elif file.tracks and name == _TRACK_NUMBER:
            file.tracks[-1].number = number
        elif file.tracks and name == _TRACK_TYPE:
            file.tracks[-1].type = number

    def _skip_stray(self, offset: int) -> int:
        """Judge bytes that are no element; return where the next cluster or file begins."""
        if end := tag_end(self._window, offset):
            return end
        places = (self._window.find(mark, offset + 1) for mark in (_CLUSTER_MARK, _EBML_MARK))
        stop = min((place for place in places if place > offset), default=self._size)
        if self._window.is_padding(offset, stop):
            if offset < self._segment_end:
                self._add_break(f"{stop - offset} bytes within it are zeros")
            return stop
        if stop < self._size and self._files and self._window.peek(stop, 4) == _CLUSTER_MARK:
            self._add_break(f"{stop - offset} bytes are no blocks")
        else:
            self._unread_bytes += stop - offset
        return stop

    def _add_break(self, cause: str) -> None:
        before_ms = sum(file.end_ms for file in self._files[:-1])
        end_ms = self._files[-1].end_ms if self._files else 0.0
        self._breaks.append(Break(max(round(before_ms + end_ms), 0), cause))


def _read_header(window: Window, offset: int) -> tuple[int, int, int | None] | None:
    """Return an element's id, where its body begins, and its size, None if unknown; or None."""
    index = window.load(offset, _HEADER_BYTES)
    data = window.data
    if index >= len(data) or not data[index]:
        return None
    id_bytes = 9 - data[index].bit_length()
    if id_bytes > 4 or index + id_bytes >= len(data):
        return None
    name = int.from_bytes(data[index : index + id_bytes], "big")
    size_byte = data[index + id_bytes]
    if not size_byte:
        return None
    size_bytes = 9 - size_byte.bit_length()
    value = int.from_bytes(data[index + id_bytes : index + id_bytes + size_bytes], "big")
    mask = (1 << 7 * size_bytes) - 1
    size = value & mask
    return name, offset + id_bytes + size_bytes, None if size == mask else size
