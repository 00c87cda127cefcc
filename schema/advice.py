"""What to do about each error code: ``producer explain`` prints it.

The meanings are in :mod:`schema.errors`; ``advice.toml`` has what an operator asks next. ``python
-m ops.reference`` generates the page.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

from schema.errors import ErrorCode


@dataclass(frozen=True, slots=True)
class Advice:
    """What to know of an error code, in sentences.

    ``example`` is a message as it is printed, or kept in the ledger; empty for a code that is
    only ever seen alone.
    """

    causes: str
    by_itself: str
    do: str
    example: str = ""


def _load() -> Mapping[ErrorCode, Advice]:
    tables = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    phrases = tables.pop("phrases")

    def text(value: str) -> str:
        return " ".join(Template(value).substitute(phrases).split())

    return {
        ErrorCode(code): Advice(**{name: text(value) for name, value in table.items()})
        for code, table in tables.items()
    }


ADVICE = _load()
