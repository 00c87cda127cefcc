"""What is decoded together: speech regions in windows, and windows or regions in minibatches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from schema.span import Span


@dataclass(frozen=True, slots=True)
class SpeechWindow:
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
) -> list[SpeechWindow]:
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
    window_ms = 0
    for region in regions:
        fits = bool(windows) and window_ms + region.duration_ms <= max_window_ms
        pause_ms = region.start_ms - windows[-1][-1].end_ms if fits else 0
        if fits and not (window_ms >= restart_after_ms and pause_ms >= restart_pause_ms):
            windows[-1].append(region)
            window_ms += region.duration_ms
        else:
            windows.append([region])
            window_ms = region.duration_ms
    return [SpeechWindow(tuple(window)) for window in windows]


def pack_cheapest(
    regions: Sequence[Span], *, max_window_ms: int, cost_ms: Callable[[SpeechWindow], int]
) -> list[SpeechWindow]:
    """Return ``regions``, which are in order, in the windows that cost the least together.

    To fill one window after the other leaves scraps: regions of 9, 20, 9 and 9 s are 29 s and 18,
    or 9 s and 29 and 9. By dynamic programming over where the last window begins; of two ways that
    cost the same, the fuller last window.

    Raises:
        ValueError: a region is longer than a window, whose rest would be lost without a word.
    """
    _check_fit(regions, max_window_ms)
    # For each number of first regions: what their windows cost, and the last window.
    best: list[tuple[int, SpeechWindow]] = [(0, SpeechWindow(()))]
    for end in range(1, len(regions) + 1):
        candidates = [
            (best[end - len(window.regions)][0] + cost_ms(window), window)
            for window in _windows_at_end(regions[:end], max_window_ms)
        ]
        best.append(min(candidates, key=lambda way: (way[0], -way[1].duration_ms)))
    windows: list[SpeechWindow] = []
    end = len(regions)
    while end:
        windows.append(best[end][1])
        end -= len(windows[-1].regions)
    return windows[::-1]


def _check_fit(regions: Sequence[Span], max_window_ms: int) -> None:
    if any(region.duration_ms > max_window_ms for region in regions):
        raise ValueError(f"a region is longer than a window of {max_window_ms} ms")


def _windows_at_end(regions: Sequence[Span], max_window_ms: int) -> Iterator[SpeechWindow]:
    """Yield the windows that end with the last region, the shortest first."""
    window_ms = 0
    for first in range(len(regions) - 1, -1, -1):
        window_ms += regions[first].duration_ms
        if window_ms > max_window_ms:
            return
        yield SpeechWindow(tuple(regions[first:]))


@dataclass(frozen=True, slots=True)
class SizeBuckets:
    """Rounds the sizes of a minibatch up, so that few shapes are computed.

    An attention's plan or a CUDA graph is prepared once for each shape. Each field returns the
    bucket of a size, which is not below it.
    """

    regions: Callable[[int], int]
    frames: Callable[[int], int]
    tokens: Callable[[int], int]


def _same_size(size: int) -> int:
    return size


def _up_to_16(size: int) -> int:
    return -(-size // 16) * 16


def _up_to_half_octave(size: int) -> int:
    """Return the next of 1, 2, 3, 4, 6, 8, 12, 16, 24 ..."""
    power = 1 << max(0, size - 1).bit_length()
    return power // 4 * 3 if power >= 4 and size <= power // 4 * 3 else power


#: For a CPU, which computes padding at full cost.
EXACT_SIZES = SizeBuckets(_same_size, _same_size, _same_size)
#: For a GPU. They leave 60 of a night's 265 shapes; 16 frames are a second.
ROUNDED_SIZES = SizeBuckets(_up_to_half_octave, _up_to_16, _up_to_16)


def pack_minibatches(
    lengths: Sequence[int],
    *,
    budget: int,
    max_members: int,
    overhead: int,
    round_members: Callable[[int], int] = _same_size,
) -> list[list[int]]:
    """Return the indices of ``lengths`` in minibatches, each index in exactly one.

    A minibatch is padded to its longest member, so members are of like length, the longest first:
    what does not fit into memory shows at once. Members times the longest length stay within
    ``budget``; a length beyond the budget is alone. Of all ways to cut the lengths, in order, the
    one is taken whose minibatches cost the least together: what they are padded to, and
    ``overhead`` each, by dynamic programming.

    ``overhead`` is the fixed cost of a minibatch, as the length of a member that takes as long;
    ``round_members`` returns the number of members that is computed for so many.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    longest = np.array([lengths[index] for index in order], np.int64)
    counts = range(min(max_members, len(order)) + 1)
    members = np.array([round_members(count) for count in counts], np.int64)
    # For each number of the longest ones: what their minibatches cost, and where the last starts.
    costs = np.zeros(len(order) + 1, np.int64)
    starts = np.zeros(len(order) + 1, np.int64)
    for end in range(1, len(order) + 1):
        # Of minibatches that end here, by where they start.
        first = max(0, end - max_members)
        sizes = members[end - first : 0 : -1] * longest[first:end]
        totals = costs[first:end] + overhead + sizes
        totals[:-1][sizes[:-1] > budget] = np.iinfo(np.int64).max
        cheapest = int(totals.argmin())
        costs[end], starts[end] = totals[cheapest], first + cheapest
    batches: list[list[int]] = []
    end = len(order)
    while end:
        start = int(starts[end])
        batches.append(order[start:end])
        end = start
    return batches[::-1]
