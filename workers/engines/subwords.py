"""Merges a model's tokens, parts of words or several characters at once, into words. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import replace

from schema.words import Word

#: Han, kana: scripts in which each character is a word of ours. :func:`schema.text.is_cjk` has
#: more, such as full-width letters; to take it here would change the words of a decode key.
_CJK = (
    "\u3005\u3007\u3040-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_CJK_OR_RUN = re.compile(f"[{_CJK}]|[^{_CJK}]+")
_IS_CJK = re.compile(f"[{_CJK}]").match

#: Thai, Lao, Burmese, Khmer: no spaces either, and no telling words apart; a token is a word.
_IS_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]").match

#: A character cut in two by the end of the text decodes to the last of these.
_BLANKS = " \t\n\ufffd"


def merge_subwords(subwords: Iterable[Word]) -> list[Word]:
    """Return words: parts merged, CJK characters split, blanks and mere punctuation dropped."""
    words: list[Word] = []
    for subword in subwords:
        for part in _split_cjk(subword):
            if words and _continues_word(part.text, words[-1].text):
                words[-1] = _merge(words[-1], part)
            else:
                words.append(part)
    return [
        Word(text, word.start_ms, word.end_ms, word.confidence)
        for word in words
        if _has_substance(text := word.text.strip(_BLANKS))
    ]


def _split_cjk(subword: Word) -> Iterator[Word]:
    """Yield each CJK character, and each run of others; the time is shared evenly."""
    texts = _CJK_OR_RUN.findall(subword.text)
    if len(texts) == 1:
        yield subword
        return
    character_ms = (subword.end_ms - subword.start_ms) / max(1, len(subword.text))
    offset = 0
    for text in texts:
        start_ms = subword.start_ms + round(offset * character_ms)
        offset += len(text)
        end_ms = subword.start_ms + round(offset * character_ms)
        yield replace(subword, text=text, start_ms=start_ms, end_ms=end_ms)


def _continues_word(text: str, word: str) -> bool:
    if text[0].isspace() or word[-1].isspace():
        return False
    if not _has_substance(word):
        return True  # An opening bracket waits for its word.
    if not text[0].isalnum():
        return unicodedata.category(text[0]) not in {"Ps", "Pi"}
    is_wide = unicodedata.east_asian_width(word[-1]) in "WF"
    return not (is_wide or _IS_CJK(text) or _IS_UNSPACED(text))


def _merge(word: Word, part: Word) -> Word:
    """Return one word with the lower confidence; punctuation adds no time, which is a pause's."""
    text = word.text + part.text
    if not _has_substance(part.text):
        return replace(word, text=text)
    confidences = [c for c in (word.confidence, part.confidence) if c is not None]
    confidence = min(confidences, default=None)
    return replace(word, text=text, end_ms=part.end_ms, confidence=confidence)


def _has_substance(text: str) -> bool:
    """Tell whether a text is more than blanks and punctuation; "&" and "%" are spoken."""
    return any(
        character in "&%@#" or unicodedata.category(character)[0] in "LNSM" for character in text
    )
