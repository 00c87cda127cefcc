"""WAV, RF64 and RIFX: a walk over chunks, whatever sizes they state.

A recorder that was killed leaves sizes of 0, one that writes to a pipe leaves the largest there
are; others count the header, forget a padding byte, append a second take, or go on writing behind
a header that they never correct. So a take is where samples lie, and sizes are hints.

Source: Microsoft's "Multimedia Programming Interface and Data Specifications 1.0", EBU Tech 3306.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from producer.intake.containers import mpeg
from producer.intake.containers.account import (
    TOLERANCE_MS,
    Account,
    Break,
    is_open_ended,
    is_overcounted,
    shortfall,
)
from producer.intake.containers.tags import tag_end
from producer.intake.containers.window import Window

_FORMS = {b"RIFF": "<", b"RF64": "<", b"BW64": "<", b"RIFX": ">"}
_FORM_BYTES = 12
_CHUNK_BYTES = 8
#: More chunks than any recorder writes: a crafted file ends here.
_MAX_CHUNKS = 1_000_000

_IN_DS64 = 2**32 - 1
#: From here on, 32 bits would be taken for a size that is open.
_BIG_BYTES = 2**32 - 2 * 65536

_PCM, _MS_ADPCM, _FLOAT, _ALAW, _MULAW, _IMA_ADPCM, _GSM, _EXTENSIBLE = (
    *(1, 2, 3, 6, 7, 0x11, 0x31, 0xFFFE),
)
#: G.722 has two numbers, of which decoders know one.
_G722, _G722_ALTERNATIVE = 0x028F, 0x0065
#: MPEG layers I and II, and III.
MPEG_TAGS = frozenset({0x50, 0x55})
_BLOCK_TAGS = frozenset({_MS_ADPCM, _IMA_ADPCM, _GSM})

#: Frames of MPEG audio in a row that samples of PCM never make up.
_MPEG_FRAMES = 5

#: Of bytes behind the last sample, looked at to tell sound from anything else.
_SAMPLE_BYTES = 1 << 16
_PREDICTION_ORDER = 8
_WINDOW_SAMPLES = 512
#: Neighbouring samples of sound foretell each other: their error is this much below them. Text,
#: pictures and what is compressed or encrypted stay below 2 dB.
_SOUND_GAIN_DB = 4.0


@dataclass(frozen=True, slots=True)
class WavTake:
    """One recording within a file: its format chunk, and where its samples lie."""

    order: str
    fmt: bytes
    spans: tuple[tuple[int, int], ...]

    def _field(self, offset: int, layout: str) -> int:
        size = offset + struct.calcsize(layout)
        return int(struct.unpack_from(self.order + layout, self.fmt.ljust(size, b"\0"), offset)[0])

    @property
    def tag(self) -> int:
        """The encoding's number; that of an extensible format is in its GUID."""
        tag = self._field(0, "H")
        return self._field(24, "H") if tag == _EXTENSIBLE and len(self.fmt) >= 26 else tag

    @property
    def channels(self) -> int:
        """How many there are."""
        return self._field(2, "H")

    @property
    def rate_hz(self) -> int:
        """Frames a second."""
        return self._field(4, "I")

    @property
    def bits(self) -> int:
        """Bits of a sample."""
        return self._field(14, "H")

    @property
    def align(self) -> int:
        """Bytes of a frame, or of a block of frames; what the header says of PCM is not asked."""
        if self.tag in {_ALAW, _MULAW}:
            return max(self.channels, 1)
        stated_bytes = self._field(12, "H")
        is_wide = self.tag == _PCM and 17 <= self.bits <= 24 and stated_bytes == 4 * self.channels
        if is_wide and self._field(8, "I") == self.rate_hz * stated_bytes:
            return stated_bytes
        if self.tag in {_PCM, _FLOAT}:
            return max(self.channels, 1) * -(-(self.bits or 8) // 8)
        return self._field(12, "H") or 1

    @property
    def size(self) -> int:
        """How many bytes of samples there are."""
        return sum(end - start for start, end in self.spans)

    def frames_in(self, count: int) -> int | None:
        """Return how many frames so many bytes are; None where that depends on what they hold."""
        if self.tag in {_PCM, _FLOAT, _ALAW, _MULAW}:
            return count // self.align
        if self.tag in _BLOCK_TAGS and (block := self._field(18, "H")):
            return count // self.align * block + self.rest_frames(count)
        return None

    def rest_frames(self, count: int) -> int:
        """Return how many frames of ADPCM a last block holds that is shorter than the others."""
        rest_bytes, channels = count % self.align, max(self.channels, 1)
        header_bytes, first_frames = {_IMA_ADPCM: (4, 1), _MS_ADPCM: (7, 2)}.get(self.tag, (0, 0))
        if not first_frames or rest_bytes <= header_bytes * channels:
            return 0
        return first_frames + (rest_bytes - header_bytes * channels) * 2 // channels

    def ms_in(self, count: int) -> int | None:
        """Return how long so many bytes last, in milliseconds; None where nothing tells."""
        frames = self.frames_in(count)
        if frames is not None and self.rate_hz:
            return frames * 1000 // self.rate_hz
        byte_rate = self._field(8, "I")
        return count * 1000 // byte_rate if byte_rate else None

    @property
    def duration_ms(self) -> int | None:
        """How long it is, in milliseconds; None where only decoding tells."""
        frames = self.frames_in(self.size)
        return None if frames is None or not self.rate_hz else frames * 1000 // self.rate_hz

    def header(self) -> bytes:
        """Return a header that is true, for the bytes of all spans behind it."""
        fmt = bytearray(self.fmt.ljust(16, b"\0"))
        if self.tag in {_PCM, _FLOAT, _ALAW, _MULAW}:
            byte_rate = min(self.rate_hz * self.align, 2**32 - 1)
            struct.pack_into(self.order + "IH", fmt, 8, byte_rate, self.align & 0xFFFF)
            bits = 8 * self.align // max(self.channels, 1)
            if self.tag in {_ALAW, _MULAW} or bits > self.bits > 16:
                struct.pack_into(self.order + "H", fmt, 14, bits)
                fmt = fmt[:16] if self._field(0, "H") == self.tag else fmt
        if self.tag == _G722_ALTERNATIVE:
            struct.pack_into(self.order + "H", fmt, 0, _G722)
        fmt += bytes(len(fmt) % 2)
        is_big = self.size >= _BIG_BYTES
        form = {"<": b"RF64" if is_big else b"RIFF", ">": b"RIFX"}[self.order]
        ds64 = struct.pack("<4sI3QI", b"ds64", 28, 0, self.size, 0, 0) if is_big else b""
        stated_bytes = _IN_DS64 if is_big else self.size
        body = ds64 + struct.pack(f"{self.order}4sI", b"fmt ", len(fmt)) + bytes(fmt)
        size = _IN_DS64 if is_big else 4 + len(body) + _CHUNK_BYTES + self.size
        start = struct.pack(f"{self.order}4sI4s", form, size, b"WAVE")
        return start + body + struct.pack(f"{self.order}4sI", b"data", stated_bytes)


@dataclass(frozen=True, slots=True)
class RiffLayout:
    """What was met: takes, one behind the other.

    ``is_plain`` says that there is one take in one piece whose size is stated as it is, or left
    open; ``appended_bytes`` of samples lie behind what any header counts.
    """

    takes: tuple[WavTake, ...]
    account: Account
    is_plain: bool
    appended_bytes: int = 0
    #: A header and nothing behind it.
    is_empty: bool = False


def parse_riff(file: BinaryIO, start: int, size: int) -> RiffLayout:
    """Parse the chunks from ``start`` to the end of a file."""
    return _Parser(file, start, size).run()


@dataclass(slots=True)
class _OpenTake:
    start: int
    order: str
    fmt: bytes = b""
    long_size: int | None = None
    spans: list[tuple[int, int]] = field(default_factory=list)

    def take(self) -> WavTake:
        return WavTake(self.order, self.fmt, tuple(self.spans))


class _Parser:
    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._window = Window(file, start, size)
        self._offset, self._size = start, size
        self._takes: list[WavTake] = []
        self._open_take: _OpenTake | None = None
        self._closed_ms = 0
        self._breaks: list[Break] = []
        self._unread_bytes = 0
        self._appended_bytes = 0

    def run(self) -> RiffLayout:
        for _ in range(_MAX_CHUNKS):
            if self._size - self._offset < _CHUNK_BYTES:
                break
            head = self._window.peek(self._offset, _FORM_BYTES)
            if head[:4] in _FORMS and head[8:12] == b"WAVE":
                self._close_take()
                self._open_take = _OpenTake(self._offset, _FORMS[head[:4]])
                self._offset += _FORM_BYTES
            elif self._is_chunk(self._offset):
                self._read_chunk(head)
            elif end := tag_end(self._window, self._offset):
                self._offset = end
            else:
                self._offset = self._judge_trailing_bytes()
        else:
            self._unread_bytes += max(self._size - self._offset, 0)
        self._close_take()
        return self._result()

    def _result(self) -> RiffLayout:
        takes = tuple(take for take in self._takes if take.size)
        lengths_ms = [take.duration_ms for take in takes]
        known_ms = [length for length in lengths_ms if length is not None]
        duration_ms = sum(known_ms) if len(known_ms) == len(lengths_ms) else None
        account = Account(duration_ms, tuple(self._breaks), self._unread_bytes)
        is_plain = len(takes) == 1 and len(takes[0].spans) == 1
        is_empty = bool(self._takes) and not takes
        takes = takes or tuple(self._takes[:1])
        return RiffLayout(takes, account, is_plain, self._appended_bytes, is_empty)

    def _close_take(self) -> None:
        open_take, self._open_take = self._open_take, None
        if open_take is None or not open_take.fmt:
            return
        take = open_take.take()
        self._takes.append(take)
        self._closed_ms += take.ms_in(take.size) or 0

    def _is_chunk(self, offset: int) -> bool:
        """Tell whether a chunk begins here: a name, and a size that fits or is of samples."""
        head = self._window.peek(offset, _CHUNK_BYTES)
        name = head[:4]
        if self._open_take is None or len(head) < _CHUNK_BYTES or not _is_name(name):
            return False
        if name in {b"data", b"fmt ", b"ds64"}:
            return True
        (size,) = struct.unpack(f"{self._open_take.order}I", head[4:8])
        # A list of texts may be cut with its file; nothing that is heard is lost.
        return bool(offset + _CHUNK_BYTES + size <= self._size + 1) or name == b"LIST"

    def _read_chunk(self, head: bytes) -> None:
        open_take = self._open_take
        if open_take is None:
            return
        name, body_offset = head[:4], self._offset + _CHUNK_BYTES
        (stated_bytes,) = struct.unpack(f"{open_take.order}I", head[4:8])
        if name == b"data" and open_take.fmt:
            self._offset = self._read_data(open_take, body_offset, stated_bytes)
            return
        if name == b"ds64":
            ds64 = self._window.peek(body_offset, 16)
            if len(ds64) == 16:
                (open_take.long_size,) = struct.unpack("<8xQ", ds64)
        elif name == b"fmt ":
            if open_take.spans:
                # What is described anew is another take.
                self._close_take()
                open_take = self._open_take = _OpenTake(open_take.start, open_take.order)
            open_take.fmt = open_take.fmt or self._window.peek(body_offset, min(stated_bytes, 4096))
        self._offset = self._next_chunk(body_offset + stated_bytes)

    def _next_chunk(self, end: int) -> int:
        """Return where the next chunk begins: behind a padding byte, unless that was forgotten."""
        if end % 2 == 0 or end >= self._size:
            return end
        return end if self._follows(end) and not self._follows(end + 1) else end + 1

    def _follows(self, offset: int) -> bool:
        """Tell whether what a file of chunks may hold begins here, or it ends."""
        head = self._window.peek(offset, _FORM_BYTES)
        is_form = head[:4] in _FORMS and head[8:12] == b"WAVE"
        return offset >= self._size or is_form or self._is_chunk(offset)

    def _read_data(self, open_take: _OpenTake, body_offset: int, stated_bytes: int) -> int:
        """Take a chunk of samples; return where what follows begins."""
        if open_take.long_size is not None and stated_bytes == _IN_DS64:
            stated_bytes = open_take.long_size
        take = open_take.take()
        if is_open_ended(stated_bytes) and not (stated_bytes == 0 and self._is_empty(body_offset)):
            return self._take_until_next_file(open_take, body_offset)
        missing_bytes = body_offset + stated_bytes - self._size
        if missing_bytes <= 0:
            if stated_bytes:
                open_take.spans.append((body_offset, body_offset + stated_bytes))
            return self._next_chunk(body_offset + stated_bytes)
        open_take.spans.append((body_offset, self._size))
        is_overcount = is_overcounted(missing_bytes, body_offset - open_take.start)
        held_ms = take.ms_in(self._size - body_offset) or 0
        missing_ms = take.ms_in(missing_bytes) or 0
        if not is_overcount and missing_ms > TOLERANCE_MS:
            at_ms = self._closed_ms + held_ms
            self._breaks.append(Break(at_ms, shortfall(at_ms + missing_ms, at_ms)))
        return self._size

    def _is_empty(self, body_offset: int) -> bool:
        """Tell whether a data chunk of 0 bytes is just that: chunks follow it up to the end."""
        offset, count = body_offset, 0
        while offset < self._size and count < _MAX_CHUNKS:
            if not self._is_chunk(offset):
                return False
            head = self._window.peek(offset, _CHUNK_BYTES)
            order = self._open_take.order if self._open_take else "<"
            (size,) = struct.unpack(f"{order}I", head[4:8])
            offset, count = offset + _CHUNK_BYTES + size + size % 2, count + 1
        return count > 0

    def _take_until_next_file(self, open_take: _OpenTake, body_offset: int) -> int:
        """Take all that lies behind, up to another file's header or the tags at the end."""
        stop = self._next_form(body_offset)
        if stop > body_offset:
            open_take.spans.append((body_offset, stop))
        return stop

    def _next_form(self, offset: int) -> int:
        """Return where another file begins, joined behind one whose length nobody filled in."""
        window = self._window
        while (mark_offset := window.find(b"WAVEfmt ", offset)) >= 0:
            form_start = mark_offset - 8
            if form_start >= offset and window.peek(form_start, 4) in _FORMS:
                return form_start
            offset = mark_offset + 8
        return self._size

    def _judge_trailing_bytes(self) -> int:
        """Judge what lies behind all chunks, and is none."""
        start = self._offset
        stop = self._next_form(start)
        open_take = self._open_take
        if self._window.is_padding(start, stop):
            return stop
        take = open_take.take() if open_take else None
        if take and open_take and take.spans and self._is_sound(take, start, stop):
            last_end = take.spans[-1][1]
            # What was taken for a padding byte may have been a sample's.
            sound_start = last_end if start - last_end < max(take.align, 2) else start
            open_take.spans.append((sound_start, stop))
            self._appended_bytes += stop - sound_start
        elif stop - start >= (take.align if take else 1):
            self._unread_bytes += stop - start
        return stop

    def _is_sound(self, take: WavTake, start: int, stop: int) -> bool:
        """Tell whether bytes go on as samples would."""
        length_ms = take.ms_in(stop - start) or 0
        if length_ms < TOLERANCE_MS:
            return False
        middle = start + max(0, (stop - start - _SAMPLE_BYTES) // 2 // take.align) * (take.align)
        data = self._window.peek(middle, min(_SAMPLE_BYTES, stop - middle))
        samples = _first_channel(take, data)
        return samples is not None and prediction_gain_db(samples) >= _SOUND_GAIN_DB


def is_mpeg(file: BinaryIO, take: WavTake) -> bool:
    """Tell whether a take is frames of MPEG audio, whatever its format chunk says."""
    if take.tag in MPEG_TAGS:
        return True
    if not take.spans or take.tag != _PCM:
        return False
    start, end = take.spans[0]
    return mpeg.begins_stream(Window(file, start, end), start, _MPEG_FRAMES) is not None


def _is_name(name: bytes) -> bool:
    return len(name) == 4 and all(0x20 <= char < 0x7F for char in name) and name.strip() != b""


def _first_channel(take: WavTake, data: bytes) -> npt.NDArray[np.float64] | None:
    """Return a first channel's samples, of any scale; None of what is not stored sample by sample.

    Of mu-law and A-law the steps are taken as they are: their order is that of the samples.
    """
    align, channels = take.align, max(take.channels, 1)
    data = data[: len(data) // align * align]
    if take.tag == _PCM and take.bits == 16:
        samples = np.frombuffer(data, f"{take.order}i2")
    elif take.tag == _PCM and take.bits == 8:
        samples = np.frombuffer(data, "u1")
    elif take.tag == _FLOAT and take.bits == 32:
        samples = np.nan_to_num(np.frombuffer(data, f"{take.order}f4"))
    elif take.tag in {_ALAW, _MULAW}:
        steps = np.frombuffer(data, "u1") ^ (0x55 if take.tag == _ALAW else 0xFF)
        magnitudes = np.exp2((steps & 0x7F) / 16.0)
        return np.asarray(np.where(steps & 0x80, -magnitudes, magnitudes), np.float64)[::channels]
    else:
        return None
    return samples.astype(np.float64)[::channels]


def prediction_gain_db(samples: npt.NDArray[np.float64]) -> float:
    """Return by how much samples exceed the error of foretelling each from those before it, in dB.

    Linear prediction over short windows (Makhoul, 1975); the median over those that hold anything.
    """
    gains = [gain for window in _windows(samples) if (gain := _gain_db(window)) is not None]
    return float(np.median(gains)) if gains else 0.0


def _windows(samples: npt.NDArray[np.float64]) -> Iterator[npt.NDArray[np.float64]]:
    for start in range(0, len(samples) - _WINDOW_SAMPLES + 1, _WINDOW_SAMPLES):
        yield samples[start : start + _WINDOW_SAMPLES]


def _gain_db(window: npt.NDArray[np.float64]) -> float | None:
    centred = window - window.mean()
    if not centred.any():
        return None
    past = np.lib.stride_tricks.sliding_window_view(centred, _PREDICTION_ORDER)[:-1]
    target = centred[_PREDICTION_ORDER:]
    weights, *_ = np.linalg.lstsq(past, target, rcond=None)
    error = float(np.mean((target - past @ weights) ** 2))
    power = float(np.mean(target**2))
    # Fitted weights explain some of anything.
    error *= len(target) / (len(target) - _PREDICTION_ORDER)
    return 10 * float(np.log10(power / max(error, power * 1e-9))) if power > 0 else None
