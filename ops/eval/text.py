"""Text as it is compared: the one place that says which differences count as errors.

- Compatibility forms are folded (NFKC), case is not told apart, punctuation is left out; so are
  apostrophes, and hyphens part words: "Twenty-five, don't" is "twenty five dont".
- Numbers are compared as they are spoken: "25" is "twenty five", "1865" "eighteen sixty five", "$5"
  "five dollars", "Mr." "mister"; "29度" is "二十九度". Of several ways to say a number one is
  taken, wetext's, so that another is counted as an error, on every side alike.
- Chinese is compared by the character, simplified; what telephone numbers say for one, "幺", is
  "一". Fillers ("uh", "嗯") and repetitions are words like any other.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from schema.text import is_cjk
from schema.words import Word

_HAS_DIGIT = re.compile(r"\d")
_SHORT_FORMS = {"mr": "mister", "mrs": "missus", "dr": "doctor", "st": "saint", "&": "and"}

#: Said for one and for two in telephone numbers, and before measures.
_SAID_OTHERWISE = str.maketrans({"幺": "一", "\u3007": "零", "两": "二"})

#: How apostrophes are written.
_APOSTROPHES = "'\u2019"

#: How many characters of CJK beside a number are looked at to read it: "2014年" by the digit.
_BESIDE = 1


@dataclass(frozen=True, slots=True)
class Token:
    """What is compared: a word or a CJK character, with the time of the word it was written in."""

    text: str
    start_ms: int
    end_ms: int

    @property
    def middle_ms(self) -> int:
        """When it was said."""
        return (self.start_ms + self.end_ms) // 2


def normalised(text: str) -> str:
    """Return text as it is compared: a token for each word, or for each CJK character."""
    return " ".join(_folded(_spoken(unicodedata.normalize("NFKC", text))))


def tokens(words: Iterable[Word]) -> list[Token]:
    """Return the tokens of words; several of one word ("25") share its time evenly."""
    found: list[Token] = []
    for word, text in _spoken_words(list(words)):
        parts = _folded(text)
        edges = [
            word.start_ms + (word.end_ms - word.start_ms) * at // max(1, len(parts))
            for at in range(len(parts) + 1)
        ]
        found += map(Token, parts, edges, edges[1:])
    return found


def _spoken_words(words: list[Word]) -> Iterator[tuple[Word, str]]:
    """Yield each word with its text as it is spoken, which for a number may take its neighbour."""
    texts = [unicodedata.normalize("NFKC", word.text) for word in words]
    for index, (word, text) in enumerate(zip(words, texts, strict=True)):
        following = texts[index + 1] if index + 1 < len(texts) else ""
        if _HAS_DIGIT.search(text) and following[:_BESIDE] and is_cjk(following[0]):
            both = _spoken(text + following[:_BESIDE])
            yield word, both.removesuffix(_spoken(following[:_BESIDE]))
        else:
            yield word, _spoken(text)


def _spoken(text: str) -> str:
    """Return a text with its numbers and short forms as they are said.

    English is said word by word, as it is where words have times; what wetext has no way to say,
    as the sign for a half, stays as it is written.
    """
    if any(map(is_cjk, text)):
        return _said(text, "zh").translate(_SAID_OTHERWISE)
    words = text.split()
    return " ".join(_said(word, "en") if _HAS_DIGIT.search(word) else word for word in words)


def _said(text: str, language: str) -> str:
    try:
        said: str = _speaker(language).normalize(text)
    except AssertionError:  # its grammar has no way through the text
        return text
    return said


def _folded(text: str) -> list[str]:
    """Return the bare words and CJK characters of a text."""
    apart = [f" {char} " if is_cjk(char) else char for char in text.casefold()]
    kept = [char for char in "".join(apart) if char not in _APOSTROPHES]
    bare = [char if char.isalnum() else f" {char} " if char == "&" else " " for char in kept]
    words = "".join(bare).split()
    return [part for word in words for part in _SHORT_FORMS.get(word, word).split()]


@cache
def _speaker(language: str) -> Any:
    from wetext import Normalizer

    return Normalizer(lang=language, operator="tn", traditional_to_simple=language == "zh")
