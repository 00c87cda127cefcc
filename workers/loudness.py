"""How loud a channel was while someone spoke: measured with the decode, asked by the reducer.

A figure for each half second of speech, in whole decibels: about 1 KB for a segment of five
minutes, and enough to tell a voice from its faint copy on another channel. It travels in the tags
of a segment's result, as ``loudness_db``: a list for each speech region.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from schema.pcm import Samples
from schema.span import Span
from schema.words import SegmentResult
from workers.audio import SAMPLES_PER_MS

#: The name of the levels among a result's tags.
TAG = "loudness_db"

#: As long as a short word or two.
STEP_MS = 500

#: Digital silence, and whatever is fainter than 16 bits can hold.
_SILENCE_DB = -99


def measured(samples: Samples, speech: Sequence[Span]) -> list[list[int]]:
    """Return the level of each half second of each region, in dB below full scale (RMS).

    The last of a region may be shorter. ``samples`` are float32, mono, 16 kHz.
    """
    return [
        [
            _level_db(samples[at_ms * SAMPLES_PER_MS : end_ms * SAMPLES_PER_MS])
            for at_ms in range(region.start_ms, region.end_ms, STEP_MS)
            for end_ms in [min(at_ms + STEP_MS, region.end_ms)]
        ]
        for region in speech
    ]


class Loudness:
    """The levels of one channel's speech, on the recording's clock."""

    def __init__(self, results: Iterable[tuple[int, SegmentResult]]) -> None:
        """Take results with the start of their segments, in ms; those without levels are silent."""
        self._steps: list[tuple[int, int, int]] = sorted(
            step for start_ms, result in results for step in _steps(start_ms, result)
        )

    def at(self, span: Span) -> float | None:
        """Return the level within a span, in dB, or None where no speech was measured."""
        power = duration_ms = 0.0
        for start_ms, end_ms, level_db in self._near(span):
            shared_ms = min(end_ms, span.end_ms) - max(start_ms, span.start_ms)
            if shared_ms > 0:
                duration_ms += shared_ms
                power += shared_ms * 10 ** (level_db / 10)
        return 10 * math.log10(power / duration_ms) if duration_ms else None

    def _near(self, span: Span) -> Iterable[tuple[int, int, int]]:
        first = bisect_left(self._steps, (span.start_ms - STEP_MS,))
        last = bisect_left(self._steps, (span.end_ms,))
        return self._steps[first:last]


def _steps(start_ms: int, result: SegmentResult) -> Iterable[tuple[int, int, int]]:
    levels: Any = result.tags.get(TAG, [])
    for region, own in zip(result.speech, levels, strict=False):
        for number, level_db in enumerate(own):
            begin_ms = region.start_ms + number * STEP_MS
            end_ms = min(begin_ms + STEP_MS, region.end_ms)
            yield start_ms + begin_ms, start_ms + end_ms, level_db


def _level_db(samples: Samples) -> int:
    power = float(np.dot(samples, samples)) / len(samples) if len(samples) else 0.0
    return max(_SILENCE_DB, round(10 * math.log10(power))) if power else _SILENCE_DB
