"""MP4, M4A, 3GP and MOV: the tables of samples, held against where the file ends.

Source: ISO/IEC 14496-12.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from producer.intake.containers.account import (
    LATEST_START_MS,
    TOLERANCE_MS,
    Account,
    Break,
    Layout,
    format_seconds,
    shortfall,
)
from producer.intake.containers.tags import tag_end
from producer.intake.containers.window import Window

_MOST_BOXES = 5_000_000
#: Boxes that hold boxes, and are looked into.
_NESTS = frozenset(
    {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf", b"mvex"}
)
#: Boxes that a file is made of, outermost: of another, a size that makes no sense says nothing.
_OUTERMOST = frozenset(
    {b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"sidx", b"uuid"}
)
#: Of one box no more is read: a table of a day's samples has 30 MB.
_MOST_TABLE_BYTES = 1 << 28

Integers = npt.NDArray[np.int64]


class _Box(NamedTuple):
    name: bytes
    body: int
    end: int


@dataclass(slots=True)
class _Track:
    """A track of audio: its samples, by its tables and by its fragments."""

    number: int = 0
    is_audio: bool = False
    timescale: int = 0
    durations: Integers = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    sizes: Integers | int = 0
    count: int = 0
    chunks: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    per_chunk: Integers = field(default_factory=lambda: np.zeros((0, 3), np.int64))
    #: Ends and starts of the samples of fragments, by their own clock.
    fragment_units: int = 0
    fragment_begin: int | None = None
    #: What edits take off the start, and how long they play, in the movie's units.
    skipped_units: int = 0
    played_units: int | None = None
    empty_units: int = 0


def parse_iso(file: BinaryIO, _: int, size: int) -> Layout:
    """Parse the boxes of a file, and of those that were joined to it."""
    starts = _file_starts(file, size)
    files = tuple(zip(starts, [*starts[1:], size], strict=True))
    return Layout(files, _join_accounts([_Parser(file, start, end).run() for start, end in files]))


def _file_starts(file: BinaryIO, size: int) -> list[int]:
    """Return where files begin: with a type, behind an index and before another."""
    starts, has_index, type_offset = [0], False, -1
    for name, offset in _Parser(file, 0, size).outermost_boxes():
        if name == b"ftyp":
            type_offset = offset
        elif name == b"moov":
            if has_index and type_offset >= 0:
                starts.append(type_offset)
            has_index, type_offset = True, -1
    return starts


def _join_accounts(accounts: list[Account]) -> Account:
    start_ms, breaks, unread_bytes = 0, [], 0
    for account in accounts:
        breaks += [
            b if b.at_ms is None else Break(start_ms + b.at_ms, b.cause) for b in account.breaks
        ]
        unread_bytes += account.unread_bytes
        start_ms += account.duration_ms or 0
    is_known = all(account.duration_ms is not None for account in accounts)
    return Account(start_ms if is_known else None, tuple(breaks), unread_bytes)


class _Parser:
    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self._file, self._start, self._end = file, start, end
        self._window = Window(file, start, end)
        self._tracks: list[_Track] = []
        self._movie_scale = 0
        #: How long a fragment's samples are where they do not say so.
        self._default_units_by_track: dict[int, int] = {}
        self._default_units = 0
        self._fragment: _Track | None = None
        self._unread_bytes = 0
        #: The number of the fragment before, whether this one's is not the next, and what is lost.
        self._fragment_number: int | None = None
        self._skips_number = False
        self._fragment_breaks: list[Break] = []
        self._missing_bytes = 0
        self._has_index = False

    def run(self) -> Account:
        offset = self._start
        for box in self._boxes(self._start, self._end):
            if box.end > self._end and box.name not in _OUTERMOST:
                break
            offset = box.end
            self._missing_bytes = max(box.end - self._end, 0)
            self._has_index = self._has_index or box.name == b"moov"
            self._enter(box)
        has_rest = offset < self._end and not self._window.is_padding(offset, self._end)
        if has_rest and tag_end(self._window, offset) is None:
            self._unread_bytes = self._end - offset
        return self._account()

    def outermost_boxes(self) -> Iterator[tuple[bytes, int]]:
        """Yield the names of the outermost boxes, and where each begins."""
        offset = self._start
        for box in self._boxes(self._start, self._end):
            yield box.name, offset
            offset = box.end

    def _account(self) -> Account:
        tracks = [track for track in self._tracks if track.is_audio and track.timescale]
        breaks = [*self._fragment_breaks, *filter(None, map(self._find_break, tracks))]
        ends_ms = [self._end_ms(track) for track in tracks]
        if self._missing_bytes and not breaks:
            at_ms = max(ends_ms, default=0)
            breaks = [Break(at_ms, f"its last box lacks {self._missing_bytes} bytes")]
        if not self._has_index:
            breaks = [Break(None, "it has no index (moov), which a recorder writes last")]
        # Each track is held against its own length where it is decoded; together, the longest.
        return Account(max(ends_ms, default=None), tuple(breaks), self._unread_bytes)

    def _boxes(self, offset: int, end: int) -> Iterator[_Box]:
        for _ in range(_MOST_BOXES):
            if offset + 8 > end:
                return
            header = self._window.peek(offset, 16)
            if len(header) < 8:
                return
            size, name = struct.unpack_from(">I4s", header)
            body = offset + 8
            if size == 1 and len(header) == 16:
                (size,) = struct.unpack_from(">Q", header, 8)
                body = offset + 16
            elif size == 0:
                size = end - offset
            if size < body - offset:
                return
            yield _Box(name, body, offset + size)
            offset += size

    def _enter(self, box: _Box) -> None:
        if box.name in _NESTS:
            if box.name == b"trak":
                self._tracks.append(_Track())
            for inner in self._boxes(box.body, min(box.end, self._end)):
                self._enter(inner)
        elif read := _READERS.get(box.name):
            self._file.seek(box.body)
            end = min(box.end, self._end, box.body + _MOST_TABLE_BYTES)
            with suppress(struct.error, ValueError, IndexError):
                read(self, self._file.read(end - box.body))

    @property
    def _track(self) -> _Track:
        return self._tracks[-1]

    def mvhd(self, data: bytes) -> None:
        """The movie's clock."""
        (self._movie_scale,) = struct.unpack_from(">I", data, 20 if data[0] else 12)

    def tkhd(self, data: bytes) -> None:
        """A track's number."""
        (self._track.number,) = struct.unpack_from(">I", data, 20 if data[0] else 12)

    def mdhd(self, data: bytes) -> None:
        """A track's clock."""
        (self._track.timescale,) = struct.unpack_from(">I", data, 20 if data[0] else 12)

    def hdlr(self, data: bytes) -> None:
        """What a track holds; a second one, of metadata, changes nothing."""
        self._track.is_audio = self._track.is_audio or data[8:12] == b"soun"

    def stts(self, data: bytes) -> None:
        """How long samples are: counts and durations."""
        (count,) = struct.unpack_from(">I", data, 4)
        self._track.durations = _read_table(data, 8, count, 2)

    def stsz(self, data: bytes) -> None:
        """How big samples are."""
        track = self._track
        common_size, track.count = struct.unpack_from(">II", data, 4)
        track.sizes = common_size or _read_table(data, 12, track.count, 1)[:, 0]

    def stsc(self, data: bytes) -> None:
        """How many samples chunks have: first chunk, samples, description."""
        (count,) = struct.unpack_from(">I", data, 4)
        self._track.per_chunk = _read_table(data, 8, count, 3)

    def stco(self, data: bytes) -> None:
        """Where chunks begin."""
        (count,) = struct.unpack_from(">I", data, 4)
        self._track.chunks = _read_table(data, 8, count, 1)[:, 0]

    def co64(self, data: bytes) -> None:
        """Where chunks begin, in large files."""
        (count,) = struct.unpack_from(">I", data, 4)
        count = min(count, (len(data) - 8) // 8)
        self._track.chunks = np.frombuffer(data, ">u8", count, 8).astype(np.int64)

    def elst(self, data: bytes) -> None:
        """What of a track is played, and when it begins."""
        is_long = data[0] == 1
        (count,) = struct.unpack_from(">I", data, 4)
        layout, step = (">Qq4x", 20) if is_long else (">Ii4x", 12)
        track, played_units, plays_to_end = self._track, 0, False
        for offset in range(8, 8 + min(count, _MOST_BOXES) * step, step):
            duration, start = struct.unpack_from(layout, data, offset)
            if start < 0:
                track.empty_units += duration if not played_units else 0
                continue
            track.skipped_units = track.skipped_units or start
            plays_to_end = plays_to_end or duration == 0
            played_units += duration
        track.played_units = None if plays_to_end or not played_units else played_units

    def trex(self, data: bytes) -> None:
        """A track's default for its fragments."""
        number, _, duration, _ = struct.unpack_from(">4I", data, 4)
        self._default_units_by_track[number] = duration

    def tfhd(self, data: bytes) -> None:
        """Which track a fragment is of, and its default."""
        flags, number = struct.unpack_from(">II", data)
        duration = self._default_units_by_track.get(number, 0)
        if flags & 8:
            offset = 8 + 8 * bool(flags & 1) + 4 * bool(flags & 2)
            (duration,) = struct.unpack_from(">I", data, offset)
        self._default_units = duration
        self._fragment = next((track for track in self._tracks if track.number == number), None)

    def tfdt(self, data: bytes) -> None:
        """When a fragment begins on its track's clock."""
        track = self._fragment
        if track is None:
            return
        (begin_units,) = struct.unpack_from(">Q" if data[0] else ">I", data, 4)
        if track.fragment_begin is None:
            track.fragment_begin = begin_units
        late_units = begin_units - track.fragment_begin - track.fragment_units
        if self._skips_number and track.is_audio and track.timescale:
            late_ms = late_units * 1000 // track.timescale
            if late_ms > TOLERANCE_MS:
                cause = f"fragments with {format_seconds(late_ms)} are missing"
                self._fragment_breaks.append(Break(self._end_ms(track), cause))
        # Where nothing was sent, the clock goes on.
        track.fragment_units = max(track.fragment_units, begin_units - track.fragment_begin)

    def mfhd(self, data: bytes) -> None:
        """A fragment's number: one more than that of the one before."""
        (number,) = struct.unpack_from(">I", data, 4)
        last_number, self._fragment_number = self._fragment_number, number
        self._skips_number = last_number is not None and number > last_number + 1

    def trun(self, data: bytes) -> None:
        """A fragment's samples."""
        track = self._fragment
        if track is None:
            return
        flags, count = struct.unpack_from(">II", data)
        offset = 8 + 4 * bool(flags & 1) + 4 * bool(flags & 4)
        width = sum(bool(flags & bit) for bit in (0x100, 0x200, 0x400, 0x800))
        if flags & 0x100:
            track.fragment_units += int(_read_table(data, offset, count, width)[:, 0].sum())
        else:
            track.fragment_units += self._default_units * count

    def _end_ms(self, track: _Track) -> int:
        """Return when a track's audio ends, on the movie's clock."""
        units = _duration_units(track, track.count) + track.fragment_units - track.skipped_units
        length_ms = max(units, 0) * 1000 // track.timescale
        if not self._movie_scale:
            return length_ms
        if track.played_units is not None and not track.fragment_units:
            length_ms = min(length_ms, track.played_units * 1000 // self._movie_scale)
        return length_ms + self._late_ms(track)

    def _late_ms(self, track: _Track) -> int:
        """Return when a track begins on the recording's clock."""
        late_ms = track.empty_units * 1000 // self._movie_scale if self._movie_scale else 0
        return late_ms if late_ms <= LATEST_START_MS else 0

    def _find_break(self, track: _Track) -> Break | None:
        """Return where a track's samples begin to lie behind the end of the file."""
        sample = _first_missing_sample(track, self._end - self._start)
        if sample is None:
            return None
        at_units = _duration_units(track, sample) - track.skipped_units
        at_ms = max(at_units, 0) * 1000 // track.timescale + self._late_ms(track)
        promised_ms = self._end_ms(track)
        if promised_ms - at_ms <= TOLERANCE_MS:
            return None
        return Break(at_ms, shortfall(promised_ms, at_ms, "index"))


def _read_table(data: bytes, offset: int, count: int, width: int) -> Integers:
    """Return a table of numbers of 32 bits: as many rows as are said, and are there."""
    count = min(count, (len(data) - offset) // (4 * width))
    flat = np.frombuffer(data, ">u4", count * width, offset)
    return flat.astype(np.int64).reshape(count, width)


def _duration_units(track: _Track, count: int) -> int:
    """Return how long the first samples of a track's tables last, by its clock."""
    units, rows = 0, track.durations.tolist()
    if len(rows) > 1 and rows[-1][0] == 1:
        # Some writers let a last sample last until the picture ends.
        rows[-1][1] = min(rows[-1][1], max(rows[-2][1], 1))
    for samples, duration in rows:
        run_samples = min(samples, count)
        units += run_samples * duration
        count -= run_samples
        if not count:
            break
    return int(units)


def _first_missing_sample(track: _Track, size: int) -> int | None:
    """Return the first sample that lies, or ends, behind ``size`` bytes."""
    chunks, runs = track.chunks, track.per_chunk
    if not len(chunks) or not len(runs):
        return None
    firsts = np.clip(runs[:, 0] - 1, 0, len(chunks))
    repeats = np.diff(np.append(firsts, len(chunks)))
    if (repeats < 0).any():
        return None
    per_chunk = np.repeat(runs[:, 1], repeats)
    lasts = np.cumsum(per_chunk.astype(np.float64))
    if isinstance(track.sizes, int):
        # Of PCM, QuickTime says the bytes of a sample elsewhere: chunks are judged by their start.
        is_beyond = chunks >= size
        chunk = int(np.argmax(is_beyond))
        return int(lasts[chunk]) - int(per_chunk[chunk]) if is_beyond.any() else None
    if lasts[-1] > 2 * len(track.sizes):
        return None  # tables that contradict each other
    starts = np.minimum(lasts.astype(np.int64) - per_chunk, len(track.sizes))
    ends = np.concatenate([[0], np.cumsum(track.sizes)])
    offsets = np.repeat(chunks - ends[starts], per_chunk)[: len(track.sizes)]
    is_beyond = offsets + ends[1 : len(offsets) + 1] > size
    return int(np.argmax(is_beyond)) if is_beyond.any() else None


_READERS = {
    b"mvhd": _Parser.mvhd,
    b"tkhd": _Parser.tkhd,
    b"mdhd": _Parser.mdhd,
    b"hdlr": _Parser.hdlr,
    b"stts": _Parser.stts,
    b"stsz": _Parser.stsz,
    b"stsc": _Parser.stsc,
    b"stco": _Parser.stco,
    b"co64": _Parser.co64,
    b"elst": _Parser.elst,
    b"trex": _Parser.trex,
    b"mfhd": _Parser.mfhd,
    b"tfhd": _Parser.tfhd,
    b"tfdt": _Parser.tfdt,
    b"trun": _Parser.trun,
}
