"""Corrects where words begin and end beside a pause, by the level of the sound. Pure.

A model that aligns text with sound assigns every moment to a token. So the word after a short pause
within a region gets the pause, and a "," or "." gets the end of the word before it and the pause.
A stretch as quiet and as long as a pause shows where the one word ends and the next begins. The
constants were chosen on two chapters of LibriSpeech and shown on a third: ops/eval/RESULTS.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest

import numpy as np
import numpy.typing as npt

from schema.pcm import SAMPLES_PER_MS, Samples
from schema.span import Span
from schema.words import Word

Levels = npt.NDArray[np.float64]

_STEP_MS = 10

#: A shorter hush is the stop inside a "p" or "t", not a pause. 40 to 160 ms were tried.
_MIN_PAUSE_MS = 120

#: A shorter word has no room for a pause and its sound.
_MIN_WORD_MS = 200

#: How far around the middle of a word its speech and its background are measured; of a longer
#: stretch, over all of it.
_CONTEXT_MS = 3_000

#: A pause is this far up from the background to the speech, in dB, or below it. 0.3 to 0.6 were
#: tried; background and speech are the levels that 5 and 85 % of the steps around stay below.
_QUIET_SHARE = 0.4
_BACKGROUND_PERCENT, _SPEECH_PERCENT = 5, 85

#: Digital silence is no measure of how quiet a pause is, nor is a noise that never stops.
_MAX_DEPTH_DB, _MIN_DEPTH_DB = 60.0, 12.0

#: The first and the last of a pause still hold some of the sound beside it.
_PAUSE_EDGE_MS = 20

#: Where no pause is found, a word is not stretched over more than this.
_MAX_GAP_MS = 500


def measure_levels(samples: Samples) -> Levels:
    """Return the level of each 10 ms of ``samples`` (float32, mono, 16 kHz), in dB.

    Each is smoothed with its neighbours, at half their weight.
    """
    length = _STEP_MS * SAMPLES_PER_MS
    steps = samples[: len(samples) // length * length].reshape(-1, length)
    if not len(steps):
        return np.zeros(0)
    power = np.einsum("ij,ij->i", steps, steps, dtype=np.float64) / length
    smooth = np.convolve(np.pad(power, 1, mode="edge"), (0.25, 0.5, 0.25), "valid")
    return np.asarray(10 * np.log10(np.maximum(smooth, 1e-12)))


def trim_leading_pause(words: Iterable[Word], levels: Levels) -> Iterator[Word]:
    """Yield words, the start of each moved behind the longest pause inside it, if it has one.

    ``levels``: :func:`measure_levels` of the audio that the words' times count from. No start is
    moved back, and none beyond its word's end.
    """
    for word in words:
        start_ms = _find_onset(word, levels)
        yield replace(word, start_ms=start_ms) if start_ms > word.start_ms else word


def extend_to_pause(
    words: Sequence[Word], regions: Sequence[Span], levels: Levels
) -> Iterator[Word]:
    """Yield words, the end of each before a gap moved to where a pause begins.

    Words and regions are in order. No end is moved back, beyond the next word's start or out of
    the region that it is in.
    """
    index = 0
    for word, next_word in zip_longest(words, words[1:]):
        while index < len(regions) - 1 and regions[index].end_ms < word.end_ms:
            index += 1
        limit_ms = regions[index].end_ms if regions else word.end_ms
        if next_word is not None:
            limit_ms = min(limit_ms, next_word.start_ms)
        end_ms = _find_end(word, limit_ms, levels)
        yield replace(word, end_ms=end_ms) if end_ms > word.end_ms else word


def _find_onset(word: Word, levels: Levels) -> int:
    """Return where a word's longest pause ends, or its own start."""
    if word.end_ms - word.start_ms <= _MIN_WORD_MS:
        return word.start_ms
    # A pause at its end may belong to the next word.
    pauses = find_pauses(Span(word.start_ms, word.end_ms - _PAUSE_EDGE_MS), levels)
    longest = max(pauses, key=lambda pause: pause.duration_ms, default=None)
    return longest.end_ms - _PAUSE_EDGE_MS if longest else word.start_ms


def _find_end(word: Word, limit_ms: int, levels: Levels) -> int:
    """Return where the first pause after a word begins; the limit, if it is near; or its end."""
    gap_ms = limit_ms - word.end_ms
    if gap_ms < _MIN_PAUSE_MS:
        return word.end_ms
    first = next(find_pauses(Span(word.end_ms, limit_ms), levels), None)
    if first is not None:
        return min(limit_ms, first.start_ms + _PAUSE_EDGE_MS)
    return limit_ms if gap_ms <= _MAX_GAP_MS else word.end_ms


def find_pauses(span: Span, levels: Levels) -> Iterator[Span]:
    """Yield the pauses in a span, in order: as quiet as the background around it, and as long.

    ``levels``: :func:`measure_levels` of the audio that the span's times count from.
    """
    start, end = span.start_ms // _STEP_MS, span.end_ms // _STEP_MS
    middle, reach = (start + end) // 2, _CONTEXT_MS // _STEP_MS
    context = levels[max(0, min(start, middle - reach)) : max(end, middle + reach)]
    if not len(context):
        return
    background_db, speech_db = np.percentile(context, (_BACKGROUND_PERCENT, _SPEECH_PERCENT))
    if speech_db - background_db < _MIN_DEPTH_DB:
        return
    background_db = max(background_db, speech_db - _MAX_DEPTH_DB)
    is_quiet = levels[start:end] < background_db + _QUIET_SHARE * (speech_db - background_db)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_quiet, [False]]).astype(np.int8)))
    for quiet_start, quiet_end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        pause = Span((start + quiet_start) * _STEP_MS, (start + quiet_end) * _STEP_MS)
        if pause.duration_ms >= _MIN_PAUSE_MS:
            yield pause
