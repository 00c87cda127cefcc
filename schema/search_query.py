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

from schema.errors import BadRequest, ErrorCode
from schema.transcript import is_cjk

#: Nobody asks for more; a phrase of tens of thousands would exhaust the server's stack.
_MOST_CHARS = 1_000

_TERM = re.compile(r'(?P<minus>-?)(?:["“”](?P<phrase>[^"“”]*)["“”]?|(?P<word>[^\s"“”]+))')

#: Full-width digits and letters to those of ASCII.
_HALF_WIDTH = {c: c - 0xFEE0 for c in range(0xFF10, 0xFF5B) if chr(c).isalnum()}

#: What Postgres takes as no text: half of a character, or the end of all.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Query:
    """The words and phrases that an utterance must have, all of them, and those it must not."""

    wanted: tuple[str, ...]
    unwanted: tuple[str, ...] = ()


def parse_query(text: str) -> Query:
    """Return what a query asks for; whatever in it is no word is left out.

    Raises:
        BadRequest: it is too long.
    """
    if len(text) > _MOST_CHARS:
        raise BadRequest(
            ErrorCode.OPTION_INVALID,
            "query",
            f"it has {len(text)} characters",
            f"Ask for less: {_MOST_CHARS} are the most.",
        )
    wanted: list[str] = []
    unwanted: list[str] = []
    for term in _TERM.finditer(_UNSTORABLE.sub(" ", text)):
        said = term["phrase"] if term["word"] is None else term["word"]
        if tokens(said):
            (unwanted if term["minus"] else wanted).append(said)
    return Query(tuple(wanted), tuple(unwanted))


@dataclass(frozen=True, slots=True)
class Token:
    """A word in lower case, or a CJK character, and where it is: characters, the end excluded."""

    text: str
    start: int
    end: int


def tokens(text: str) -> list[Token]:
    """Return the tokens of a text, in order."""
    found: list[Token] = []
    begun: int | None = None
    text = text.translate(_HALF_WIDTH)
    for at, char in enumerate(f"{text} "):
        in_word = _is_letter(char) and not is_cjk(char)
        if not in_word and begun is not None:
            found.append(Token(text[begun:at].lower(), begun, at))
            begun = None
        if in_word and begun is None:
            begun = at
        if _is_letter(char) and is_cjk(char):
            found.append(Token(char.lower(), at, at + 1))
    return found


def _is_letter(char: str) -> bool:
    return char.isalnum() or unicodedata.category(char).startswith("M")


def marks(text: str, terms: Iterable[str]) -> list[tuple[int, int]]:
    """Return where a text has any of these words or phrases: characters, the ends excluded.

    In order; what touches or overlaps is one.
    """
    said = tokens(text)
    found = sorted(
        span for term in terms for span in _occurrences(said, [t.text for t in tokens(term)])
    )
    joined: list[tuple[int, int]] = []
    for start, end in found:
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _occurrences(said: Sequence[Token], term: Sequence[str]) -> list[tuple[int, int]]:
    size = len(term)
    if not size:
        return []
    return [
        (said[at].start, said[at + size - 1].end)
        for at in range(len(said) - size + 1)
        if all(said[at + n].text == term[n] for n in range(size))
    ]
