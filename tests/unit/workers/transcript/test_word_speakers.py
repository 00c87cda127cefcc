"""Which words are whose."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.voices import HOP_MS
from schema.words import Word
from workers.transcript.word_speakers import _change_cost, _likeliest_path, tell_speakers


def words(*spans: tuple[int, int], texts: str = "") -> list[Word]:
    names = texts.split() or ["word"] * len(spans)
    return [Word(text, *span) for text, span in zip(names, spans, strict=True)]


def heard(*speakers: int, sure: float = 9.0) -> tuple[np.ndarray, np.ndarray]:
    """Return windows, a hop each from 0 on, and scores by whom each sounds like."""
    starts_ms = HOP_MS * np.arange(len(speakers), dtype=np.int64) - HOP_MS
    scores = np.zeros((len(speakers), 2))
    scores[np.arange(len(speakers)), [1 - speaker for speaker in speakers]] = -sure
    return starts_ms, scores


def test_each_word_is_its_windows_speaker_s():
    starts_ms, scores = heard(0, 0, 0, 0, 1, 1, 1, 1)
    spoken = words((0, 700), (800, 1_500), (1_700, 2_300), (2_400, 3_100))

    assert [own.speaker for own in tell_speakers(spoken, starts_ms, scores)] == [0, 0, 1, 1]


def test_a_word_without_windows_is_its_neighbours_and_less_sure():
    starts_ms, scores = heard(0, 0, 0, 0)
    spoken = words((0, 700), (800, 1_500), (9_000, 9_400))

    told = tell_speakers(spoken, starts_ms, scores)

    assert [own.speaker for own in told] == [0, 0, 0]
    assert told[2].confidence < told[0].confidence


def test_the_speaker_changes_where_the_pause_is_rather_than_a_word_early():
    # The window over the first speaker's last word hears both.
    starts_ms, scores = heard(0, 0, 0, 1, 1, 1)
    spoken = words((0, 380), (400, 780), (800, 1_300), (1_900, 2_300))

    assert [own.speaker for own in tell_speakers(spoken, starts_ms, scores)] == [0, 0, 0, 1]


def test_a_sentence_s_end_makes_a_change_cheaper():
    plain, ended = words((0, 100), (150, 250), texts="so yes"), words((0, 100), texts="so.")

    assert _change_cost(ended[0], plain[1]) < _change_cost(plain[0], plain[1])


@given(
    st.lists(st.tuples(st.floats(-8, 0), st.floats(-8, 0)), min_size=1, max_size=7),
    st.lists(st.floats(0, 5), min_size=7, max_size=7),
)
def test_no_other_way_is_likelier(rows: list[tuple[float, float]], costs: list[float]):
    evidence, changes = np.array(rows), np.array(costs[: len(rows)])

    def worth(path: tuple[int, ...]) -> float:
        total = sum(evidence[index, speaker] for index, speaker in enumerate(path))
        return total - sum(
            c for a, b, c in zip(path, path[1:], changes[1:], strict=False) if a != b
        )

    best = max(worth(path) for path in product((0, 1), repeat=len(rows)))

    assert worth(tuple(_likeliest_path(evidence, changes))) == pytest.approx(best)


@given(st.lists(st.sampled_from([0, 1]), min_size=2, max_size=30), st.floats(0, 12))
def test_how_sure_is_a_share(speakers: list[int], sure: float):
    starts_ms, scores = heard(*speakers, sure=sure)
    spoken = words(*((HOP_MS * i, HOP_MS * i + 300) for i in range(len(speakers))))

    assert all(0 <= own.confidence <= 1 for own in tell_speakers(spoken, starts_ms, scores))
    assert tell_speakers([], starts_ms, scores) == []
