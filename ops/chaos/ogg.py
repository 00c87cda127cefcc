"""Ogg pages, whose checksums a damaged file must have right for a decoder to look at them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np

_MAGIC = b"OggS"
_HEADER_BYTES = 27
_SERIAL_AT = 14
_CHECKSUM_AT = 22
#: Reverses the bits of a byte: Ogg's CRC-32 is zlib's, read from the other end.
_MIRROR = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)), bitorder="little").tobytes()


def pages(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each page starts and ends, as far as the data is whole pages."""
    at = 0
    while data.startswith(_MAGIC, at) and at + _HEADER_BYTES <= len(data):
        segments = data[at + _HEADER_BYTES - 1]
        body = at + _HEADER_BYTES + segments
        end = body + sum(data[at + _HEADER_BYTES : body])
        if end > len(data):
            return
        yield at, end
        at = end


def with_checksums(data: bytes, *, serial: int | None = None) -> bytes:
    """Return the data with the checksum of each page made right, and its stream's ``serial``."""
    fixed = bytearray(data)
    for start, end in pages(data):
        if serial is not None:
            struct.pack_into("<I", fixed, start + _SERIAL_AT, serial)
        struct.pack_into("<I", fixed, start + _CHECKSUM_AT, 0)
        struct.pack_into("<I", fixed, start + _CHECKSUM_AT, _checksum(bytes(fixed[start:end])))
    return bytes(fixed)


def _checksum(page: bytes) -> int:
    # zlib starts from all ones and inverts the end; Ogg does neither.
    mirrored = zlib.crc32(page.translate(_MIRROR), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)
