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
    at = int.from_bytes(window.peek(5, 4), "big") + 4
    first_ms: int | None = None
    at_ms = 0
    breaks: list[Break] = []
    while at < size:
        head = window.peek(at, 13)
        end = at + 15 + int.from_bytes(head[1:4], "big")
        is_sound = len(head) == 13 and head[0] == _FLV_AUDIO
        # What describes AAC has a stamp of 0, whenever it begins.
        if is_sound and not (head[11] >> 4 == _FLV_AAC and not head[12]):
            stamp_ms = int.from_bytes(head[4:7], "big") | head[7] << 24
            first_ms = stamp_ms if first_ms is None else first_ms
            at_ms = max(stamp_ms - first_ms, at_ms)
        if end > size and not window.is_padding(at, size):
            breaks.append(Break(at_ms, f"its last tag lacks {end - size} bytes"))
        if len(head) < 11:
            break
        at = end
    return Walk(((0, size),), Account(at_ms or None, tuple(breaks)))


@dataclass(slots=True)
class _Program:
    """One stream of audio among a transport stream's packets."""

    counter: int | None = None
    first_pts: int | None = None
    pts: int = 0
    #: Of the packet under way, how much is still to come; None where that is not stated.
    left: int | None = None
    #: Packets are missing since the last one that had a time.
    is_holed: bool = False

    @property
    def at_ms(self) -> int:
        if self.first_pts is None:
            return 0
        return (self.pts - self.first_pts) % _PTS_WRAP // _PTS_PER_MS


def walk_ts(file: BinaryIO, _: int, size: int) -> Walk:
    """Follow packets, by the counters of each stream; what lies behind the last is left out."""
    window, at = Window(file, 0, size), 0
    programs: dict[int, _Program] = {}
    breaks: list[Break] = []
    while at + _TS_PACKET_BYTES <= size:
        packet = window.peek(at, _TS_PACKET_BYTES)
        if packet[0] != _TS_SYNC:
            break
        breaks += _ts_packet(packet, programs)
        at += _TS_PACKET_BYTES
    for program in programs.values():
        if program.left:
            cause = f"its last packet lacks {program.left} bytes"
            breaks.append(Break(program.at_ms, cause))
    ends_ms = [program.at_ms for program in programs.values() if program.first_pts is not None]
    unread = 0 if at == size or window.is_padding(at, size) else size - at
    if 0 < unread < _TS_PACKET_BYTES and window.peek(at, 1)[0] == _TS_SYNC:
        unread = 0
        if not breaks:
            breaks.append(Break(max(ends_ms, default=None), "its last packet is cut"))
    return Walk(((0, at or size),), Account(max(ends_ms, default=None), tuple(breaks), unread))


def _ts_packet(packet: bytes, programs: dict[int, _Program]) -> list[Break]:
    """Take a packet in; return where audio turns out to be missing."""
    number = (packet[1] & 0x1F) << 8 | packet[2]
    payload_at = 4 + (packet[4] + 1 if packet[3] & 0x20 else 0)
    payload = packet[payload_at:] if packet[3] & 0x10 else b""
    starts = bool(packet[1] & 0x40)
    if starts and payload[:3] == b"\0\0\1" and len(payload) > 8 and payload[3] in _TS_AUDIO:
        programs.setdefault(number, _Program())
    program = programs.get(number)
    if program is None or not payload:
        return []
    counter = packet[3] & 15
    if counter == program.counter:
        return []  # sent twice, which is allowed
    jumped = bool(packet[3] & 0x20 and packet[4] and packet[5] & 0x80)
    if program.counter is not None and counter != (program.counter + 1) & 15 and not jumped:
        program.is_holed, program.left = True, None
    program.counter = counter
    return _ts_payload(payload, program, starts=starts)


def _ts_payload(payload: bytes, program: _Program, *, starts: bool) -> list[Break]:
    if not starts:
        if program.left is not None:
            program.left = max(program.left - len(payload), 0)
        return []
    before_ms, breaks = program.at_ms, []
    length = int.from_bytes(payload[4:6], "big")
    program.left = max(length + 6 - len(payload), 0) if length else None
    if payload[7] & 0x80 and len(payload) >= 14:
        _take_pts(payload, program)
        if program.is_holed:
            program.is_holed = False
            if program.at_ms - before_ms > TOLERANCE_MS:
                breaks.append(Break(before_ms, "packets are missing"))
    return breaks


def _take_pts(payload: bytes, program: _Program) -> None:
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
