"""Which row of a manifest describes which file, whoever spelled its name, on whatever host.

Each row is looked up as it is spelled, then ever more loosely. The first way that finds a file
decides: where it finds several, the row names none. A file goes to the row that names it most
exactly; where two name it equally loosely, to neither.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from itertools import islice
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from producer.metadata.manifest import Understood, display
from producer.sources.walk import Found
from schema.errors import BadRequest, ErrorCode
from schema.records import CallInfo, Notice

_EXAMPLES = 3
#: A drive, a share, a root: a path that says all of it, on the host that wrote it.
_ABSOLUTE = re.compile(r"[A-Za-z]:|/")
_FILE_URL = re.compile(rb"(?:file|smb|cifs|nfs):/+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a manifest, and the line it begins on.

    ``raw`` is the file's name as the bytes that were written, where they are none of UTF-8.
    """

    line: int
    file: bytes
    call: CallInfo
    raw: bytes | None = None


@dataclass(frozen=True, slots=True)
class Matches:
    """Which rows describe which files, by path, and what is left over on either side."""

    calls: Mapping[bytes, CallInfo]
    notices: tuple[Notice, ...]


class _Way(IntEnum):
    """How a row names a file, the most exact first."""

    EXACT = 0
    SPELLING = 1
    TAIL = 2
    NAME = 3
    CASE = 4
    CASE_TAIL = 5
    CASE_NAME = 6


_SAID = {
    _Way.SPELLING: "another spelling (accents, backslashes, spaces around it)",
    _Way.TAIL: "the end of its path",
    _Way.NAME: "its bare name, which one file has",
    _Way.CASE: "other capitals",
    _Way.CASE_TAIL: "the end of its path, in other capitals",
    _Way.CASE_NAME: "its bare name in other capitals, which one file has",
}


class _Named(NamedTuple):
    """A file, and every name by which a row may mean it."""

    file: Found
    names: tuple[bytes, ...]


#: Files, in the order in which they were found; a set that has one.
_Paths = dict[bytes, None]


class _Hits(NamedTuple):
    """The files that a row may mean, and by which way."""

    row: Row
    way: _Way
    paths: _Paths


def match(manifest: bytes, rows: Sequence[Row], files: Iterable[Found]) -> Matches:
    """Find the row of each file.

    A row names a file by its path, relative to the manifest's directory or to a directory that
    was submitted, or by its bare name where only one file has that name; an object also by its
    URL or its key. Where nothing has the name as it is spelled, another spelling of it does, in
    other capitals too if one file has it; and of another host's absolute path its end.

    Raises:
        BadRequest: two rows name the same file.
    """
    found = list(files)
    base = os.path.dirname(os.path.abspath(manifest))
    named = [_Named(each, tuple(_names(each, base))) for each in found]
    hits = list(_looked_up(rows, named))
    exact = ((each.paths, each.row) for each in hits if each.way == 0 and len(each.paths) == 1)
    refuse_duplicates(manifest, exact)
    taken = _assigned(hits)
    calls = {path: each.row.call for path, each in taken.items()}
    matched = {each.row.line for each in taken.values()}
    notices = [_unmatched(manifest, each, taken) for each in hits if each.row.line not in matched]
    notices += _loosely(manifest, taken)
    notices += [_without_row(each.path, manifest) for each in found if each.path not in calls]
    return Matches(calls, tuple(notices))


def refuse_duplicates(manifest: bytes, named: Iterable[tuple[Iterable[bytes], Row]]) -> None:
    """Raise BadRequest where two rows name one file."""
    lines: dict[bytes, int] = {}
    for files, row in named:
        for file in files:
            if file in lines:
                raise BadRequest(
                    ErrorCode.MANIFEST_DUPLICATE,
                    display(manifest),
                    f"lines {lines[file]} and {row.line} both describe {display(file)}",
                    "Keep one of them.",
                )
            lines[file] = row.line


def _looked_up(rows: Sequence[Row], files: Sequence[_Named]) -> Iterator[_Hits]:
    exact = _Exact(files)
    # Most manifests never need them.
    loose: list[tuple[int, _Loose]] = []
    for row in rows:
        paths = exact.paths(row)
        if paths:
            yield _Hits(row, _Way.EXACT, paths)
            continue
        if not loose:
            loose = [(0, _Loose(files, _spelled)), (3, _Loose(files, _caseless))]
        yield next(
            (
                _Hits(row, _Way(way + step), paths)
                for step, index in loose
                for way, paths in index.paths(row)
                if paths
            ),
            _Hits(row, _Way.EXACT, {}),
        )


class _Exact:
    """Files by their names as bytes."""

    def __init__(self, files: Iterable[_Named]) -> None:
        self._by_path: dict[bytes, _Paths] = defaultdict(dict)
        self._by_name: dict[bytes, _Paths] = defaultdict(dict)
        for file, names in files:
            self._by_name[os.path.basename(file.path)][file.path] = None
            for name in names:
                self._by_path[name][file.path] = None

    def paths(self, row: Row) -> _Paths:
        """Return the files of a row's name."""
        for name in (row.file, row.raw):
            if name is not None and (paths := self._by_path.get(name) or self._by_name.get(name)):
                return paths
        return {}


class _Loose:
    """Files by their names as ``fold`` spells them, in parts."""

    def __init__(self, files: Iterable[_Named], fold: Callable[[str], str]) -> None:
        self._fold = fold
        self._by_path: dict[tuple[str, ...], _Paths] = defaultdict(dict)
        self._by_name: dict[str, _Paths] = defaultdict(dict)
        #: By every end of a path that has a directory, and by all of it below what was submitted.
        self._by_end: dict[tuple[str, ...], _Paths] = defaultdict(dict)
        self._by_below: dict[tuple[str, ...], _Paths] = defaultdict(dict)
        for file, names in files:
            parts = self._parts(file.path, is_row=False)
            below = max(2, names[1].count(b"/") + 1)
            self._by_name[parts[-1]][file.path] = None
            self._by_below[parts[-below:]][file.path] = None
            for at in range(len(parts) - 1):
                self._by_end[parts[at:]][file.path] = None
            for name in names:
                self._by_path[self._parts(name, is_row=False)][file.path] = None

    def paths(self, row: Row) -> Iterator[tuple[int, _Paths]]:
        """Yield the files that a row may mean, by ever looser ways."""
        name = _portable(row.file)
        parts = self._parts(name, is_row=True)
        if not parts:
            return
        alike = self._by_name.get(parts[-1], {})
        named = self._by_path.get(parts, {})
        yield _Way.SPELLING, named or (alike if len(parts) == 1 else {})
        yield _Way.TAIL, self._by_tail(parts)
        if _is_foreign(name):
            yield _Way.NAME, alike

    def _by_tail(self, parts: tuple[str, ...]) -> _Paths:
        """Return files whose path ends as all of the row's does, or all of theirs as the row's."""
        paths = dict(self._by_end.get(parts, {}))
        for at in range(len(parts) - 1):
            paths |= self._by_below.get(parts[at:], {})
        return paths

    def _parts(self, name: bytes, *, is_row: bool) -> tuple[str, ...]:
        text = name.decode("utf-8", "surrogateescape")
        parts = (self._fold(part) for part in text.split("/"))
        nothing = {"", ".", ".."} if is_row else {""}
        return tuple(part for part in parts if part not in nothing)


@lru_cache(maxsize=4096)
def _spelled(part: str) -> str:
    return unicodedata.normalize("NFC", part).strip()


@lru_cache(maxsize=4096)
def _caseless(part: str) -> str:
    # Twice, since folding case may leave what is not composed.
    return _spelled(_spelled(part).casefold())


def _portable(file: bytes) -> bytes:
    """Return another host's path with slashes, and without what only its system needs."""
    if _FILE_URL.match(file):
        file = unquote_to_bytes(_FILE_URL.sub(b"/", file, count=1))
    return file.replace(b"\\", b"/")


def _is_foreign(name: bytes) -> bool:
    text = name.decode("utf-8", "surrogateescape").lstrip()
    return bool(_ABSOLUTE.match(text)) or text.startswith("../")


def _assigned(hits: Iterable[_Hits]) -> dict[bytes, _Hits]:
    """Return which row each file goes to."""
    claims: dict[bytes, list[_Hits]] = defaultdict(list)
    for each in hits:
        if len(each.paths) == 1:
            claims[next(iter(each.paths))].append(each)
    taken = {}
    for path, rivals in claims.items():
        best = min(each.way for each in rivals)
        closest = [each for each in rivals if each.way == best]
        if len(closest) == 1:
            taken[path] = closest[0]
    return taken


def _unmatched(manifest: bytes, hits: _Hits, taken: Mapping[bytes, _Hits]) -> Notice:
    row, paths = hits.row, hits.paths
    first = next(iter(paths), b"")
    examples = ", ".join(map(display, islice(paths, _EXAMPLES)))
    cause = "no file of this name was submitted"
    if len(paths) > 1:
        cause = f"{len(paths)} files have this name ({examples}); write the path of one"
    elif paths and first in taken:
        line = taken[first].row.line
        cause = f"the only file that it may mean is that of line {line} ({examples})"
    elif paths:
        cause = f"another row may mean the same file ({examples}); write its name as it is spelled"
    subject = f"{display(manifest)}, line {row.line}: {display(row.file)}"
    return Notice(ErrorCode.MANIFEST_UNMATCHED_ROW, subject, cause)


def _loosely(manifest: bytes, taken: Mapping[bytes, _Hits]) -> Iterator[Notice]:
    """Yield a notice for each looser way, with the rows that named their file by it."""
    by_way: dict[_Way, list[str]] = defaultdict(list)
    for path, hits in taken.items():
        if hits.way in _SAID:
            said = f"line {hits.row.line}, {display(hits.row.file)} is {display(path)}"
            by_way[hits.way].append(said)
    for way, rows in sorted(by_way.items()):
        more = "; ..." if len(rows) > _EXAMPLES else ""
        count = "1 row names its file" if len(rows) == 1 else f"{len(rows)} rows name their file"
        message = f"{count} by {_SAID[way]}: {'; '.join(rows[:_EXAMPLES])}{more}"
        subject = f"{display(manifest)}: files by {way.name.lower().replace('_', ' ')}"
        yield Notice(Understood.MANIFEST, subject, message)


def _names(found: Found, manifest_directory: bytes) -> Iterator[bytes]:
    """Yield every name by which a row may mean a file; rows' names are normalised.

    The second is that below what was submitted.
    """
    yield os.path.normpath(found.path)
    yield found.relative
    yield os.path.relpath(found.path, manifest_directory)
    if found.key is not None:
        yield found.key


def _without_row(path: bytes, manifest: bytes) -> Notice:
    cause = f"no row of {display(manifest)} describes it; it is submitted without"
    return Notice(ErrorCode.MANIFEST_UNMATCHED_FILE, display(path), cause)
