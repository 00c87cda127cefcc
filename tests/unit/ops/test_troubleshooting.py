"""The page of error codes is made of what the code says, and quotes what it prints."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from ops.troubleshooting import PAGE, page
from schema.advice import ADVICE
from schema.errors import ErrorCode

ROOT = Path(__file__).parents[3]

#: Said by libraries, or never printed with a text of its own.
FOREIGN = {ErrorCode.ENGINE_FAILED, ErrorCode.CANCELLED}


@cache
def written() -> frozenset[str]:
    """The strings of the code that could be part of a message."""
    sources = [
        path
        for package in ("producer", "schema", "workers")
        for path in (ROOT / package).rglob("*.py")
        if path.name not in ("errors.py", "advice.py")
    ]
    constants = (
        node.value.strip()
        for path in sources
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    return frozenset(text for text in constants if len(text) >= 8 and " " in text)


def test_the_page_is_what_would_be_made():
    assert PAGE.read_text() == page(), "run: python -m ops.troubleshooting"


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_has_advice_in_sentences(code: ErrorCode):
    advice = ADVICE[code]
    for text in (advice.causes, advice.by_itself, advice.do):
        assert text[0].isupper() or text[0] == "`"
        assert text.endswith(".")
        assert "  " not in text


@pytest.mark.parametrize("code", [code for code in ErrorCode if code not in FOREIGN])
def test_examples_are_messages_that_the_code_prints(code: ErrorCode):
    example = ADVICE[code].example
    assert example.startswith(f"[{code}] ") or code is ErrorCode.BROKER_UNREACHABLE
    assert any(text in example or example in text for text in written())
