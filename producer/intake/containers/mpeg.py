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

from producer.intake.containers.account import (
    TOLERANCE_MS,
    Account,
    Break,
    format_seconds,
    shortfall,
)
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
_INFO_MARKS = (b"Xing", b"Info")
_VBRI_OFFSET = 36
#: By flag, the bytes of a Xing tag's fields: frames, bytes, table of contents, quality.
_XING_BYTES = {1: 4, 2: 4, 4: 100, 8: 4}


class FrameShape(NamedTuple):
    """What all frames of a stream have in common; a first one may have an info tag."""

    layer: int
    rate_hz: int
    channels: int
    samples: int
    info_tag_offset: int


class Frame(NamedTuple):
    """A frame: how many bytes it has, and its stream's shape."""

    length: int
    shape: FrameShape


class FrameRun(NamedTuple):
    """Frames that follow each other without a byte between."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class MpegStream:
    """Frames of one shape that one encoder wrote, without the one that promises.

    Of what decoding yields, the first ``skipped_samples`` are the codec's, and ``kept_samples``
    after them the call's; None keeps all.
    """

    shape: FrameShape
    runs: tuple[FrameRun, ...]
    frames: int
    skipped_samples: int
    kept_samples: int | None = None

    @property
    def samples(self) -> int:
        """How many samples it holds."""
        total = max(self.frames * self.shape.samples - self.skipped_samples, 0)
        return total if self.kept_samples is None else min(total, self.kept_samples)


@dataclass(frozen=True, slots=True)
class MpegLayout:
    """What was met between two places of a file."""

    streams: tuple[MpegStream, ...]
    account: Account


@lru_cache(maxsize=1 << 16)
def parse_header(header: bytes) -> Frame | None:
    """Return the frame of layer II or III that four bytes begin, or None for none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    bitrate_index, rate_index = header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer not in {2, 3} or bitrate_index in {0, 15} or rate_index == 3:
        return None
    is_mpeg1 = version == 3
    kbps, rate_hz = _KBPS[is_mpeg1, layer][bitrate_index], _RATES_HZ[version][rate_index]
    samples = 576 if layer == 3 and not is_mpeg1 else 1152
    channels = 1 if header[3] >> 6 == 3 else 2
    side_bytes = {(True, 2): 32, (True, 1): 17, (False, 2): 17, (False, 1): 9}[is_mpeg1, channels]
    length = samples // 8 * kbps * 1000 // rate_hz + (header[2] >> 1 & 1)
    return Frame(length, _shape(layer, rate_hz, channels, samples, 4 + side_bytes))


@lru_cache
def _shape(*values: int) -> FrameShape:
    """Return the one shape of these fields, so that shapes are compared by identity."""
    return FrameShape(*values)


def read_frames(window: Window, run: FrameRun) -> Iterator[bytes]:
    """Yield each frame of a run, header and all."""
    offset = run.start
    while offset < run.end:
        frame = parse_header(window.peek(offset, 4))
        if frame is None:  # the file changed under us
            return
        yield window.peek(offset, min(frame.length, run.end - offset))
        offset += frame.length


def parse_mpeg(file: BinaryIO, start: int, end: int) -> MpegLayout:
    """Parse the frames between two places of a file."""
    return _Parser(file, start, audio_end(file, start, end)).run()


def begins_stream(window: Window, offset: int, min_frames: int = _CHAIN_FRAMES) -> Frame | None:
    """Return the frame at ``offset`` if others of its shape follow it, up to the window's end."""
    first_frame = frame = parse_header(window.peek(offset, 4))
    count = 0
    while frame is not None and first_frame is not None and frame.shape is first_frame.shape:
        count, offset = count + 1, offset + frame.length
        if count >= min_frames or offset >= window.end or tag_end(window, offset):
            return first_frame if offset <= window.end else None
        frame = parse_header(window.peek(offset, 4))
    return None


@dataclass(slots=True)
class _InfoTag:
    """What a first frame says: how many follow, and what its encoder put around the call."""

    frames: int | None = None
    delay_samples: int | None = None
    padding_samples: int = 0


@dataclass(slots=True)
class _OpenStream:
    """A stream that is being parsed; ``start`` is where its current run began."""

    shape: FrameShape
    info_tag: _InfoTag | None
    start: int
    runs: list[FrameRun] = field(default_factory=list)
    frames: int = 0

    def end_run(self, offset: int) -> None:
        """Close the current run, if it has a frame."""
        if offset > self.start:
            self.runs.append(FrameRun(self.start, offset))
        self.start = offset

    @property
    def bytes(self) -> int:
        return sum(run.end - run.start for run in self.runs)


class _Parser:
    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self._window = Window(file, start, end)
        self._offset, self._end = start, end
        self._streams: list[MpegStream] = []
        self._open_stream: _OpenStream | None = None
        #: Where the last frame of the current run begins.
        self._last_frame_offset: int | None = None
        #: Bytes that were passed over since the last frame.
        self._stray_bytes = 0
        self._starts_mid_frame = False
        self._breaks: list[Break] = []
        #: Frames that were promised and are not there, and where they are missing.
        self._frame_shortfalls: list[tuple[int, Break]] = []
        #: Of the stream under way.
        self._hole_breaks: list[Break] = []
        self._unread_bytes = 0
        self._closed_ms = 0.0

    def run(self) -> MpegLayout:
        while self._offset < self._end:
            if self._open_stream is not None and self._last_frame_offset is not None:
                self._follow(self._open_stream)
                if self._offset >= self._end:
                    break
            if end := tag_end(self._window, self._offset):
                self._interrupt(end)
            elif frame := begins_stream(self._window, self._offset):
                self._begin_stream(frame)
            else:
                self._resync()
        self._close_stream()
        total = sum(stream.frames for stream in self._streams)
        # Whoever joins files may count all their frames in the first.
        self._breaks += [b for frames, b in self._frame_shortfalls if abs(frames - total) > 2]
        account = Account(round(self._closed_ms), tuple(self._breaks), self._unread_bytes)
        return MpegLayout(tuple(self._streams), account)

    def _follow(self, stream: _OpenStream) -> None:
        """Pass over frames of the stream, as fast as may be."""
        window, shape = self._window, stream.shape
        tag_offset, offset, count = shape.info_tag_offset, self._offset, 0
        while True:
            index = window.load(offset, _CHAIN_BYTES)
            data, base = window.data, window.base
            last_index = len(data) - (0 if base + len(data) >= self._end else LONGEST_FRAME_BYTES)
            while index < last_index:
                frame = parse_header(data[index : index + 4])
                if (
                    frame is None
                    or frame.shape is not shape
                    or data[index + tag_offset : index + tag_offset + 4] in _INFO_MARKS
                    or base + index + frame.length > self._end
                ):
                    break
                self._last_frame_offset = base + index
                index += frame.length
                count += 1
            has_moved, offset = base + index > offset, base + index
            if index < last_index or not has_moved or offset >= self._end:
                break
        stream.frames += count
        self._offset = offset

    def _begin_stream(self, frame: Frame) -> None:
        """Begin a stream, or a run of the one under way, at the frame here."""
        info_tag = _read_info_tag(self._window.peek(self._offset, frame.length), frame.shape)
        stream = self._open_stream
        if stream is not None and info_tag is None and frame.shape is stream.shape:
            self._check_hole(stream)
            stream.start = self._offset
            self._stray_bytes = 0
            self._take_first(stream, frame)
            return
        self._close_stream()
        start = self._offset if info_tag is None else self._offset + frame.length
        self._open_stream = _OpenStream(frame.shape, info_tag, start)
        self._stray_bytes = 0
        self._last_frame_offset = None
        if info_tag is None:
            self._take_first(self._open_stream, frame)
        else:
            self._offset = start

    def _take_first(self, stream: _OpenStream, frame: Frame) -> None:
        self._last_frame_offset = self._offset
        self._offset += frame.length
        stream.frames += 1

    def _interrupt(self, offset: int) -> None:
        """End the current run before a tag, and go on behind it."""
        if self._open_stream is not None:
            self._open_stream.end_run(self._offset)
        self._last_frame_offset = None
        self._offset = offset

    def _resync(self) -> None:
        """Look for the next frames behind what is none."""
        stray_start, last_offset = self._offset, self._last_frame_offset
        # The last frame may be cut, and the next begin within what it claims.
        search = stray_start + 1 if last_offset is None else last_offset + 4
        stream_start = self._next_stream(search)
        stop = self._end if stream_start is None else stream_start
        if last_offset is not None and self._open_stream is not None:
            if stop < stray_start:
                self._open_stream.frames -= 1
                stray_start = last_offset
            self._open_stream.end_run(stray_start)
        self._last_frame_offset = None
        self._skip_stray(stray_start, stop, at_end=stream_start is None)
        self._offset = stop

    def _next_stream(self, offset: int) -> int | None:
        """Return where frames go on, or a tag before them begins; None where neither comes."""
        window, start = self._window, offset
        while (start := window.search(SYNC, start)) >= 0 and not begins_stream(window, start):
            start += 1
        stop = start if start >= 0 else self._end
        for mark in TAG_MARKS:
            tag_start = window.find(mark, offset)
            if offset <= tag_start < stop and tag_end(window, tag_start):
                stop = tag_start
        return stop if stop < self._end else None

    def _skip_stray(self, start: int, stop: int, *, at_end: bool) -> None:
        """Judge bytes that are no frame and no tag."""
        is_padding = self._window.is_padding(start, stop)
        self._stray_bytes += stop - start
        if not self._streams and self._open_stream is None:
            self._starts_mid_frame = not is_padding and stop - start <= LONGEST_FRAME_BYTES
            if not is_padding and not self._starts_mid_frame:
                self._unread_bytes += stop - start
            return
        if not is_padding and not (at_end and self._is_cut_frame(start, stop)):
            self._unread_bytes += stop - start

    def _is_cut_frame(self, start: int, stop: int) -> bool:
        """Tell whether the file ends within a frame, and note that something is missing."""
        stream = self._open_stream
        frame = parse_header(self._window.peek(start, 4))
        if stream is None or frame is None or frame.shape is not stream.shape:
            return stop - start < 4
        if start + frame.length <= stop:
            return False
        # What begins within a frame as well was cut out of a stream by bytes, and is whole.
        if not self._starts_mid_frame and not (stream.info_tag and stream.info_tag.frames):
            missing_bytes = start + frame.length - stop
            cause = f"its last frame lacks {missing_bytes} of {frame.length} bytes"
            self._breaks.append(Break(round(self._now_ms(stream)), cause))
        return True

    def _check_hole(self, stream: _OpenStream) -> None:
        """Note a break where frames of one stream lie further apart than a moment."""
        stray_bytes = self._stray_bytes
        if not stray_bytes or not stream.bytes:
            return
        held_ms = stream.frames * stream.shape.samples * 1000 / stream.shape.rate_hz
        lost_ms = stray_bytes * held_ms / stream.bytes
        if lost_ms > TOLERANCE_MS:
            cause = f"{stray_bytes} bytes, about {format_seconds(round(lost_ms))}, are no frames"
            self._hole_breaks.append(Break(round(self._now_ms(stream)), cause))

    def _now_ms(self, stream: _OpenStream) -> float:
        return self._closed_ms + stream.frames * stream.shape.samples * 1000 / stream.shape.rate_hz

    def _close_stream(self) -> None:
        stream, self._open_stream = self._open_stream, None
        if stream is None:
            return
        if self._last_frame_offset is not None:
            stream.end_run(self._offset)
        if not stream.frames:
            return
        finished_stream = _finish_stream(stream)
        self._streams.append(finished_stream)
        start_ms = self._closed_ms
        self._closed_ms += finished_stream.samples * 1000 / finished_stream.shape.rate_hz
        stated_frames = stream.info_tag.frames if stream.info_tag else None
        breaks, self._hole_breaks = self._hole_breaks, []
        # Where as many frames are there as were promised, nothing but junk lay between them.
        if stated_frames is None or stream.frames < stated_frames:
            self._breaks += breaks
        if stated_frames is None:
            return
        frame_ms = stream.shape.samples * 1000 / stream.shape.rate_hz
        if (stated_frames - stream.frames) * frame_ms > TOLERANCE_MS:
            promised_ms, held_ms = round(stated_frames * frame_ms), round(stream.frames * frame_ms)
            shortage = Break(round(start_ms + held_ms), shortfall(promised_ms, held_ms))
            self._frame_shortfalls.append((stated_frames, shortage))


def _finish_stream(stream: _OpenStream) -> MpegStream:
    """Return a stream with what is its codec's taken off."""
    layer, info_tag = stream.shape.layer, stream.info_tag
    lead, length = DECODER_DELAY_SAMPLES if layer == 3 else 0, None
    if info_tag is not None and info_tag.delay_samples is not None:
        lead += info_tag.delay_samples
        if info_tag.frames is not None and abs(stream.frames - info_tag.frames) <= 1:
            padding_samples = info_tag.delay_samples + info_tag.padding_samples
            length = max(info_tag.frames * stream.shape.samples - padding_samples, 0)
    return MpegStream(stream.shape, tuple(stream.runs), stream.frames, lead, length)


def _read_info_tag(frame: bytes, shape: FrameShape) -> _InfoTag | None:
    """Return what a first frame promises, or None for a frame of audio."""
    offset = shape.info_tag_offset
    if frame[offset : offset + 4] in _INFO_MARKS:
        return _read_xing(frame[offset:])
    if frame[_VBRI_OFFSET : _VBRI_OFFSET + 4] == b"VBRI" and len(frame) >= _VBRI_OFFSET + 18:
        return _InfoTag(int.from_bytes(frame[_VBRI_OFFSET + 14 : _VBRI_OFFSET + 18], "big") or None)
    return None


def _read_xing(tag: bytes) -> _InfoTag:
    """Read a Xing or Info tag, and LAME's behind it."""
    flags = int.from_bytes(tag[4:8], "big")
    offset, info_tag = 8, _InfoTag()
    if flags & 1:
        info_tag.frames = int.from_bytes(tag[offset : offset + 4], "big") or None
    offset += sum(size for bit, size in _XING_BYTES.items() if flags & bit)
    # Nine bytes name the encoder; of those that write no delays, none is believed.
    delays = tag[offset + 21 : offset + 24]
    if tag[offset : offset + 4] in {b"LAME", b"Lavf", b"Lavc", b"GOGO"} and len(delays) == 3:
        info_tag.delay_samples = delays[0] << 4 | delays[1] >> 4
        info_tag.padding_samples = (delays[1] & 15) << 8 | delays[2]
    return info_tag
