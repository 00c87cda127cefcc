"""What is decoded together: speech regions in windows, and windows or regions in minibatches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    if any(region.duration_ms > max_window_ms for region in regions):
        raise ValueError(f"a region is longer than a window of {max_window_ms} ms")
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


def minibatches(lengths: Sequence[int], *, budget: int, most: int) -> list[list[int]]:
    """Return the indices of ``lengths`` in minibatches, each index in exactly one.

    A minibatch is padded to its longest member, so members are of like length, the longest first:
    what does not fit into memory shows at once. Members times the longest length stay within
    ``budget``, and members within ``most``; a length beyond the budget is alone.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        room = min(most, budget // max(1, lengths[batches[-1][0]])) if batches else 0
        if batches and len(batches[-1]) < room:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
