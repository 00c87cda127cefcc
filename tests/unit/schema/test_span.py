"""One clock: neighbours that meet at a millisecond meet at a frame."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.span import Span, duration_of, frame_at

RATES = st.sampled_from([8_000, 11_025, 16_000, 22_050, 44_100, 48_000])
MOMENTS = st.integers(0, 36_000_000)


@given(MOMENTS, MOMENTS, RATES)
def test_later_moments_have_later_frames(a: int, b: int, rate_hz: int):
    first, second = sorted((a, b))
    assert frame_at(first, rate_hz) <= frame_at(second, rate_hz)


@given(st.integers(0, 10**9), RATES)
def test_a_duration_holds_every_frame(frames: int, rate_hz: int):
    assert frame_at(duration_of(frames, rate_hz), rate_hz) >= frames


@given(MOMENTS, MOMENTS, MOMENTS, MOMENTS)
def test_an_overlap_is_what_both_cover(a: int, b: int, c: int, d: int):
    one, two = Span(*sorted((a, b))), Span(*sorted((c, d)))

    shared = one.overlap(two)

    assert shared == two.overlap(one)
    length_ms = max(0, min(one.end_ms, two.end_ms) - max(one.start_ms, two.start_ms))
    assert (shared.duration_ms if shared else 0) == length_ms


@pytest.mark.parametrize(("start_ms", "end_ms"), [(-1, 5), (5, 4)])
def test_a_reversed_or_negative_span_is_refused(start_ms: int, end_ms: int):
    with pytest.raises(ValueError, match="not a span"):
        Span(start_ms, end_ms)
