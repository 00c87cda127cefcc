"""Which words are whose, by the voices around them. Pure.

The speaker changes only between words: the sooner, the longer the pause, and at the end of a
sentence. Of all ways to give the words to speakers the likeliest is taken (Viterbi, 1967), and how
sure each word is comes from all of them (Baum et al., 1970).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schema.voices import HOP_MS, WINDOW_MS
from schema.words import Word
from workers.transcript.voice_split import Array

#: What a change costs, in nats, after a pause of at least so many ms; after a sentence less.
_CHANGE_COSTS = ((700, 0.7), (300, 1.5), (0, 2.5))
_SENTENCE_DISCOUNT = 1.0
_SENTENCE_ENDS = tuple(".?!。？！…")  # noqa: RUF001 (Chinese marks are meant)

#: Three windows hear each moment, and say the same thrice.
_SHARE = HOP_MS / WINDOW_MS
#: No window says more for one voice than this.
_SCORE_MAX = 12.0
#: How much of what windows say, and of what a change costs, counts for how sure a word is: windows
#: that hear two speakers are surer than they should be.
_CAUTION = 0.4


@dataclass(frozen=True, slots=True)
class WordSpeaker:
    """Who said a word, from 0, and how sure that is, 0..1."""

    speaker: int
    confidence: float


def tell_speakers(
    words: Sequence[Word], starts_ms: npt.NDArray[np.int64], scores: Array
) -> list[WordSpeaker]:
    """Return who said each word.

    Args:
        words: in order of time.
        starts_ms: when each window begins, in order.
        scores: ``(windows, speakers)``: :class:`workers.transcript.voice_split.VoiceSplit`.
    """
    if not words:
        return []
    evidence = _word_evidence(words, starts_ms, scores)
    costs = np.array([0.0, *map(_change_cost, words, words[1:])])
    path = _likeliest_path(evidence, costs)
    posteriors = _posteriors(_CAUTION * evidence, _CAUTION * costs)
    return [
        WordSpeaker(int(speaker), round(float(row[speaker]), 3))
        for speaker, row in zip(path, posteriors, strict=True)
    ]


def _word_evidence(words: Sequence[Word], starts_ms: npt.NDArray[np.int64], scores: Array) -> Array:
    """Return ``(words, speakers)``: what the windows say whose middle a word covers."""
    limited = np.maximum(scores - scores.max(axis=1, keepdims=True), -_SCORE_MAX)
    middles_ms = starts_ms + (WINDOW_MS - HOP_MS) // 2
    evidence = np.zeros((len(words), scores.shape[1]))
    for index, word in enumerate(words):
        end_ms = max(word.end_ms, word.start_ms + 1)
        first = int(np.searchsorted(middles_ms, word.start_ms - HOP_MS, "right"))
        last = int(np.searchsorted(middles_ms, end_ms, "left"))
        for window in range(first, last):
            middle_ms = int(middles_ms[window])
            shared_ms = min(end_ms, middle_ms + HOP_MS) - max(word.start_ms, middle_ms)
            evidence[index] += limited[window] * max(0, shared_ms) / HOP_MS * _SHARE
    return evidence


def _change_cost(word: Word, following: Word) -> float:
    pause_ms = following.start_ms - word.end_ms
    cost = next(
        (cost for least_ms, cost in _CHANGE_COSTS if pause_ms >= least_ms), _CHANGE_COSTS[-1][1]
    )
    return max(0.0, cost - _SENTENCE_DISCOUNT) if word.text.endswith(_SENTENCE_ENDS) else cost


def _likeliest_path(evidence: Array, costs: Array) -> list[int]:
    count, speakers = evidence.shape
    best = evidence[0].copy()
    origins = np.zeros((count, speakers), np.int64)
    for index in range(1, count):
        ways = best[:, None] - costs[index] * (1 - np.eye(speakers))
        origins[index] = ways.argmax(axis=0)
        best = ways.max(axis=0) + evidence[index]
    path = [int(best.argmax())]
    for index in range(count - 1, 0, -1):
        path.append(int(origins[index, path[-1]]))
    return path[::-1]


def _posteriors(evidence: Array, costs: Array) -> Array:
    """Return ``(words, speakers)``: how likely each said it, all ways taken together."""
    count, speakers = evidence.shape
    forward, backward = evidence.copy(), np.zeros_like(evidence)
    for index in range(1, count):
        moves = -costs[index] * (1 - np.eye(speakers))
        forward[index] += np.logaddexp.reduce(forward[index - 1][:, None] + moves, axis=0)
        later = backward[-index] + evidence[-index]
        moves = -costs[count - index] * (1 - np.eye(speakers))
        backward[-index - 1] = np.logaddexp.reduce(moves + later[None, :], axis=1)
    joint = forward + backward
    joint -= joint.max(axis=1, keepdims=True)
    weights = np.exp(joint)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
