"""The dress of the words, once, after stitching: marks, then inverse text normalisation.

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
from schema.transcript import Utterance, is_cjk, join_words
from schema.words import Word
from workers.transcript.dialogue import phrases
from workers.transcript.rewrite import Rewriter, punctuated, rewritten
from workers.transcript.stitch import Track

log = structlog.get_logger(__name__)

#: Languages that wetext has rules for. In each, words of the other are met by the other's rules.
_LANGUAGES = frozenset({"en", "zh"})


def marked(track: Track, mark: Callable[[str], str]) -> Track:
    """Return a channel's words with the marks that a model writes into each of its phrases.

    A phrase that the model fails on stays without.
    """
    words = tuple(word for phrase in phrases(track.words) for word in _marked(phrase, mark))
    return replace(track, words=words)


def _marked(phrase: Sequence[Word], mark: Callable[[str], str]) -> Sequence[Word]:
    try:
        return punctuated(phrase, mark(join_words([word.text for word in phrase])))
    except Exception as error:
        log.warning("marks_failed", start_ms=phrase[0].start_ms, error=type(error).__name__)
        return phrase


def polish(
    utterances: Sequence[Utterance], language: str | None, render: RenderSettings
) -> tuple[Utterance, ...]:
    """Return the utterances as the profile wants them read; their texts are their words'.

    A language without rules is left as it is, and so is an utterance that the rules fail on.
    """
    if not render.itn or language not in _LANGUAGES:
        return tuple(utterances)
    return tuple(polished(utterance, normalized) for utterance in utterances)


def require_rules(language: str | None, render: RenderSettings) -> None:
    """Load the rules that a transcript in ``language`` is polished by, if the profile wants any.

    Raises:
        Misconfigured: this host has none.
    """
    if not render.itn or language not in _LANGUAGES:
        return
    try:
        _normalizer(language)
    except Exception as error:
        raise Misconfigured(
            ErrorCode.WEIGHTS_MISSING,
            "rules for numbers",
            f"wetext cannot be loaded: {type(error).__name__}: {error}",
            "Install the extra itn on each host that reduces.",
        ) from error


def polished(utterance: Utterance, rewrite: Rewriter) -> Utterance:
    """Return an utterance as ``rewrite`` writes it, or as it was where that raises anything.

    A transcript with its numbers in words is worth more than none.
    """
    try:
        words = rewritten(utterance.words, rewrite)
    except Exception as error:
        # Neither the text nor the error's own words: they may hold what a caller said.
        log.warning("polish_failed", start_ms=utterance.start_ms, error=type(error).__name__)
        return utterance
    return replace(utterance, words=words, text=join_words([word.text for word in words]))


def normalized(text: str) -> str:
    """Return text of one script with its numbers as digits: by English rules, or by Chinese.

    Raises:
        ImportError: wetext is not installed (the extra ``itn``).
        AssertionError, RuntimeError: wetext cannot read the text, for instance a backslash.
    """
    return str(_normalizer("zh" if any(map(is_cjk, text)) else "en").normalize(text))


@cache
def _normalizer(language: str) -> Any:
    """Load the rules of one language; 30 MB, so only for a profile that asks for them."""
    from wetext import Normalizer

    return Normalizer(lang=language, operator="itn")
