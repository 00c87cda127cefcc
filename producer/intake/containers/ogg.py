"""Ogg: a walk over pages, which may hold several streams one behind or beside the other.

A stream begins with a page that says so and lies among pages of others, by serial number. Where
streams begin after others have had their data, a file was joined (chained); where they begin
together, they are tracks. Each page states where on its stream's clock it ends: time that passes
there while no page is missing is time in which a recorder sent nothing.

Sources: RFC 3533 (Ogg), RFC 7845 and 6716 (Opus), the Vorbis I and Speex specifications, and the
mapping of FLAC to Ogg.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

import numpy as np

from producer.intake.containers.account import TOLERANCE_MS, Account, Break, format_seconds
from producer.intake.containers.tags import audio_end, tag_end
from producer.intake.containers.window import Window

_MARK = b"OggS"
_HEADER = struct.Struct("<4sBBqIIIB")
_LONGEST_PAGE_BYTES = 27 + 255 + 255 * 255
#: More than any packet of audio, or comment with a picture, has.
_LONGEST_PACKET_BYTES = 1 << 24
_CONTINUED, _BEGINS, _ENDS = 1, 2, 4
#: Reverses the bits of a byte: Ogg's CRC-32 is zlib's, read from the other end.
_MIRROR = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)), bitorder="little").tobytes()

#: Opus counts in this, whatever it was recorded at.
OPUS_RATE_HZ = 48_000
#: The rates at which Opus is decoded where its header names one of them.
OPUS_RATES_HZ = (8_000, 12_000, 16_000, 24_000, 48_000)
#: Opus' frames by the upper five bits of a packet's first byte, in samples.
_OPUS_FRAMES = (480, 960, 1920, 2880) * 3 + (480, 960) * 2 + (120, 240, 480, 960) * 4


class Page(NamedTuple):
    """A page: ``granule`` is where its stream's clock stands at its end, -1 for nowhere."""

    offset: int
    end: int
    flags: int
    granule: int
    serial: int
    sequence: int
    lacing: bytes
    body: bytes
    is_checksum_right: bool

    @property
    def is_first(self) -> bool:
        """Whether a stream begins with it."""
        return bool(self.flags & _BEGINS)

    @property
    def is_last(self) -> bool:
        """Whether its stream says that it ends with it."""
        return bool(self.flags & _ENDS)


@dataclass(frozen=True, slots=True)
class OggStream:
    """One stream: pages of one serial number between two places of a file.

    ``headers`` are the packets before the audio. ``clock_hz`` is what granules count in;
    ``skipped_samples`` of its decoder's output come before the call.
    """

    codec: str
    serial: int
    start: int
    end: int
    headers: tuple[bytes, ...]
    rate_hz: int
    channels: int
    clock_hz: int
    skipped_samples: int = 0


@dataclass(frozen=True, slots=True)
class OggLayout:
    """What was met: links of a chain, each with the streams that run beside each other."""

    links: tuple[tuple[OggStream, ...], ...]
    account: Account


def parse_ogg(file: BinaryIO, start: int, size: int) -> OggLayout:
    """Parse the pages from ``start`` to the end of a file."""
    return _Parser(file, start, audio_end(file, start, size)).run()


def read_packets(file: BinaryIO, stream: OggStream) -> Iterator[tuple[Page, list[bytes]]]:
    """Yield each page of a stream's audio, with the packets that end on it."""
    window = Window(file, stream.start, stream.end)
    remaining_headers, joiner = len(stream.headers), _PacketJoiner()
    for item in _read_pages(window, stream.start):
        if not isinstance(item, Page) or item.serial != stream.serial:
            continue
        packets = joiner.packets(item)
        header_count = min(remaining_headers, len(packets))
        remaining_headers -= header_count
        if not remaining_headers and (packets[header_count:] or not header_count):
            yield item, packets[header_count:]


class _Stray(NamedTuple):
    """Bytes that are no page, and whether they begin one that the file does not hold whole."""

    start: int
    end: int
    is_cut_page: bool


def _read_pages(window: Window, offset: int) -> Iterator[Page | _Stray]:
    latest: dict[int, Page] = {}
    while offset < window.end:
        item = _read_page(window, offset)
        if isinstance(item, Page):
            last_page = latest.get(item.serial)
            # One that was written twice has the number, the place and all bytes of the other.
            if last_page is None or item[2:] != last_page[2:]:
                yield item
            latest[item.serial] = item
            offset = item.end
            continue
        if end := tag_end(window, offset):
            offset = end
            continue
        place = window.find(_MARK, offset + 1)
        stop = place if place >= 0 else window.end
        yield _Stray(offset, stop, item)
        offset = stop


def _read_page(window: Window, offset: int) -> Page | bool:
    """Return the page at ``offset``, or whether one begins there that is cut."""
    index = window.load(offset, _LONGEST_PAGE_BYTES)
    data = window.data
    if data[index : index + 4] != _MARK:
        return False
    if index + _HEADER.size > len(data):
        return True
    _, version, flags, granule, serial, sequence, checksum, count = _HEADER.unpack_from(data, index)
    body = index + _HEADER.size + count
    lacing = data[index + _HEADER.size : body]
    end = body + sum(lacing)
    if version or len(lacing) < count or end > len(data):
        return not version
    page = data[index:end]
    is_intact = _checksum(page[:22] + bytes(4) + page[26:]) == checksum
    if not is_intact and data[end : end + 4] not in {_MARK, b""} and page.find(_MARK, 4) > 0:
        return True  # another begins within it
    return Page(
        *(offset, offset + end - index, flags, granule, serial, sequence, lacing, data[body:end]),
        is_intact,
    )


def _checksum(page: bytes) -> int:
    # zlib starts from all ones and inverts the end; Ogg does neither.
    mirrored = zlib.crc32(page.translate(_MIRROR), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(mirrored.to_bytes(4, "little").translate(_MIRROR), "big")


class _PacketJoiner:
    """Joins the segments of a stream's pages to packets."""

    def __init__(self) -> None:
        self._open = b""

    def packets(self, page: Page) -> list[bytes]:
        """Return the packets that end on a page."""
        packets: list[bytes] = []
        if not page.flags & _CONTINUED or len(self._open) > _LONGEST_PACKET_BYTES:
            self._open = b""
        offset = start = 0
        for length in page.lacing:
            offset += length
            if length < 255:
                packets.append(self._open + page.body[start:offset])
                self._open, start = b"", offset
        self._open += page.body[start:offset]
        return packets


@dataclass(slots=True)
class _OpenStream:
    """A stream under way: its headers, and how far its clock has come against its packets."""

    start: int
    serial: int
    start_ms: float
    codec: str = ""
    rate_hz: int = 0
    channels: int = 0
    clock_hz: int = 0
    skipped_samples: int = 0
    #: Samples that a packet has at most, where that does not depend on it.
    packet_samples: int = 0
    end: int = 0
    headers: list[bytes] = field(default_factory=list)
    header_count: int | None = None
    joiner: _PacketJoiner = field(default_factory=_PacketJoiner)
    origin: int | None = None
    granule: int = 0
    samples: int = 0
    sequence: int | None = None

    @property
    def is_audio(self) -> bool:
        return self.channels > 0

    @property
    def duration_ms(self) -> float:
        """How long it is, by its clock and its packets."""
        if not self.clock_hz:
            return 0.0
        return max(self.samples - self.skipped_samples, 0) * 1000 / self.clock_hz


class _Parser:
    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self._window = Window(file, start, end)
        self._start = start
        self._links: list[tuple[OggStream, ...]] = []
        self._open: dict[int, _OpenStream] = {}
        self._has_data = False
        self._total_ms = 0.0
        self._breaks: list[Break] = []
        self._checksum_breaks: list[Break] = []
        self._right_checksums = 0
        self._unread_bytes = 0

    def run(self) -> OggLayout:
        for item in _read_pages(self._window, self._start):
            if isinstance(item, Page):
                self._add(item)
            else:
                self._skip_stray(item)
        self._end_link()
        # A recorder that computes no checksum has none right.
        has_checksums = self._right_checksums > len(self._checksum_breaks)
        breaks = (*self._breaks, *(self._checksum_breaks if has_checksums else ()))
        account = Account(round(self._total_ms), breaks, self._unread_bytes)
        return OggLayout(tuple(self._links), account)

    def _add(self, page: Page) -> None:
        if page.is_first:
            if self._has_data:
                self._end_link()
            self._open[page.serial] = _OpenStream(page.offset, page.serial, self._total_ms)
        stream = self._open.get(page.serial)
        if stream is None:
            self._unread_bytes += page.end - page.offset
            return
        self._has_data = self._has_data or not page.is_first
        if page.is_checksum_right:
            self._right_checksums += 1
        elif stream.is_audio:
            at_ms = round(stream.start_ms + stream.duration_ms)
            self._checksum_breaks.append(Break(at_ms, "a page's checksum is wrong"))
        stream.end = page.end
        packets = stream.joiner.packets(page)
        audio_packets = _take_headers(stream, packets)
        if stream.is_audio and not _lacks_headers(stream):
            self._advance(stream, page, audio_packets)

    def _advance(self, stream: _OpenStream, page: Page, packets: list[bytes]) -> None:
        """Move a stream's clock over a page."""
        skips_pages = stream.sequence is not None and page.sequence > stream.sequence + 1
        stream.sequence = page.sequence
        samples = sum(_packet_samples(stream, packet) for packet in packets)
        if page.granule < 0 or not packets:
            stream.samples += samples
            return
        if stream.origin is None:
            # What begins later on its clock was cut out of something longer. Where packets tell
            # no more than a bound, its first page may hold less: no more is promised.
            stream.origin = max(page.granule - samples, 0)
            if stream.origin and stream.packet_samples:
                stream.origin, samples = page.granule, 0
            stream.granule = page.granule
            stream.samples = self._samples_at(stream, page, samples)
            return
        late_samples = page.granule - stream.origin - stream.samples - samples
        late_ms = late_samples * 1000 / stream.clock_hz
        if late_ms > TOLERANCE_MS:
            if skips_pages:
                at_ms = round(stream.start_ms + stream.duration_ms)
                cause = f"pages with {format_seconds(round(late_ms))} are missing"
                self._breaks.append(Break(at_ms, cause))
            stream.samples += late_samples
        stream.samples = self._samples_at(stream, page, stream.samples + samples)
        stream.granule = max(stream.granule, page.granule)

    def _samples_at(self, stream: _OpenStream, page: Page, samples: int) -> int:
        """Return how many samples a stream has had by the end of a page."""
        position = page.granule - (stream.origin or 0)
        is_forward = page.granule >= stream.granule
        if stream.packet_samples:
            # Packets tell no more than a bound; the clock does.
            return position if is_forward else samples
        return min(samples, position) if page.is_last and is_forward else samples

    def _skip_stray(self, stray_bytes: _Stray) -> None:
        streams = [stream for stream in self._open.values() if stream.is_audio]
        if stray_bytes.is_cut_page and streams:
            at_ms = max(round(stream.start_ms + stream.duration_ms) for stream in streams)
            self._breaks.append(Break(at_ms, "a page ends before its stated length"))
        elif not self._window.is_padding(stray_bytes.start, stray_bytes.end):
            self._unread_bytes += stray_bytes.end - stray_bytes.start

    def _end_link(self) -> None:
        """Close the streams under way: what begins next begins when the longest of them ends."""
        streams = [stream for stream in self._open.values() if stream.is_audio]
        self._open, self._has_data = {}, False
        link = tuple(_finish_stream(s) for s in streams if s.codec in _CODECS.values())
        if link:
            self._links.append(link)
            self._total_ms += max(stream.duration_ms for stream in streams)


def _finish_stream(stream: _OpenStream) -> OggStream:
    return OggStream(
        stream.codec,
        stream.serial,
        stream.start,
        stream.end,
        tuple(stream.headers),
        stream.rate_hz,
        stream.channels,
        stream.clock_hz,
        stream.skipped_samples,
    )


#: How a stream's first packet begins, and FFmpeg's name of what decodes it.
_CODECS: Mapping[bytes, str] = {
    b"OpusHead": "opus",
    b"\x01vorbis": "vorbis",
    b"\x7fFLAC": "flac",
    b"Speex   ": "speex",
}


def _lacks_headers(stream: _OpenStream) -> bool:
    return stream.header_count is None or len(stream.headers) < stream.header_count


def _take_headers(stream: _OpenStream, packets: list[bytes]) -> list[bytes]:
    """Take the packets that are headers; return the others."""
    while packets and _lacks_headers(stream):
        packet = packets[0]
        if not stream.headers:
            _read_first_packet(stream, packet)
        elif stream.codec == "flac" and stream.header_count is None and packet[:1] == b"\xff":
            stream.header_count = len(stream.headers)
            break
        stream.headers.append(packet)
        packets = packets[1:]
    return packets


def _read_first_packet(stream: _OpenStream, packet: bytes) -> None:
    stream.codec = next((c for mark, c in _CODECS.items() if packet.startswith(mark)), "")
    stream.header_count = 1
    try:
        if describe := _DESCRIBE.get(stream.codec):
            describe(stream, packet)
    except (struct.error, IndexError):
        stream.channels = 0
    if stream.rate_hz <= 0 or stream.clock_hz <= 0:
        stream.channels = 0


def _opus(stream: _OpenStream, packet: bytes) -> None:
    stream.channels, stream.skipped_samples, rate_hz = struct.unpack_from("<BHI", packet, 9)
    stream.rate_hz = rate_hz if rate_hz in OPUS_RATES_HZ else OPUS_RATE_HZ
    stream.clock_hz, stream.header_count = OPUS_RATE_HZ, 2


def _vorbis(stream: _OpenStream, packet: bytes) -> None:
    stream.channels, stream.rate_hz = struct.unpack_from("<BI", packet, 11)
    stream.clock_hz, stream.header_count = stream.rate_hz, 3
    stream.packet_samples = (1 << (packet[28] >> 4)) // 2


def _flac(stream: _OpenStream, packet: bytes) -> None:
    later_headers = int.from_bytes(packet[7:9], "big")
    fields = int.from_bytes(packet[27:35], "big")
    stream.rate_hz, stream.channels = fields >> 44, (fields >> 41 & 7) + 1
    stream.clock_hz = stream.rate_hz
    stream.header_count = later_headers + 1 if later_headers else None
    stream.packet_samples = max(int.from_bytes(packet[19:21], "big"), 1)


def _speex(stream: _OpenStream, packet: bytes) -> None:
    fields = struct.unpack_from("<9i", packet, 36)
    rate_hz, stream.channels, samples, count, extra_headers = (fields[n] for n in (0, 3, 5, 7, 8))
    stream.rate_hz = stream.clock_hz = rate_hz
    stream.header_count = 2 + max(extra_headers, 0)
    stream.packet_samples = max(samples * max(count, 1), 1)


_DESCRIBE = {"opus": _opus, "vorbis": _vorbis, "flac": _flac, "speex": _speex}


def _packet_samples(stream: _OpenStream, packet: bytes) -> int:
    """Return how many samples a packet holds, or at most holds, on its stream's clock."""
    return stream.packet_samples or opus_samples(packet)


def opus_samples(packet: bytes) -> int:
    """Return how many samples of 48 kHz an Opus packet decodes to (RFC 6716, 3.1)."""
    if not packet:
        return 0
    code = packet[0] & 3
    frames = (1, 2, 2, packet[1] & 63 if len(packet) > 1 else 0)[code]
    return frames * _OPUS_FRAMES[packet[0] >> 3]
