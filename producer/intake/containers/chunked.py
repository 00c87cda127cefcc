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
    is_open_ended,
    is_overcounted,
    shortfall,
)
from producer.intake.containers.tags import tag_end
from producer.intake.containers.window import Window

_MOST_CHUNKS = 1000
_AU_HEADER_BYTES = 24
#: The second is little-endian.
_AU_MAGICS = (b".snd", b"dns.")


@dataclass(frozen=True, slots=True)
class ChunkedLayout:
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
class _ChunkSpec:
    """How a container of chunks is laid out: ``id``, then size, then body, then padding."""

    magic: bytes
    first_chunk: int
    id_bytes: int
    size_format: str
    size_counts_header: bool
    align: int
    data_id: bytes
    #: The body of the data chunk starts with this many bytes that are no samples.
    preamble: int = 0


_CHUNK_SPECS = {
    "AIFF": _ChunkSpec(b"FORM", 12, 4, ">I", False, 2, b"SSND", 8),
    "CAF": _ChunkSpec(b"caff", 8, 4, ">Q", False, 1, b"data", 4),
    "W64": _ChunkSpec(b"riff", 40, 16, "<Q", True, 8, b"data"),
}
CONTAINERS = frozenset({*_CHUNK_SPECS, "AU"})


@dataclass(slots=True)
class _DataChunk:
    """Where one file's samples lie, by its header."""

    start: int
    stated_bytes: int
    order: str = ">"
    channels: int | None = None
    rate_hz: int | None = None
    byte_rate: int | None = None
    end: int = 0
    #: Where the size of the samples is stated, or -1.
    size_offset: int = -1
    #: The chunks before the samples may themselves reach beyond the file.
    is_cut: bool = False


def parse_chunked(file: BinaryIO, container: str, size: int) -> ChunkedLayout:
    """Parse a file, and what was joined to it."""
    window = Window(file, 0, size)
    spec = _CHUNK_SPECS.get(container)
    magics = (spec.magic,) if spec else _AU_MAGICS
    files: list[tuple[int, int]] = []
    offset, unread_bytes, padding_from = 0, 0, None
    chunk: _DataChunk | None = None
    breaks: list[Break] = []
    while offset < size:
        if window.peek(offset, 4) not in magics:
            end = tag_end(window, offset)
            if end is None:
                padding_from = offset
                break
            offset = end
            continue
        data = _read_chunks(window, spec, offset) if spec else _read_au(window, offset)
        chunk = chunk or data
        if data is None:
            break
        if is_open_ended(data.stated_bytes):
            return _parse_open_end(window, container, offset, data)
        breaks += _missing_breaks(data, size)
        end = min(max(data.end, offset + 8), size)
        files.append((offset, end))
        offset = end
    if padding_from is not None and not window.is_padding(padding_from, size):
        unread_bytes = size - padding_from
    if chunk is None:
        return ChunkedLayout(((0, size),), Account(breaks=(Break(0, "it ends within its header"),)))
    account = Account(None, tuple(breaks), unread_bytes)
    if padding_from is not None and not unread_bytes and size - padding_from < 8:
        files[-1] = (files[-1][0], size)
    # What is no chunk behind one file, be it zeros, libsndfile would take for samples.
    return ChunkedLayout(tuple(files), account, channels=chunk.channels, rate_hz=chunk.rate_hz)


def _parse_open_end(window: Window, container: str, offset: int, data: _DataChunk) -> ChunkedLayout:
    """Return a file whose length nobody filled in, with a header that is true."""
    head, size = bytearray(window.peek(offset, data.start - offset)), window.end
    data_bytes, header_bytes = size - data.start, data.start - offset
    if container == "AU":
        struct.pack_into(f"{data.order}I", head, 8, min(data_bytes, 2**32 - 1))
    elif len(head) == header_bytes and data.size_offset >= offset:
        spec = _CHUNK_SPECS[container]
        size_bytes = struct.calcsize(spec.size_format)
        counted_bytes = (spec.id_bytes + size_bytes) * spec.size_counts_header
        counted_bytes += data_bytes + spec.preamble
        max_size = 256**size_bytes - 1
        field = data.size_offset - offset
        struct.pack_into(spec.size_format, head, field, min(counted_bytes, max_size))
        if container != "CAF":
            total_bytes = header_bytes + data_bytes - (0 if spec.size_counts_header else 8)
            struct.pack_into(spec.size_format, head, spec.id_bytes, min(total_bytes, max_size))
    return ChunkedLayout(
        ((offset, size),),
        Account(),
        header=bytes(head),
        samples=(data.start, size),
        is_empty=data.start >= size,
        channels=data.channels,
        rate_hz=data.rate_hz,
    )


def _missing_breaks(data: _DataChunk, size: int) -> Iterator[Break]:
    missing_bytes = data.start + data.stated_bytes - size
    if data.is_cut:
        yield Break(0, "it ends within its header")
        return
    if missing_bytes <= 0 or is_overcounted(missing_bytes, data.start):
        return
    if not data.byte_rate:
        yield Break(0, f"its header promises {missing_bytes} bytes more than it holds")
        return
    held_ms = max(size - data.start, 0) * 1000 // data.byte_rate
    promised_ms = data.stated_bytes * 1000 // data.byte_rate
    if promised_ms - held_ms > TOLERANCE_MS:
        yield Break(held_ms, shortfall(promised_ms, held_ms))


def _read_au(window: Window, file_offset: int) -> _DataChunk | None:
    header = window.peek(file_offset, _AU_HEADER_BYTES)
    if len(header) < _AU_HEADER_BYTES:
        return None
    order = "<" if header.startswith(b"dns.") else ">"
    offset, stated_bytes, encoding, rate_hz, channels = struct.unpack(f"{order}5I", header[4:])
    sample_bytes = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}.get(encoding)
    byte_rate = sample_bytes * rate_hz * channels if sample_bytes else None
    start, end = file_offset + offset, file_offset + offset + stated_bytes
    return _DataChunk(start, stated_bytes, order, channels or None, rate_hz, byte_rate, end)


def _read_chunks(window: Window, spec: _ChunkSpec, file_start: int) -> _DataChunk | None:
    header_bytes = spec.id_bytes + struct.calcsize(spec.size_format)
    offset = file_start + spec.first_chunk
    data = _DataChunk(offset, 0)
    has_data = False
    for _ in range(_MOST_CHUNKS):
        head = window.peek(offset, header_bytes)
        if len(head) < header_bytes or head[:4] == spec.magic:
            break
        (stated_bytes,) = struct.unpack(spec.size_format, head[spec.id_bytes :])
        body_bytes = max(stated_bytes - header_bytes * spec.size_counts_header, 0)
        name, body_offset = head[:4], offset + header_bytes
        body_end = body_offset + body_bytes
        if name == spec.data_id:
            has_data = True
            data.start = body_offset + spec.preamble
            data.stated_bytes = body_bytes - spec.preamble
            data.size_offset = offset + spec.id_bytes
            if is_open_ended(data.stated_bytes):
                return data
        elif has_data and not (_is_name(name) and body_end <= window.end + spec.align):
            break
        else:
            _describe_chunk(data, name, window.peek(body_offset, min(body_bytes, 32)), spec)
        offset = body_end + -(body_end - file_start) % spec.align
        if not has_data and offset > window.end:
            data.is_cut = True
        if offset >= window.end:
            break
    data.end = min(offset, window.end)
    return data


def _is_name(name: bytes) -> bool:
    return all(0x20 <= char < 0x7F for char in name)


def _describe_chunk(data: _DataChunk, name: bytes, body: bytes, spec: _ChunkSpec) -> None:
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
    elif name == b"desc" and spec.data_id == b"data" and len(body) >= 32:
        rate, packet_bytes, packet_frames, data.channels = struct.unpack_from(">d8xIII", body)
        data.rate_hz = int(rate) if 0 < rate < 2**31 else 0
        if packet_bytes and packet_frames and data.rate_hz:
            data.byte_rate = int(rate / packet_frames * packet_bytes)
