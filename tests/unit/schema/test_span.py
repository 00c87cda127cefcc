"""One clock: neighbours that meet at a millisecond meet at a frame."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.span import Span, duration_of, frame_at, merge, minus

RATES = st.sampled_from([8_000, 11_025, 16_000, 22_050, 44_100, 48_000])
MOMENTS = st.integers(0, 36_000_000)
SHORT = st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda edges: Span(*sorted(edges)))
SPANS = st.lists(SHORT, max_size=8).map(sorted)


def milliseconds(*spans: Span) -> set[int]:
    return {ms for span in spans for ms in range(span.start_ms, span.end_ms)}


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


@given(SPANS)
def test_merged_spans_cover_the_same_and_do_not_touch(spans: list[Span]):
    merged = list(merge(spans))

    assert milliseconds(*merged) == milliseconds(*spans)
    assert all(one.end_ms < other.start_ms for one, other in pairwise(merged))


@given(SPANS, st.integers(0, 10))
def test_merged_spans_are_joined_over_short_gaps_alone(spans: list[Span], gap_ms: int):
    gaps = minus(Span(0, 40), merge(spans))
    short = [gap for gap in gaps if gap.duration_ms <= gap_ms]
    inner = [
        gap for gap in short if spans[:1] and spans[0].start_ms < gap.end_ms <= spans[-1].start_ms
    ]

    assert milliseconds(*merge(spans, gap_ms)) == milliseconds(*spans, *inner)


@given(SHORT, SPANS)
def test_minus_is_what_no_span_covers(within: Span, spans: list[Span]):
    rest = list(minus(within, spans))

    assert milliseconds(*rest) == milliseconds(within) - milliseconds(*spans)
    assert all(span.duration_ms for span in rest)
    assert rest == sorted(rest)


@pytest.mark.parametrize(("start_ms", "end_ms"), [(-1, 5), (5, 4)])
def test_a_reversed_or_negative_span_is_refused(start_ms: int, end_ms: int):
    with pytest.raises(ValueError, match="not a span"):
        Span(start_ms, end_ms)
