"""The voices of a segment: a window every 400 ms of its speech, and a vector for each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from schema.pcm import SAMPLES_PER_MS, Samples
from schema.span import Span
from schema.voices import HOP_MS, WINDOW_MS, Voices
from workers.engines.base import VoiceEmbedder

#: A window is taken where its middle hop has so much speech.
_SPEECH_MIN_MS = HOP_MS // 2
#: The last window may reach so far past the audio.
_BEYOND_MS = HOP_MS


def embed_voices(
    embedder: VoiceEmbedder, samples: Samples, speech: Sequence[Span], start_ms: int
) -> Voices:
    """Return the voices of a segment that begins at ``start_ms`` of its recording."""
    windows = find_windows(speech, len(samples) // SAMPLES_PER_MS, start_ms)
    vectors = embedder.embed(samples, windows)
    starts_ms = np.array([window.start_ms for window in windows], np.int64)
    return Voices(starts_ms, vectors)


def find_windows(speech: Sequence[Span], duration_ms: int, start_ms: int) -> list[Span]:
    """Return the windows of a segment's speech, on the grid of the recording's hops.

    The same stretch has the same windows wherever the segment around it began.
    """
    before_ms = (WINDOW_MS - HOP_MS) // 2
    first_ms = -start_ms % HOP_MS
    covered: dict[int, int] = {}
    for region in speech:
        first = (region.start_ms - before_ms - first_ms) // HOP_MS
        last = (region.end_ms - before_ms - first_ms) // HOP_MS
        for index in range(max(0, first), last + 1):
            at_ms = first_ms + index * HOP_MS
            hop = Span(at_ms + before_ms, at_ms + before_ms + HOP_MS)
            part = hop.overlap(region)
            covered[at_ms] = covered.get(at_ms, 0) + (part.duration_ms if part else 0)
    return [
        Span(at_ms, at_ms + WINDOW_MS)
        for at_ms, speech_ms in sorted(covered.items())
        if speech_ms >= _SPEECH_MIN_MS and at_ms + WINDOW_MS <= duration_ms + _BEYOND_MS
    ]
