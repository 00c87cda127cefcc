"""FunASR's models that we have no faster way for, region by region through their ``generate``.

What they say of times is not always one: some write text alone, and some a frame for each token,
one after the other from the region's start, whoever speaks when (Fun-ASR issues 70 and 106,
sherpa-onnx issue 3339). Such times count as none: :mod:`workers.engines.guessed_times`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median
from typing import Any

from schema.pcm import SAMPLES_PER_MS
from schema.span import Span
from schema.text import is_cjk
from schema.words import ResultTag, Word
from workers.engines.base import (
    Cancellations,
    DecodedSpeech,
    DecodeOutcome,
    DecodeRequest,
    Recognizer,
)
from workers.engines.funasr.isolation import isolate_funasr
from workers.engines.guessed_times import place_words
from workers.engines.subwords import merge_subwords
from workers.engines.word_times import measure_levels

#: A longer word was stretched over something else, and a later end is none of the region's.
_WORD_MAX_MS = 5_000
_BEYOND_MAX_MS = 200

#: Of so many steps from word to word, people never take this share alike, to a rounding.
_STEPS_MIN = 5
_ALIKE_SHARE = 0.8
_ALIKE_MS = 2


class GenericRecognizer(Recognizer):
    """Any model of FunASR's. See :class:`workers.engines.base.Recognizer`."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def decode_all(self, requests: Sequence[DecodeRequest]) -> list[DecodeOutcome]:
        """Decode: see :meth:`workers.engines.base.Recognizer.decode_all`."""
        cancellations = Cancellations(requests)
        return [
            self._decode(request, index, cancellations) or cancellations.by_request[index]
            for index, request in enumerate(requests)
        ]

    def _decode(
        self, request: DecodeRequest, index: int, cancellations: Cancellations
    ) -> DecodedSpeech | None:
        """Return a request's words, or None where it was cancelled."""
        words: list[Word] = []
        guessed_regions: list[list[int]] = []
        levels = None
        for region in request.regions:
            if cancellations.is_cancelled(index):
                return None
            result = self._generate(request, region)
            region_words = [word.shifted(region.start_ms) for word in read_words(result)]
            if not have_times(region_words, region):
                levels = measure_levels(request.samples) if levels is None else levels
                region_words = place_words([word.text for word in region_words], region, levels)
                guessed_regions.append([region.start_ms, region.end_ms])
            words += _within(region_words, region)
        if not words:
            return DecodedSpeech((), None)
        language = request.language if request.language != "auto" else guess_language(words)
        tags: dict[str, Any] = {ResultTag.GUESSED_TIMES: guessed_regions} if guessed_regions else {}
        return DecodedSpeech(tuple(words), language, tags)

    def _generate(self, request: DecodeRequest, region: Span) -> Mapping[str, Any]:
        start, end = (ms * SAMPLES_PER_MS for ms in (region.start_ms, region.end_ms))
        with isolate_funasr():
            results = self._model.generate(
                request.samples[start:end],
                key="region",
                language=request.language,
                hotword=" ".join(request.hotwords) or None,
            )
        if len(results) != 1:
            raise RuntimeError(f"{len(results)} results for one region")
        result: Mapping[str, Any] = results[0]
        return result


def read_words(result: Mapping[str, Any]) -> list[Word]:
    """Return a result's words from the start of its region; all at 0 ms where it has no times.

    Models write ``words`` with ``timestamp`` in ms, or ``timestamps`` of tokens in seconds. A word
    that is in the text alone is not lost for want of a time.
    """
    text_words = _text_words(result)
    timed_words = _words_of_tokens(result) or _words_with_times(result)
    if _letters(timed_words) < _letters(text_words):
        return text_words
    return timed_words


def have_times(words: Sequence[Word], region: Span) -> bool:
    """Tell whether words of a region, on one clock with it, have times that can be believed.

    Equal or falling times are none; nor are those outside the region, nor steps that are all
    alike. No words have any.
    """
    if any(b.start_ms <= a.start_ms or b.end_ms < a.end_ms for a, b in pairwise(words)):
        return False
    limit_ms = region.end_ms + _BEYOND_MAX_MS
    if any(
        not region.start_ms <= word.start_ms < region.end_ms
        or not word.start_ms < word.end_ms <= min(limit_ms, word.start_ms + _WORD_MAX_MS)
        for word in words
    ):
        return False
    return not _are_steps_alike(words)


def _are_steps_alike(words: Sequence[Word]) -> bool:
    """Tell whether words, or tokens, follow each other as nobody speaks."""
    steps_ms = [b.start_ms - a.start_ms for a, b in pairwise(words)]
    if len(steps_ms) < _STEPS_MIN:
        return False
    usual_ms = median(steps_ms)
    alike = sum(abs(step_ms - usual_ms) <= _ALIKE_MS for step_ms in steps_ms)
    return alike >= _ALIKE_SHARE * len(steps_ms)


def guess_language(words: Sequence[Word]) -> str:
    """Return the language of words by their script: these models know Chinese and English."""
    chinese = sum(any(map(is_cjk, word.text)) for word in words)
    return "zh" if 2 * chinese >= len(words) else "en"


def _words_of_tokens(result: Mapping[str, Any]) -> list[Word]:
    tokens = [
        Word(
            str(stamp["token"]),
            _whole_ms(stamp.get("start_time"), 1000),
            _whole_ms(stamp.get("end_time"), 1000),
        )
        for stamp in result.get("timestamps") or []
    ]
    # Merged to words of one to three tokens, a frame for each token looks like speech.
    if _are_steps_alike(tokens):
        tokens = [Word(token.text, 0, 0) for token in tokens]
    return merge_subwords(tokens)


def _words_with_times(result: Mapping[str, Any]) -> list[Word]:
    texts = [f" {text}" for text in result.get("words") or []]
    times = result.get("timestamp") or []
    if not texts:
        texts = [f" {word.text}" for word in _text_words(result)]
    if len(times) != len(texts):
        times = [(0, 0)] * len(texts)
    return merge_subwords(
        Word(text, _whole_ms(start_ms), _whole_ms(end_ms))
        for text, (start_ms, end_ms) in zip(texts, times, strict=True)
    )


def _text_words(result: Mapping[str, Any]) -> list[Word]:
    return merge_subwords(Word(f" {text}", 0, 0) for text in str(result.get("text") or "").split())


def _whole_ms(value: Any, factor: int = 1) -> int:
    """Return a time in ms; 0, which no second word can have, for what is no number."""
    try:
        return round(factor * float(value))
    except (TypeError, ValueError, OverflowError):
        return 0


def _letters(words: Sequence[Word]) -> int:
    return sum(char.isalnum() for word in words for char in word.text)


def _within(words: Sequence[Word], region: Span) -> list[Word]:
    return [replace(word, end_ms=min(word.end_ms, region.end_ms)) for word in words]
