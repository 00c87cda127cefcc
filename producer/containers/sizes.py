"""Containers of which the outermost sizes tell whether all is there: ASF, AVI, VOC and NIST.

Sources: Microsoft's ASF specification 1.20 and AVI RIFF reference, Creative's description of VOC,
and that of NIST's SPHERE headers.
"""

from __future__ import annotations

import re
import struct
from typing import BinaryIO

from producer.containers.account import Account, Break, Walk

_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_VOC_FIRST_AT = 20
_MOST_OBJECTS = 100_000
_NIST_HEADER_BYTES = 1024


def walk_asf(file: BinaryIO, _: int, size: int) -> Walk:
    """Look for the object that holds the packets, and where it ends."""
    at = 0
    for _number in range(_MOST_OBJECTS):
        file.seek(at)
        header = file.read(24)
        if len(header) < 24:
            break
        (length,) = struct.unpack_from("<Q", header, 16)
        if header[:16] == _ASF_DATA:
            # Of a broadcast nobody knew the size.
            return _walk(size, at + length - size if length > 50 else 0)
        at += length
        if length < 24 or at >= size:
            break
    return _walk(size, 0)


def walk_avi(file: BinaryIO, _: int, size: int) -> Walk:
    """Look at the size of the whole."""
    file.seek(4)
    stated = int.from_bytes(file.read(4), "little")
    missing = 8 + stated - size
    # What is written to a pipe states the largest size there is.
    return _walk(size, missing if 0 < stated < 2**32 - 65536 and missing > 1 else 0)


def walk_voc(file: BinaryIO, _: int, size: int) -> Walk:
    """Follow blocks to the one that ends the file."""
    file.seek(_VOC_FIRST_AT)
    at = int.from_bytes(file.read(2), "little")
    for _number in range(_MOST_OBJECTS):
        file.seek(at)
        header = file.read(4)
        if len(header) < 4 or not header[0]:
            break
        at += 4 + int.from_bytes(header[1:], "little")
        if at > size:
            return _walk(size, at - size)
    return _walk(size, 0)


def walk_nist(file: BinaryIO, _: int, size: int) -> Walk:
    """Hold the samples that the header counts against the file."""
    file.seek(0)
    header = file.read(_NIST_HEADER_BYTES)
    lines = header.split(b"\n", 2)
    counts = [_nist_count(header, name) for name in _NIST_COUNTS]
    if len(lines) < 3 or not lines[1].strip().isdigit() or None in counts:
        return _walk(size, 0)
    samples, channels, sample_bytes = (count or 0 for count in counts)
    return _walk(size, int(lines[1]) + samples * channels * sample_bytes - size)


_NIST_COUNTS = (b"sample_count", b"channel_count", b"sample_n_bytes")


def _nist_count(header: bytes, name: bytes) -> int | None:
    match = re.search(rb"^" + name + rb" -i (\d{1,15})$", header, re.MULTILINE)
    return int(match[1]) if match else None


def _walk(size: int, missing: int) -> Walk:
    """Return a walk of one file, from which so many bytes are missing."""
    whole = ((0, size),)
    if missing <= 0:
        return Walk(whole, Account())
    cause = f"its header promises {missing} bytes more than it holds"
    return Walk(whole, Account(breaks=(Break(None, cause),)))
