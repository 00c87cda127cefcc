"""What is decoded together: speech regions in windows, and windows or regions in minibatches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from schema.span import Span


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive speech regions that a model hears at once, the silence between them left out."""

    regions: tuple[Span, ...]

    @property
    def duration_ms(self) -> int:
        """Milliseconds of audio in the window."""
        return sum(region.duration_ms for region in self.regions)


def pack_windows(
    regions: Sequence[Span],
    *,
    max_window_ms: int = 30_000,
    restart_pause_ms: int = 1_000,
    restart_after_ms: int = 15_000,
) -> list[Window]:
    """Return ``regions``, which are in order, in as few windows as is wise.

    A window is filled until the next region would outgrow ``max_window_ms``; or until the first
    pause of ``restart_pause_ms``, once it holds ``restart_after_ms``: so windows of two segments
    that began apart soon begin together, and what both hear has the same text. To restart at
    every such pause gained no more agreement, and cost half a point of word errors and twice the
    time, since a model decodes a short window as long as a full one, and worse.

    Raises:
        ValueError: a region is longer than a window, whose rest would be lost without a word.
    """
    _check_fit(regions, max_window_ms)
    windows: list[list[Span]] = []
    held_ms = 0
    for region in regions:
        fits = bool(windows) and held_ms + region.duration_ms <= max_window_ms
        pause_ms = region.start_ms - windows[-1][-1].end_ms if fits else 0
        if fits and not (held_ms >= restart_after_ms and pause_ms >= restart_pause_ms):
            windows[-1].append(region)
            held_ms += region.duration_ms
        else:
            windows.append([region])
            held_ms = region.duration_ms
    return [Window(tuple(window)) for window in windows]


def pack_cheapest(
    regions: Sequence[Span], *, max_window_ms: int, cost_ms: Callable[[Window], int]
) -> list[Window]:
    """Return ``regions``, which are in order, in the windows that cost the least together.

    To fill one window after the other leaves scraps: regions of 9, 20, 9 and 9 s are 29 s and 18,
    or 9 s and 29 and 9. By dynamic programming over where the last window begins; of two ways that
    cost the same, the fuller last window.

    Args:
        regions: none longer than a window.
        max_window_ms: what a window holds.
        cost_ms: of a window, in any unit.

    Raises:
        ValueError: a region is longer than a window, whose rest would be lost without a word.
    """
    _check_fit(regions, max_window_ms)
    # For each number of regions: what the windows of so many first ones cost, and the last window.
    best: list[tuple[int, Window]] = [(0, Window(()))]
    for end in range(1, len(regions) + 1):
        ways = [
            (best[end - len(window.regions)][0] + cost_ms(window), window)
            for window in _ending_with(regions[:end], max_window_ms)
        ]
        best.append(min(ways, key=lambda way: (way[0], -way[1].duration_ms)))
    windows: list[Window] = []
    left = len(regions)
    while left:
        windows.append(best[left][1])
        left -= len(windows[-1].regions)
    return windows[::-1]


def _check_fit(regions: Sequence[Span], max_window_ms: int) -> None:
    if any(region.duration_ms > max_window_ms for region in regions):
        raise ValueError(f"a region is longer than a window of {max_window_ms} ms")


def _ending_with(regions: Sequence[Span], max_window_ms: int) -> Iterator[Window]:
    """Yield the windows that end with the last region, the shortest first."""
    held_ms = 0
    for first in range(len(regions) - 1, -1, -1):
        held_ms += regions[first].duration_ms
        if held_ms > max_window_ms:
            return
        yield Window(tuple(regions[first:]))


@dataclass(frozen=True, slots=True)
class Buckets:
    """What sizes of a minibatch are rounded up to, so that few shapes are computed.

    Whoever prepares something for each shape that it meets, an attention's plan or a graph, does so
    once for a bucket. Each is a function of a size that is not below it.
    """

    regions: Callable[[int], int]
    frames: Callable[[int], int]
    tokens: Callable[[int], int]


def _exactly(size: int) -> int:
    return size


def _in_steps(step: int) -> Callable[[int], int]:
    def rounded(size: int) -> int:
        return -(-size // step) * step

    return rounded


def _half_octaves(size: int) -> int:
    """Return the next of 1, 2, 3, 4, 6, 8, 12, 16, 24 ..."""
    power = 1 << max(0, size - 1).bit_length()
    return power // 4 * 3 if power >= 4 and size <= power // 4 * 3 else power


#: A processor computes what it is given, and what is padded costs it as much.
EXACT = Buckets(_exactly, _exactly, _exactly)
#: Of a night's 265 shapes there are 60 left; 16 frames are a second.
ROUNDED = Buckets(_half_octaves, _in_steps(16), _in_steps(16))


def minibatches(
    lengths: Sequence[int],
    *,
    budget: int,
    most: int,
    overhead: int,
    rounded: Callable[[int], int] = _exactly,
) -> list[list[int]]:
    """Return the indices of ``lengths`` in minibatches, each index in exactly one.

    A minibatch is padded to its longest member, so members are of like length, the longest first:
    what does not fit into memory shows at once. Members times the longest length stay within
    ``budget``, and members within ``most``; a length beyond the budget is alone. Of all ways to
    cut the lengths, in order, the one is taken whose minibatches cost the least together: what
    they are padded to, and ``overhead`` each, by dynamic programming.

    Args:
        lengths: of what is decoded, in any unit, which is that of the next.
        budget: what a minibatch may be padded to.
        most: members of a minibatch.
        overhead: what a minibatch costs beside, as a length of one member that takes as long.
        rounded: the number of members that is computed for so many.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    longest = np.array([lengths[index] for index in order], np.int64)
    members = np.array([rounded(count) for count in range(min(most, len(order)) + 1)], np.int64)
    # For each number of the longest ones: what their minibatches cost, and where the last begins.
    costs = np.zeros(len(order) + 1, np.int64)
    begins = np.zeros(len(order) + 1, np.int64)
    for end in range(1, len(order) + 1):
        least = max(0, end - most)
        # Of minibatches that end here, by where they begin.
        padded = members[end - least : 0 : -1] * longest[least:end]
        total = costs[least:end] + overhead + padded
        total[:-1][padded[:-1] > budget] = np.iinfo(np.int64).max
        at = int(total.argmin())
        costs[end], begins[end] = total[at], least + at
    batches: list[list[int]] = []
    end = len(order)
    while end:
        first = int(begins[end])
        batches.append(order[first:end])
        end = first
    return batches[::-1]
