"""FLAC: how long it is by its last frame, whatever its header says, and what was joined to it.

A frame's header states which sample it begins with, under a checksum of its own, so that the last
frame tells the length without a look at those before it. Source: RFC 9639.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from producer.intake.containers.account import TOLERANCE_MS, Account, Break, shortfall
from producer.intake.containers.tags import audio_end
from producer.intake.containers.window import Window

#: A file begins with this, and a block of 34 bytes that describes it.
_MAGIC = b"fLaC"
_FILE_START = _MAGIC + b"\x00\x00\x00\x22"
_SHORT_FILE_START = _MAGIC + b"\x80\x00\x00\x22"
#: The last frame is looked for in so many bytes: one of 65,535 samples, 8 channels, 32 bits.
_TAIL_BYTES = 1 << 21
_FIRST_TAIL_BYTES = 1 << 16
_LONGEST_FRAME_BYTES = 1 << 18
_SIZES = {1: 192, 2: 576, 3: 1152, 4: 2304, 5: 4608}
_LONGEST_HEADER_BYTES = 16
#: A header of six bytes, a byte of silence for one channel, and two of checksum.
_SHORTEST_FRAME_BYTES = 8


@dataclass(frozen=True, slots=True)
class FlacLayout:
    """What was met: ``files`` are where each of those that were joined lies.

    ``frames`` are those of all of them, 0 where nothing tells. ``is_header_right`` says that the
    only header counts what is there, and that the last frame's end is known.
    """

    files: tuple[tuple[int, int], ...]
    account: Account
    frames: int
    is_header_right: bool


@dataclass(frozen=True, slots=True)
class _StreamInfo:
    """What a file's header says; ``max_block`` and ``total`` are in samples."""

    max_block: int
    rate_hz: int
    total: int


def parse_flac(file: BinaryIO, start: int, size: int) -> FlacLayout:
    """Look at the head and the end of each file that begins at or behind ``start``."""
    end = audio_end(file, start, size)
    starts = _file_starts(Window(file, start, end), start)
    files = tuple(zip(starts, [*starts[1:], end], strict=True))
    breaks: list[Break] = []
    frames_end = files[-1][1]
    total_ms, frames, unread_bytes, is_header_right, is_known = 0, 0, 0, len(files) == 1, True
    for file_start, stop in files:
        info = _read_stream_info(file, file_start)
        if info is None or not info.rate_hz:
            return FlacLayout(files, Account(), 0, is_header_right=True)
        file_end = _find_end(file, file_start, stop, info)
        last_sample = None if file_end is None else file_end.samples
        samples = info.total if last_sample is None else last_sample
        if file_end and not Window(file, file_end.end, stop).is_padding(file_end.end, stop):
            unread_bytes += stop - file_end.end
        frames_end = stop if file_end is None else file_end.end
        is_known = is_known and bool(samples)
        is_header_right = is_header_right and (last_sample is None or last_sample == info.total)
        is_header_right = is_header_right and (file_end is None or file_end.is_sure)
        frames += samples
        held_ms = samples * 1000 // info.rate_hz
        promised_ms = info.total * 1000 // info.rate_hz
        at_ms = total_ms + held_ms
        if last_sample is not None and promised_ms - held_ms > TOLERANCE_MS:
            breaks.append(Break(at_ms, shortfall(promised_ms, held_ms)))
        elif file_end is not None and file_end.is_cut:
            breaks.append(Break(at_ms, "its last frame is cut"))
        total_ms += held_ms
    # On what lies behind the last frame, be it zeros, a decoder may choke.
    files = (*files[:-1], (files[-1][0], frames_end))
    account = Account(total_ms if is_known else None, tuple(breaks), unread_bytes)
    return FlacLayout(files, account, frames if is_known else 0, is_header_right)


def _file_starts(window: Window, start: int) -> list[int]:
    """Return where files begin: the first at ``start``, others behind it."""
    starts, offset = [start], start + 4
    while (file_start := window.find(_MAGIC, offset)) >= 0:
        if window.peek(file_start, 8) in {_FILE_START, _SHORT_FILE_START}:
            starts.append(file_start)
        offset = file_start + 4
    return starts


def _read_stream_info(file: BinaryIO, file_start: int) -> _StreamInfo | None:
    file.seek(file_start)
    data = file.read(42)
    if len(data) < 42 or data[:4] != _MAGIC or data[4] & 0x7F:
        return None
    fields = int.from_bytes(data[18:26], "big")
    max_block = int.from_bytes(data[10:12], "big")
    return _StreamInfo(max_block, rate_hz=fields >> 44, total=fields & (1 << 36) - 1)


class _FileEnd(NamedTuple):
    """How a file ends: how many samples it holds, where its last whole frame or the file ends."""

    samples: int
    end: int
    is_cut: bool
    is_sure: bool = True


def _find_end(file: BinaryIO, file_start: int, stop: int, info: _StreamInfo) -> _FileEnd | None:
    """Return how a file ends, by its last frame; None without one.

    Bytes that look like a frame's header turn up by chance: it counts as one if it ends with its
    checksum, or if another frame ends where it begins.
    """
    for tail_bytes in (_FIRST_TAIL_BYTES, _TAIL_BYTES):
        start = max(stop - tail_bytes, file_start)
        file.seek(start)
        tail = file.read(stop - start)
        headers = _frame_headers(tail, info)
        later_headers: list[_FrameHeader] = []
        for header in headers:
            ends = _checksum_ends(tail[header.offset :])
            end_offsets = {header.offset + end for end in ends}
            cut_frame = next((h for h in later_headers if h.offset in end_offsets), None)
            if cut_frame is not None:
                return _FileEnd(cut_frame.end_sample - cut_frame.samples, stop, is_cut=True)
            if ends and not later_headers:
                exact_end = _exact_end(ends, len(tail) - header.offset)
                end = start + header.offset + (exact_end or ends[-1])
                return _FileEnd(header.end_sample, end, is_cut=False, is_sure=exact_end is not None)
            later_headers.append(header)
            if len(later_headers) > _MAX_HEADERS:
                break
        if start == file_start:
            break
    return None


#: Headers looked at, from the end: but for those that turn up by chance, the first or second tells.
_MAX_HEADERS = 8


class _FrameHeader(NamedTuple):
    """A frame's header: where it begins, and the sample that its frame ends before."""

    offset: int
    samples: int
    end_sample: int


def _frame_headers(tail: bytes, info: _StreamInfo) -> Iterator[_FrameHeader]:
    """Yield what looks like a frame's header, the last one first."""
    offset = len(tail)
    while (offset := tail.rfind(b"\xff", 0, offset)) >= 0:
        header = tail[offset : offset + _LONGEST_HEADER_BYTES]
        end_sample = _frame_end_sample(header, info)
        if end_sample is not None and 0 < end_sample < 1 << 36:
            yield _FrameHeader(offset, _block_samples(header)[0], end_sample)


def _block_samples(header: bytes) -> tuple[int, int]:
    """Return a frame's samples, and how many bytes its header has without its checksum."""
    code = header[2] >> 4
    number_bytes = _coded_bytes(header[4]) if len(header) > 4 else 0
    header_bytes = 4 + number_bytes
    size = _SIZES.get(code, 256 << (code - 8) if code >= 8 else 0)
    if code in {6, 7}:
        width = code - 5
        size = int.from_bytes(header[header_bytes : header_bytes + width], "big") + 1
        header_bytes += width
    header_bytes += {12: 1, 13: 2, 14: 2}.get(header[2] & 15, 0)
    return size, header_bytes


def _coded_bytes(first_byte: int) -> int:
    """Return the length of a number coded as in UTF-8, by its first byte; 0 for none."""
    if first_byte < 0x80:
        return 1
    length = 8 - (first_byte ^ 0xFF).bit_length()
    return length if 2 <= length <= 7 else 0


def _frame_end_sample(header: bytes, info: _StreamInfo) -> int | None:
    """Return the sample that a frame with this header ends with; None where it is no header."""
    if len(header) < 6 or header[1] & 0xFE != 0xF8 or header[3] & 1:
        return None
    if header[2] >> 4 == 0 or header[2] & 15 == 15 or not (number_bytes := _coded_bytes(header[4])):
        return None
    size, header_bytes = _block_samples(header)
    checksum = header[header_bytes : header_bytes + 1]
    if not checksum or not size or _crc8(header[:header_bytes]) != checksum[0]:
        return None
    number = header[4] & (0x7F if number_bytes == 1 else (1 << (7 - number_bytes)) - 1)
    for byte in header[5 : 4 + number_bytes]:
        number = number << 6 | byte & 0x3F
    is_variable = bool(header[1] & 1)
    # Of blocks of one size the last is shorter, and the number counts the blocks before it.
    return number + size if is_variable else number * info.max_block + size


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


def _exact_end(ends: list[int], length: int) -> int | None:
    """Return where a frame of so many bytes at most ends; None where zeros behind it hide that.

    A checksum that holds goes on holding over zeros, which its own last bytes may be.
    """
    end = ends[-1]
    earliest = end
    while earliest - 1 in ends:
        earliest -= 1
    is_exact = end == earliest or (end == length and end - earliest <= 2)
    return end if is_exact else None


def _checksum_ends(frame: bytes) -> list[int]:
    """Return after how many bytes a frame's checksum holds: at its end, and seldom by chance."""
    crc, ends = 0, []
    for index, byte in enumerate(frame[:_LONGEST_FRAME_BYTES]):
        crc = (crc << 8 & 0xFFFF) ^ _CRC16[crc >> 8 ^ byte]
        if not crc and index >= _SHORTEST_FRAME_BYTES:
            ends.append(index + 1)
    return ends
