"""Text as people read it, and as Postgres can store it."""

from __future__ import annotations

import math
import re
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

#: What no text of Postgres holds, and no UTF-8: NUL, and half of a pair of UTF-16.
UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def storable_text(text: str) -> str:
    """Return a text with U+FFFD in place of what the ledger cannot store.

    One odd letter of a recognizer's must cost itself alone, and not its recording.
    """
    return UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)


#: How JSON writes what is not storable; also what only looks like it.
_PERHAPS_UNSTORABLE = re.compile(rb"\\u0000|NaN|Infinity")


def storable_json(value: Any) -> Any:
    """Return JSON with storable texts, and null for infinity and not-a-number."""
    return value if _write_storable(value) is not None else _replace_unstorable(value)


def write_storable_json(value: Any) -> str:
    """Return :func:`storable_json` as text."""
    written = _write_storable(value)
    return (written or to_json(_replace_unstorable(value))).decode()


def _write_storable(value: Any) -> bytes | None:
    """Return JSON as it is written, or None where something in it may have to be replaced.

    To write it takes a tenth of the time that a look at each value takes; the words of a segment
    are thousands of values.
    """
    try:
        written = to_json(value)
    except PydanticSerializationError:  # half of a pair of UTF-16
        return None
    return None if _PERHAPS_UNSTORABLE.search(written) else written


def _replace_unstorable(value: Any) -> Any:
    if isinstance(value, str):
        return storable_text(value)
    if isinstance(value, dict):
        return {storable_text(str(key)): _replace_unstorable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_unstorable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def printable_path(path: bytes) -> str:
    """Return a path with what is no UTF-8 or no printable character escaped."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def short_id(identifier: object) -> str:
    """Return the first eight characters of an id: enough to find it, short enough to read."""
    return str(identifier)[:8]


def format_clock(ms: int) -> str:
    """Return a time as ``m:ss``, or ``h:mm:ss`` from an hour on."""
    hours, rest = divmod(ms // 1000, 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def is_cjk(char: str) -> bool:
    """Return whether a character belongs to a script written without spaces between words.

    Migration 0006 has the same ranges: a search must find what the index has.
    """
    code = ord(char)
    return (
        0x2E80 <= code <= 0x9FFF  # CJK radicals, kana, bopomofo, CJK ideographs
        or 0xF900 <= code <= 0xFAFF  # compatibility ideographs
        or 0xFF00 <= code <= 0xFFEF  # full-width forms
        or 0x20000 <= code <= 0x3FFFF  # ideographs beyond the basic plane
    )


def join_words(texts: list[str]) -> str:
    """Return words as running text: a space between two words unless either side is CJK."""
    parts: list[str] = []
    for text in filter(None, texts):
        if parts and not (is_cjk(parts[-1][-1]) or is_cjk(text[0])):
            parts.append(" ")
        parts.append(text)
    return "".join(parts)
