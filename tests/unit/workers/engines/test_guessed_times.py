"""Words without times lie where there is sound, in order, in their region."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from schema.pcm import SAMPLES_PER_MS
from schema.span import Span
from workers.engines.guessed_times import place_words
from workers.engines.word_times import Levels, measure_levels

END_MS = 8_000


def levels_of(*sounds: Span) -> Levels:
    """The levels of noise in a faint background."""
    rng = np.random.default_rng(7)
    samples = rng.normal(0, 1e-4, END_MS * SAMPLES_PER_MS).astype(np.float32)
    for sound in sounds:
        part = slice(sound.start_ms * SAMPLES_PER_MS, sound.end_ms * SAMPLES_PER_MS)
        samples[part] = rng.normal(0, 0.1, sound.duration_ms * SAMPLES_PER_MS)
    return measure_levels(samples)


def test_words_lie_in_sound_and_none_crosses_a_pause():
    sounds = Span(0, 2_000), Span(4_000, 5_000)

    words = place_words(["good", "morning", "sir", "thanks"], Span(0, 5_000), levels_of(*sounds))

    assert abs(words[3].start_ms - 4_000) <= 50
    assert all(word.end_ms <= 2_050 for word in words[:3])


def test_a_longer_word_takes_longer():
    short, long = place_words(["a", "characteristic"], Span(0, 1_000), levels_of(Span(0, 1_000)))

    assert 2 * short.span.duration_ms < long.span.duration_ms


def test_a_few_words_are_not_stretched_over_a_long_region():
    words = place_words(["no", "yes"], Span(0, END_MS), levels_of(Span(0, END_MS)))

    assert all(word.span.duration_ms <= 1_500 for word in words)


TEXTS = st.lists(st.sampled_from(["a", "hello", "\u60a8", "...", "25", "don't"]), max_size=30)
EDGES_MS = st.lists(st.integers(0, END_MS), min_size=2, max_size=12, unique=True).map(sorted)


@given(TEXTS, EDGES_MS, EDGES_MS)
def test_every_word_is_in_its_region_once_and_in_order(texts, region_edges_ms, sound_edges_ms):
    region = Span(region_edges_ms[0], region_edges_ms[0] + max(100, region_edges_ms[1]))
    starts_and_ends = zip(sound_edges_ms[::2], sound_edges_ms[1::2], strict=False)
    levels = levels_of(*(Span(*edges) for edges in starts_and_ends))

    words = place_words(texts, region, levels)

    assert [word.text for word in words] == texts
    assert all(region.start_ms <= w.start_ms <= w.end_ms <= region.end_ms for w in words)
    assert all(before.end_ms <= after.start_ms for before, after in pairwise(words))
