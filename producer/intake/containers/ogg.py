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

from producer.intake.containers.account import TOLERANCE_MS, Account, Break, seconds
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

    at: int
    end: int
    flags: int
    granule: int
    serial: int
    sequence: int
    lacing: bytes
    body: bytes
    checksum_right: bool

    @property
    def begins(self) -> bool:
        """Whether a stream begins with it."""
        return bool(self.flags & _BEGINS)

    @property
    def ends(self) -> bool:
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
class OggWalk:
    """What was met: links of a chain, each with the streams that run beside each other."""

    links: tuple[tuple[OggStream, ...], ...]
    account: Account
    #: Streams of audio that nobody here decodes.
    strange: int


def walk(file: BinaryIO, start: int, size: int) -> OggWalk:
    """Walk the pages from ``start`` to the end of a file."""
    walker = _Walker(file, start, audio_end(file, start, size))
    walker.run()
    return walker.result()


def packets(file: BinaryIO, stream: OggStream) -> Iterator[tuple[Page, list[bytes]]]:
    """Yield each page of a stream's audio, with the packets that end on it."""
    window = Window(file, stream.start, stream.end)
    left, joiner = len(stream.headers), _Joiner()
    for item in _pages(window, stream.start):
        if not isinstance(item, Page) or item.serial != stream.serial:
            continue
        whole = joiner.packets(item)
        dropped = min(left, len(whole))
        left -= dropped
        if not left and (whole[dropped:] or not dropped):
            yield item, whole[dropped:]


class _Stray(NamedTuple):
    """Bytes that are no page, and whether they begin one that the file does not hold whole."""

    start: int
    end: int
    is_cut_page: bool


def _pages(window: Window, at: int) -> Iterator[Page | _Stray]:
    latest: dict[int, Page] = {}
    while at < window.end:
        item = _page(window, at)
        if isinstance(item, Page):
            if not _is_again(item, latest.get(item.serial)):
                yield item
            latest[item.serial] = item
            at = item.end
            continue
        if end := tag_end(window, at):
            at = end
            continue
        place = window.find(_MARK, at + 1)
        stop = place if place >= 0 else window.end
        yield _Stray(at, stop, item)
        at = stop


def _is_again(page: Page, last: Page | None) -> bool:
    """Tell whether a page was written twice: it has the number, the place and all bytes of one."""
    return last is not None and page[2:] == last[2:]


def _page(window: Window, at: int) -> Page | bool:
    """Return the page at ``at``, or whether one begins there that is cut."""
    index = window.reach(at, _LONGEST_PAGE_BYTES)
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
    is_right = _checksum(page[:22] + bytes(4) + page[26:]) == checksum
    if not is_right and data[end : end + 4] not in {_MARK, b""} and page.find(_MARK, 4) > 0:
        return True  # another begins within it
    return Page(
        *(at, at + end - index, flags, granule, serial, sequence, lacing, data[body:end]),
        is_right,
    )


def _checksum(page: bytes) -> int:
    # zlib starts from all ones and inverts the end; Ogg does neither.
    mirrored = zlib.crc32(page.translate(_MIRROR), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(mirrored.to_bytes(4, "little").translate(_MIRROR), "big")


class _Joiner:
    """Joins the segments of a stream's pages to packets."""

    def __init__(self) -> None:
        self._open = b""

    def packets(self, page: Page) -> list[bytes]:
        """Return the packets that end on a page."""
        whole: list[bytes] = []
        if not page.flags & _CONTINUED or len(self._open) > _LONGEST_PACKET_BYTES:
            self._open = b""
        at = start = 0
        for length in page.lacing:
            at += length
            if length < 255:
                whole.append(self._open + page.body[start:at])
                self._open, start = b"", at
        self._open += page.body[start:at]
        return whole


@dataclass(slots=True)
class _Open:
    """A stream under way: its headers, and how far its clock has come against its packets."""

    start: int
    serial: int
    begun_ms: float
    codec: str = ""
    rate_hz: int = 0
    channels: int = 0
    clock_hz: int = 0
    skipped: int = 0
    #: Samples that a packet has at most, where that does not depend on it.
    packet_samples: int = 0
    end: int = 0
    headers: list[bytes] = field(default_factory=list)
    wanted_headers: int | None = None
    joiner: _Joiner = field(default_factory=_Joiner)
    origin: int | None = None
    clock: int = 0
    samples: int = 0
    sequence: int | None = None
    pages: int = 0

    @property
    def is_audio(self) -> bool:
        return self.channels > 0

    @property
    def duration_ms(self) -> float:
        """How long it is, by its clock and its packets."""
        if not self.clock_hz:
            return 0.0
        return max(self.samples - self.skipped, 0) * 1000 / self.clock_hz


class _Walker:
    """The state of a walk."""

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self._window = Window(file, start, end)
        self._start = start
        self._links: list[tuple[OggStream, ...]] = []
        self._open: dict[int, _Open] = {}
        self._ended: list[_Open] = []
        self._has_data = False
        self._begun_ms = 0.0
        self._breaks: list[Break] = []
        self._damaged: list[Break] = []
        self._right_checksums = 0
        self._unread_bytes = 0
        self._strange = 0

    def run(self) -> None:
        """Walk to the end."""
        for item in _pages(self._window, self._start):
            if isinstance(item, Page):
                self._add(item)
            else:
                self._pass_over(item)
        self._end_link()

    def result(self) -> OggWalk:
        """Return what was met."""
        # A recorder that computes no checksum has none right.
        damaged = self._damaged if self._right_checksums > len(self._damaged) else []
        account = Account(round(self._begun_ms), (*self._breaks, *damaged), self._unread_bytes)
        return OggWalk(tuple(self._links), account, self._strange)

    def _add(self, page: Page) -> None:
        if page.begins:
            if self._has_data:
                self._end_link()
            self._open[page.serial] = _Open(page.at, page.serial, self._begun_ms)
        stream = self._open.get(page.serial)
        if stream is None:
            self._unread_bytes += page.end - page.at
            return
        self._has_data = self._has_data or not page.begins
        self._check(page, stream)
        stream.end = page.end
        ended = stream.joiner.packets(page)
        rest = _take_headers(stream, ended)
        if stream.is_audio and not _wants_headers(stream):
            self._advance(stream, page, rest)

    def _check(self, page: Page, stream: _Open) -> None:
        stream.pages += 1
        if page.checksum_right:
            self._right_checksums += 1
        elif stream.is_audio:
            at_ms = round(stream.begun_ms + stream.duration_ms)
            self._damaged.append(Break(at_ms, "a page's checksum is wrong"))

    def _advance(self, stream: _Open, page: Page, ended: list[bytes]) -> None:
        """Move a stream's clock over a page."""
        jumped = stream.sequence is not None and page.sequence > stream.sequence + 1
        stream.sequence = page.sequence
        samples = sum(_samples_of(stream, packet) for packet in ended)
        if page.granule < 0 or not ended:
            stream.samples += samples
            return
        if stream.origin is None:
            # What begins later on its clock was cut out of something longer. Where packets tell
            # no more than a bound, its first page may hold less: no more is promised.
            stream.origin = max(page.granule - samples, 0)
            if stream.origin and stream.packet_samples:
                stream.origin, samples = page.granule, 0
            stream.clock = page.granule
            stream.samples = self._ended_at(stream, page, samples)
            return
        late = page.granule - stream.origin - stream.samples - samples
        late_ms = late * 1000 / stream.clock_hz
        if late_ms > TOLERANCE_MS:
            if jumped:
                at_ms = round(stream.begun_ms + stream.duration_ms)
                cause = f"pages with {seconds(round(late_ms))} are missing"
                self._breaks.append(Break(at_ms, cause))
            stream.samples += late
        stream.samples = self._ended_at(stream, page, stream.samples + samples)
        stream.clock = max(stream.clock, page.granule)

    def _ended_at(self, stream: _Open, page: Page, samples: int) -> int:
        """Return how many samples a stream has had by the end of a page."""
        position = page.granule - (stream.origin or 0)
        if stream.packet_samples:
            # Packets tell no more than a bound; the clock does.
            return position if page.granule >= stream.clock else samples
        return min(samples, position) if page.ends and page.granule >= stream.clock else samples

    def _pass_over(self, stray: _Stray) -> None:
        streams = [stream for stream in self._open.values() if stream.is_audio]
        if stray.is_cut_page and streams:
            at_ms = max(round(stream.begun_ms + stream.duration_ms) for stream in streams)
            self._breaks.append(Break(at_ms, "a page ends before its stated length"))
        elif not self._window.is_padding(stray.start, stray.end):
            self._unread_bytes += stray.end - stray.start

    def _end_link(self) -> None:
        """Close the streams under way: what begins next begins when the longest of them ends."""
        streams = [stream for stream in self._open.values() if stream.is_audio]
        self._strange += sum(_is_strange(stream) for stream in self._open.values())
        self._open, self._has_data = {}, False
        known = tuple(_closed(stream) for stream in streams if stream.codec in _CODECS.values())
        if known:
            self._links.append(known)
            self._begun_ms += max(stream.duration_ms for stream in streams)


def _closed(stream: _Open) -> OggStream:
    return OggStream(
        stream.codec,
        stream.serial,
        stream.start,
        stream.end,
        tuple(stream.headers),
        stream.rate_hz,
        stream.channels,
        stream.clock_hz,
        stream.skipped,
    )


#: How a stream's first packet begins, and FFmpeg's name of what decodes it.
_CODECS: Mapping[bytes, str] = {
    b"OpusHead": "opus",
    b"\x01vorbis": "vorbis",
    b"\x7fFLAC": "flac",
    b"Speex   ": "speex",
}
#: Audio of other days, which FFmpeg may know.
_STRANGE = (b"CELT", b"PCM     ", b"\x81kate")


def _is_strange(stream: _Open) -> bool:
    return bool(stream.headers) and stream.headers[0].startswith(_STRANGE[:2])


def _wants_headers(stream: _Open) -> bool:
    return stream.wanted_headers is None or len(stream.headers) < stream.wanted_headers


def _take_headers(stream: _Open, ended: list[bytes]) -> list[bytes]:
    """Take the packets that are headers; return the others."""
    while ended and _wants_headers(stream):
        packet = ended[0]
        if not stream.headers:
            _describe(stream, packet)
        elif stream.codec == "flac" and stream.wanted_headers is None and packet[:1] == b"\xff":
            stream.wanted_headers = len(stream.headers)
            break
        stream.headers.append(packet)
        ended = ended[1:]
    return ended


def _describe(stream: _Open, packet: bytes) -> None:
    """Read a stream's first packet."""
    stream.codec = next((c for mark, c in _CODECS.items() if packet.startswith(mark)), "")
    stream.wanted_headers = 1
    try:
        if describe := _DESCRIBE.get(stream.codec):
            describe(stream, packet)
    except (struct.error, IndexError):
        stream.channels = 0
    if stream.rate_hz <= 0 or stream.clock_hz <= 0:
        stream.channels = 0


def _opus(stream: _Open, packet: bytes) -> None:
    stream.channels, stream.skipped, rate_hz = struct.unpack_from("<BHI", packet, 9)
    stream.rate_hz = rate_hz if rate_hz in OPUS_RATES_HZ else OPUS_RATE_HZ
    stream.clock_hz, stream.wanted_headers = OPUS_RATE_HZ, 2


def _vorbis(stream: _Open, packet: bytes) -> None:
    stream.channels, stream.rate_hz = struct.unpack_from("<BI", packet, 11)
    stream.clock_hz, stream.wanted_headers = stream.rate_hz, 3
    stream.packet_samples = (1 << (packet[28] >> 4)) // 2


def _flac(stream: _Open, packet: bytes) -> None:
    others = int.from_bytes(packet[7:9], "big")
    fields = int.from_bytes(packet[27:35], "big")
    stream.rate_hz, stream.channels = fields >> 44, (fields >> 41 & 7) + 1
    stream.clock_hz, stream.wanted_headers = stream.rate_hz, others + 1 if others else None
    stream.packet_samples = max(int.from_bytes(packet[19:21], "big"), 1)


def _speex(stream: _Open, packet: bytes) -> None:
    rate_hz, _, _, channels, _, samples, _, count, more = struct.unpack_from("<9i", packet, 36)
    stream.rate_hz, stream.channels = rate_hz, channels
    stream.clock_hz, stream.wanted_headers = rate_hz, 2 + max(more, 0)
    stream.packet_samples = max(samples * max(count, 1), 1)


_DESCRIBE = {"opus": _opus, "vorbis": _vorbis, "flac": _flac, "speex": _speex}


def _samples_of(stream: _Open, packet: bytes) -> int:
    """Return how many samples a packet holds, or at most holds, on its stream's clock."""
    if stream.packet_samples:
        return stream.packet_samples
    return opus_samples(packet)


def opus_samples(packet: bytes) -> int:
    """Return how many samples of 48 kHz an Opus packet decodes to (RFC 6716, 3.1)."""
    if not packet:
        return 0
    code = packet[0] & 3
    frames = (1, 2, 2, packet[1] & 63 if len(packet) > 1 else 0)[code]
    return frames * _OPUS_FRAMES[packet[0] >> 3]
