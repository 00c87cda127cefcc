"""Frames without a container (ADTS, AMR), and containers of which the outermost sizes suffice.

Sources: ISO/IEC 13818-7 (ADTS), RFC 4867 (AMR), Microsoft's ASF specification 1.20, and AVI's.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

from producer.containers.account import Account, Break
from producer.containers.sniff import adts_frame_bytes
from producer.containers.tags import audio_end, tag_end
from producer.containers.window import Window

_ADTS_SAMPLES = 1024
_ADTS_RATES_HZ = (
    *(96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350),
)
_AMR_MS = 20
#: By magic, the bytes of a frame of each type, its first byte included; 0 for none.
_AMR_BYTES = {
    b"#!AMR-WB\n": (18, 24, 33, 37, 41, 47, 51, 59, 61, 6, 0, 0, 0, 0, 1, 1),
    b"#!AMR\n": (13, 14, 16, 18, 20, 21, 27, 32, 6, 0, 0, 0, 0, 0, 0, 1),
}
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")


@dataclass(frozen=True, slots=True)
class ElementaryWalk:
    """What was met: ``files`` are where each of those that were joined lies."""

    files: tuple[tuple[int, int], ...]
    account: Account


def walk(file: BinaryIO, container: str | None, start: int, size: int) -> ElementaryWalk:
    """Walk a file of one of these kinds; of any other nothing is known."""
    if container == "ADTS":
        return _adts(file, start, size)
    if container == "AMR":
        return _amr(file, size)
    whole = ((0, size),)
    look = {"ASF": _asf_missing, "AVI": _avi_missing}.get(container or "")
    missing = look(file, size) if look else 0
    if missing <= 0:
        return ElementaryWalk(whole, Account())
    cause = f"its header promises {missing} bytes more than it holds"
    return ElementaryWalk(whole, Account(breaks=(Break(0, cause),)))


def _adts(file: BinaryIO, start: int, size: int) -> ElementaryWalk:
    end = audio_end(file, start, size)
    window, at, ms = Window(file, start, end), start, 0.0
    breaks: list[Break] = []
    unread = 0
    while at < end:
        header = window.peek(at, 7)
        length = adts_frame_bytes(header)
        if length and at + length > end:
            breaks.append(Break(round(ms), f"its last frame lacks {at + length - end} bytes"))
            break
        if length:
            samples = _ADTS_SAMPLES * ((header[6] & 3) + 1)
            ms += samples * 1000 / _ADTS_RATES_HZ[header[2] >> 2 & 15]
            at += length
        elif tagged := tag_end(window, at):
            at = tagged
        else:
            stop = _next_adts(window, at + 1)
            unread += 0 if window.is_padding(at, stop) else stop - at
            at = stop
    # A decoder may hold back what overlaps with a frame that never comes.
    return ElementaryWalk(((start, size),), Account(round(ms), tuple(breaks), unread))


def _next_adts(window: Window, at: int) -> int:
    while (at := window.find(b"\xff", at)) >= 0:
        length = adts_frame_bytes(window.peek(at, 7))
        if length and adts_frame_bytes(window.peek(at + length, 7)):
            return at
        at += 1
    return window.end


def _amr(file: BinaryIO, size: int) -> ElementaryWalk:
    """Walk frames; where another file's magic comes, that was joined."""
    window, at, frames = Window(file, 0, size), 0, 0
    starts: list[int] = []
    lengths = _AMR_BYTES[b"#!AMR\n"]
    breaks: list[Break] = []
    unread = 0
    while at < size:
        magic = next((m for m in _AMR_BYTES if window.peek(at, len(m)) == m), None)
        if magic:
            starts.append(at)
            lengths, at = _AMR_BYTES[magic], at + len(magic)
            continue
        length = lengths[window.peek(at, 1)[0] >> 3 & 15]
        if not length:
            unread += 0 if window.is_padding(at, size) else size - at
            break
        if at + length > size:
            lacking = at + length - size
            breaks.append(Break(frames * _AMR_MS, f"its last frame lacks {lacking} bytes"))
            break
        frames, at = frames + 1, at + length
    starts = starts or [0]
    files = tuple(zip(starts, [*starts[1:], size], strict=True))
    return ElementaryWalk(files, Account(frames * _AMR_MS, tuple(breaks), unread))


def _asf_missing(file: BinaryIO, size: int) -> int:
    """Return how far the object that holds the packets reaches beyond the file."""
    at = 0
    for _ in range(100):
        file.seek(at)
        header = file.read(24)
        if len(header) < 24:
            return 0
        (length,) = struct.unpack_from("<Q", header, 16)
        if header[:16] == _ASF_DATA:
            # Of a broadcast nobody knew the size.
            return int(at + length - size) if length > 50 else 0
        at += length
        if length < 24 or at >= size:
            return 0
    return 0


def _avi_missing(file: BinaryIO, size: int) -> int:
    file.seek(4)
    stated = int.from_bytes(file.read(4), "little")
    missing = 8 + stated - size
    return missing if 0 < stated < 2**32 - 65536 and missing > 1 else 0
