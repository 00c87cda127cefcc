"""Punctuation, then numbers as digits: what is done to the words once, after stitching.

Marks come first, since an utterance may end where a sentence does. The words are rewritten and not
only their text: each of the new ones has its time, and :mod:`workers.transcript.rewrite` says
which. What was decoded stays as it is in the segments' results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import structlog

from schema.errors import ErrorCode, Misconfigured
from schema.profile import RenderSettings
from schema.text import is_cjk, join_words
from schema.transcript import Utterance
from schema.words import Word
from workers.transcript.dialogue import split_at_pauses
from workers.transcript.rewrite import Rewriter, add_punctuation, rewrite_words
from workers.transcript.stitch import ChannelTimeline

log = structlog.get_logger(__name__)

#: Languages that wetext has rules for. In each, words of the other are met by the other's rules.
_LANGUAGES = frozenset({"en", "zh"})


def punctuate(
    timeline: ChannelTimeline, punctuator: Callable[[str], str] | None
) -> ChannelTimeline:
    """Return a channel's words with the marks that a model, if any, writes into each phrase.

    A phrase that the model fails on stays without.
    """
    if punctuator is None:
        return timeline
    phrases = split_at_pauses(timeline.words)
    words = (word for phrase in phrases for word in _punctuate_phrase(phrase, punctuator))
    return replace(timeline, words=tuple(words))


def _punctuate_phrase(phrase: Sequence[Word], punctuator: Callable[[str], str]) -> Sequence[Word]:
    try:
        return add_punctuation(phrase, punctuator(join_words([word.text for word in phrase])))
    except Exception as error:
        log.warning("marks_failed", start_ms=phrase[0].start_ms, error=type(error).__name__)
        return phrase


def normalise_numbers(
    utterances: Sequence[Utterance], language: str | None, render: RenderSettings
) -> tuple[Utterance, ...]:
    """Return the utterances with their numbers as digits, if the profile asks for it.

    A language without rules is left as it is, and so is an utterance that the rules fail on.
    """
    if not render.itn or language not in _LANGUAGES:
        return tuple(utterances)
    return tuple(rewrite_utterance(utterance, write_digits) for utterance in utterances)


def require_rules(language: str | None, render: RenderSettings) -> None:
    """Load the rules that a transcript in ``language`` needs, if the profile asks for digits.

    Raises:
        Misconfigured: this host has none.
    """
    if not render.itn or language not in _LANGUAGES:
        return
    try:
        _load_rules(language)
    except Exception as error:
        raise Misconfigured(
            ErrorCode.WEIGHTS_MISSING,
            "rules for numbers",
            f"wetext cannot be loaded: {type(error).__name__}: {error}",
            "Install the extra itn on each host that reduces.",
        ) from error


def rewrite_utterance(utterance: Utterance, rewrite: Rewriter) -> Utterance:
    """Return an utterance as ``rewrite`` writes it, or as it was where that raises anything.

    A transcript with its numbers in words is worth more than none.
    """
    try:
        words = rewrite_words(utterance.words, rewrite)
    except Exception as error:
        # Neither the text nor the error's own words: they may hold what a caller said.
        log.warning("polish_failed", start_ms=utterance.start_ms, error=type(error).__name__)
        return utterance
    return replace(utterance, words=words, text=join_words([word.text for word in words]))


def write_digits(text: str) -> str:
    """Return text of one script with its numbers as digits: by English rules, or by Chinese.

    Raises:
        ImportError: wetext is not installed (the extra ``itn``).
        AssertionError, RuntimeError: wetext cannot read the text, for instance a backslash.
    """
    return str(_load_rules("zh" if any(map(is_cjk, text)) else "en").normalize(text))


@cache
def _load_rules(language: str) -> Any:
    """Load the rules of one language; 30 MB, so only for a profile that asks for them."""
    from wetext import Normalizer

    return Normalizer(lang=language, operator="itn")
