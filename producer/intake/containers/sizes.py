"""Containers of which the outermost sizes tell whether all is there: ASF, AVI, VOC and NIST.

Sources: Microsoft's ASF specification 1.20 and AVI RIFF reference, Creative's description of VOC,
and that of NIST's SPHERE headers.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from producer.intake.containers.account import Account, Break, Walk
from producer.intake.containers.window import Window

_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_STREAM = bytes.fromhex("9107dcb7b7a9cf118ee600c00c205365")
_ASF_AUDIO = bytes.fromhex("409e69f84d5bcf11a8fd00805f5c442b")
_ASF_KNOWN = frozenset({_ASF_HEADER, _ASF_DATA})
#: A block of WMA at 8 kHz, which the stated length may count and nobody plays.
_ASF_BLOCK_MS = 256
_MOST_HEADER_BYTES = 1 << 16
_VOC_FIRST_AT = 20
_MOST_OBJECTS = 100_000
_NIST_HEADER_BYTES = 1024


@dataclass(slots=True)
class _Asf:
    """One file of ASF: when it says that it ends, and where its packets lie."""

    start: int
    duration_ms: int | None = None
    packet_bytes: int = 0
    packets_at: int = 0
    end: int = 0
    is_broadcast: bool = False


def walk_asf(file: BinaryIO, _: int, size: int) -> Walk:
    """Walk the outermost objects; another header begins a file that was joined."""
    window, at = Window(file, 0, size), 0
    files: list[_Asf] = []
    breaks: list[Break] = []
    unread, begun_ms = 0, 0
    while at < size:
        header = window.peek(at, 24)
        (length,) = struct.unpack("<Q", header[16:24].ljust(8, b"\0"))
        if header[:16] == _ASF_HEADER:
            files.append(_asf_header(window, at, min(length, _MOST_HEADER_BYTES)))
        elif not files or header[:16] == _ASF_DATA:
            breaks += _asf_data(window, at, length, size, files, begun_ms)
        if not files or length < 24 or (header[:16] not in _ASF_KNOWN and at + length > size):
            unread += 0 if window.is_padding(at, size) else size - at
            break
        # Of a broadcast nobody knew the size.
        at = size if header[:16] == _ASF_DATA and length <= 50 else at + length
        files[-1].end = min(at, size)
        if header[:16] == _ASF_DATA:
            begun_ms += files[-1].duration_ms or 0
    known = bool(files) and all(each.duration_ms is not None for each in files)
    places = tuple((each.start, each.end) for each in files) if len(files) > 1 else ((0, size),)
    return Walk(places, Account(begun_ms if known else None, tuple(breaks), unread))


def _asf_header(window: Window, at: int, length: int) -> _Asf:
    """Read what a header says of its file: how long it plays, and the size of its packets."""
    asf = _Asf(at)
    data = window.peek(at, length)
    place = data.find(_ASF_FILE)
    if place < 0 or place + 104 > len(data):
        return asf
    duration, _, preroll_ms, flags, packet_bytes = struct.unpack_from("<QQQII", data, place + 64)
    asf.packet_bytes = packet_bytes
    asf.is_broadcast = bool(flags & 1)
    held_ms = duration // 10_000 - preroll_ms - _ASF_BLOCK_MS
    # Beside a picture, it is the longer one's.
    if duration and not asf.is_broadcast and _asf_is_sound(data):
        asf.duration_ms = max(held_ms, 0)
    return asf


def _asf_is_sound(header: bytes) -> bool:
    """Tell whether a file's streams are all of audio: each is described behind its kind."""
    places = [match.end() for match in re.finditer(re.escape(_ASF_STREAM), header)]
    return all(header[place + 8 : place + 24] == _ASF_AUDIO for place in places)


def _asf_data(
    window: Window, at: int, length: int, size: int, files: list[_Asf], begun_ms: int
) -> list[Break]:
    """Look at packets: those that are zeros were never written, or lost."""
    if not files:
        return []
    asf, missing = files[-1], at + length - size if length > 50 else 0
    begin = at + 50
    end = min(at + length, size) if length > 50 else size
    step, duration_ms = asf.packet_bytes, asf.duration_ms or 0
    breaks = []
    if missing > 0:
        cause = f"its header promises {missing} bytes more than it holds"
        breaks.append(Break(None, cause))
    for place in range(begin, end - step + 1, step) if step >= 16 else ():
        if window.peek(place, 16) == bytes(16) and window.is_padding(place, place + step):
            at_ms = begun_ms + duration_ms * (place - begin) // max(length - 50, 1)
            breaks.append(Break(at_ms, "its packets are zeros there"))
            break
    return breaks


def walk_avi(file: BinaryIO, _: int, size: int) -> Walk:
    """Look at the size of the whole, and at what the header says of each stream."""
    window, at, joined = Window(file, 0, size), 0, 0
    while window.peek(at, 4) == b"RIFF" and window.peek(at + 8, 4) in {b"AVI ", b"AVIX"}:
        stated = int.from_bytes(window.peek(at + 4, 4), "little")
        joined += window.peek(at + 8, 4) == b"AVI "
        # What is written to a pipe states the largest size there is.
        if not 0 < stated < 2**32 - 65536:
            at = size
            break
        at += 8 + stated + stated % 2
    missing = at - size
    unread = 0 if missing >= 0 or window.is_padding(at, size) else -missing
    walk = _walk(size, missing if missing > 1 and at > size + 1 else 0)
    lengths_ms = list(_avi_lengths_ms(window.peek(0, _MOST_HEADER_BYTES)))
    duration_ms = max(lengths_ms, default=0) or None
    if joined > 1 or duration_ms is None:
        duration_ms = None
    account = replace(walk.account, duration_ms=duration_ms, unread_bytes=unread)
    return replace(walk, account=account)


def _avi_lengths_ms(head: bytes) -> Iterator[int]:
    """Yield how long each stream of audio is, by its header."""
    at = 0
    while (at := head.find(b"strh", at)) >= 0:
        if head[at + 8 : at + 12] == b"auds" and at + 44 <= len(head):
            scale, rate, _, length = struct.unpack_from("<4I", head, at + 28)
            if rate and scale and 0 < length < 2**31:
                yield length * scale * 1000 // rate
        at += 4


def walk_voc(file: BinaryIO, _: int, size: int) -> Walk:
    """Follow blocks to the one that ends the file."""
    file.seek(_VOC_FIRST_AT)
    at = int.from_bytes(file.read(2), "little")
    for _number in range(_MOST_OBJECTS):
        file.seek(at)
        header = file.read(4)
        if len(header) < 4 or not header[0]:
            behind = Window(file, 0, size)
            unread = 0 if behind.is_padding(min(at, size), size) else size - at
            return Walk(((0, size),), Account(unread_bytes=unread))
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
