"""What two neighbours have in common within their overlap."""

from __future__ import annotations

from dataclasses import replace

from ops.eval.hearing import Agreement, agreement, total
from schema.span import Span
from schema.words import Word
from workers.transcript.stitch import Heard

LEFT = Heard(
    Span(0, 68_000),
    words=(Word("one", 61_200, 61_500), Word("two", 64_000, 64_400)),
    speech=(Span(50_000, 61_800), Span(63_900, 64_500), Span(66_000, 68_000)),
)
RIGHT = Heard(
    Span(60_000, 128_000),
    words=(Word("one", 61_230, 61_500), Word("too", 64_000, 64_400)),
    speech=(Span(60_000, 61_800), Span(63_900, 64_500), Span(66_040, 70_000)),
)


def test_regions_starts_ends_and_words_are_counted_on_both_sides():
    assert agreement(LEFT, RIGHT) == Agreement(
        overlaps=1,
        regions=2,
        same_regions=2,
        bounds=8,  # one end, one region, one start
        same_bounds=6,
        near_bounds=8,
        words=4,
        same_words=2,
        timed_words=2,
    )


def test_what_lies_at_an_edge_of_the_overlap_is_not_compared():
    at_edge = replace(RIGHT, words=(Word("one", 60_100, 60_400),), speech=(Span(60_000, 60_500),))
    found = agreement(LEFT, at_edge)
    assert (found.same_bounds, found.same_words) == (0, 0)
    assert (found.bounds, found.words) == (4, 2)


def test_segments_that_share_too_little_have_nothing_to_compare():
    assert agreement(LEFT, replace(RIGHT, span=Span(67_000, 128_000))) == Agreement()


def test_agreements_add_up():
    one = agreement(LEFT, RIGHT)
    assert total([one, one]).bounds == 2 * one.bounds
    assert total([]) == Agreement()
