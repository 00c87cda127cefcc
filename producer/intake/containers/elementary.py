"""Frames without a container: ADTS (AAC) and AMR.

Sources: ISO/IEC 13818-7 (ADTS) and RFC 4867 (AMR).
"""

from __future__ import annotations

from typing import BinaryIO

from producer.intake.containers.account import Account, Break, Layout
from producer.intake.containers.sniff import adts_frame_bytes
from producer.intake.containers.tags import audio_end, tag_end
from producer.intake.containers.window import Window

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


def parse_adts(file: BinaryIO, start: int, size: int) -> Layout:
    """Parse the frames of AAC with ADTS headers."""
    end = audio_end(file, start, size)
    window, offset, ms = Window(file, start, end), start, 0.0
    breaks: list[Break] = []
    unread_bytes, channels = 0, 0
    while offset < end:
        header = window.peek(offset, 7)
        length = adts_frame_bytes(header)
        if length and offset + length > end:
            breaks.append(Break(round(ms), f"its last frame lacks {offset + length - end} bytes"))
            break
        if length:
            samples = _ADTS_SAMPLES * ((header[6] & 3) + 1)
            ms += samples * 1000 / _ADTS_RATES_HZ[header[2] >> 2 & 15]
            channels = max(channels, (header[2] & 1) << 2 | header[3] >> 6)
            offset += length
        elif tag_stop := tag_end(window, offset):
            offset = tag_stop
        else:
            stop = _next_adts(window, offset + 1)
            unread_bytes += 0 if window.is_padding(offset, stop) else stop - offset
            offset = stop
    account = Account(round(ms), tuple(breaks), unread_bytes)
    # Of 7, eight channels are meant; of 0, the frames themselves tell.
    return Layout(((start, size),), account, channels={0: None, 7: 8}.get(channels, channels))


def _next_adts(window: Window, offset: int) -> int:
    while (offset := window.find(b"\xff", offset)) >= 0:
        length = adts_frame_bytes(window.peek(offset, 7))
        if length and adts_frame_bytes(window.peek(offset + length, 7)):
            return offset
        offset += 1
    return window.end


def parse_amr(file: BinaryIO, _: int, size: int) -> Layout:
    """Parse the frames of AMR; where another file's magic comes, that was joined."""
    window, offset, frames = Window(file, 0, size), 0, 0
    starts: list[int] = []
    lengths = _AMR_BYTES[b"#!AMR\n"]
    breaks: list[Break] = []
    unread_bytes = 0
    while offset < size:
        magic = next((m for m in _AMR_BYTES if window.peek(offset, len(m)) == m), None)
        if magic:
            starts.append(offset)
            lengths, offset = _AMR_BYTES[magic], offset + len(magic)
            continue
        length = lengths[window.peek(offset, 1)[0] >> 3 & 15]
        if not length:
            unread_bytes += 0 if window.is_padding(offset, size) else size - offset
            break
        if offset + length > size:
            missing_bytes = offset + length - size
            breaks.append(Break(frames * _AMR_MS, f"its last frame lacks {missing_bytes} bytes"))
            break
        frames, offset = frames + 1, offset + length
    starts = starts or [0]
    files = tuple(zip(starts, [*starts[1:], size], strict=True))
    return Layout(files, Account(frames * _AMR_MS, tuple(breaks), unread_bytes))
