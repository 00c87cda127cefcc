"""A file looked at through a window that moves forward: for parsers of millions of headers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import BinaryIO

#: Read at a time.
_BLOCK_BYTES = 1 << 20


class Window:
    """The bytes of a file from ``start`` to ``end``, some of them in memory.

    ``data`` holds what lies at ``base`` in the file. The file is read and not mapped: one that
    shrinks meanwhile would kill whoever maps it.
    """

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self._file = file
        self.end = end
        self.base = start
        self.data = b""

    def load(self, offset: int, count: int) -> int:
        """Have ``count`` bytes from ``offset`` on in memory, or up to the end; return their index.

        ``offset`` never goes back behind where it was by more than what ``data`` still holds.
        """
        index = offset - self.base
        if index >= 0 and index + count <= len(self.data):
            return index
        if index < 0 or index > len(self.data):
            self.base, self.data, index = offset, b"", 0
        missing_bytes = min(offset + count, self.end) - (self.base + len(self.data))
        if missing_bytes > 0:
            overlap = self.data[index:]
            self.base, index = offset, 0
            self._file.seek(offset + len(overlap))
            rest_bytes = self.end - offset - len(overlap)
            self.data = overlap + self._file.read(min(max(missing_bytes, _BLOCK_BYTES), rest_bytes))
        return index

    def peek(self, offset: int, count: int) -> bytes:
        """Return the bytes at ``offset``, fewer at the end."""
        index = self.load(offset, count)
        return self.data[index : index + count]

    def find(self, mark: bytes, offset: int) -> int:
        """Return where ``mark`` next begins from ``offset`` on, or -1."""
        return self._find(lambda index: self.data.find(mark, index), len(mark), offset)

    def search(self, pattern: re.Pattern[bytes], offset: int) -> int:
        """Return where a pattern of two bytes next matches from ``offset`` on, or -1."""

        def find_in_data(index: int) -> int:
            match = pattern.search(self.data, index)
            return match.start() if match else -1

        return self._find(find_in_data, 2, offset)

    def _find(self, find_in_data: Callable[[int], int], length: int, offset: int) -> int:
        while offset + length <= self.end:
            position = find_in_data(self.load(offset, length))
            if position >= 0:
                return self.base + position
            next_offset = self.base + len(self.data) - length + 1
            if next_offset <= offset:
                return -1
            offset = next_offset
        return -1

    def is_padding(self, start: int, end: int) -> bool:
        """Tell whether there are zeros alone between two places."""
        offset = start
        while offset < end:
            piece = self.peek(offset, min(_BLOCK_BYTES, end - offset))
            if piece.strip(b"\0"):
                return False
            offset += len(piece) or end
        return True
