"""A file looked at through a window that moves forward: for walks over millions of headers."""

from __future__ import annotations

import re
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

    def reach(self, at: int, count: int) -> int:
        """Have ``count`` bytes from ``at`` on in memory, or up to the end; return their index.

        ``at`` never goes back behind where it was by more than what ``data`` still holds.
        """
        index = at - self.base
        if index >= 0 and index + count <= len(self.data):
            return index
        if index < 0 or index > len(self.data):
            self.base, self.data, index = at, b"", 0
        missing = min(at + count, self.end) - (self.base + len(self.data))
        if missing > 0:
            kept = self.data[index:]
            self.base, index = at, 0
            self._file.seek(at + len(kept))
            room = self.end - at - len(kept)
            self.data = kept + self._file.read(min(max(missing, _BLOCK_BYTES), room))
        return index

    def peek(self, at: int, count: int) -> bytes:
        """Return the bytes at ``at``, fewer at the end."""
        index = self.reach(at, count)
        return self.data[index : index + count]

    def find(self, mark: bytes, at: int) -> int:
        """Return where ``mark`` next begins from ``at`` on, or -1."""
        while at + len(mark) <= self.end:
            index = self.reach(at, len(mark))
            place = self.data.find(mark, index)
            if place >= 0:
                return self.base + place
            following = self.base + len(self.data) - len(mark) + 1
            if following <= at:
                return -1
            at = following
        return -1

    def search(self, pattern: re.Pattern[bytes], at: int) -> int:
        """Return where a pattern of two bytes next matches from ``at`` on, or -1."""
        while at + 2 <= self.end:
            index = self.reach(at, 2)
            match = pattern.search(self.data, index)
            if match:
                return self.base + match.start()
            following = self.base + len(self.data) - 1
            if following <= at:
                return -1
            at = following
        return -1

    def is_padding(self, start: int, end: int) -> bool:
        """Tell whether there are zeros alone between two places."""
        at = start
        while at < end:
            piece = self.peek(at, min(_BLOCK_BYTES, end - at))
            if piece.strip(b"\0"):
                return False
            at += len(piece) or end
        return True
