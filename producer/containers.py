"""What a file's first and last bytes say, read without a decoder.

Decoders are lenient: libsndfile clips a WAV's frames to what the file holds and says nothing, and
calls a CAF whose end is missing malformed. So what a header promises is compared here with the
size of the file, before any decoder sees it. Nothing here raises for strange bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

#: Bytes of a file's start that :func:`sniff` wants: two MPEG frames and their header.
HEAD_BYTES = 4096

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (8, b"WAVE", "WAV"),
    (0, b"fLaC", "FLAC"),
    (0, b"OggS", "OGG"),
    (0, b"ID3", "MP3"),
    (0, b".snd", "AU"),
    (8, b"AIFF", "AIFF"),
    (8, b"AIFC", "AIFF"),
    (0, b"caff", "CAF"),
    (0, b"riff\x2e\x91\xcf\x11", "W64"),
    (0, b"#!AMR", "AMR"),
    (0, b"\x1a\x45\xdf\xa3", "MATROSKA"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "ASF"),
    (0, b"NIST_1A", "NIST"),
    (0, b"Creative Voice File", "VOC"),
)
_STILL_IMAGES = (b"heic", b"heix", b"avif", b"mif1", b"msf1")

#: A data size that a recorder leaves behind when it cannot go back and fill in the real one means
#: "until the end": 0, all ones or a little less (FFmpeg), 2 GiB or a little less (SoX).
_STREAMED_SLACK = 65536
_STREAMED_SIZES = (2**31, 2**32, 2**63, 2**64)


@dataclass(frozen=True, slots=True)
class Promise:
    """What a header says; None where it says nothing or is in a format not looked into.

    ``missing_bytes`` is how much of the promised audio lies beyond the file's end; ``open_ended``
    says that the header leaves the length to the file's end.
    """

    missing_bytes: int = 0
    open_ended: bool = False
    channels: int | None = None
    rate_hz: int | None = None


def sniff(head: bytes) -> str | None:
    """Return the container that a file's first bytes announce, or None for none that is known."""
    for offset, magic, container in _MAGIC:
        if head.startswith(magic, offset):
            return container
    if head[4:8] == b"ftyp" and head[8:12] not in _STILL_IMAGES:
        return "ISO"
    # Two sync bits alone are also a UTF-16 byte order mark, and mu-law silence.
    length = mpeg_frame_bytes(head[:4])
    return "MP3" if length and mpeg_frame_bytes(head[length : length + 4]) else None


def read_promise(file: BinaryIO, container: str | None, size: int) -> Promise:
    """Return what the header of ``file``, ``size`` bytes long, promises."""
    if container in _LAYOUTS:
        return _chunked_promise(file, _layout(file, container), size)
    if container == "AU":
        return _au_promise(file, size)
    if container == "ISO":
        return Promise(missing_bytes=_iso_missing(file, size))
    if container == "OGG":
        return Promise(missing_bytes=_ogg_missing(file, size))
    if container == "MP3":
        return Promise(missing_bytes=_mpeg_missing(file, size))
    return Promise()


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a container of chunks is laid out: ``id``, then size, then body, then padding."""

    first: int
    id_bytes: int
    size_format: str
    size_counts_header: bool
    align: int
    data: bytes
    #: The body of the data chunk starts with this many bytes that are no samples.
    preamble: int = 0


_LAYOUTS = {
    "WAV": _Layout(12, 4, "<I", False, 2, b"data"),
    "AIFF": _Layout(12, 4, ">I", False, 2, b"SSND", 8),
    "CAF": _Layout(8, 4, ">Q", False, 1, b"data", 4),
    "W64": _Layout(40, 16, "<Q", True, 8, b"data"),
}
#: More chunks than any recorder writes before the audio: a crafted file ends here.
_MOST_CHUNKS = 1000


def _layout(file: BinaryIO, container: str) -> _Layout:
    """Return the layout; big-endian WAV exists, under the name RIFX."""
    layout = _LAYOUTS[container]
    file.seek(0)
    if file.read(4) == b"RIFX":
        return _Layout(layout.first, layout.id_bytes, ">I", False, layout.align, layout.data)
    return layout


def _chunks(file: BinaryIO, layout: _Layout, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield each chunk's id (its first 4 bytes), where its body starts, and its stated size."""
    header = layout.id_bytes + struct.calcsize(layout.size_format)
    at = layout.first
    for _ in range(_MOST_CHUNKS):
        file.seek(at)
        start = file.read(header)
        if len(start) < header:
            return
        (stated,) = struct.unpack(layout.size_format, start[layout.id_bytes :])
        body = stated - header if layout.size_counts_header else stated
        yield start[:4], at + header, max(body, 0)
        at += header + max(body, 0)
        at += -at % layout.align
        if at > size:
            return


def _chunked_promise(file: BinaryIO, layout: _Layout, size: int) -> Promise:
    channels = rate_hz = None
    long_size: int | None = None
    granule = 1
    end = layout.first
    for name, at, stated in _chunks(file, layout, size):
        file.seek(at)
        if name == b"ds64":
            long_size = _unpack("<8xQ", file.read(16))
        elif name == b"fmt ":
            order = layout.size_format[0]
            fields = file.read(14)
            channels = _unpack(f"{order}2xH", fields)
            rate_hz = _unpack(f"{order}4xI", fields)
            granule = _unpack(f"{order}12xH", fields) or 1
        elif name == layout.data:
            promised = long_size if long_size is not None and stated == 2**32 - 1 else stated
            if _is_streamed(promised - layout.preamble):
                return Promise(0, at + layout.preamble < size, channels, rate_hz)
            missing = at + promised - size
            # A recorder that counts a padding byte promises less than a frame too much.
            return Promise(missing if missing >= granule else 0, False, channels, rate_hz)
        end = at + stated
    return Promise(max(end - size, 0), False, channels, rate_hz)


def _is_streamed(data_bytes: int) -> bool:
    return data_bytes <= 0 or any(
        limit - _STREAMED_SLACK <= data_bytes <= limit for limit in _STREAMED_SIZES
    )


def _unpack(layout: str, data: bytes) -> int | None:
    """Return one field, or None where the data ends before it."""
    size = struct.calcsize(layout)
    return int(struct.unpack(layout, data[:size])[0]) if len(data) >= size else None


def _au_promise(file: BinaryIO, size: int) -> Promise:
    file.seek(4)
    header = file.read(8)
    if len(header) < 8 or size < 24:
        return Promise(missing_bytes=24 - size)
    offset, data_bytes = struct.unpack(">II", header)
    if data_bytes == 2**32 - 1:
        return Promise()
    return Promise(missing_bytes=max(offset + data_bytes - size, 0))


def _iso_missing(file: BinaryIO, size: int) -> int:
    """Return how far the top-level boxes of an MP4, M4A or 3GP reach beyond the file."""
    at = 0
    for _ in range(_MOST_CHUNKS):
        file.seek(at)
        header = file.read(16)
        stated = _unpack(">I", header)
        if stated == 1:
            stated = _unpack(">8xQ", header)
        if not stated or stated < 8:
            return 0
        at += stated
        if at >= size:
            return at - size
    return 0


#: No Ogg page is longer.
_OGG_PAGE_BYTES = 27 + 255 + 255 * 255


def _ogg_missing(file: BinaryIO, size: int) -> int:
    """Return how far the last Ogg page reaches beyond the file."""
    file.seek(max(size - _OGG_PAGE_BYTES, 0))
    tail = file.read(_OGG_PAGE_BYTES)
    at = tail.rfind(b"OggS")
    if at < 0:
        return 0
    page = tail[at:]
    lacing = page[27 : 27 + page[26]] if len(page) > 26 else b""
    if len(page) <= 26 or len(lacing) < page[26]:
        return 1
    return max(27 + len(lacing) + sum(lacing) - len(page), 0)


_MPEG_TAIL_BYTES = 16384
_LONGEST_MPEG_FRAME = 2881
#: kbit/s by index, for layers II and III of MPEG 1, and of MPEG 2 and 2.5.
_MPEG_KBPS = {
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MPEG_RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def mpeg_frame_bytes(header: bytes) -> int:
    """Return the length of the MPEG layer II or III frame that starts so, or 0 for none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return 0
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    bitrate, rate = header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer not in {2, 3} or bitrate in {0, 15} or rate == 3:
        return 0
    kbps = _MPEG_KBPS[version == 3, layer][bitrate]
    samples = 576 if layer == 3 and version != 3 else 1152
    return samples // 8 * kbps * 1000 // _MPEG_RATES_HZ[version][rate] + (header[2] >> 1 & 1)


def _mpeg_missing(file: BinaryIO, size: int) -> int:
    """Return how far the last MPEG frame reaches beyond the file."""
    file.seek(max(size - _MPEG_TAIL_BYTES, 0))
    tail = file.read(_MPEG_TAIL_BYTES)
    for start in range(min(_LONGEST_MPEG_FRAME, len(tail))):
        frames, end = _mpeg_chain(tail, start)
        # Two sync bits turn up by chance; three frames in a row do not.
        if frames >= 3:
            return max(end - len(tail), 0)
    return 0


def _mpeg_chain(data: bytes, start: int) -> tuple[int, int]:
    """Follow frames from ``start``: how many there are, and where the last of them ends."""
    frames, at = 0, start
    while length := mpeg_frame_bytes(data[at : at + 4]):
        frames, at = frames + 1, at + length
    return frames, at
