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
    is_counted,
    is_open,
    seconds,
)
from producer.intake.containers.tags import tag_end
from producer.intake.containers.window import Window

_FORMS = {b"RIFF": "<", b"RF64": "<", b"BW64": "<", b"RIFX": ">"}
_FORM_BYTES = 12
_CHUNK_BYTES = 8
#: More chunks than any recorder writes: a crafted file ends here.
_MOST_CHUNKS = 1_000_000

_IN_DS64 = 2**32 - 1
#: From here on, 32 bits would be taken for a size that is open.
_BIG_BYTES = 2**32 - 2 * 65536

_PCM, _MS_ADPCM, _FLOAT, _ALAW, _MULAW, _IMA_ADPCM, _GSM, _EXTENSIBLE = (
    *(1, 2, 3, 6, 7, 0x11, 0x31, 0xFFFE),
)
#: G.722 has two numbers, of which decoders know one.
_G722, _G722_OF_OTHERS = 0x028F, 0x0065
#: MPEG layers I and II, and III.
MPEG_TAGS = frozenset({0x50, 0x55})
_BLOCK_TAGS = frozenset({_MS_ADPCM, _IMA_ADPCM, _GSM})

#: Frames of MPEG audio in a row that samples of PCM never make up.
_MPEG_FRAMES = 5

#: Of bytes behind the last sample, looked at to tell sound from anything else.
_SAMPLE_BYTES = 1 << 16
_ORDER = 8
_WINDOW_SAMPLES = 512
#: Neighbouring samples of sound foretell each other: their error is this much below them. Text,
#: pictures and what is compressed or encrypted stay below 2 dB.
_SOUND_GAIN_DB = 4.0


@dataclass(frozen=True, slots=True)
class Take:
    """One recording within a file: its format chunk, and where its samples lie."""

    order: str
    fmt: bytes
    spans: tuple[tuple[int, int], ...]

    def _field(self, at: int, layout: str) -> int:
        size = at + struct.calcsize(layout)
        return int(struct.unpack_from(self.order + layout, self.fmt.ljust(size, b"\0"), at)[0])

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
        stated = self._field(12, "H")
        is_wide = self.tag == _PCM and 17 <= self.bits <= 24 and stated == 4 * self.channels
        if is_wide and self._field(8, "I") == self.rate_hz * stated:
            return stated
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
        rest, channels = count % self.align, max(self.channels, 1)
        header, first = {_IMA_ADPCM: (4, 1), _MS_ADPCM: (7, 2)}.get(self.tag, (0, 0))
        if not first or rest <= header * channels:
            return 0
        return first + (rest - header * channels) * 2 // channels

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
        if self.tag == _G722_OF_OTHERS:
            struct.pack_into(self.order + "H", fmt, 0, _G722)
        fmt += bytes(len(fmt) % 2)
        big = self.size >= _BIG_BYTES
        form = {"<": b"RF64" if big else b"RIFF", ">": b"RIFX"}[self.order]
        long = struct.pack("<4sI3QI", b"ds64", 28, 0, self.size, 0, 0) if big else b""
        stated = _IN_DS64 if big else self.size
        body = long + struct.pack(f"{self.order}4sI", b"fmt ", len(fmt)) + bytes(fmt)
        size = _IN_DS64 if big else 4 + len(body) + _CHUNK_BYTES + self.size
        start = struct.pack(f"{self.order}4sI4s", form, size, b"WAVE")
        return start + body + struct.pack(f"{self.order}4sI", b"data", stated)


@dataclass(frozen=True, slots=True)
class RiffWalk:
    """What was met: takes, one behind the other.

    ``is_plain`` says that there is one take in one piece whose size is stated as it is, or left
    open; ``appended_bytes`` of samples lie behind what any header counts.
    """

    takes: tuple[Take, ...]
    account: Account
    is_plain: bool
    appended_bytes: int = 0
    #: A header and nothing behind it.
    is_empty: bool = False


def walk(file: BinaryIO, start: int, size: int) -> RiffWalk:
    """Walk the chunks from ``start`` to the end of a file."""
    walker = _Walker(file, start, size)
    walker.run()
    return walker.result()


@dataclass(slots=True)
class _Open:
    """A take under way."""

    start: int
    order: str
    fmt: bytes = b""
    long_size: int | None = None
    spans: list[tuple[int, int]] = field(default_factory=list)

    def take(self) -> Take:
        return Take(self.order, self.fmt, tuple(self.spans))


class _Walker:
    """The state of a walk."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._window = Window(file, start, size)
        self._at, self._size = start, size
        self._takes: list[Take] = []
        self._open: _Open | None = None
        self._ended_ms = 0
        self._breaks: list[Break] = []
        self._unread_bytes = 0
        self._appended_bytes = 0
        self._is_plain = True
        self._has_data = False

    def run(self) -> None:
        """Walk to the end."""
        for _ in range(_MOST_CHUNKS):
            if self._size - self._at < _CHUNK_BYTES:
                break
            head = self._window.peek(self._at, _FORM_BYTES)
            if head[:4] in _FORMS and head[8:12] == b"WAVE":
                self._begin(head)
            elif self._is_chunk(self._at):
                self._chunk(head)
            elif end := tag_end(self._window, self._at):
                self._at = end
            else:
                self._at = self._rest()
        else:
            self._unread_bytes += max(self._size - self._at, 0)
        self._close()

    def result(self) -> RiffWalk:
        """Return what was met."""
        takes = tuple(take for take in self._takes if take.size)
        lengths = [take.duration_ms for take in takes]
        known = [length for length in lengths if length is not None]
        duration_ms = sum(known) if len(known) == len(lengths) else None
        account = Account(duration_ms, tuple(self._breaks), self._unread_bytes)
        plain = self._is_plain and len(takes) == 1 and len(takes[0].spans) == 1
        empty = bool(self._takes) and not takes
        takes = takes or tuple(self._takes[:1])
        return RiffWalk(takes, account, plain, self._appended_bytes, empty)

    def _begin(self, head: bytes) -> None:
        self._close()
        self._open = _Open(self._at, _FORMS[head[:4]])
        self._at += _FORM_BYTES

    def _close(self) -> None:
        stream, self._open = self._open, None
        if stream is None or not stream.fmt:
            return
        take = stream.take()
        self._takes.append(take)
        self._ended_ms += take.ms_in(take.size) or 0

    def _is_chunk(self, at: int) -> bool:
        """Tell whether a chunk begins here: a name, and a size that fits or is of samples."""
        head = self._window.peek(at, _CHUNK_BYTES)
        name = head[:4]
        if self._open is None or len(head) < _CHUNK_BYTES or not _is_name(name):
            return False
        if name in {b"data", b"fmt ", b"ds64"}:
            return True
        (size,) = struct.unpack(f"{self._open.order}I", head[4:8])
        # A list of texts may be cut with its file; nothing that is heard is lost.
        return bool(at + _CHUNK_BYTES + size <= self._size + 1) or name == b"LIST"

    def _chunk(self, head: bytes) -> None:
        stream = self._open
        if stream is None:
            return
        name, body = head[:4], self._at + _CHUNK_BYTES
        (stated,) = struct.unpack(f"{stream.order}I", head[4:8])
        if name == b"data" and stream.fmt:
            self._at = self._data(stream, body, stated)
            return
        if name == b"ds64":
            self._set_long_size(stream, self._window.peek(body, 16))
        elif name == b"fmt ":
            if stream.spans:
                # What is described anew is another take.
                self._close()
                stream = self._open = _Open(stream.start, stream.order)
            stream.fmt = stream.fmt or self._window.peek(body, min(stated, 4096))
        self._at = self._after(body + stated)

    def _set_long_size(self, stream: _Open, ds64: bytes) -> None:
        if len(ds64) == 16:
            (stream.long_size,) = struct.unpack("<8xQ", ds64)

    def _after(self, end: int) -> int:
        """Return where the next chunk begins: behind a padding byte, unless that was forgotten."""
        if end % 2 == 0 or end >= self._size:
            return end
        padded = end + 1
        if not self._follows(padded) and self._follows(end):
            return end
        return padded

    def _follows(self, at: int) -> bool:
        """Tell whether what a file of chunks may hold begins here, or it ends."""
        head = self._window.peek(at, _FORM_BYTES)
        begins = head[:4] in _FORMS and head[8:12] == b"WAVE"
        return at >= self._size or begins or self._is_chunk(at)

    def _data(self, stream: _Open, body: int, stated: int) -> int:
        """Take a chunk of samples; return where what follows begins."""
        if stream.long_size is not None and stated == _IN_DS64:
            stated = stream.long_size
        take = stream.take()
        if is_open(stated) and not (stated == 0 and self._is_bare(body)):
            return self._take_all(stream, body)
        missing = body + stated - self._size
        if missing <= 0:
            if stated:
                stream.spans.append((body, body + stated))
            return self._after(body + stated)
        stream.spans.append((body, self._size))
        counted = is_counted(missing, body - stream.start)
        held_ms, missing_ms = take.ms_in(self._size - body) or 0, take.ms_in(missing) or 0
        if not counted and missing_ms > TOLERANCE_MS:
            at_ms = self._ended_ms + held_ms
            promised = seconds(at_ms + missing_ms)
            cause = f"its header promises {promised} and it holds {seconds(at_ms)}"
            self._breaks.append(Break(at_ms, cause))
        return self._size

    def _is_bare(self, body: int) -> bool:
        """Tell whether a data chunk of 0 bytes is just that: chunks follow it up to the end."""
        at, count = body, 0
        while at < self._size and count < _MOST_CHUNKS:
            if not self._is_chunk(at):
                return False
            head = self._window.peek(at, _CHUNK_BYTES)
            order = self._open.order if self._open else "<"
            (size,) = struct.unpack(f"{order}I", head[4:8])
            at, count = at + _CHUNK_BYTES + size + size % 2, count + 1
        return count > 0

    def _take_all(self, stream: _Open, body: int) -> int:
        """Take all that lies behind, up to another file's header or the tags at the end."""
        stop = self._next_form(body)
        if stop > body:
            stream.spans.append((body, stop))
        return stop

    def _next_form(self, at: int) -> int:
        """Return where another file begins, joined behind one whose length nobody filled in."""
        window = self._window
        while (place := window.find(b"WAVEfmt ", at)) >= 0:
            begin = place - 8
            if begin >= at and window.peek(begin, 4) in _FORMS:
                return begin
            at = place + 8
        return self._size

    def _rest(self) -> int:
        """Judge what lies behind all chunks, and is none."""
        start = self._at
        stop = self._next_form(start)
        stream = self._open
        if self._window.is_padding(start, stop):
            return stop
        take = stream.take() if stream else None
        if take and stream and take.spans and self._is_sound(take, start, stop):
            last = take.spans[-1][1]
            # What was taken for a padding byte may have been a sample's.
            begin = last if start - last < max(take.align, 2) else start
            stream.spans.append((begin, stop))
            self._appended_bytes += stop - begin
        elif stop - start >= (take.align if take else 1):
            self._unread_bytes += stop - start
        return stop

    def _is_sound(self, take: Take, start: int, stop: int) -> bool:
        """Tell whether bytes go on as samples would."""
        length_ms = take.ms_in(stop - start) or 0
        if length_ms < TOLERANCE_MS:
            return False
        middle = start + max(0, (stop - start - _SAMPLE_BYTES) // 2 // take.align) * (take.align)
        data = self._window.peek(middle, min(_SAMPLE_BYTES, stop - middle))
        samples = _decoded(take, data)
        return samples is not None and foretold_db(samples) >= _SOUND_GAIN_DB


def is_mpeg(file: BinaryIO, take: Take) -> bool:
    """Tell whether a take is frames of MPEG audio, whatever its format chunk says."""
    if take.tag in MPEG_TAGS:
        return True
    if not take.spans or take.tag != _PCM:
        return False
    start, end = take.spans[0]
    return mpeg.begins_stream(Window(file, start, end), start, _MPEG_FRAMES) is not None


def _is_name(name: bytes) -> bool:
    return len(name) == 4 and all(0x20 <= char < 0x7F for char in name) and name.strip() != b""


def _decoded(take: Take, data: bytes) -> npt.NDArray[np.float64] | None:
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


def foretold_db(samples: npt.NDArray[np.float64]) -> float:
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
    past = np.lib.stride_tricks.sliding_window_view(centred, _ORDER)[:-1]
    target = centred[_ORDER:]
    weights, *_ = np.linalg.lstsq(past, target, rcond=None)
    error = float(np.mean((target - past @ weights) ** 2))
    power = float(np.mean(target**2))
    # Fitted weights explain some of anything.
    error *= len(target) / (len(target) - _ORDER)
    return 10 * float(np.log10(power / max(error, power * 1e-9))) if power > 0 else None
