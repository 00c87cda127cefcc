"""How loud a segment's speech is, measured with the decode for the reducer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from schema.pcm import SAMPLES_PER_MS, Samples
from schema.span import Span
from schema.words import LOUDNESS_STEP_MS

#: Digital silence, and whatever is fainter than 16 bits can hold.
_SILENCE_DB = -99


def measure_loudness(samples: Samples, speech: Sequence[Span]) -> list[list[int]]:
    """Return the level of each half second of each region, in dB below full scale (RMS).

    The last of a region may be shorter. ``samples`` are float32, mono, 16 kHz.
    """
    return [
        [
            _level_db(samples[at_ms * SAMPLES_PER_MS : end_ms * SAMPLES_PER_MS])
            for at_ms in range(region.start_ms, region.end_ms, LOUDNESS_STEP_MS)
            for end_ms in [min(at_ms + LOUDNESS_STEP_MS, region.end_ms)]
        ]
        for region in speech
    ]


def _level_db(samples: Samples) -> int:
    power = float(np.dot(samples, samples)) / len(samples) if len(samples) else 0.0
    return max(_SILENCE_DB, round(10 * math.log10(power))) if power else _SILENCE_DB
