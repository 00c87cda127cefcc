"""Two neighbours hear the same in what they share: FSMN-VAD itself, on real speech."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import soundfile
import soxr

from ops.local.bootstrap import STATE
from ops.local.models import fetch
from ops.local.samples import compose
from schema.pcm import SAMPLE_RATE_HZ, SAMPLES_PER_MS
from schema.profile import SCENES, load_profile
from schema.settings import Settings
from schema.span import Span
from workers.engines.load import load_detector, load_filter_bank
from workers.segment.speech_regions import find_speech
from workers.transcript.seams import GUARD_MS, DecodedSegment


@pytest.fixture(scope="module")
def call() -> np.ndarray:
    """Both channels of the sample call of two minutes, one after the other: 16 kHz, float32."""
    path = compose(STATE).directory / "call-1005.wav"
    samples, rate_hz = soundfile.read(path, dtype="float32")
    speech = soxr.resample(samples, rate_hz, SAMPLE_RATE_HZ)
    return np.concatenate([speech[:, 0], speech[:, 1]]).astype(np.float32)


@pytest.mark.parametrize("scene", SCENES)
def test_what_lies_in_an_overlap_is_heard_alike_from_both_sides(call, scene):
    """At least 95 in 100 of the starts and ends, to the millisecond, wherever segments begin."""
    settings = Settings(
        database_url="postgresql://none/none", redis_url="redis://none", models=fetch()
    )
    profile = load_profile(scene)
    detector = load_detector(profile, settings, load_filter_bank(settings))

    def hear(span: Span) -> DecodedSegment:
        samples = call[span.start_ms * SAMPLES_PER_MS : span.end_ms * SAMPLES_PER_MS]
        speech = find_speech(detector, samples, profile.scene.max_region_ms)
        return DecodedSegment(span, (), tuple(region.shifted(span.start_ms) for region in speech))

    duration_ms = len(call) // SAMPLES_PER_MS
    bounds = same_bounds = 0
    for shift_ms in range(0, 20_000, 5_010):
        starts_ms = range(shift_ms, duration_ms - 30_000, 20_000)
        segments = [hear(Span(start_ms, start_ms + 30_000)) for start_ms in starts_ms]
        for left, right in pairwise(segments):
            sides = bounds_within(left, right), bounds_within(right, left)
            bounds += sum(map(len, sides))
            same_bounds += 2 * len(sides[0] & sides[1])
    assert bounds >= 50
    assert same_bounds >= 0.95 * bounds


def bounds_within(segment, neighbour) -> set[tuple[str, int]]:
    """Starts and ends of speech in what a neighbour shares, but a second at its edges."""
    shared = segment.span.overlap(neighbour.span)
    moments = [("start", r.start_ms) for r in segment.speech]
    moments += [("end", r.end_ms) for r in segment.speech]
    first_ms, last_ms = shared.start_ms + GUARD_MS, shared.end_ms - GUARD_MS
    return {(kind, at_ms) for kind, at_ms in moments if first_ms <= at_ms < last_ms}
