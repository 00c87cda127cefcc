"""The files under what an operator named, in a fixed order, and what was left out and why.

Nothing that could be a call is left out in silence: a file with a suffix that recorders use is
always handed on to be probed, and so is one whose first bytes announce audio. Everything else is
counted by suffix and named in a notice.
"""

from __future__ import annotations

import errno
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from producer.intake.containers.sniff import HEAD_BYTES, sniff
from schema.errors import ErrorCode
from schema.records import Notice
from schema.storage.beneath import is_beneath, open_regular
from schema.storage.bucket_path import absolute_path
from schema.text import printable_path

#: Codes of notices that are no errors.
NOT_AUDIO = "files.not-audio"
HIDDEN = "files.hidden"
REPEATED = "directory.repeated"
SET_ASIDE = "directories.set-aside"

#: Suffixes under which recorders and telephone systems write calls.
CALL_SUFFIXES = frozenset(
    b".wav .wave .bwf .mp3 .mp2 .mpga .flac .ogg .oga .opus .spx .m4a .m4b .aac .adts .amr .awb"
    b" .wma .asf .webm .mka .mkv .mp4 .m4v .mov .3gp .3gpp .3g2 .gsm .wav49 .au .snd .aif .aiff"
    b" .aifc .caf .w64 .rf64 .ul .ulaw .mulaw .mu .pcmu .al .alaw .pcma .sln .slin .sln8 .slin8"
    b" .sln12 .sln16 .slin16 .sln24 .sln32 .sln44 .sln48 .vox .dvox .pcm .raw .lin .sw .g729 .g723"
    b" .g722 .g726 .g719 .siren7 .siren14 .ilbc .nist .sph .voc .avi .nmf".split()
)
#: Directories in which systems keep what was deleted, what was before, and what is theirs, by their
#: names without case: who deletes a call does not hand it in.
_SYSTEM_DIRECTORY = re.compile(
    rb"#recycle|@recycle|\$recycle\.bin|recycler|recycled|network trash folder"
    rb"|\.recycle(\.bin)?|\.trash(es|-.*)?|\.deleted"
    rb"|[~.]snapshots?|#snapshot|@recently-snapshot|@gmt-[0-9.-]+|\.zfs|\.snap|\.ckpt|\.vsnap"
    rb"|@eadir|@tmp|@sharebin|@__thumb|\.@__thumb|\.@upload_cache|\.appledouble|\.appledb"
    rb"|\.appledesktop|__macosx|temporary items|\.temporaryitems|\.spotlight-v100|\.fseventsd"
    rb"|\.documentrevisions-v100|thevolumesettingsfolder|\.stversions|\.dropbox\.cache"
    rb"|lost\+found|found\.[0-9]{3}|system volume information|\$extend",
    re.IGNORECASE | re.DOTALL,
)
_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file to probe. ``base`` is the directory named by the operator that it was found under.

    Both are absolute, with symbolic links unresolved, as the operator would spell them. An object
    in a bucket has a URL for a path; its ``key``, and its size, are known from a listing.
    """

    path: bytes
    base: bytes
    key: bytes | None = None
    size_bytes: int | None = None

    @property
    def relative(self) -> bytes:
        """The path below ``base``."""
        return os.path.relpath(self.path, self.base)


#: Reads the first bytes, so many at most, of one file after the other: they, or why not. There is
#: no file (FileNotFoundError) where something else has its name.
ReadHeads = Callable[[Sequence[bytes], int], Iterable[bytes | OSError]]
#: Files to probe, and notices about the rest.
WalkItems = Iterator[FoundFile | Notice]


class FileSource(Protocol):
    """Where files lie that an operator names."""

    def exists(self, path: bytes) -> bool:
        """Tell whether there is anything at ``path``."""

    def walk(self, path: bytes, file_filter: FileFilter) -> WalkItems:
        """Yield what passes the filter of the files at or below ``path``, and what could not."""

    def read(self, paths: Sequence[bytes], max_bytes: int) -> Iterable[bytes | OSError]:
        """Read the first bytes of files, see :data:`ReadHeads`."""


def walk_paths(
    paths: Sequence[bytes],
    source: FileSource | None = None,
    *,
    raw_suffixes: Collection[bytes] = (),
    ignored_files: Collection[bytes] = (),
) -> WalkItems:
    """Yield every file to probe under ``paths``, recursively, and notices about the rest.

    In each directory files come first, then directories, each in the order of their bytes. A path
    that is no directory is handed on whatever it is. ``raw_suffixes`` (with their dot) count as
    audio; ``ignored_files``, such as the manifest, are neither audio nor worth a notice. ``source``
    is this host's file systems unless given.
    """
    source = source or LocalDisk()
    file_filter = FileFilter(
        CALL_SUFFIXES | {suffix.lower() for suffix in raw_suffixes},
        frozenset(os.path.realpath(path) for path in ignored_files),
    )
    for path in map(absolute_path, paths):
        yield from source.walk(path, file_filter)
    yield from file_filter.skip_notices()


@dataclass(slots=True)
class _SkippedFiles:
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, path: bytes) -> None:
        self.count += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(printable_path(os.path.basename(path)))

    def __str__(self) -> str:
        ellipsis = ", ..." if self.count > len(self.examples) else ""
        files = "file was" if self.count == 1 else "files were"
        return f"{self.count} {files} left out: {', '.join(self.examples)}{ellipsis}"


class FileFilter:
    """Which files are handed on to be probed, and what is left out."""

    def __init__(self, suffixes: frozenset[bytes], ignored_paths: frozenset[bytes]) -> None:
        self._suffixes = suffixes
        self._ignored_paths = ignored_paths
        self._not_audio: dict[bytes, _SkippedFiles] = {}
        self._hidden = _SkippedFiles()
        self._system_directories: Counter[bytes] = Counter()

    def skip_hidden(self, path: bytes) -> None:
        """Leave out a file or a directory whose name starts with a dot."""
        self._hidden.add(path)

    def skip_system_directory(self, path: bytes) -> None:
        """Leave out a directory that :func:`is_system_directory`, and all that is in it."""
        self._system_directories[os.path.basename(path)] += 1

    def select(self, files: list[bytes], base: bytes, read: ReadHeads) -> WalkItems:
        """Yield those of a directory's files that are handed on; others may be read to tell."""
        calls = {path for path in files if os.path.splitext(path)[1].lower() in self._suffixes}
        sidecars = {sidecar for path in calls for sidecar in sidecar_paths(path)}
        candidates = [p for p in files if p in calls or not self._is_companion(p, sidecars)]
        heads = iter(read([path for path in candidates if path not in calls], HEAD_BYTES))
        for path in candidates:
            if path in calls:
                yield FoundFile(path, base)
            else:
                yield from self._check_head(path, base, next(heads))

    def skip_notices(self) -> Iterator[Notice]:
        """Yield a notice per kind of file that was not handed on."""
        if self._hidden.count:
            yield Notice(HIDDEN, "names that start with a dot", str(self._hidden))
        if self._system_directories:
            names = ", ".join(
                f"{printable_path(name)} ({count})" if count > 1 else printable_path(name)
                for name, count in sorted(self._system_directories.items())
            )
            count = self._system_directories.total()
            directories = "directory was" if count == 1 else "directories were"
            message = f"{count} {directories} left out, with all that is in them: {names}"
            yield Notice(SET_ASIDE, "recycle bins, snapshots, a system's own", message)
        for suffix, files in sorted(self._not_audio.items()):
            subject = printable_path(suffix) or "no suffix"
            yield Notice(NOT_AUDIO, subject, f"{files} (not audio by suffix or first bytes)")

    def _check_head(self, path: bytes, base: bytes, head: bytes | OSError) -> WalkItems:
        if isinstance(head, bytes) and sniff(head) is not None:
            yield FoundFile(path, base)
        elif isinstance(head, bytes | FileNotFoundError):
            suffix = os.path.splitext(path)[1].lower()
            self._not_audio.setdefault(suffix, _SkippedFiles()).add(path)
        else:
            yield _unreachable_notice(path, head)

    def _is_companion(self, path: bytes, sidecars: Collection[bytes]) -> bool:
        if path in sidecars:
            return True
        return bool(self._ignored_paths) and os.path.realpath(path) in self._ignored_paths


class LocalDisk:
    """This host's file systems."""

    def __init__(self) -> None:
        self._visited: set[tuple[int, int]] = set()

    def exists(self, path: bytes) -> bool:
        """Tell whether there is a file, a directory, or a link to anywhere."""
        return os.path.lexists(path)

    def walk(self, path: bytes, file_filter: FileFilter) -> WalkItems:
        """Yield what passes of a directory's tree; what is no directory is handed on."""
        if os.path.isdir(path):
            yield from self._tree(path, file_filter)
        else:
            yield FoundFile(path, os.path.dirname(path))

    def read(
        self, paths: Sequence[bytes], max_bytes: int, roots: Sequence[bytes] | None = None
    ) -> Iterator[bytes | OSError]:
        """Read the first bytes of files, see :data:`ReadHeads`.

        With ``roots``, only of files in them: a file is where its links end, and roots have none.
        """
        for path in paths:
            try:
                yield _read_head(path, max_bytes, roots)
            except OSError as error:
                yield error

    def _tree(self, base: bytes, file_filter: FileFilter) -> WalkItems:
        # Each entry holds the identities of the directories above it: the chain that a symbolic
        # link may lead back into. A stack, since paths may be deeper than Python recurses.
        stack: list[tuple[bytes, frozenset[tuple[int, int]]]] = [(base, frozenset())]
        while stack:
            directory, ancestors = stack.pop()
            try:
                status = os.stat(directory)
                identity = (status.st_dev, status.st_ino)
                if identity in self._visited:
                    yield _repeat_notice(directory, loop=identity in ancestors)
                    continue
                self._visited.add(identity)
                files, directories = _list_directory(directory, file_filter)
            except OSError as error:
                yield _unreachable_notice(directory, error)
                continue
            yield from file_filter.select(files, base, self.read)
            chain_ids = ancestors | {identity}
            stack.extend((inner, chain_ids) for inner in reversed(directories))


def _list_directory(directory: bytes, file_filter: FileFilter) -> tuple[list[bytes], list[bytes]]:
    """Return the paths of a directory's files and of its directories, sorted."""
    files, directories = [], []
    with os.scandir(directory) as entries:
        for entry in entries:
            if is_system_directory(entry.name) and _is_directory(entry):
                file_filter.skip_system_directory(entry.path)
            elif entry.name.startswith(b"."):
                file_filter.skip_hidden(entry.path)
            elif _is_directory(entry):
                directories.append(entry.path)
            else:
                files.append(entry.path)
    return sorted(files), sorted(directories)


def is_system_directory(name: bytes) -> bool:
    """Tell whether a directory of this name holds what nobody hands in: one that is named does."""
    return _SYSTEM_DIRECTORY.fullmatch(name) is not None


def sidecar_paths(recording: bytes) -> list[bytes]:
    """Return where the sidecar of a recording may be, the likeliest meant first.

    Recorders that write .WAV write .JSON; to look for both everywhere would cost a bucket twice.
    """
    stem, suffix = os.path.splitext(recording)
    endings = [b".json"] if suffix == suffix.lower() else [b".json", b".JSON"]
    stems = [recording, stem] if suffix else [recording]
    return [base_name + ending for base_name in stems for ending in endings]


def _is_directory(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, for instance: probing it says so by name
        return False


def _read_head(path: bytes, max_bytes: int, roots: Sequence[bytes] | None) -> bytes:
    # A pipe would block whoever opens it, and is no recording; a dangling link is neither.
    if not os.path.isfile(path):
        raise FileNotFoundError(errno.ENOENT, "no file")
    with open(open_regular(path), "rb") as file:
        if roots is not None and not is_beneath(file.fileno(), roots):
            raise PermissionError(errno.EACCES, "it leads out of the roots")
        return file.read(max_bytes)


def _repeat_notice(directory: bytes, *, loop: bool) -> Notice:
    if loop:
        cause = "a link leads back into a directory above it; it was not followed"
        return Notice(ErrorCode.PATH_LOOP, printable_path(directory), cause)
    cause = "the same directory was walked by another path"
    return Notice(REPEATED, printable_path(directory), cause)


def _unreachable_notice(path: bytes, error: OSError) -> Notice:
    is_gone = isinstance(error, FileNotFoundError)
    code = ErrorCode.FILE_VANISHED if is_gone else ErrorCode.FILE_UNREADABLE
    return Notice(code, printable_path(path), f"{error.strerror}; nothing in it was submitted")
