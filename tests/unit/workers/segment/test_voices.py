"""Which windows of a segment are heard for voices."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schema.span import Span, merge
from schema.voices import HOP_MS, WINDOW_MS
from workers.segment.voices import find_windows

speech_regions = st.lists(
    st.tuples(st.integers(0, 58_000), st.integers(100, 6_000)), max_size=8
).map(lambda pairs: list(merge(sorted(Span(at, at + length) for at, length in pairs))))


@given(speech_regions)
def test_windows_are_on_the_grid_in_order_and_hear_speech(speech: list[Span]):
    windows = find_windows(speech, 70_000, 0)

    assert windows == sorted(set(windows))
    for window in windows:
        assert window.start_ms % HOP_MS == 0
        assert window.duration_ms == WINDOW_MS
        assert any(window.overlap(region) for region in speech)


@given(speech_regions, st.integers(0, 200))
def test_the_same_speech_has_the_same_windows_wherever_its_segment_begins(
    speech: list[Span], steps: int
):
    start_ms = 100 * steps
    whole = find_windows(speech, 70_000, 0)
    parts = [part for r in speech if (part := r.overlap(Span(start_ms, 70_000)))]
    later = [
        window.shifted(start_ms)
        for window in find_windows(
            [part.shifted(-start_ms) for part in parts], 70_000 - start_ms, start_ms
        )
    ]

    # But for a region that the segment's start cuts.
    settled_ms = start_ms + WINDOW_MS
    assert [w for w in later if w.start_ms >= settled_ms] == [
        w for w in whole if w.start_ms >= settled_ms
    ]


def test_all_speech_is_heard_but_for_less_than_half_a_hop_at_its_ends():
    [region] = speech = [Span(10_000, 20_000)]

    windows = find_windows(speech, 30_000, 0)

    before_ms = (WINDOW_MS - HOP_MS) // 2
    assert abs(windows[0].start_ms + before_ms - region.start_ms) <= HOP_MS // 2
    assert abs(windows[-1].end_ms - before_ms - region.end_ms) <= HOP_MS // 2
