"""Every region is decoded once, in order, and nothing outgrows what it must fit into."""

from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.span import Span
from workers.engines.minibatch import SpeechWindow, pack_cheapest, pack_minibatches, pack_windows


def cost_ms(window: SpeechWindow) -> int:
    return 2_000 + -(-window.duration_ms // 5_000) * 5_000


def packed(regions: list[Span]) -> list[SpeechWindow]:
    return pack_cheapest(regions, max_window_ms=30_000, cost_ms=cost_ms)


#: Both ways to pack.
PACKERS = [pack_windows, packed]


@st.composite
def region_lists(draw):
    """Regions as a detector gives them: ordered, disjoint, none longer than a window."""
    steps = draw(st.lists(st.tuples(st.integers(0, 9_000), st.integers(1, 30_000)), max_size=30))
    regions, at_ms = [], 0
    for pause_ms, length_ms in steps:
        regions.append(Span(at_ms + pause_ms, at_ms + pause_ms + length_ms))
        at_ms = regions[-1].end_ms
    return regions


@given(region_lists(), st.sampled_from(PACKERS))
def test_every_region_is_in_one_window_and_order_is_kept(regions, pack):
    assert [region for window in pack(regions) for region in window.regions] == regions


@given(region_lists(), st.sampled_from(PACKERS))
def test_no_window_is_longer_than_the_model_hears(regions, pack):
    assert all(window.duration_ms <= 30_000 for window in pack(regions))


@pytest.mark.parametrize("pack", PACKERS)
def test_a_region_that_no_window_holds_is_refused(pack):
    with pytest.raises(ValueError, match="longer"):
        pack([Span(0, 30_001)])


def test_a_window_restarts_at_the_first_long_pause_once_it_is_half_full():
    regions = [Span(0, 8_000), Span(10_000, 17_000), Span(17_500, 20_000), Span(21_000, 22_000)]
    windows = pack_windows(regions)
    assert [window.regions for window in windows] == [tuple(regions[:3]), tuple(regions[3:])]


@given(region_lists().filter(lambda regions: len(regions) <= 8))
def test_no_other_windows_cost_less(regions):
    def ways(left):
        if not left:
            yield 0
        for count in range(1, len(left) + 1):
            window = SpeechWindow(tuple(left[:count]))
            if window.duration_ms <= 30_000:
                yield from (cost_ms(window) + rest for rest in ways(left[count:]))

    assert sum(map(cost_ms, packed(regions))) == min(ways(regions))


def test_scraps_are_put_together():
    regions = [Span(0, 14_000), Span(15_000, 29_000), Span(30_000, 44_000)]
    regions += [Span(45_000, 51_000), Span(52_000, 58_000)]
    assert [window.duration_ms for window in packed(regions)] == [28_000, 26_000]


LENGTHS = st.lists(st.integers(0, 5_000), max_size=60)
LIMITS = st.tuples(st.integers(1, 40_000), st.integers(1, 16), st.integers(0, 9_000))


def batched(lengths: list[int], limits: tuple[int, int, int]) -> list[list[int]]:
    budget, max_members, overhead = limits
    return pack_minibatches(lengths, budget=budget, max_members=max_members, overhead=overhead)


@given(LENGTHS, LIMITS)
def test_every_length_is_in_one_minibatch(lengths, limits):
    batches = batched(lengths, limits)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))


@given(LENGTHS, LIMITS)
def test_no_minibatch_outgrows_its_limits(lengths, limits):
    budget, max_members, _ = limits
    for batch in batched(lengths, limits):
        padded = len(batch) * max(lengths[index] for index in batch)
        assert len(batch) == 1 or (padded <= budget and len(batch) <= max_members)


@given(LENGTHS, LIMITS)
def test_the_longest_come_first(lengths, limits):
    found = [lengths[index] for batch in batched(lengths, limits) for index in batch]
    assert found == sorted(lengths, reverse=True)


@given(st.lists(st.integers(0, 5_000), min_size=1, max_size=8), LIMITS)
def test_no_other_minibatches_cost_less(lengths, limits):
    budget, max_members, overhead = limits
    in_order = sorted(lengths, reverse=True)

    def cost(batches: list[list[int]]) -> int:
        return sum(overhead + len(batch) * batch[0] for batch in batches)

    def is_allowed(batch: list[int]) -> bool:
        return len(batch) == 1 or (len(batch) <= max_members and len(batch) * batch[0] <= budget)

    ways = []
    for cuts in product((False, True), repeat=len(lengths) - 1):
        at = [0, *(i for i, cut in enumerate(cuts, start=1) if cut), len(lengths)]
        way = [in_order[a:b] for a, b in pairwise(at)]
        if all(map(is_allowed, way)):
            ways.append(cost(way))
    found = [[lengths[index] for index in batch] for batch in batched(lengths, limits)]
    assert cost(found) == min(ways)


def test_like_lengths_are_together():
    assert batched([1, 9, 2, 8], (40, 8, 3)) == [[1, 3], [2, 0]]


def test_what_costs_much_beside_is_done_seldom():
    assert batched([1, 9, 2, 8], (40, 8, 30)) == [[1, 3, 2, 0]]


def test_one_long_region_is_not_padded_onto_many_short_ones():
    # As measured in FunASR: 200 regions of 1 s and one of 30 s, in a budget of 300 s.
    batches = batched([1_000] * 200 + [30_000], (300_000, 1_000, 1_000))
    assert [len(batch) for batch in batches] == [1, 200]
