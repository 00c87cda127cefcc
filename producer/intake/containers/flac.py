"""FLAC: how long it is by its last frame, whatever its header says, and what was joined to it.

A frame's header states which sample it begins with, under a checksum of its own, so that the last
frame tells the length without a look at those before it. Source: RFC 9639.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from producer.intake.containers.account import TOLERANCE_MS, Account, Break, seconds
from producer.intake.containers.tags import audio_end
from producer.intake.containers.window import Window

#: A file begins with this, and a block of 34 bytes that describes it.
_MARK = b"fLaC"
_BEGIN = _MARK + b"\x00\x00\x00\x22"
_LAST_BEGIN = _MARK + b"\x80\x00\x00\x22"
#: The last frame is looked for in so many bytes: one of 65,535 samples, 8 channels, 32 bits.
_TAIL_BYTES = 1 << 21
_FIRST_TAIL_BYTES = 1 << 16
_LONGEST_FRAME_BYTES = 1 << 18
_SIZES = {1: 192, 2: 576, 3: 1152, 4: 2304, 5: 4608}
_LONGEST_HEADER_BYTES = 16
#: A header of six bytes, a byte of silence for one channel, and two of checksum.
_SHORTEST_FRAME_BYTES = 8


@dataclass(frozen=True, slots=True)
class FlacWalk:
    """What was met: ``files`` are where each of those that were joined lies.

    ``frames`` are those of all of them, 0 where nothing tells; ``is_true`` says that the one
    header there is counts what is there, and that the last frame's end is known.
    """

    files: tuple[tuple[int, int], ...]
    account: Account
    frames: int
    is_true: bool


@dataclass(frozen=True, slots=True)
class _Info:
    """What a file's header says; ``min_block`` and ``max_block`` are in samples."""

    min_block: int
    max_block: int
    rate_hz: int
    total: int


def walk(file: BinaryIO, start: int, size: int) -> FlacWalk:
    """Look at the head and the end of each file that begins at or behind ``start``."""
    end = audio_end(file, start, size)
    begins = _begins(Window(file, start, end), start)
    files = tuple(zip(begins, [*begins[1:], end], strict=True))
    breaks: list[Break] = []
    ended = files[-1][1]
    lengths_ms, frames, unread, is_true, known = 0, 0, 0, len(files) == 1, True
    for begin, stop in files:
        info = _info(file, begin)
        if info is None or not info.rate_hz:
            return FlacWalk(files, Account(), 0, is_true=True)
        ending = _last_sample(file, begin, stop, info)
        last = None if ending is None else ending.samples
        held = info.total if last is None else last
        if ending and not Window(file, ending.end, stop).is_padding(ending.end, stop):
            unread += stop - ending.end
        ended = stop if ending is None else ending.end
        known = known and bool(held)
        is_true = is_true and (last is None or last == info.total)
        is_true = is_true and (ending is None or ending.is_sure)
        frames += held
        held_ms = held * 1000 // info.rate_hz
        promised_ms = info.total * 1000 // info.rate_hz
        at_ms = lengths_ms + held_ms
        if last is not None and promised_ms - held_ms > TOLERANCE_MS:
            cause = f"its header promises {seconds(promised_ms)} and it holds {seconds(held_ms)}"
            breaks.append(Break(at_ms, cause))
        elif ending is not None and ending.is_cut:
            breaks.append(Break(at_ms, "its last frame is cut"))
        lengths_ms += held_ms
    # On what lies behind the last frame, be it zeros, a decoder may choke.
    files = (*files[:-1], (files[-1][0], ended))
    account = Account(lengths_ms if known else None, tuple(breaks), unread)
    return FlacWalk(files, account, frames if known else 0, is_true)


def _begins(window: Window, start: int) -> list[int]:
    """Return where files begin: the first at ``start``, others behind it."""
    begins, at = [start], start + 4
    while (place := window.find(_MARK, at)) >= 0:
        if window.peek(place, 8) in {_BEGIN, _LAST_BEGIN}:
            begins.append(place)
        at = place + 4
    return begins


def _info(file: BinaryIO, begin: int) -> _Info | None:
    file.seek(begin)
    data = file.read(42)
    if len(data) < 42 or data[:4] != _MARK or data[4] & 0x7F:
        return None
    fields = int.from_bytes(data[18:26], "big")
    return _Info(
        int.from_bytes(data[8:10], "big"),
        int.from_bytes(data[10:12], "big"),
        fields >> 44,
        fields & (1 << 36) - 1,
    )


class _Ending(NamedTuple):
    """How a file ends: how many samples it holds, where its last whole frame or the file ends."""

    samples: int
    end: int
    is_cut: bool
    is_sure: bool = True


def _last_sample(file: BinaryIO, begin: int, stop: int, info: _Info) -> _Ending | None:
    """Return how a file ends, by its last frame; None without one.

    Bytes that look like a frame's header turn up by chance: it counts as one if it ends with its
    checksum, or if another frame ends where it begins.
    """
    for reach in (_FIRST_TAIL_BYTES, _TAIL_BYTES):
        start = max(stop - reach, begin)
        file.seek(start)
        tail = file.read(stop - start)
        heads = _heads(tail, info)
        later: list[_Head] = []
        for head in heads:
            ends = _checksum_ends(tail[head.at :])
            places = {head.at + end for end in ends}
            cut = next((after for after in later if after.at in places), None)
            if cut is not None:
                return _Ending(cut.ended - cut.samples, stop, is_cut=True)
            if ends and not later:
                whole = _first_end(ends, len(tail) - head.at)
                end = start + head.at + (whole or ends[-1])
                return _Ending(head.ended, end, is_cut=False, is_sure=whole is not None)
            later.append(head)
            if len(later) > _MOST_HEADS:
                break
        if start == begin:
            break
    return None


#: Headers looked at, from the end: but for those that turn up by chance, the first or second tells.
_MOST_HEADS = 8


class _Head(NamedTuple):
    """A frame's header: where it begins, and the sample that its frame ends before."""

    at: int
    samples: int
    ended: int


def _heads(tail: bytes, info: _Info) -> Iterator[_Head]:
    """Yield what looks like a frame's header, the last one first."""
    at = len(tail)
    while (at := tail.rfind(b"\xff", 0, at)) >= 0:
        header = tail[at : at + _LONGEST_HEADER_BYTES]
        ended = _frame_end(header, info)
        if ended is not None and 0 < ended < 1 << 36:
            yield _Head(at, _block_size(header)[0], ended)


def _block_size(header: bytes) -> tuple[int, int]:
    """Return a frame's samples, and how many bytes its header has without its checksum."""
    code = header[2] >> 4
    number_bytes = _coded_bytes(header[4]) if len(header) > 4 else 0
    at = 4 + number_bytes
    size = _SIZES.get(code, 256 << (code - 8) if code >= 8 else 0)
    if code in {6, 7}:
        width = code - 5
        size = int.from_bytes(header[at : at + width], "big") + 1
        at += width
    at += {12: 1, 13: 2, 14: 2}.get(header[2] & 15, 0)
    return size, at


def _coded_bytes(first: int) -> int:
    """Return the length of a number coded as in UTF-8, by its first byte; 0 for none."""
    if first < 0x80:
        return 1
    length = 8 - (first ^ 0xFF).bit_length()
    return length if 2 <= length <= 7 else 0


def _frame_end(header: bytes, info: _Info) -> int | None:
    """Return the sample that a frame with this header ends with; None where it is no header."""
    if len(header) < 6 or header[1] & 0xFE != 0xF8 or header[3] & 1:
        return None
    if header[2] >> 4 == 0 or header[2] & 15 == 15 or not (count := _coded_bytes(header[4])):
        return None
    size, at = _block_size(header)
    if at >= len(header) or not size or _crc8(header[:at]) != header[at]:
        return None
    number = header[4] & (0x7F if count == 1 else (1 << (7 - count)) - 1)
    for byte in header[5 : 4 + count]:
        number = number << 6 | byte & 0x3F
    variable = bool(header[1] & 1)
    # Of blocks of one size the last is shorter, and the number counts the blocks before it.
    return number + size if variable else number * info.max_block + size


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc = _CRC8[crc ^ byte]
    return crc


def _crc_table(polynomial: int, bits: int) -> list[int]:
    top, mask = 1 << (bits - 1), (1 << bits) - 1
    table = []
    for byte in range(256):
        crc = byte << (bits - 8)
        for _ in range(8):
            crc = (crc << 1 ^ polynomial if crc & top else crc << 1) & mask
        table.append(crc)
    return table


_CRC8 = _crc_table(0x07, 8)
_CRC16 = _crc_table(0x8005, 16)


def _first_end(ends: list[int], length: int) -> int | None:
    """Return where a frame of so many bytes at most ends; None where zeros behind it hide that.

    A checksum that holds goes on holding over zeros, which its own last bytes may be.
    """
    end = ends[-1]
    first = end
    while first - 1 in ends:
        first -= 1
    if end == first or (end == length and end - first <= 2):
        return end
    return None


def _checksum_ends(frame: bytes) -> list[int]:
    """Return after how many bytes a frame's checksum holds: at its end, and seldom by chance."""
    crc, ends = 0, []
    for at, byte in enumerate(frame[:_LONGEST_FRAME_BYTES]):
        crc = (crc << 8 & 0xFFFF) ^ _CRC16[crc >> 8 ^ byte]
        if not crc and at >= _SHORTEST_FRAME_BYTES:
            ends.append(at + 1)
    return ends
