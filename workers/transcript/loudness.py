"""How loud a channel was while someone spoke: levels that were measured with the decode.

A figure for each half second of speech, in whole decibels: about 1 KB for a segment of five
minutes, and enough to tell a voice from its faint copy on another channel.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

from schema.span import Span
from schema.words import LOUDNESS_STEP_MS, ResultTag, SegmentResult


class Loudness:
    """The levels of one channel's speech, on the recording's clock."""

    def __init__(self, results: Iterable[tuple[int, SegmentResult]]) -> None:
        """Take results with the start of their segments, in ms; those without levels are silent."""
        self._steps: list[tuple[int, int, int]] = sorted(
            step for start_ms, result in results for step in _steps(start_ms, result)
        )

    def level_db(self, span: Span) -> float | None:
        """Return the level within a span, in dB, or None where no speech was measured."""
        power = duration_ms = 0.0
        start = bisect_left(self._steps, (span.start_ms - LOUDNESS_STEP_MS,))
        end = bisect_left(self._steps, (span.end_ms,))
        for start_ms, end_ms, level_db in self._steps[start:end]:
            shared_ms = min(end_ms, span.end_ms) - max(start_ms, span.start_ms)
            if shared_ms > 0:
                duration_ms += shared_ms
                power += shared_ms * 10 ** (level_db / 10)
        return 10 * math.log10(power / duration_ms) if duration_ms else None


def _steps(segment_start_ms: int, result: SegmentResult) -> Iterable[tuple[int, int, int]]:
    levels_db: Any = result.tags.get(ResultTag.LOUDNESS_DB, [])
    for region, region_levels_db in zip(result.speech, levels_db, strict=False):
        for number, level_db in enumerate(region_levels_db):
            relative_start_ms = region.start_ms + number * LOUDNESS_STEP_MS
            relative_end_ms = min(relative_start_ms + LOUDNESS_STEP_MS, region.end_ms)
            yield segment_start_ms + relative_start_ms, segment_start_ms + relative_end_ms, level_db
