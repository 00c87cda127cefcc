"""Which container a file is, by its first bytes: names and suffixes are not believed."""

from __future__ import annotations

from typing import BinaryIO

from producer.intake.containers import mpeg
from producer.intake.containers.tags import audio_start
from producer.intake.containers.window import Window

#: Bytes of a file's start that :func:`sniff` wants: two MPEG frames and their header.
HEAD_BYTES = 4096
#: A file that was cut out of a stream begins within a frame: its frames are looked for so far.
_CUT_BYTES = 2 * mpeg.LONGEST_FRAME_BYTES
_CUT_FRAMES = 5

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (8, b"WAVE", "WAV"),
    (0, b"fLaC", "FLAC"),
    (0, b"OggS", "OGG"),
    (0, b"ID3", "MP3"),
    (0, b".snd", "AU"),
    (0, b"dns.", "AU"),
    (8, b"AIFF", "AIFF"),
    (8, b"AIFC", "AIFF"),
    (8, b"AVI ", "AVI"),
    (0, b"caff", "CAF"),
    (0, b"riff\x2e\x91\xcf\x11", "W64"),
    (0, b"#!AMR", "AMR"),
    (0, b"\x1a\x45\xdf\xa3", "MATROSKA"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "ASF"),
    (0, b"FLV\x01", "FLV"),
    (0, b"NIST_1A", "NIST"),
    (0, b"Creative Voice File", "VOC"),
)
_STILL_IMAGES = (b"heic", b"heix", b"avif", b"mif1", b"msf1")
#: Boxes that an MP4 may begin with where no brand is said (QuickTime).
_BOXES = (b"moov", b"wide", b"free", b"skip", b"pnot", b"styp")


def sniff(head: bytes) -> str | None:
    """Return the container that a file's first bytes announce, or None for none that is known."""
    for offset, magic, container in _MAGIC:
        if head.startswith(magic, offset):
            return container
    if head[4:8] == b"ftyp" and head[8:12] not in _STILL_IMAGES:
        return "ISO"
    # No text begins with a zero, and no first box but that of the samples has 16 MiB.
    if head[4:8] == b"mdat" or (head[4:8] in _BOXES and head[:1] == b"\0"):
        return "ISO"
    if len(head) > 376 and set(head[::188]) == {0x47}:
        return "TS"
    # Two sync bits alone are also a UTF-16 byte order mark, and mu-law silence.
    length = adts_frame_bytes(head[:7])
    if length and adts_frame_bytes(head[length : length + 7]):
        return "ADTS"
    frame = mpeg.parse_header(head[:4])
    return "MP3" if frame and mpeg.parse_header(head[frame.length : frame.length + 4]) else None


def adts_frame_bytes(header: bytes) -> int:
    """Return the length of the ADTS frame that seven bytes begin, or 0 for none."""
    if len(header) < 7 or header[0] != 0xFF or header[1] & 0xF6 != 0xF0:
        return 0
    length = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    return length if length >= 7 and header[2] >> 2 & 15 < 13 else 0


def identify(file: BinaryIO, size: int) -> tuple[str | None, int]:
    """Return a file's container and where it begins, which may be behind ID3 tags.

    Frames of MPEG audio are found behind a part of one as well.
    """
    start = audio_start(file, size)
    file.seek(start)
    head = file.read(HEAD_BYTES)
    container = sniff(head)
    if container is not None and not (start and container == "MP3"):
        return container, start
    if start:
        return "MP3", start
    return ("MP3", 0) if _is_cut_mpeg(file, size) else (None, 0)


def _is_cut_mpeg(file: BinaryIO, size: int) -> bool:
    window = Window(file, 0, size)
    offset = 0
    while 0 <= (offset := window.search(mpeg.SYNC, offset)) <= _CUT_BYTES:
        if mpeg.begins_stream(window, offset, _CUT_FRAMES):
            return True
        offset += 1
    return False
