"""Where a segment holds speech: what the detector says, made fit to decode."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from schema.pcm import SAMPLES_PER_MS, Samples
from schema.span import Span, merge
from workers.engines.base import SpeechDetector

#: Nothing shorter reaches a model: below 25 ms FSMN-VAD divides by zero, an empty array kills
#: some recognizers' process, and nobody says a word within a tenth of a second.
SHORTEST_MS = 100

#: The stretch whose loudness is compared to find where a long region is cut: as long as the gap
#: between two words.
_HUSH_MS = 100
#: How finely that place is searched.
_STEP_MS = 10


def find_speech(detector: SpeechDetector, samples: Samples, max_region_ms: int) -> tuple[Span, ...]:
    """Return the speech regions of a segment: in order, disjoint, within it, none overlong.

    ``samples`` are float32, mono, 16 kHz; times are milliseconds from the first. A region longer
    than ``max_region_ms`` is cut at hushes: two segments that see different parts of it soon cut
    it at the same moments.
    """
    duration_ms = len(samples) // SAMPLES_PER_MS
    if duration_ms < SHORTEST_MS:
        return ()
    audio = Span(0, duration_ms)
    regions = merge(filter(None, map(audio.overlap, detector.detect(samples))))
    return tuple(part for region in regions for part in _split(samples, region, max_region_ms))


def _split(samples: Samples, region: Span, max_ms: int) -> Iterator[Span]:
    """Yield ``region`` in parts of at most ``max_ms``, none but the last under a third of that."""
    start_ms = region.start_ms
    while region.end_ms - start_ms > max_ms:
        cut_ms = _quietest_ms(samples, Span(start_ms + max_ms // 3, start_ms + max_ms))
        yield Span(start_ms, cut_ms)
        start_ms = cut_ms
    yield Span(start_ms, region.end_ms)


def _quietest_ms(samples: Samples, window: Span) -> int:
    """Return the middle of the quietest stretch in a span, in ms, on a grid of steps."""
    first_ms = -(-window.start_ms // _STEP_MS) * _STEP_MS
    window_samples = samples[first_ms * SAMPLES_PER_MS : window.end_ms * SAMPLES_PER_MS]
    step = _STEP_MS * SAMPLES_PER_MS
    whole_steps = window_samples[: len(window_samples) // step * step].astype(np.float64)
    energy = np.square(whole_steps).reshape(-1, step).sum(axis=1)
    hush = np.convolve(energy, np.ones(_HUSH_MS // _STEP_MS), "valid")
    return first_ms + int(np.argmin(hush)) * _STEP_MS + _HUSH_MS // 2
