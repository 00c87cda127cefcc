"""Chinese in one of its two scripts, and a term in both.

By OpenCC, which goes by phrases: a simplified character may stand for several traditional ones.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from typing import Any

from schema.text import is_cjk


class ChineseScript(StrEnum):
    """How Chinese is written."""

    SIMPLIFIED = "simplified"
    TRADITIONAL = "traditional"
    #: As the recogniser writes it, which may be either within one call.
    AS_DECODED = "as-decoded"


_CONVERSIONS = {ChineseScript.SIMPLIFIED: "t2s", ChineseScript.TRADITIONAL: "s2t"}


def convert_script(text: str, script: ChineseScript) -> str:
    """Return Chinese text in a script; what is not Chinese in it stays as it is."""
    conversion = _CONVERSIONS.get(script)
    return text if conversion is None else str(_load(conversion).convert(text))


def in_both_scripts(term: str) -> tuple[str, ...]:
    """Return a term as it is, simplified and traditional: each wording once."""
    if not any(map(is_cjk, term)):
        return (term,)
    converted = (convert_script(term, script) for script in _CONVERSIONS)
    return tuple(dict.fromkeys((term, *converted)))


@cache
def _load(conversion: str) -> Any:
    from opencc import OpenCC

    return OpenCC(conversion)
