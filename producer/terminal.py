"""Output that a terminal can show and a program can read, whatever characters its encoding has."""

from __future__ import annotations

import codecs
import io
import sys
from typing import Any, TextIO

#: Our own signs, where an encoding lacks them.
_SIGNS = {"·": "-", "…": "..."}

_ERRORS = "callscribe-signs"


def degrade_output() -> None:
    """Let standard output and error write what their encoding lacks as an escape, and never fail.

    Under ``PYTHONIOENCODING=ascii``, or in a terminal of another country, one name would otherwise
    end the command.
    """
    codecs.register_error(_ERRORS, _escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not is_unicode(stream):
            stream.reconfigure(errors=_ERRORS)


def is_unicode(stream: TextIO) -> bool:
    """Return whether a stream takes every character."""
    return (stream.encoding or "").lower().replace("-", "").startswith("utf")


def json_for(stream: TextIO, json_text: str) -> str:
    """Return JSON with escapes for what a stream's encoding lacks, so that it says the same."""
    if is_unicode(stream):
        return json_text
    return "".join(char if char.isascii() else _json_escape(char) for char in json_text)


def spinner_for(stream: TextIO) -> str:
    """Return the name of a spinner of rich's that a stream can show."""
    return "dots" if is_unicode(stream) else "line"


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_SIGNS.get(char, _json_escape(char)) for char in lacking), error.end


def _json_escape(char: Any) -> str:
    units = str(char).encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
