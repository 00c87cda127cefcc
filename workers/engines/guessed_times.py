"""Places words that a model wrote without times, by how loud their region is. Pure.

Nobody knows when such a word was said, only in which region, and in which order: the region's words
share the sound between its pauses, each by its letters. That is a guess for players and readers; no
figure may rest on it (:attr:`schema.words.ResultTag.GUESSED_TIMES`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

import numpy as np

from schema.span import Span, minus
from schema.text import is_cjk
from schema.words import Word
from workers.engines.word_times import Levels, find_pauses

#: How long a word is beside others: its letters and a little; a CJK character is a syllable.
_WORD_WEIGHT, _CJK_WEIGHT = 2, 3

#: No word is shown to last longer: where few share a long region, nobody knows what lies between.
_WORD_MAX_MS = 1_500

#: Less of a sound between two pauses holds no word.
_MIN_SOUND_MS = 100


def place_words(texts: Sequence[str], region: Span, levels: Levels) -> list[Word]:
    """Return words in order within ``region``, none across a pause and none without a length.

    ``levels``: :func:`workers.engines.word_times.measure_levels` of the audio that the region's
    times count from.
    """
    if not texts:
        return []
    pauses = find_pauses(region, levels)
    sounds = [sound for sound in minus(region, pauses) if sound.duration_ms >= _MIN_SOUND_MS]
    sounds = sounds or [region]
    weights = np.array([_weight(text) for text in texts], np.float64)
    return [
        word
        for sound, indexes in zip(sounds, _share(weights, sounds), strict=True)
        for word in _spread([texts[i] for i in indexes], weights[indexes], sound)
    ]


def _weight(text: str) -> int:
    return sum(_CJK_WEIGHT if is_cjk(char) else 1 for char in text if char.isalnum()) + _WORD_WEIGHT


def _share(weights: np.ndarray, sounds: Sequence[Span]) -> Iterator[range]:
    """Yield the indexes of the words in each sound: cut at the word's end nearest its share."""
    ends = np.concatenate([[0.0], np.cumsum(weights)]) / weights.sum()
    total_ms = sum(sound.duration_ms for sound in sounds)
    shares = [ms / total_ms for ms in accumulate(sound.duration_ms for sound in sounds)]
    cuts = [0, *(int(np.argmin(abs(ends - share))) for share in shares[:-1]), len(weights)]
    yield from (range(first, end) for first, end in pairwise(cuts))


def _spread(texts: Sequence[str], weights: np.ndarray, sound: Span) -> Iterator[Word]:
    edges = np.concatenate([[0.0], np.cumsum(weights)])
    edges_ms = sound.start_ms + np.round(edges / (edges[-1] or 1) * sound.duration_ms).astype(int)
    for text, (start_ms, end_ms) in zip(texts, pairwise(edges_ms.tolist()), strict=True):
        yield Word(text, start_ms, min(end_ms, start_ms + _WORD_MAX_MS))
