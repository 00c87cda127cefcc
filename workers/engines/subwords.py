"""Words of a model's tokens, which are parts of words, or several characters at once. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import replace

from schema.words import Word

#: Han, kana: scripts in which each character is a word of ours.
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


def joined(pieces: Iterable[Word]) -> list[Word]:
    """Make words of pieces: glue what clings together, part what is CJK, trim, drop mere marks."""
    words: list[Word] = []
    for piece in pieces:
        for part in _parts(piece):
            if words and _clings(part.text, words[-1].text):
                words[-1] = _glued(words[-1], part)
            else:
                words.append(part)
    return [
        Word(text, word.start_ms, word.end_ms, word.confidence)
        for word in words
        if _has_substance(text := word.text.strip(_BLANKS))
    ]


def _parts(piece: Word) -> Iterator[Word]:
    """Yield each CJK character of a piece, and each run of others; the time is shared evenly."""
    texts = _CJK_OR_RUN.findall(piece.text)
    if len(texts) == 1:
        yield piece
        return
    character_ms = (piece.end_ms - piece.start_ms) / max(1, len(piece.text))
    at = 0
    for text in texts:
        start_ms = piece.start_ms + round(at * character_ms)
        at += len(text)
        yield replace(
            piece, text=text, start_ms=start_ms, end_ms=piece.start_ms + round(at * character_ms)
        )


def _clings(text: str, word: str) -> bool:
    """Tell whether ``text`` goes on the ``word`` before it, given how both were written."""
    if text[0].isspace() or word[-1].isspace():
        return False
    if not _has_substance(word):
        return True  # An opening bracket waits for its word.
    if not text[0].isalnum():
        return unicodedata.category(text[0]) not in {"Ps", "Pi"}
    is_wide = unicodedata.east_asian_width(word[-1]) in "WF"
    return not (is_wide or _IS_CJK(text) or _IS_UNSPACED(text))


def _glued(word: Word, part: Word) -> Word:
    """Return both as one, as sure as the less sure; a mark adds no time, which is a pause's."""
    text = word.text + part.text
    if not _has_substance(part.text):
        return replace(word, text=text)
    confidence = min(c for c in (word.confidence, part.confidence) if c is not None)
    return replace(word, text=text, end_ms=part.end_ms, confidence=confidence)


def _has_substance(text: str) -> bool:
    """Tell whether a text is more than blanks and punctuation; "&" and "%" are spoken."""
    return any(
        character in "&%@#" or unicodedata.category(character)[0] in "LNSM" for character in text
    )
