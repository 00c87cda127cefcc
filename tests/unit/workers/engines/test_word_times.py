"""Words begin after the pauses that a model gave them, and end where the sound does."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from schema.span import Span
from schema.words import Word
from workers.engines.word_times import extend_to_pause, measure_levels, trim_leading_pause


def sound(*loud: tuple[int, int], ms: int = 4_000) -> np.ndarray:
    """Hiss in which some stretches are 40 dB louder; float32, 16 kHz."""
    samples = np.random.default_rng(5).normal(0, 1e-3, ms * 16).astype(np.float32)
    for start_ms, end_ms in loud:
        samples[start_ms * 16 : end_ms * 16] *= 100
    return samples


TALK = sound((200, 1_000), (1_400, 2_000), (2_060, 3_000))


def begins(start_ms: int, end_ms: int, samples: np.ndarray = TALK) -> int:
    [word] = trim_leading_pause([Word("x", start_ms, end_ms)], measure_levels(samples))
    return word.start_ms


def ends(words: list[Word], regions: list[Span], samples: np.ndarray = TALK) -> list[int]:
    return [word.end_ms for word in extend_to_pause(words, regions, measure_levels(samples))]


def test_a_level_is_that_of_its_ten_milliseconds():
    levels = measure_levels(TALK)
    assert len(levels) == 400
    assert levels[50] - levels[10] > 35
    assert len(measure_levels(np.zeros(100, np.float32))) == 0


def test_a_word_that_was_given_a_pause_begins_after_it():
    assert abs(begins(1_000, 2_000) - 1_400) <= 30
    assert abs(begins(900, 2_000) - 1_400) <= 30


def test_a_stop_inside_a_word_is_no_pause():
    assert begins(1_500, 2_900) == 1_500


def test_a_short_word_is_left_as_it_is():
    assert begins(1_250, 1_450) == 1_250


def test_where_nothing_is_quieter_than_the_rest_nothing_moves():
    assert begins(1_000, 2_000, sound()) == 1_000
    assert begins(1_000, 2_000, np.zeros(64_000, np.float32)) == 1_000


def test_digital_silence_around_does_not_hide_the_pauses_of_a_line():
    samples = sound((200, 1_000), (1_400, 2_000), ms=3_000)
    samples[2_500 * 16 :] = 0
    assert abs(begins(1_000, 2_000, samples) - 1_400) <= 30


def test_a_word_whose_end_was_given_to_a_mark_ends_where_the_pause_begins():
    words = [Word("a,", 300, 700), Word("b", 1_400, 1_900)]
    first, last = ends(words, [Span(100, 3_500)])
    assert abs(first - 1_000) <= 30
    assert last >= 1_900


def test_words_that_meet_stay_as_they_are():
    words = [Word("a", 300, 600), Word("b", 600, 950)]
    assert ends(words, [Span(100, 960)]) == [600, 950]


def test_a_gap_without_a_pause_is_the_word_s_if_it_is_short():
    samples = sound((200, 3_800))
    words = [Word("a,", 300, 700), Word("b", 1_000, 1_500), Word("c", 2_500, 3_000)]
    assert ends(words, [Span(100, 3_050)], samples) == [1_000, 1_500, 3_000]


@given(times=st.lists(st.integers(0, 4_000), min_size=2, max_size=12, unique=True).map(sorted))
def test_words_stay_in_order_apart_and_within_their_region(times: list[int]):
    words = [Word("x", start, end) for start, end in pairwise(times)]
    region = Span(times[0], times[-1])
    levels = measure_levels(TALK)
    found = list(extend_to_pause(list(trim_leading_pause(words, levels)), [region], levels))
    assert len(found) == len(words)
    for before, after in zip(words, found, strict=True):
        assert before.start_ms <= after.start_ms <= after.end_ms <= region.end_ms
        assert after.end_ms >= before.end_ms
    assert all(a.end_ms <= b.start_ms for a, b in pairwise(found))


def test_no_words_have_no_edges():
    assert ends([], [Span(0, 100)]) == []
