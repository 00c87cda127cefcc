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

from producer.intake.containers.account import Account, Break, Layout
from producer.intake.containers.window import Window

_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_STREAM = bytes.fromhex("9107dcb7b7a9cf118ee600c00c205365")
_ASF_AUDIO = bytes.fromhex("409e69f84d5bcf11a8fd00805f5c442b")
_ASF_OUTER = frozenset({_ASF_HEADER, _ASF_DATA})
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
    end: int = 0
    is_broadcast: bool = False


def parse_asf(file: BinaryIO, _: int, size: int) -> Layout:
    """Parse the outermost objects; another header begins a file that was joined."""
    window, offset = Window(file, 0, size), 0
    files: list[_Asf] = []
    breaks: list[Break] = []
    unread_bytes, start_ms = 0, 0
    while offset < size:
        header = window.peek(offset, 24)
        (length,) = struct.unpack("<Q", header[16:24].ljust(8, b"\0"))
        if header[:16] == _ASF_HEADER:
            files.append(_read_asf_header(window, offset, min(length, _MOST_HEADER_BYTES)))
        elif not files or header[:16] == _ASF_DATA:
            breaks += _check_asf_packets(window, offset, length, size, files, start_ms)
        if not files or length < 24 or (header[:16] not in _ASF_OUTER and offset + length > size):
            unread_bytes += 0 if window.is_padding(offset, size) else size - offset
            break
        # Of a broadcast nobody knew the size.
        offset = size if header[:16] == _ASF_DATA and length <= 50 else offset + length
        files[-1].end = min(offset, size)
        if header[:16] == _ASF_DATA:
            start_ms += files[-1].duration_ms or 0
    is_known = bool(files) and all(f.duration_ms is not None for f in files)
    spans = tuple((f.start, f.end) for f in files) if len(files) > 1 else ((0, size),)
    return Layout(spans, Account(start_ms if is_known else None, tuple(breaks), unread_bytes))


def _read_asf_header(window: Window, offset: int, length: int) -> _Asf:
    """Read what a header says of its file: how long it plays, and the size of its packets."""
    asf = _Asf(offset)
    data = window.peek(offset, length)
    start = data.find(_ASF_FILE)
    if start < 0 or start + 104 > len(data):
        return asf
    duration, _, preroll_ms, flags, packet_bytes = struct.unpack_from("<QQQII", data, start + 64)
    asf.packet_bytes = packet_bytes
    asf.is_broadcast = bool(flags & 1)
    duration_ms = duration // 10_000 - preroll_ms - _ASF_BLOCK_MS
    # Beside a picture, it is the longer one's.
    if duration and not asf.is_broadcast and _is_asf_audio(data):
        asf.duration_ms = max(duration_ms, 0)
    return asf


def _is_asf_audio(header: bytes) -> bool:
    """Tell whether a file's streams are all of audio: each is described behind its kind."""
    places = [match.end() for match in re.finditer(re.escape(_ASF_STREAM), header)]
    return all(header[place + 8 : place + 24] == _ASF_AUDIO for place in places)


def _check_asf_packets(
    window: Window, offset: int, length: int, size: int, files: list[_Asf], start_ms: int
) -> list[Break]:
    """Look at packets: those that are zeros were never written, or lost."""
    if not files:
        return []
    asf, missing_bytes = files[-1], offset + length - size if length > 50 else 0
    data_start = offset + 50
    end = min(offset + length, size) if length > 50 else size
    step, duration_ms = asf.packet_bytes, asf.duration_ms or 0
    breaks = []
    if missing_bytes > 0:
        cause = f"its header promises {missing_bytes} bytes more than it holds"
        breaks.append(Break(None, cause))
    for start in range(data_start, end - step + 1, step) if step >= 16 else ():
        if window.peek(start, 16) == bytes(16) and window.is_padding(start, start + step):
            at_ms = start_ms + duration_ms * (start - data_start) // max(length - 50, 1)
            breaks.append(Break(at_ms, "its packets are zeros there"))
            break
    return breaks


def parse_avi(file: BinaryIO, _: int, size: int) -> Layout:
    """Look at the size of the whole, and at what the header says of each stream."""
    window, offset, file_count = Window(file, 0, size), 0, 0
    while window.peek(offset, 4) == b"RIFF" and window.peek(offset + 8, 4) in {b"AVI ", b"AVIX"}:
        stated_bytes = int.from_bytes(window.peek(offset + 4, 4), "little")
        file_count += window.peek(offset + 8, 4) == b"AVI "
        # What is written to a pipe states the largest size there is.
        if not 0 < stated_bytes < 2**32 - 65536:
            offset = size
            break
        offset += 8 + stated_bytes + stated_bytes % 2
    missing_bytes = offset - size
    unread_bytes = 0 if missing_bytes >= 0 or window.is_padding(offset, size) else -missing_bytes
    layout = _one_file_layout(size, missing_bytes if missing_bytes > 1 and offset > size + 1 else 0)
    longest_ms = max(_avi_lengths_ms(window.peek(0, _MOST_HEADER_BYTES)), default=None)
    duration_ms = longest_ms or None if file_count <= 1 else None
    account = replace(layout.account, duration_ms=duration_ms, unread_bytes=unread_bytes)
    return replace(layout, account=account)


def _avi_lengths_ms(head: bytes) -> Iterator[int]:
    """Yield how long each stream of audio is, by its header."""
    offset = 0
    while (offset := head.find(b"strh", offset)) >= 0:
        if head[offset + 8 : offset + 12] == b"auds" and offset + 44 <= len(head):
            scale, rate, _, length = struct.unpack_from("<4I", head, offset + 28)
            if rate and scale and 0 < length < 2**31:
                yield length * scale * 1000 // rate
        offset += 4


def parse_voc(file: BinaryIO, _start: int, size: int) -> Layout:
    """Follow blocks to the one that ends the file."""
    file.seek(_VOC_FIRST_AT)
    offset = int.from_bytes(file.read(2), "little")
    for _ in range(_MOST_OBJECTS):
        file.seek(offset)
        header = file.read(4)
        if len(header) < 4 or not header[0]:
            window = Window(file, 0, size)
            unread_bytes = 0 if window.is_padding(min(offset, size), size) else size - offset
            return Layout(((0, size),), Account(unread_bytes=unread_bytes))
        offset += 4 + int.from_bytes(header[1:], "little")
        if offset > size:
            return _one_file_layout(size, offset - size)
    return _one_file_layout(size, 0)


def parse_nist(file: BinaryIO, _: int, size: int) -> Layout:
    """Hold the samples that the header counts against the file."""
    file.seek(0)
    header = file.read(_NIST_HEADER_BYTES)
    lines = header.split(b"\n", 2)
    counts = [_nist_count(header, name) for name in _NIST_COUNTS]
    if len(lines) < 3 or not lines[1].strip().isdigit() or None in counts:
        return _one_file_layout(size, 0)
    samples, channels, sample_bytes = (count or 0 for count in counts)
    return _one_file_layout(size, int(lines[1]) + samples * channels * sample_bytes - size)


_NIST_COUNTS = (b"sample_count", b"channel_count", b"sample_n_bytes")


def _nist_count(header: bytes, name: bytes) -> int | None:
    match = re.search(rb"^" + name + rb" -i (\d{1,15})$", header, re.MULTILINE)
    return int(match[1]) if match else None


def _one_file_layout(size: int, missing_bytes: int) -> Layout:
    """Return the layout of one file, from which so many bytes are missing."""
    span = ((0, size),)
    if missing_bytes <= 0:
        return Layout(span, Account())
    cause = f"its header promises {missing_bytes} bytes more than it holds"
    return Layout(span, Account(breaks=(Break(None, cause),)))
