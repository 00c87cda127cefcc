"""Fields in file names, such as ``{started_at:%Y%m%d-%H%M%S}_{agent}_{call_id}.wav``.

A regular expression with several such fields tries every way to part a long name among them; one
name of 200 underscores would hold a drop folder up for hours. Here each part is tried once at each
place of a name, so that the longest name takes milliseconds.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from producer.metadata.column_names import STARTED_AT

_DIRECTIVES: Mapping[str, str] = {
    "Y": r"[0-9]{4}",
    "j": r"[0-9]{3}",
    "f": r"[0-9]{1,6}",
    "z": r"(?:Z|[+-][0-9]{2}:?[0-9]{2})",
    **dict.fromkeys("ymdHMSI", r"[0-9]{2}"),
    **{"b": "[A-Za-z]{3}", "B": "[A-Za-z]{3,9}", "p": "[AaPp][Mm]", "%": "%"},
}


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a pattern: fixed text or a moment as a regular expression, or any text.

    Any text has no slash; it is as short as the rest allows, and of ``*`` as long.
    """

    fixed: re.Pattern[str] | None = None
    min_chars: int = 1
    is_long: bool = False
    field: str | None = None

    def ends(self, name: str, start: int) -> Iterator[int]:
        """Yield where the part may end that begins at a place of a name, the likeliest first."""
        if self.fixed is not None:
            if match := self.fixed.match(name, start):
                yield match.end()
            return
        slash = name.find("/", start)
        limit = len(name) if slash < 0 else slash
        ends: Iterable[int] = range(start + self.min_chars, limit + 1)
        yield from reversed(ends) if self.is_long else ends  # type: ignore[call-overload]


class NameParts:
    """A pattern, taken apart.

    ``{field}`` stands for any text without a slash, as short as the rest allows.
    ``{started_at:FORMAT}`` is a moment as strptime reads it (``%Y %y %m %d %j %H %M %S %f %z %b %B
    %p %I``). ``*`` stands for anything without a slash, ``{{`` and ``}}`` for braces.

    Raises:
        ValueError: it cannot be understood.
    """

    def __init__(self, pattern: str) -> None:
        #: How ``started_at`` is written, where the pattern says.
        self.moment_format: str | None = None
        self._parts = tuple(self._parse(pattern))

    def read(self, name: str) -> dict[str, str] | None:
        """Return the text of each field of a name, or None where the name is another."""
        places = self._places(name)
        if places is None:
            return None
        spans = zip(self._parts, pairwise(places), strict=True)
        return {part.field: name[start:end] for part, (start, end) in spans if part.field}

    def _places(self, name: str) -> list[int] | None:
        """Return where each part begins, and the last one ends; None where they do not fit.

        Depth first, as a regular expression does it; but of a part that did not fit from a place
        on, that is kept.
        """
        places, dead_ends = [0], set[tuple[int, int]]()
        tries = [self._parts[0].ends(name, 0)] if self._parts else []
        while tries:
            depth = len(tries)
            end = next(tries[-1], None)
            if end is None:
                dead_ends.add((depth - 1, places[depth - 1]))
                tries.pop()
                places.pop()
            elif depth == len(self._parts):
                if end == len(name):
                    return [*places, end]
            elif (depth, end) not in dead_ends:
                places.append(end)
                tries.append(self._parts[depth].ends(name, end))
        return None if self._parts or name else [0]

    def _parse(self, pattern: str) -> Iterator[_Part]:
        fields: set[str] = set()
        for literal, name, spec, conversion in string.Formatter().parse(pattern):
            for number, text in enumerate(literal.split("*")):
                if number:
                    yield _Part(min_chars=0, is_long=True)
                if text:
                    yield _Part(re.compile(re.escape(text)))
            if name is None:
                continue
            if conversion or not name.isidentifier() or name in fields:
                raise ValueError(f"{{{name}}} is no name of a field, or is there twice")
            if spec and name != STARTED_AT:
                raise ValueError(f"only started_at has a format, {name} has none")
            fields.add(name)
            if spec:
                self.moment_format = spec
                yield _Part(re.compile(_moment_regex(spec)), field=name)
            else:
                yield _Part(field=name)


def _moment_regex(spec: str) -> str:
    literal, *directives = re.split("%(.)", spec)
    pairs = list(zip(directives[::2], directives[1::2], strict=True))
    names = [directive for directive, _ in pairs if directive != "%"]
    if repeated_name := next((name for name in names if names.count(name) > 1), None):
        hint = {"m": "; minutes are %M", "M": "; months are %m"}.get(repeated_name, "")
        raise ValueError(f"%{repeated_name} is there twice{hint}")
    if unknown_name := next((name for name in names if name not in _DIRECTIVES), None):
        raise ValueError(f"%{unknown_name} is not among the directives known")
    return re.escape(literal) + "".join(_DIRECTIVES[name] + re.escape(text) for name, text in pairs)
