"""Output that a terminal can show and a program can read, whatever characters its encoding has."""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

#: Our own signs, where an encoding lacks them.
_SIGNS = {"·": "-", "…": "..."}

_ERRORS = "callscribe-signs"


class PlainConsole(Console):
    """A console that shows text as it is: nothing in it is markup, and no terminal obeys it.

    What is printed comes from files, manifests and ledgers that others wrote.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print; messages that cannot be written, to a full disk, are lost and end nothing."""
        try:
            super().print(*objects, **options)
        except OSError:
            if not self.stderr:
                raise
            self.quiet = True
            _mute(sys.stderr)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the parts of what is printed; rich's own movements of the cursor stay."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(_printable(segment.text), segment.style)


def _printable(text: str) -> str:
    """Return text with a space for each control or other invisible character."""
    return "".join(char if char.isprintable() or char == "\n" else " " for char in text)


def degrade_output() -> None:
    """Let standard output and error write what their encoding lacks as an escape, and never fail.

    Under ``PYTHONIOENCODING=ascii``, or in a terminal of another country, one name would otherwise
    end the command; in any encoding half of a character, which JSON can hold, would. A reader that
    goes away, as ``head`` does, has read enough: no command fails for it.
    """
    codecs.register_error(_ERRORS, _escape)
    # Whoever starts us may have closed them.
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - as long as the process lives
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)
    Console.on_broken_pipe = _end_quietly  # type: ignore[method-assign,assignment]


def _end_quietly(console: Console) -> None:
    """End a command whose reader is gone, where rich by itself ends it as failed.

    What nobody reads of its messages is no reason to end: its result is elsewhere.
    """
    console.quiet = True
    _mute(sys.stderr if console.stderr else sys.stdout)
    if not console.stderr:
        raise SystemExit(0)


def _mute(stream: TextIO) -> None:
    """Send what is still written to a stream nowhere, or Python would fail on it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def is_unicode(stream: TextIO) -> bool:
    """Return whether a stream takes every character."""
    return (stream.encoding or "").lower().replace("-", "").startswith("utf")


def json_for(stream: TextIO, json_text: str) -> str:
    """Return JSON with escapes for what a stream's encoding lacks: the same value."""
    if is_unicode(stream):
        return json_text
    return "".join(char if char.isascii() else _json_escape(char) for char in json_text)


def spinner_for(stream: TextIO) -> str:
    """Return the name of a spinner of rich's that a stream can show."""
    return "dots" if is_unicode(stream) else "line"


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(_SIGNS.get(char, _json_escape(char)) for char in characters), error.end


def _json_escape(char: Any) -> str:
    units = str(char).encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
