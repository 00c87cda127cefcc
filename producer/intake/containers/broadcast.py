"""Containers that are made to be sent, and cut anywhere: FLV and MPEG transport streams.

Sources: Adobe's "Video File Format Specification 10.1"; ISO/IEC 13818-1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

from producer.intake.containers.account import TOLERANCE_MS, Account, Break, Walk
from producer.intake.containers.window import Window

_FLV_AUDIO = 8
_FLV_AAC = 10
_TS_PACKET_BYTES = 188
_TS_SYNC = 0x47
#: Stream ids of audio: MPEG's, and the private one that holds AC-3 and Opus.
_TS_AUDIO = frozenset({*range(0xC0, 0xE0), 0xBD, 0xFD})
_PTS_PER_MS = 90
_PTS_WRAP = 1 << 33


def walk_flv(file: BinaryIO, _: int, size: int) -> Walk:
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
    return Walk(((0, size),), Account(at_ms or None, tuple(breaks)))


@dataclass(slots=True)
class _Program:
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


def walk_ts(file: BinaryIO, _: int, size: int) -> Walk:
    """Follow packets, by the counters of each stream; what lies behind the last is left out."""
    window, offset = Window(file, 0, size), 0
    programs: dict[int, _Program] = {}
    breaks: list[Break] = []
    while offset + _TS_PACKET_BYTES <= size:
        packet = window.peek(offset, _TS_PACKET_BYTES)
        if packet[0] != _TS_SYNC:
            break
        breaks += _add_packet(packet, programs)
        offset += _TS_PACKET_BYTES
    for program in programs.values():
        if program.remaining_bytes:
            cause = f"its last packet lacks {program.remaining_bytes} bytes"
            breaks.append(Break(program.at_ms, cause))
    ends_ms = [program.at_ms for program in programs.values() if program.first_pts is not None]
    unread_bytes = 0 if offset == size or window.is_padding(offset, size) else size - offset
    if 0 < unread_bytes < _TS_PACKET_BYTES and window.peek(offset, 1)[0] == _TS_SYNC:
        unread_bytes = 0
        if not breaks:
            breaks.append(Break(max(ends_ms, default=None), "its last packet is cut"))
    account = Account(max(ends_ms, default=None), tuple(breaks), unread_bytes)
    return Walk(((0, offset or size),), account)


def _add_packet(packet: bytes, programs: dict[int, _Program]) -> list[Break]:
    """Take a packet in; return where audio turns out to be missing."""
    number = (packet[1] & 0x1F) << 8 | packet[2]
    payload_at = 4 + (packet[4] + 1 if packet[3] & 0x20 else 0)
    payload = packet[payload_at:] if packet[3] & 0x10 else b""
    is_start = bool(packet[1] & 0x40)
    if is_start and payload[:3] == b"\0\0\1" and len(payload) > 8 and payload[3] in _TS_AUDIO:
        programs.setdefault(number, _Program())
    program = programs.get(number)
    if program is None or not payload:
        return []
    counter = packet[3] & 15
    if counter == program.counter:
        return []  # sent twice, which is allowed
    may_jump = bool(packet[3] & 0x20 and packet[4] and packet[5] & 0x80)
    if program.counter is not None and counter != (program.counter + 1) & 15 and not may_jump:
        program.has_hole, program.remaining_bytes = True, None
    program.counter = counter
    return _add_payload(payload, program, is_start=is_start)


def _add_payload(payload: bytes, program: _Program, *, is_start: bool) -> list[Break]:
    if not is_start:
        if program.remaining_bytes is not None:
            program.remaining_bytes = max(program.remaining_bytes - len(payload), 0)
        return []
    before_ms, breaks = program.at_ms, []
    length = int.from_bytes(payload[4:6], "big")
    program.remaining_bytes = max(length + 6 - len(payload), 0) if length else None
    if payload[7] & 0x80 and len(payload) >= 14:
        _read_pts(payload, program)
        if program.has_hole:
            program.has_hole = False
            if program.at_ms - before_ms > TOLERANCE_MS:
                breaks.append(Break(before_ms, "packets are missing"))
    return breaks


def _read_pts(payload: bytes, program: _Program) -> None:
    parts = payload[9:14]
    program.pts = (
        (parts[0] >> 1 & 7) << 30
        | parts[1] << 22
        | (parts[2] >> 1) << 15
        | parts[3] << 7
        | parts[4] >> 1
    )
    if program.first_pts is None:
        program.first_pts = program.pts
