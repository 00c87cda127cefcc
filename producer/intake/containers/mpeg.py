"""MPEG audio, layers II and III: a walk from frame to frame, whatever a first frame promises.

A file is what a recorder, a switch or a joining tool left: frames of one or more streams, with
tags before, between and behind them. A stream's first frame may hold no audio and say how many
follow (Xing, Info, VBRI), and how many samples its encoder put before and behind (LAME). What it
says is held against the frames that are there.

Sources: ISO/IEC 11172-3 and 13818-3 for the header; the Xing, VBRI and LAME tags as documented by
their makers and as LAME, FFmpeg and mpg123 read them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import BinaryIO, NamedTuple

from producer.intake.containers.account import TOLERANCE_MS, Account, Break, seconds
from producer.intake.containers.tags import TAG_MARKS, audio_end, tag_end
from producer.intake.containers.window import Window

#: No frame is longer: of layer II 1,728 bytes (384 kbit/s, 32 kHz), of III 2,880 (320, 8 kHz).
LONGEST_FRAME_BYTES = 2881
#: How every header of layer II or III begins.
SYNC = re.compile(rb"\xff[\xe2-\xe5\xf2-\xf5\xfa-\xfd]")
#: Two sync bits turn up by chance; three frames in a row, of one shape, do not.
_CHAIN_FRAMES = 3
_CHAIN_BYTES = _CHAIN_FRAMES * LONGEST_FRAME_BYTES
#: What every decoder of layer III puts before the first sample.
DECODER_DELAY_SAMPLES = 529
#: The first frames after a cut refer to bytes that are gone: they are decoded as silence.
RESERVOIR_FRAMES = 10

#: kbit/s by index, for layers II and III of MPEG 1, and of MPEG 2 and 2.5.
_KBPS = {
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
#: Marks of a first frame that holds no audio.
_PROMISES = (b"Xing", b"Info")
_VBRI_AT = 36


class Shape(NamedTuple):
    """What all frames of a stream have in common; ``promise_at`` is where a first one promises."""

    layer: int
    rate_hz: int
    channels: int
    samples: int
    promise_at: int


class Frame(NamedTuple):
    """A frame: how many bytes it has, and its stream's shape."""

    length: int
    shape: Shape


class Run(NamedTuple):
    """Frames that follow each other without a byte between."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class MpegStream:
    """Frames of one shape that one encoder wrote, without the one that promises.

    Of what decoding yields, the first ``skipped_samples`` are the codec's, and ``kept_samples``
    after them the call's; None keeps all.
    """

    shape: Shape
    runs: tuple[Run, ...]
    frames: int
    skipped_samples: int
    kept_samples: int | None = None

    @property
    def samples(self) -> int:
        """How many samples it holds."""
        held = max(self.frames * self.shape.samples - self.skipped_samples, 0)
        return held if self.kept_samples is None else min(held, self.kept_samples)


@dataclass(frozen=True, slots=True)
class MpegWalk:
    """What was met between two places of a file."""

    streams: tuple[MpegStream, ...]
    account: Account


@lru_cache(maxsize=1 << 16)
def parse_header(header: bytes) -> Frame | None:
    """Return the frame of layer II or III that four bytes begin, or None for none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    bitrate, rate = header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer not in {2, 3} or bitrate in {0, 15} or rate == 3:
        return None
    first = version == 3
    kbps, rate_hz = _KBPS[first, layer][bitrate], _RATES_HZ[version][rate]
    samples = 576 if layer == 3 and not first else 1152
    channels = 1 if header[3] >> 6 == 3 else 2
    sides = {(True, 2): 32, (True, 1): 17, (False, 2): 17, (False, 1): 9}[first, channels]
    length = samples // 8 * kbps * 1000 // rate_hz + (header[2] >> 1 & 1)
    return Frame(length, _shape(layer, rate_hz, channels, samples, 4 + sides))


@lru_cache
def _shape(*fields: int) -> Shape:
    """Return the one shape of these fields, so that shapes are compared by identity."""
    return Shape(*fields)


def frames(window: Window, run: Run) -> Iterator[bytes]:
    """Yield each frame of a run, header and all."""
    at = run.start
    while at < run.end:
        frame = parse_header(window.peek(at, 4))
        if frame is None:  # the file changed under us
            return
        yield window.peek(at, min(frame.length, run.end - at))
        at += frame.length


def walk(file: BinaryIO, start: int, end: int) -> MpegWalk:
    """Walk the frames between two places of a file."""
    walker = _Walker(file, start, audio_end(file, start, end))
    walker.run()
    return walker.result()


def begins_stream(window: Window, at: int, least: int = _CHAIN_FRAMES) -> Frame | None:
    """Return the frame at ``at`` if others of its shape follow it, up to the window's end."""
    first = frame = parse_header(window.peek(at, 4))
    count = 0
    while frame is not None and first is not None and frame.shape is first.shape:
        count, at = count + 1, at + frame.length
        if count >= least or at == window.end or (at < window.end and tag_end(window, at)):
            return first if at <= window.end else None
        frame = parse_header(window.peek(at, 4))
    return None


@dataclass(slots=True)
class _Promise:
    """What a first frame says: how many follow, and what its encoder put around the call."""

    frames: int | None = None
    delay_samples: int | None = None
    padding_samples: int = 0


@dataclass(slots=True)
class _Open:
    """A stream that is being walked; ``start`` is where its current run began."""

    shape: Shape
    promise: _Promise | None
    start: int
    runs: list[Run] = field(default_factory=list)
    frames: int = 0

    def end_run(self, at: int) -> None:
        """Close the current run, if it has a frame."""
        if at > self.start:
            self.runs.append(Run(self.start, at))
        self.start = at

    @property
    def bytes(self) -> int:
        return sum(run.end - run.start for run in self.runs)


class _Walker:
    """The state of a walk: the stream under way, and what was met so far."""

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self._window = Window(file, start, end)
        self._at, self._end = start, end
        self._start = start
        self._streams: list[MpegStream] = []
        self._stream: _Open | None = None
        #: Where the last frame of the current run begins.
        self._last: int | None = None
        #: Bytes that were passed over since the last frame.
        self._stray_bytes = 0
        self._begins_within = False
        self._breaks: list[Break] = []
        #: Frames that were promised and are not there, and where they are missing.
        self._promised: list[tuple[int, Break]] = []
        #: Of the stream under way.
        self._holes: list[Break] = []
        self._unread_bytes = 0
        self._ended_ms = 0.0

    def run(self) -> None:
        """Walk to the end."""
        while self._at < self._end:
            if self._stream is not None and self._last is not None:
                self._follow(self._stream)
                if self._at >= self._end:
                    break
            if end := tag_end(self._window, self._at):
                self._interrupt(end)
            elif begins_stream(self._window, self._at):
                self._begin()
            else:
                self._resync()
        self._close()

    def result(self) -> MpegWalk:
        """Return what was met."""
        total = sum(stream.frames for stream in self._streams)
        # Whoever joins files may count all their frames in the first.
        self._breaks += [each for stated, each in self._promised if abs(stated - total) > 2]
        duration_ms = round(self._ended_ms)
        account = Account(duration_ms, tuple(self._breaks), self._unread_bytes)
        return MpegWalk(tuple(self._streams), account)

    def _follow(self, stream: _Open) -> None:
        """Pass over frames of the stream, as fast as may be."""
        window, shape = self._window, stream.shape
        mark_at, at, count = shape.promise_at, self._at, 0
        while True:
            index = window.reach(at, _CHAIN_BYTES)
            data, base = window.data, window.base
            last_index = len(data) - (0 if base + len(data) >= self._end else LONGEST_FRAME_BYTES)
            while index < last_index:
                frame = parse_header(data[index : index + 4])
                if (
                    frame is None
                    or frame.shape is not shape
                    or data[index + mark_at : index + mark_at + 4] in _PROMISES
                    or base + index + frame.length > self._end
                ):
                    break
                self._last = base + index
                index += frame.length
                count += 1
            moved, at = base + index > at, base + index
            if index < last_index or not moved or at >= self._end:
                break
        stream.frames += count
        self._at = at

    def _begin(self) -> None:
        """Begin a stream, or a run of the one under way, at the frame here."""
        head = self._window.peek(self._at, LONGEST_FRAME_BYTES)
        frame = parse_header(head[:4])
        if frame is None:
            return
        promise = _promise(head[: frame.length], frame.shape)
        stream = self._stream
        if stream is not None and promise is None and frame.shape is stream.shape:
            self._check_hole(stream)
            stream.start = self._at
            self._stray_bytes = 0
            self._take_first(stream, frame)
            return
        self._close()
        start = self._at if promise is None else self._at + frame.length
        self._stream = _Open(frame.shape, promise, start)
        self._stray_bytes = 0
        self._last = None
        if promise is None:
            self._take_first(self._stream, frame)
        else:
            self._at = start

    def _take_first(self, stream: _Open, frame: Frame) -> None:
        """Take the frame here, whose chain was looked at."""
        self._last = self._at
        self._at += frame.length
        stream.frames += 1

    def _interrupt(self, at: int) -> None:
        """End the current run before a tag, and go on behind it."""
        if self._stream is not None:
            self._stream.end_run(self._at)
        self._last = None
        self._at = at

    def _resync(self) -> None:
        """Look for the next frames behind what is none."""
        begin, last = self._at, self._last
        # The last frame may be cut, and the next begin within what it claims.
        search = begin + 1 if last is None else last + 4
        place = self._next_stream(search)
        stop = self._end if place is None else place
        if last is not None and self._stream is not None:
            if stop < begin:
                self._stream.frames -= 1
                begin = last
            self._stream.end_run(begin)
        self._last = None
        self._pass_over(begin, stop, at_end=place is None)
        self._at = stop

    def _next_stream(self, at: int) -> int | None:
        """Return where frames go on, or a tag before them begins; None where neither comes."""
        window, place = self._window, at
        while (place := window.search(SYNC, place)) >= 0 and not begins_stream(window, place):
            place += 1
        stop = place if place >= 0 else self._end
        for mark in TAG_MARKS:
            tag = window.find(mark, at)
            if at <= tag < stop and tag_end(window, tag):
                stop = tag
        return stop if stop < self._end else None

    def _pass_over(self, start: int, stop: int, *, at_end: bool) -> None:
        """Judge bytes that are no frame and no tag."""
        zeros = self._window.is_padding(start, stop)
        self._stray_bytes += stop - start
        if not self._streams and self._stream is None:
            self._begins_within = not zeros and stop - start <= LONGEST_FRAME_BYTES
            if not zeros and not self._begins_within:
                self._unread_bytes += stop - start
            return
        if zeros:
            return
        if at_end and self._is_cut_frame(start, stop):
            return
        self._unread_bytes += stop - start

    def _is_cut_frame(self, start: int, stop: int) -> bool:
        """Tell whether the file ends within a frame, and note that something is missing."""
        stream = self._stream
        frame = parse_header(self._window.peek(start, 4))
        if stream is None or frame is None or frame.shape is not stream.shape:
            return stop - start < 4
        if start + frame.length <= stop:
            return False
        # What begins within a frame as well was cut out of a stream by bytes, and is whole.
        if not self._begins_within and not (stream.promise and stream.promise.frames):
            missing = start + frame.length - stop
            cause = f"its last frame lacks {missing} of {frame.length} bytes"
            self._breaks.append(Break(round(self._now_ms(stream)), cause))
        return True

    def _check_hole(self, stream: _Open) -> None:
        """Note a break where frames of one stream lie further apart than a moment."""
        stray = self._stray_bytes
        if not stray or not stream.bytes:
            return
        held_ms = stream.frames * stream.shape.samples * 1000 / stream.shape.rate_hz
        lost_ms = stray * held_ms / stream.bytes
        if lost_ms > TOLERANCE_MS:
            cause = f"{stray} bytes, about {seconds(round(lost_ms))}, are no frames"
            self._holes.append(Break(round(self._now_ms(stream)), cause))

    def _now_ms(self, stream: _Open) -> float:
        return self._ended_ms + stream.frames * stream.shape.samples * 1000 / stream.shape.rate_hz

    def _close(self) -> None:
        """End the stream under way."""
        stream, self._stream = self._stream, None
        if stream is None:
            return
        if self._last is not None:
            stream.end_run(self._at)
        if not stream.frames:
            return
        closed = _closed(stream)
        self._streams.append(closed)
        begun_ms = self._ended_ms
        self._ended_ms += closed.samples * 1000 / closed.shape.rate_hz
        stated = stream.promise.frames if stream.promise else None
        holes, self._holes = self._holes, []
        # Where as many frames are there as were promised, nothing but junk lay between them.
        if stated is None or stream.frames < stated:
            self._breaks += holes
        if stated is None:
            return
        frame_ms = stream.shape.samples * 1000 / stream.shape.rate_hz
        if (stated - stream.frames) * frame_ms > TOLERANCE_MS:
            promised, held = round(stated * frame_ms), round(stream.frames * frame_ms)
            cause = f"its header promises {seconds(promised)} and it holds {seconds(held)}"
            self._promised.append((stated, Break(round(begun_ms + held), cause)))


def _closed(stream: _Open) -> MpegStream:
    """Return a stream with what is its codec's taken off."""
    layer, promise = stream.shape.layer, stream.promise
    skipped = DECODER_DELAY_SAMPLES if layer == 3 else 0
    kept = None
    if promise is not None and promise.delay_samples is not None:
        skipped += promise.delay_samples
        if promise.frames is not None and abs(stream.frames - promise.frames) <= 1:
            around = promise.delay_samples + promise.padding_samples
            kept = max(promise.frames * stream.shape.samples - around, 0)
    return MpegStream(stream.shape, tuple(stream.runs), stream.frames, skipped, kept)


def _promise(frame: bytes, shape: Shape) -> _Promise | None:
    """Return what a first frame promises, or None for a frame of audio."""
    at = shape.promise_at
    if frame[at : at + 4] in _PROMISES:
        return _xing(frame[at:])
    if frame[_VBRI_AT : _VBRI_AT + 4] == b"VBRI" and len(frame) >= _VBRI_AT + 18:
        return _Promise(int.from_bytes(frame[_VBRI_AT + 14 : _VBRI_AT + 18], "big") or None)
    return None


def _xing(tag: bytes) -> _Promise:
    """Read a Xing or Info tag, and LAME's behind it."""
    flags = int.from_bytes(tag[4:8], "big")
    at, promise = 8, _Promise()
    if flags & 1:
        promise.frames = int.from_bytes(tag[at : at + 4], "big") or None
    at += 4 * bool(flags & 1) + 4 * bool(flags & 2) + 100 * bool(flags & 4) + 4 * bool(flags & 8)
    # Nine bytes name the encoder; of those that write no delays, none is believed.
    delays = tag[at + 21 : at + 24]
    if tag[at : at + 4] in {b"LAME", b"Lavf", b"Lavc", b"GOGO"} and len(delays) == 3:
        promise.delay_samples = delays[0] << 4 | delays[1] >> 4
        promise.padding_samples = (delays[1] & 15) << 8 | delays[2]
    return promise
