"""AIFF, CAF, W64 and AU: where their samples end, and what lies behind.

libsndfile reads these as they are, once it is known that all of it is there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from producer.intake.containers.account import (
    TOLERANCE_MS,
    Account,
    Break,
    is_counted,
    is_open,
    seconds,
)
from producer.intake.containers.tags import tag_end
from producer.intake.containers.window import Window

_MOST_CHUNKS = 1000
_AU_HEADER_BYTES = 24
#: The second is little-endian.
_AU_MAGICS = (b".snd", b"dns.")


@dataclass(frozen=True, slots=True)
class ChunkedWalk:
    """What was met: ``files`` are where each of those that were joined lies.

    ``header`` is what to put in place of a first header that leaves the length to the file's end,
    ``samples`` where the samples behind it lie. ``is_empty`` says that there are none.
    """

    files: tuple[tuple[int, int], ...]
    account: Account
    header: bytes | None = None
    samples: tuple[int, int] = (0, 0)
    is_empty: bool = False
    channels: int | None = None
    rate_hz: int | None = None


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a container of chunks is laid out: ``id``, then size, then body, then padding."""

    magic: bytes
    first: int
    id_bytes: int
    size_format: str
    size_counts_header: bool
    align: int
    data: bytes
    #: The body of the data chunk starts with this many bytes that are no samples.
    preamble: int = 0


_LAYOUTS = {
    "AIFF": _Layout(b"FORM", 12, 4, ">I", False, 2, b"SSND", 8),
    "CAF": _Layout(b"caff", 8, 4, ">Q", False, 1, b"data", 4),
    "W64": _Layout(b"riff", 40, 16, "<Q", True, 8, b"data"),
}
CONTAINERS = frozenset({*_LAYOUTS, "AU"})


@dataclass(slots=True)
class _Data:
    """Where one file's samples lie, by its header."""

    start: int
    stated: int
    order: str = ">"
    channels: int | None = None
    rate_hz: int | None = None
    byte_rate: int | None = None
    end: int = 0
    #: Where the size of the samples is stated, or -1.
    stated_at: int = -1
    #: The chunks before the samples may themselves reach beyond the file.
    is_cut: bool = False


def walk(file: BinaryIO, container: str, size: int) -> ChunkedWalk:
    """Walk a file, and what was joined to it."""
    window = Window(file, 0, size)
    magics = _AU_MAGICS if container == "AU" else (_LAYOUTS[container].magic,)
    files: list[tuple[int, int]] = []
    at, unread, padding_from = 0, 0, None
    first: _Data | None = None
    breaks: list[Break] = []
    while at < size:
        if window.peek(at, 4) not in magics:
            end = tag_end(window, at)
            if end is None:
                padding_from = at
                break
            at = end
            continue
        data = _au(window, at) if container == "AU" else _chunks(window, _LAYOUTS[container], at)
        first = first or data
        if data is None:
            break
        if is_open(data.stated):
            return _open_walk(window, container, at, data)
        breaks += _missing(data, size)
        end = min(max(data.end, at + 8), size)
        files.append((at, end))
        at = end
    if padding_from is not None and not window.is_padding(padding_from, size):
        unread = size - padding_from
    if first is None:
        cut = Break(0, "it ends within its header")
        return ChunkedWalk(((0, size),), Account(breaks=(cut,)))
    account = Account(None, tuple(breaks), unread)
    if padding_from is not None and not unread and size - padding_from < 8:
        files[-1] = (files[-1][0], size)
    # What is no chunk behind one file, be it zeros, libsndfile would take for samples.
    return ChunkedWalk(tuple(files), account, channels=first.channels, rate_hz=first.rate_hz)


def _open_walk(window: Window, container: str, at: int, data: _Data) -> ChunkedWalk:
    """Return a file whose length nobody filled in, with a header that is true."""
    head, size = bytearray(window.peek(at, data.start - at)), window.end
    held, begin = size - data.start, data.start - at
    if container == "AU":
        struct.pack_into(f"{data.order}I", head, 8, min(held, 2**32 - 1))
    elif len(head) == begin and data.stated_at >= at:
        layout = _LAYOUTS[container]
        size_bytes = struct.calcsize(layout.size_format)
        own = layout.id_bytes + size_bytes if layout.size_counts_header else 0
        most = 256**size_bytes - 1
        field = data.stated_at - at
        struct.pack_into(layout.size_format, head, field, min(held + layout.preamble + own, most))
        if container != "CAF":
            whole = begin + held - (0 if layout.size_counts_header else 8)
            struct.pack_into(layout.size_format, head, layout.id_bytes, min(whole, most))
    return ChunkedWalk(
        ((at, size),),
        Account(),
        header=bytes(head),
        samples=(data.start, size),
        is_empty=data.start >= size,
        channels=data.channels,
        rate_hz=data.rate_hz,
    )


def _missing(data: _Data, size: int) -> Iterator[Break]:
    missing = data.start + data.stated - size
    if data.is_cut:
        yield Break(0, "it ends within its header")
        return
    if missing <= 0 or is_counted(missing, data.start):
        return
    if not data.byte_rate:
        yield Break(0, f"its header promises {missing} bytes more than it holds")
        return
    held_ms = max(size - data.start, 0) * 1000 // data.byte_rate
    promised_ms = data.stated * 1000 // data.byte_rate
    if promised_ms - held_ms > TOLERANCE_MS:
        cause = f"its header promises {seconds(promised_ms)} and it holds {seconds(held_ms)}"
        yield Break(held_ms, cause)


def _au(window: Window, at: int) -> _Data | None:
    header = window.peek(at, _AU_HEADER_BYTES)
    if len(header) < _AU_HEADER_BYTES:
        return None
    order = "<" if header.startswith(b"dns.") else ">"
    offset, stated, encoding, rate_hz, channels = struct.unpack(f"{order}5I", header[4:])
    sample_bytes = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}.get(encoding)
    byte_rate = sample_bytes * rate_hz * channels if sample_bytes else None
    data = _Data(at + offset, stated, order, channels or None, rate_hz, byte_rate)
    data.end = data.start + stated
    return data


def _chunks(window: Window, layout: _Layout, begin: int) -> _Data | None:
    header = layout.id_bytes + struct.calcsize(layout.size_format)
    at = begin + layout.first
    data = _Data(at, 0)
    has_data = False
    for _ in range(_MOST_CHUNKS):
        start = window.peek(at, header)
        if len(start) < header or start[:4] == layout.magic:
            break
        (stated,) = struct.unpack(layout.size_format, start[layout.id_bytes :])
        body = max(stated - header if layout.size_counts_header else stated, 0)
        name, inside = start[:4], at + header
        if name == layout.data:
            has_data = True
            data.start, data.stated = inside + layout.preamble, body - layout.preamble
            data.stated_at = at + layout.id_bytes
            if is_open(data.stated):
                return data
        elif has_data and not (_is_name(name) and inside + body <= window.end + layout.align):
            break
        else:
            _describe(data, name, window.peek(inside, min(body, 32)), layout)
        at = inside + body
        at += -(at - begin) % layout.align
        if not has_data and at > window.end:
            data.is_cut = True
        if at >= window.end:
            break
    data.end = min(at, window.end)
    return data


def _is_name(name: bytes) -> bool:
    return all(0x20 <= char < 0x7F for char in name)


def _describe(data: _Data, name: bytes, body: bytes, layout: _Layout) -> None:
    """Read channels and rates of the chunk that has them."""
    if name == b"fmt " and len(body) >= 12:
        data.channels, data.rate_hz, data.byte_rate = struct.unpack_from("<2xHII", body)
    elif name == b"COMM" and len(body) >= 18:
        data.channels, bits = struct.unpack_from(">h4xh", body)
        exponent, mantissa = struct.unpack_from(">HQ", body, 8)
        shift = exponent - 16383 - 63
        rate_hz = int(mantissa * 2.0**shift) if -64 < shift < 0 else 0
        data.rate_hz = rate_hz
        if body[18:22] in {b"", b"NONE", b"sowt", b"twos"}:
            data.byte_rate = rate_hz * data.channels * -(-bits // 8)
    elif name == b"desc" and layout.data == b"data" and len(body) >= 32:
        rate, packet_bytes, packet_frames, data.channels = struct.unpack_from(">d8xIII", body)
        data.rate_hz = int(rate) if 0 < rate < 2**31 else 0
        if packet_bytes and packet_frames and data.rate_hz:
            data.byte_rate = int(rate / packet_frames * packet_bytes)
