"""Tags that lie before, behind and between audio: where each ends, so that it is passed over."""

from __future__ import annotations

from typing import BinaryIO

from producer.intake.containers.window import Window

_ID3_HEADER_BYTES = 10
_ID3V1_BYTES = 128
_ID3V1_MORE_BYTES = 227
_APE_BYTES = 32
_APE_IS_HEADER = 1 << 29
_APE_HAS_HEADER = 1 << 31
_LYRICS_MAX_BYTES = 1 << 20
_LYRICS_ENDS = (b"LYRICS200", b"LYRICSEND")
#: How every tag that :func:`tag_end` knows begins.
TAG_MARKS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")


def tag_end(window: Window, offset: int) -> int | None:
    """Return where the tag that begins at ``offset`` ends; None where none does.

    ID3v2, ID3v1 (and its extension), APEv2 and Lyrics3 are known.
    """
    head = window.peek(offset, _APE_BYTES)
    if head.startswith(b"ID3"):
        return _end_within(offset + _id3_bytes(head), window)
    if head.startswith(b"TAG+"):
        return _end_within(offset + _ID3V1_MORE_BYTES, window)
    if head.startswith(b"TAG"):
        return _end_within(offset + _ID3V1_BYTES, window)
    if head.startswith(b"APETAGEX") and len(head) == _APE_BYTES:
        size, flags = _ape_size(head)
        return _end_within(offset + _APE_BYTES + (size if flags & _APE_IS_HEADER else 0), window)
    if head.startswith(b"LYRICSBEGIN"):
        return _lyrics_end(window, offset)
    return None


def _end_within(end: int, window: Window) -> int | None:
    """Return the end of a tag; what claims to reach beyond the file is none."""
    return end if end <= window.end else None


def _id3_bytes(head: bytes) -> int:
    """Return the length of an ID3v2 tag: its size is of seven bits a byte, without its header."""
    sizes = head[6:10]
    if len(sizes) < 4 or max(sizes) > 0x7F:
        return _ID3_HEADER_BYTES
    size = sizes[0] << 21 | sizes[1] << 14 | sizes[2] << 7 | sizes[3]
    footer = _ID3_HEADER_BYTES if head[5] & 0x10 else 0
    return _ID3_HEADER_BYTES + size + footer


def _ape_size(head: bytes) -> tuple[int, int]:
    """Return the bytes of an APE tag beside its header, and its flags."""
    return int.from_bytes(head[12:16], "little"), int.from_bytes(head[20:24], "little")


def _lyrics_end(window: Window, offset: int) -> int | None:
    ends = [window.find(mark, offset) for mark in _LYRICS_ENDS]
    near = [end + 9 for end in ends if offset < end <= offset + _LYRICS_MAX_BYTES]
    return min(near, default=None)


def audio_start(file: BinaryIO, size: int) -> int:
    """Return where what an ID3v2 tag, or several, stands before begins; 0 where there is none."""
    window, offset = Window(file, 0, size), 0
    while window.peek(offset, 3) == b"ID3" and (end := tag_end(window, offset)):
        offset = end
    return offset


def audio_end(file: BinaryIO, start: int, size: int) -> int:
    """Return where the tags at the end of a file begin, read from its end: ``size`` without any."""
    end = size
    while (shorter := _tag_start(file, start, end)) < end:
        end = shorter
    return end


def _tag_start(file: BinaryIO, start: int, end: int) -> int:
    def tail(distance: int, count: int) -> bytes:
        if end - distance < start:
            return b""
        file.seek(end - distance)
        return file.read(count)

    if tail(_ID3V1_BYTES, 3) == b"TAG":
        extended_bytes = _ID3V1_BYTES + _ID3V1_MORE_BYTES
        return end - (extended_bytes if tail(extended_bytes, 4) == b"TAG+" else _ID3V1_BYTES)
    footer = tail(_APE_BYTES, _APE_BYTES)
    if footer.startswith(b"APETAGEX"):
        size, flags = _ape_size(footer)
        length = size + (_APE_BYTES if flags & _APE_HAS_HEADER else 0)
        return end - length if _APE_BYTES <= length <= end - start else end - _APE_BYTES
    if tail(10, 3) == b"3DI":
        length = _id3_bytes(tail(10, 10))
        return end - length if length <= end - start else end
    if tail(9, 9) == b"LYRICS200" and (digits := tail(15, 6)).isdigit():
        length = int(digits) + 15
        return end - length if length <= end - start else end
    return end
