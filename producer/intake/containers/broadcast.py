"""Containers that are made to be sent, and cut anywhere: FLV and MPEG transport streams.

Sources: Adobe's "Video File Format Specification 10.1"; ISO/IEC 13818-1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

from producer.intake.containers.account import TOLERANCE_MS, Account, Break, Layout
from producer.intake.containers.window import Window

_FLV_AUDIO = 8
_FLV_AAC = 10
_TS_PACKET_BYTES = 188
_TS_SYNC = 0x47
#: Stream ids of audio: MPEG's, and the private one that holds AC-3 and Opus.
_TS_AUDIO = frozenset({*range(0xC0, 0xE0), 0xBD, 0xFD})
_PTS_PER_MS = 90
_PTS_WRAP = 1 << 33


def parse_flv(file: BinaryIO, _: int, size: int) -> Layout:
    """Follow tags to the file's end."""
    window = Window(file, 0, size)
    offset = int.from_bytes(window.peek(5, 4), "big") + 4
    first_ms: int | None = None
    at_ms = 0
    breaks: list[Break] = []
    while offset < size:
        head = window.peek(offset, 13)
        end = offset + 15 + int.from_bytes(head[1:4], "big")
        is_sound = len(head) == 13 and head[0] == _FLV_AUDIO
        # What describes AAC has a stamp of 0, whenever it begins.
        if is_sound and not (head[11] >> 4 == _FLV_AAC and not head[12]):
            stamp_ms = int.from_bytes(head[4:7], "big") | head[7] << 24
            first_ms = stamp_ms if first_ms is None else first_ms
            at_ms = max(stamp_ms - first_ms, at_ms)
        if end > size and not window.is_padding(offset, size):
            breaks.append(Break(at_ms, f"its last tag lacks {end - size} bytes"))
        if len(head) < 11:
            break
        offset = end
    return Layout(((0, size),), Account(at_ms or None, tuple(breaks)))


@dataclass(slots=True)
class _Stream:
    """One stream of audio among a transport stream's packets."""

    counter: int | None = None
    first_pts: int | None = None
    pts: int = 0
    #: Of the packet under way, how much is still to come; None where that is not stated.
    remaining_bytes: int | None = None
    #: Packets are missing since the last one that had a time.
    has_hole: bool = False

    @property
    def at_ms(self) -> int:
        if self.first_pts is None:
            return 0
        return (self.pts - self.first_pts) % _PTS_WRAP // _PTS_PER_MS


def parse_ts(file: BinaryIO, _: int, size: int) -> Layout:
    """Follow packets, by the counters of each stream; what lies behind the last is left out."""
    window, offset = Window(file, 0, size), 0
    streams: dict[int, _Stream] = {}
    breaks: list[Break] = []
    while offset + _TS_PACKET_BYTES <= size:
        packet = window.peek(offset, _TS_PACKET_BYTES)
        if packet[0] != _TS_SYNC:
            break
        breaks += _add_packet(packet, streams)
        offset += _TS_PACKET_BYTES
    for stream in streams.values():
        if stream.remaining_bytes:
            cause = f"its last packet lacks {stream.remaining_bytes} bytes"
            breaks.append(Break(stream.at_ms, cause))
    ends_ms = [stream.at_ms for stream in streams.values() if stream.first_pts is not None]
    unread_bytes = 0 if offset == size or window.is_padding(offset, size) else size - offset
    if 0 < unread_bytes < _TS_PACKET_BYTES and window.peek(offset, 1)[0] == _TS_SYNC:
        unread_bytes = 0
        if not breaks:
            breaks.append(Break(max(ends_ms, default=None), "its last packet is cut"))
    account = Account(max(ends_ms, default=None), tuple(breaks), unread_bytes)
    return Layout(((0, offset or size),), account)


def _add_packet(packet: bytes, streams: dict[int, _Stream]) -> list[Break]:
    """Take a packet in; return where audio turns out to be missing."""
    packet_id = (packet[1] & 0x1F) << 8 | packet[2]
    payload_at = 4 + (packet[4] + 1 if packet[3] & 0x20 else 0)
    payload = packet[payload_at:] if packet[3] & 0x10 else b""
    is_start = bool(packet[1] & 0x40)
    if is_start and payload[:3] == b"\0\0\1" and len(payload) > 8 and payload[3] in _TS_AUDIO:
        streams.setdefault(packet_id, _Stream())
    stream = streams.get(packet_id)
    if stream is None or not payload:
        return []
    counter = packet[3] & 15
    if counter == stream.counter:
        return []  # sent twice, which is allowed
    is_discontinuity = bool(packet[3] & 0x20 and packet[4] and packet[5] & 0x80)
    if stream.counter is not None and counter != (stream.counter + 1) & 15 and not is_discontinuity:
        stream.has_hole, stream.remaining_bytes = True, None
    stream.counter = counter
    return _add_payload(payload, stream, is_start=is_start)


def _add_payload(payload: bytes, stream: _Stream, *, is_start: bool) -> list[Break]:
    if not is_start:
        if stream.remaining_bytes is not None:
            stream.remaining_bytes = max(stream.remaining_bytes - len(payload), 0)
        return []
    before_ms, breaks = stream.at_ms, []
    length = int.from_bytes(payload[4:6], "big")
    stream.remaining_bytes = max(length + 6 - len(payload), 0) if length else None
    if payload[7] & 0x80 and len(payload) >= 14:
        _read_pts(payload, stream)
        if stream.has_hole:
            stream.has_hole = False
            if stream.at_ms - before_ms > TOLERANCE_MS:
                breaks.append(Break(before_ms, "packets are missing"))
    return breaks


def _read_pts(payload: bytes, stream: _Stream) -> None:
    parts = payload[9:14]
    stream.pts = (
        (parts[0] >> 1 & 7) << 30
        | parts[1] << 22
        | (parts[2] >> 1) << 15
        | parts[3] << 7
        | parts[4] >> 1
    )
    if stream.first_pts is None:
        stream.first_pts = stream.pts
