"""Sound files damaged, at random or on purpose: bytes in, bytes out."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np

from ops.chaos.ogg import pages, with_checksums
from ops.chaos.seeds import Seed

#: No mutation makes more of a file than this: what is big is another test's.
MOST_BYTES = 4 * 1024**2

#: Where headers, and the index at the end of an MP4, are.
_HEAD_BYTES = 1024
_TAIL_BYTES = 2048
_FIELDS = ("<H", ">H", "<I", ">I", "<Q", ">Q")
#: What a size, a rate, a count of channels or of frames may say to mislead.
_EXTREMES = (
    *(0, 1, 2, 3, 255, 1024, 0x7FFF, 0x8000, 0xFFFF, 1_000_000),
    *(0x7FFFFFFF, 0x80000000, 0xFFFFFFDB, 0xFFFFFFFF),
    *(2**63 - 1, 2**63, 2**64 - 1),
    # Ten hours: of bytes at 16 bits and 8 kHz, of frames at 8 and at 44.1 kHz.
    *(36_000 * 16_000, 36_000 * 8_000, 36_000 * 44_100),
)

Item = TypeVar("Item")


class Dice:
    """Choices that follow from a seed and the number of a case alone."""

    def __init__(self, seed: int, number: int) -> None:
        self._random = np.random.default_rng((seed, number))

    def below(self, limit: int, least: int = 0) -> int:
        """Return a whole number, at least ``least`` and below ``limit``."""
        return int(self._random.integers(least, limit))

    def pick(self, items: Sequence[Item]) -> Item:
        """Return one of the items."""
        return items[self.below(len(items))]

    def chance(self, share: float) -> bool:
        """Return true in this share of cases."""
        return bool(self._random.random() < share)

    def noise(self, length: int) -> bytes:
        """Return so many bytes."""
        return self._random.bytes(length)


def mutated(seed: Seed, others: Sequence[Seed], dice: Dice) -> bytes:
    """Return the seed's bytes, damaged in one to three ways, as the dice fall."""
    data = seed.data
    for _ in range(dice.below(4, 1)):
        data = dice.pick(_MUTATORS)(data, seed, others, dice)[:MOST_BYTES]
    if data.startswith(b"OggS") and dice.chance(0.7):
        # Pages whose checksums are wrong are passed over before a decoder sees them.
        data = with_checksums(data)
    return data


def _flip_bits(data: bytes, _: Seed, __: Sequence[Seed], dice: Dice) -> bytes:
    damaged = bytearray(data)
    for _flip in range(1 << dice.below(8)):
        if damaged:
            damaged[_anywhere(damaged, dice)] ^= 1 << dice.below(8)
    return bytes(damaged)


def _overwrite(data: bytes, _: Seed, __: Sequence[Seed], dice: Dice) -> bytes:
    at, length = _anywhere(data, dice), 1 << dice.below(12)
    fill = dice.pick((bytes(length), b"\xff" * length, dice.noise(length)))
    return data[:at] + fill + data[at + length :]


def _insert(data: bytes, _: Seed, __: Sequence[Seed], dice: Dice) -> bytes:
    at, start, length = (_anywhere(data, dice), _anywhere(data, dice), dice.below(4096, 1))
    return data[:at] + data[start : start + length] + data[at:]


def _cut_out(data: bytes, _: Seed, __: Sequence[Seed], dice: Dice) -> bytes:
    at = _anywhere(data, dice)
    return data[:at] + data[at + dice.below(4096, 1) :]


def _truncate(data: bytes, _: Seed, __: Sequence[Seed], dice: Dice) -> bytes:
    return data[: _anywhere(data, dice)]


def _extend(data: bytes, _: Seed, __: Sequence[Seed], dice: Dice) -> bytes:
    length = 1 << dice.below(18)
    more = dice.pick((bytes(length), dice.noise(length), data[:length], data))
    return data + more


def _mislead(data: bytes, seed: Seed, _: Sequence[Seed], dice: Dice) -> bytes:
    """Make fields say something extreme: those that say a number we know, or any."""
    damaged = bytearray(data)
    known = list(_known_fields(data, seed))
    for _field in range(dice.below(4, 1)):
        at, layout = _anywhere(data, dice) & ~1, dice.pick(_FIELDS)
        if known and dice.chance(0.7):
            at, layout = dice.pick(known)
        size = struct.calcsize(layout)
        value = dice.pick(_EXTREMES) % (1 << 8 * size)
        if at + size <= len(damaged):
            struct.pack_into(layout, damaged, at, value)
    return bytes(damaged)


def _known_fields(data: bytes, seed: Seed) -> Iterator[tuple[int, str]]:
    """Yield where the head or the tail holds a number of the seed's, and as what."""
    for start, part in ((0, data[:_HEAD_BYTES]), (len(data) - _TAIL_BYTES, data[-_TAIL_BYTES:])):
        for number in seed.numbers:
            for layout in _FIELDS:
                if number < 1 << 8 * struct.calcsize(layout):
                    at = part.find(struct.pack(layout, number))
                    if at >= 0:
                        yield max(start, 0) + at, layout


def _shuffle_chunks(data: bytes, _: Seed, __: Sequence[Seed], dice: Dice) -> bytes:
    """Double, drop or exchange chunks."""
    chunks = split(data) or [data]
    first, second = dice.below(len(chunks)), dice.below(len(chunks))
    match dice.below(3):
        case 0:
            chunks.insert(first, chunks[second])
        case 1:
            del chunks[first]
        case _:
            chunks[first], chunks[second] = chunks[second], chunks[first]
    return b"".join(chunks)


def _cross(data: bytes, _: Seed, others: Sequence[Seed], dice: Dice) -> bytes:
    """Go on as a file of another format."""
    other = dice.pick(others).data
    return data[: _anywhere(data, dice)] + other[_anywhere(other, dice) :]


def _exchange(_: bytes, __: Seed, others: Sequence[Seed], dice: Dice) -> bytes:
    """Be a file of another format, under this one's name."""
    return dice.pick(others).data


def _noise(data: bytes, _: Seed, __: Sequence[Seed], dice: Dice) -> bytes:
    """Keep the header, and replace the audio by noise or by zeros."""
    kept = data[: dice.below(_HEAD_BYTES)]
    rest = len(data) - len(kept)
    return kept + (dice.noise(rest) if dice.chance(0.5) else bytes(rest))


def _anywhere(data: bytes | bytearray, dice: Dice) -> int:
    """Return a position, half of the time in the header."""
    if not data:
        return 0
    reach = min(_HEAD_BYTES, len(data)) if dice.chance(0.5) else len(data)
    return dice.below(reach)


_MUTATORS: Sequence[Callable[[bytes, Seed, Sequence[Seed], Dice], bytes]] = (
    *(_flip_bits, _overwrite, _insert, _cut_out, _truncate, _extend),
    # These reach what random damage seldom does.
    *(_mislead, _mislead, _mislead, _shuffle_chunks, _shuffle_chunks),
    *(_cross, _exchange, _noise),
)


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a container of chunks is laid out: ``header`` unpacks a chunk's size."""

    magic: bytes
    magic_at: int
    first: int
    header: str
    counts_header: bool = False
    align: int = 1
    mask: int = 2**64 - 1


_LAYOUTS = (
    _Layout(b"RIFF", 0, 12, "<4xI", align=2),
    _Layout(b"RF64", 0, 12, "<4xI", align=2),
    _Layout(b"FORM", 0, 12, ">4xI", align=2),
    _Layout(b"caff", 0, 8, ">4xQ"),
    _Layout(b"riff", 0, 40, "<16xQ", counts_header=True, align=8),
    _Layout(b"ftyp", 4, 0, ">I4x", counts_header=True),
    _Layout(b"fLaC", 0, 4, ">I", mask=2**24 - 1),
)
#: The boxes of an MP4 that hold boxes; their insides are what an index is made of.
_NESTS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
_MOST_CHUNKS = 200
#: Where there are no chunks, or beyond them.
_PIECES = 8


def split(data: bytes) -> list[bytes]:
    """Cut a file where its chunks, pages or boxes begin; joined, they are the file again."""
    cuts = [0, *_chunk_ends(data)]
    rest = len(data) - cuts[-1]
    cuts += [cuts[-1] + rest * piece // _PIECES for piece in range(1, _PIECES + 1)]
    return [data[start:end] for start, end in pairwise(cuts) if start < end]


def _chunk_ends(data: bytes) -> list[int]:
    if data.startswith(b"OggS"):
        return [end for _, end in pages(data)]
    for layout in _LAYOUTS:
        if data.startswith(layout.magic, layout.magic_at):
            return list(_chunks(data, layout))
    return []


def _chunks(data: bytes, layout: _Layout) -> Iterator[int]:
    """Yield where each chunk ends, as far as they make sense."""
    at, header = layout.first, struct.calcsize(layout.header)
    for _ in range(_MOST_CHUNKS):
        yield at
        if at + header > len(data):
            return
        (stated,) = struct.unpack_from(layout.header, data, at)
        size = (stated & layout.mask) + (0 if layout.counts_header else header)
        if data[at + 4 : at + 8] in _NESTS:
            size = header
        size += -size % layout.align
        if size < header or at + size > len(data):
            return
        at += size
