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

from producer.metadata.manifest import InterpretationCode
from producer.sources.walk import FoundFile
from schema.errors import BadRequest, ErrorCode
from schema.records import CallInfo, Notice
from schema.text import printable_path

_EXAMPLES = 3
#: A drive, a share, a root: a path that says all of it, on the host that wrote it.
_ABSOLUTE = re.compile(r"[A-Za-z]:|/")
_FILE_URL = re.compile(rb"(?:file|smb|cifs|nfs):/+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ManifestRow:
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


class MatchKind(IntEnum):
    """How a row names a file, the most exact first."""

    EXACT = 0
    SPELLING = 1
    TAIL = 2
    NAME = 3
    CASE = 4
    CASE_TAIL = 5
    CASE_NAME = 6


_KIND_TEXTS = {
    MatchKind.SPELLING: "another spelling (accents, backslashes, spaces around it)",
    MatchKind.TAIL: "the end of its path",
    MatchKind.NAME: "its bare name, which one file has",
    MatchKind.CASE: "other capitals",
    MatchKind.CASE_TAIL: "the end of its path, in other capitals",
    MatchKind.CASE_NAME: "its bare name in other capitals, which one file has",
}


class _NamedFile(NamedTuple):
    """A file, and every name by which a row may mean it."""

    file: FoundFile
    names: tuple[bytes, ...]


#: Files, in the order in which they were found; a set that has one.
_Paths = dict[bytes, None]


class _RowMatch(NamedTuple):
    """The files that a row may mean, and by which way."""

    row: ManifestRow
    kind: MatchKind
    paths: _Paths


def match_rows(manifest: bytes, rows: Sequence[ManifestRow], files: Iterable[FoundFile]) -> Matches:
    """Find the row of each file.

    A row names a file by its path, relative to the manifest's directory or to a directory that
    was submitted, or by its bare name where only one file has that name; an object also by its
    URL or its key. Where nothing has the name as it is spelled, another spelling of it does, in
    other capitals too if one file has it; and of another host's absolute path its end.

    Raises:
        BadRequest: two rows name the same file.
    """
    all_files = list(files)
    base = os.path.dirname(os.path.abspath(manifest))
    named_files = [_NamedFile(file, tuple(_file_names(file, base))) for file in all_files]
    row_matches = list(_look_up(rows, named_files))
    exact = [m for m in row_matches if m.kind is MatchKind.EXACT and len(m.paths) == 1]
    refuse_duplicates(manifest, ((match.paths, match.row) for match in exact))
    matches = _assign_files(row_matches)
    calls = {path: match.row.call for path, match in matches.items()}
    matched_lines = {match.row.line for match in matches.values()}
    unmatched = [match for match in row_matches if match.row.line not in matched_lines]
    notices = [_unmatched_notice(manifest, match, matches) for match in unmatched]
    notices += _loose_notices(manifest, matches)
    cause = f"no row of {printable_path(manifest)} describes it; it is submitted without"
    notices += [
        Notice(ErrorCode.MANIFEST_UNMATCHED_FILE, printable_path(file.path), cause)
        for file in all_files
        if file.path not in calls
    ]
    return Matches(calls, tuple(notices))


def refuse_duplicates(
    manifest: bytes, claims: Iterable[tuple[Iterable[bytes], ManifestRow]]
) -> None:
    """Raise BadRequest where two rows name one file."""
    lines: dict[bytes, int] = {}
    for files, row in claims:
        for file in files:
            if file in lines:
                raise BadRequest(
                    ErrorCode.MANIFEST_DUPLICATE,
                    printable_path(manifest),
                    f"lines {lines[file]} and {row.line} both describe {printable_path(file)}",
                    "Keep one of them.",
                )
            lines[file] = row.line


def _look_up(rows: Sequence[ManifestRow], files: Sequence[_NamedFile]) -> Iterator[_RowMatch]:
    exact_index = _ExactIndex(files)
    # Most manifests never need them.
    loose_indexes: list[tuple[int, _LooseIndex]] = []
    for row in rows:
        paths = exact_index.paths(row)
        if paths:
            yield _RowMatch(row, MatchKind.EXACT, paths)
            continue
        if not loose_indexes:
            loose_indexes = [(n, _LooseIndex(files, fold)) for n, fold in _FOLDS]
        yield next(
            (
                _RowMatch(row, MatchKind(kind + step), paths)
                for step, index in loose_indexes
                for kind, paths in index.paths(row)
                if paths
            ),
            _RowMatch(row, MatchKind.EXACT, {}),
        )


class _ExactIndex:
    """Files by their names as bytes."""

    def __init__(self, files: Iterable[_NamedFile]) -> None:
        self._by_path: dict[bytes, _Paths] = defaultdict(dict)
        self._by_name: dict[bytes, _Paths] = defaultdict(dict)
        for file, names in files:
            self._by_name[os.path.basename(file.path)][file.path] = None
            for name in names:
                self._by_path[name][file.path] = None

    def paths(self, row: ManifestRow) -> _Paths:
        """Return the files of a row's name."""
        for name in (row.file, row.raw):
            if name is not None and (paths := self._by_path.get(name) or self._by_name.get(name)):
                return paths
        return {}


class _LooseIndex:
    """Files by their names as ``fold`` spells them, in parts."""

    def __init__(self, files: Iterable[_NamedFile], fold: Callable[[str], str]) -> None:
        self._fold = fold
        self._by_path: dict[tuple[str, ...], _Paths] = defaultdict(dict)
        self._by_name: dict[str, _Paths] = defaultdict(dict)
        #: By every end of a path that has a directory, and by all of it below what was submitted.
        self._by_end: dict[tuple[str, ...], _Paths] = defaultdict(dict)
        self._by_relative_path: dict[tuple[str, ...], _Paths] = defaultdict(dict)
        for file, names in files:
            parts = self._parts(file.path, is_row=False)
            depth = max(2, names[1].count(b"/") + 1)
            self._by_name[parts[-1]][file.path] = None
            self._by_relative_path[parts[-depth:]][file.path] = None
            for index in range(len(parts) - 1):
                self._by_end[parts[index:]][file.path] = None
            for name in names:
                self._by_path[self._parts(name, is_row=False)][file.path] = None

    def paths(self, row: ManifestRow) -> Iterator[tuple[int, _Paths]]:
        """Yield the files that a row may mean, by ever looser ways."""
        name = _portable(row.file)
        parts = self._parts(name, is_row=True)
        if not parts:
            return
        same_name_paths = self._by_name.get(parts[-1], {})
        same_path_paths = self._by_path.get(parts, {})
        yield MatchKind.SPELLING, same_path_paths or (same_name_paths if len(parts) == 1 else {})
        yield MatchKind.TAIL, self._by_tail(parts)
        if _is_foreign(name):
            yield MatchKind.NAME, same_name_paths

    def _by_tail(self, parts: tuple[str, ...]) -> _Paths:
        """Return files whose path ends as all of the row's does, or all of theirs as the row's."""
        paths = dict(self._by_end.get(parts, {}))
        for index in range(len(parts) - 1):
            paths |= self._by_relative_path.get(parts[index:], {})
        return paths

    def _parts(self, name: bytes, *, is_row: bool) -> tuple[str, ...]:
        text = name.decode("utf-8", "surrogateescape")
        parts = (self._fold(part) for part in text.split("/"))
        ignored_parts = {"", ".", ".."} if is_row else {""}
        return tuple(part for part in parts if part not in ignored_parts)


@lru_cache(maxsize=4096)
def _normalise(part: str) -> str:
    return unicodedata.normalize("NFC", part).strip()


@lru_cache(maxsize=4096)
def _fold_case(part: str) -> str:
    # Twice, since folding case may leave what is not composed.
    return _normalise(_normalise(part).casefold())


#: How names are folded, and how many ways later that comes.
_FOLDS = ((0, _normalise), (MatchKind.CASE - MatchKind.SPELLING, _fold_case))


def _portable(file: bytes) -> bytes:
    """Return another host's path with slashes, and without what only its system needs."""
    if _FILE_URL.match(file):
        file = unquote_to_bytes(_FILE_URL.sub(b"/", file, count=1))
    return file.replace(b"\\", b"/")


def _is_foreign(name: bytes) -> bool:
    text = name.decode("utf-8", "surrogateescape").lstrip()
    return bool(_ABSOLUTE.match(text)) or text.startswith("../")


def _assign_files(row_matches: Iterable[_RowMatch]) -> dict[bytes, _RowMatch]:
    candidates_by_path: dict[bytes, list[_RowMatch]] = defaultdict(list)
    for row_match in row_matches:
        if len(row_match.paths) == 1:
            candidates_by_path[next(iter(row_match.paths))].append(row_match)
    matches = {}
    for path, candidates in candidates_by_path.items():
        best = min(row_match.kind for row_match in candidates)
        closest = [row_match for row_match in candidates if row_match.kind == best]
        if len(closest) == 1:
            matches[path] = closest[0]
    return matches


def _unmatched_notice(
    manifest: bytes, row_match: _RowMatch, matches: Mapping[bytes, _RowMatch]
) -> Notice:
    row, paths = row_match.row, row_match.paths
    first_path = next(iter(paths), b"")
    examples = ", ".join(map(printable_path, islice(paths, _EXAMPLES)))
    cause = "no file of this name was submitted"
    if len(paths) > 1:
        cause = f"{len(paths)} files have this name ({examples}); write the path of one"
    elif paths and first_path in matches:
        line = matches[first_path].row.line
        cause = f"the only file that it may mean is that of line {line} ({examples})"
    elif paths:
        cause = f"another row may mean the same file ({examples}); write its name as it is spelled"
    subject = f"{printable_path(manifest)}, line {row.line}: {printable_path(row.file)}"
    return Notice(ErrorCode.MANIFEST_UNMATCHED_ROW, subject, cause)


def _loose_notices(manifest: bytes, matches: Mapping[bytes, _RowMatch]) -> Iterator[Notice]:
    """Yield a notice for each looser way, with the rows that named their file by it."""
    by_kind: dict[MatchKind, list[str]] = defaultdict(list)
    for path, row_match in matches.items():
        if row_match.kind in _KIND_TEXTS:
            row = row_match.row
            text = f"line {row.line}, {printable_path(row.file)} is {printable_path(path)}"
            by_kind[row_match.kind].append(text)
    for kind, rows in sorted(by_kind.items()):
        ellipsis = "; ..." if len(rows) > _EXAMPLES else ""
        count = "1 row names its file" if len(rows) == 1 else f"{len(rows)} rows name their file"
        message = f"{count} by {_KIND_TEXTS[kind]}: {'; '.join(rows[:_EXAMPLES])}{ellipsis}"
        subject = f"{printable_path(manifest)}: files by {kind.name.lower().replace('_', ' ')}"
        yield Notice(InterpretationCode.MANIFEST, subject, message)


def _file_names(file: FoundFile, manifest_directory: bytes) -> Iterator[bytes]:
    """Yield every name by which a row may mean a file; rows' names are normalised.

    The second is that below what was submitted.
    """
    yield os.path.normpath(file.path)
    yield file.relative
    yield os.path.relpath(file.path, manifest_directory)
    if file.key is not None:
        yield file.key
