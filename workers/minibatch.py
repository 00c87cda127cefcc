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
    max_window_ms: int,
    *,
    restart_pause_ms: int = 1_000,
    restart_after_ms: int = 15_000,
) -> list[Window]:
    windows: list[Window] = []
    pending: list[Span] = []
    used_ms = 0
    for region in regions:
        pause = region.start_ms - pending[-1].end_ms if pending else 0
        if pending and (used_ms + region.duration_ms > max_window_ms or (pause >= restart_pause_ms and used_ms >= restart_after_ms)):
            windows.append(Window(tuple(pending)))
            pending, used_ms = [], 0
        pending.append(region)
        used_ms += region.duration_ms
    if pending:
        windows.append(Window(tuple(pending)))
    return windows


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
