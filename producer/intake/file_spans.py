"""Parts of a file as a file of their own, behind bytes that are ours."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO


class _FileSpans(io.RawIOBase):
    """Bytes of our own and then parts of a file, as one file."""

    def __init__(self, file: BinaryIO, head: bytes, spans: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        self._file, self._head, self._spans = file, head, spans
        self._size = len(head) + sum(end - start for start, end in spans)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = max(offset + (0, self._position, self._size)[whence], 0)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._read_next(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _read_next(self, count: int) -> bytes:
        """Return the next bytes, up to the end of the part that they lie in."""
        if self._position < len(self._head):
            data = self._head[self._position : self._position + count]
            self._position += len(data)
            return data
        part_start = len(self._head)
        for start, end in self._spans:
            if self._position < part_start + end - start:
                file_offset = start + self._position - part_start
                self._file.seek(file_offset)
                data = self._file.read(min(count, end - file_offset))
                self._position += len(data)
                return data
            part_start += end - start
        return b""


@contextmanager
def open_spans(
    path: bytes, head: bytes, spans: tuple[tuple[int, int], ...]
) -> Iterator[io.BufferedReader]:
    """Open parts of a file as one, behind bytes of our own."""
    with open(path, "rb") as file:
        yield io.BufferedReader(_FileSpans(file, head, spans))
