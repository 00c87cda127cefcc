"""What a person asks a search for, and where that is in a text. Pure.

A query is words, ``"quoted phrases"`` and what must not be said, each with a ``-`` before it. A
word or phrase is a run of tokens: a word in lower case, or one CJK character. Which text has them
is for the ledger to say (migration 0006 has its rules); here they are only marked.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from schema.chinese import in_both_scripts
from schema.errors import BadRequest, ErrorCode
from schema.text import UNSTORABLE, is_cjk

#: Nobody asks for more; a phrase of tens of thousands would exhaust the server's stack.
_QUERY_CHARS_MAX = 1_000

_TERM = re.compile(r'(?P<minus>-?)(?:["“”](?P<phrase>[^"“”]*)["“”]?|(?P<word>[^\s"“”]+))')

#: Full-width digits and letters to those of ASCII.
_HALF_WIDTH = {c: c - 0xFEE0 for c in range(0xFF10, 0xFF5B) if chr(c).isalnum()}


@dataclass(frozen=True, slots=True)
class Query:
    """The words and phrases that an utterance must have, all of them, and those it must not."""

    required_terms: tuple[str, ...]
    excluded_terms: tuple[str, ...] = ()


def parse_query(text: str) -> Query:
    """Return what a query asks for; whatever in it is no word is left out.

    Raises:
        BadRequest: it is too long.
    """
    if len(text) > _QUERY_CHARS_MAX:
        raise BadRequest(
            ErrorCode.OPTION_INVALID,
            "query",
            f"it has {len(text)} characters",
            f"Ask for less: {_QUERY_CHARS_MAX} are the most.",
        )
    required: list[str] = []
    excluded: list[str] = []
    for term in _TERM.finditer(UNSTORABLE.sub(" ", text)):
        phrase = term["phrase"] if term["word"] is None else term["word"]
        if tokens(phrase):
            (excluded if term["minus"] else required).append(phrase)
    return Query(tuple(required), tuple(excluded))


@dataclass(frozen=True, slots=True)
class Token:
    """A word in lower case, or a CJK character, and where it is: characters, the end excluded."""

    text: str
    start: int
    end: int


def tokens(text: str) -> list[Token]:
    """Return the tokens of a text, in order."""
    result: list[Token] = []
    word_start: int | None = None
    text = text.translate(_HALF_WIDTH)
    for at, char in enumerate(f"{text} "):
        in_word = _is_letter(char) and not is_cjk(char)
        if not in_word and word_start is not None:
            result.append(Token(text[word_start:at].lower(), word_start, at))
            word_start = None
        if in_word and word_start is None:
            word_start = at
        if _is_letter(char) and is_cjk(char):
            result.append(Token(char.lower(), at, at + 1))
    return result


def _is_letter(char: str) -> bool:
    return char.isalnum() or unicodedata.category(char).startswith("M")


def find_highlights(text: str, terms: Iterable[str]) -> list[tuple[int, int]]:
    """Return where a text has any of these words or phrases: characters, the ends excluded.

    Chinese in either script. In order; what touches or overlaps is one.
    """
    text_tokens = tokens(text)
    spans = sorted(
        span
        for term in terms
        for variant in in_both_scripts(term)
        for span in _find_term(text_tokens, [t.text for t in tokens(variant)])
    )
    highlights: list[tuple[int, int]] = []
    for start, end in spans:
        if highlights and start <= highlights[-1][1]:
            highlights[-1] = (highlights[-1][0], max(end, highlights[-1][1]))
        else:
            highlights.append((start, end))
    return highlights


def _find_term(text_tokens: Sequence[Token], term: Sequence[str]) -> list[tuple[int, int]]:
    size = len(term)
    if not size:
        return []
    return [
        (text_tokens[at].start, text_tokens[at + size - 1].end)
        for at in range(len(text_tokens) - size + 1)
        if all(text_tokens[at + n].text == term[n] for n in range(size))
    ]
