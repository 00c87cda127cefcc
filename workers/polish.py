"""The dress of the words: inverse text normalisation, once, after stitching, per utterance.

Only the text that people read changes; the words keep their spelling and their times. Per
utterance, since a whole call at once takes wetext gigabytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

from schema.profile import RenderSettings
from schema.transcript import Utterance

#: Languages that wetext has rules for.
_LANGUAGES = frozenset({"en", "zh"})


def polish(
    utterances: Sequence[Utterance], language: str | None, render: RenderSettings
) -> tuple[Utterance, ...]:
    """Return the utterances as the profile wants them read.

    A language without rules is left as it is.
    """
    if not render.itn or language not in _LANGUAGES:
        return tuple(utterances)
    normalize = _normalizer(language)
    return tuple(replace(u, text=normalize(u.text)) for u in utterances)


@cache
def _normalizer(language: str) -> Callable[[str], str]:
    """Load the rules of one language; 30 MB, so only for a profile that asks for them."""
    from wetext import Normalizer

    normalizer = Normalizer(lang=language, operator="itn")
    return lambda text: str(normalizer.normalize(text))
