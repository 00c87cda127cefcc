"""The files under what an operator named, in a fixed order, and what was left out and why.

Nothing that could be a call is left out in silence: a file with a suffix that recorders use is
always handed on to be probed, and so is one whose first bytes announce audio. Everything else is
counted by suffix and named in a notice.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from producer.containers import HEAD_BYTES, sniff
from schema.errors import ErrorCode
from schema.records import Location, Notice

#: Codes of notices that are no errors.
NOT_AUDIO = "files.not-audio"
HIDDEN = "files.hidden"
REPEATED = "directory.repeated"

#: Suffixes under which recorders and telephone systems write calls.
CALL_SUFFIXES = frozenset(
    b".wav .wave .bwf .mp3 .mp2 .mpga .flac .ogg .oga .opus .spx .m4a .m4b .aac .adts .amr .awb"
    b" .wma .asf .webm .mka .mkv .mp4 .m4v .mov .3gp .3gpp .3g2 .gsm .wav49 .au .snd .aif .aiff"
    b" .aifc .caf .w64 .rf64 .ul .ulaw .mulaw .mu .pcmu .al .alaw .pcma .sln .slin .sln8 .slin8"
    b" .sln12 .sln16 .slin16 .sln24 .sln32 .sln44 .sln48 .vox .dvox .pcm .raw .lin .sw .g729 .g723"
    b" .g722 .g726 .g719 .siren7 .siren14 .ilbc .nist .sph .voc .avi .nmf".split()
)
#: What may lie beside a recording and describe it.
_SIDECAR_SUFFIX = b".json"
_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Found:
    """A file to probe. ``base`` is the directory named by the operator that it was found under.

    Both are absolute, with symbolic links unresolved, as the operator would spell them.
    """

    path: bytes
    base: bytes

    @property
    def relative(self) -> bytes:
        """The path below ``base``."""
        return os.path.relpath(self.path, self.base)


def walk(
    paths: Sequence[bytes],
    *,
    raw_suffixes: Collection[bytes] = (),
    known: Collection[bytes] = (),
) -> Iterator[Found | Notice]:
    """Yield every file to probe under ``paths``, recursively, and notices about the rest.

    In each directory files come first, then directories, each in the order of their bytes. A path
    that is no directory is handed on whatever it is. ``raw_suffixes`` (with their dot) count as
    audio; ``known`` are files, such as the manifest, that are neither audio nor worth a notice.
    """
    walker = _Walker(
        CALL_SUFFIXES | {suffix.lower() for suffix in raw_suffixes},
        frozenset(os.path.realpath(path) for path in known),
    )
    for path in map(os.path.abspath, paths):
        if os.path.isdir(path):
            yield from walker.tree(path)
        else:
            yield Found(path, os.path.dirname(path))
    yield from walker.left_out()


@dataclass(slots=True)
class _LeftOut:
    """Files of one kind that are not handed on."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, path: bytes) -> None:
        self.count += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(_display(os.path.basename(path)))

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.examples) else ""
        files = "file was" if self.count == 1 else "files were"
        return f"{self.count} {files} left out: {', '.join(self.examples)}{more}"


class _Walker:
    """One walk: which directories it has been to, and what it left out."""

    def __init__(self, suffixes: frozenset[bytes], known: frozenset[bytes]) -> None:
        self._suffixes = suffixes
        self._known = known
        self._been: set[tuple[int, int]] = set()
        self._not_audio: dict[bytes, _LeftOut] = {}
        self._hidden = _LeftOut()

    def tree(self, base: bytes) -> Iterator[Found | Notice]:
        """Yield what lies under one directory."""
        # Each entry holds the identities of the directories above it: the chain that a symbolic
        # link may lead back into. A stack, since paths may be deeper than Python recurses.
        stack: list[tuple[bytes, frozenset[tuple[int, int]]]] = [(base, frozenset())]
        while stack:
            directory, above = stack.pop()
            try:
                status = os.stat(directory)
                identity = (status.st_dev, status.st_ino)
                if identity in self._been:
                    yield _repeated(directory, loop=identity in above)
                    continue
                self._been.add(identity)
                files, directories = self._listing(directory)
            except OSError as error:
                yield _unreachable(directory, error)
                continue
            yield from self._files(files, base)
            chain = above | {identity}
            stack.extend((inner, chain) for inner in reversed(directories))

    def left_out(self) -> Iterator[Notice]:
        """Yield a notice per kind of file that was not handed on."""
        if self._hidden.count:
            yield Notice(HIDDEN, "names that start with a dot", str(self._hidden))
        for suffix, files in sorted(self._not_audio.items()):
            subject = _display(suffix) or "no suffix"
            yield Notice(NOT_AUDIO, subject, f"{files} (not audio by suffix or first bytes)")

    def _listing(self, directory: bytes) -> tuple[list[bytes], list[bytes]]:
        """Return the paths of a directory's files and of its directories, sorted."""
        files, directories = [], []
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.startswith(b"."):
                    self._hidden.add(entry.path)
                elif _is_directory(entry):
                    directories.append(entry.path)
                else:
                    files.append(entry.path)
        return sorted(files), sorted(directories)

    def _files(self, files: list[bytes], base: bytes) -> Iterator[Found | Notice]:
        stems = {name for path in files if self._is_call(path) for name in _described_by(path)}
        for path in files:
            if self._is_call(path):
                yield Found(path, base)
            elif not self._is_companion(path, stems):
                yield from self._unknown(path, base)

    def _unknown(self, path: bytes, base: bytes) -> Iterator[Found | Notice]:
        try:
            audio = _announces_audio(path)
        except OSError as error:
            yield _unreachable(path, error)
            return
        if audio:
            yield Found(path, base)
        else:
            suffix = os.path.splitext(path)[1].lower()
            self._not_audio.setdefault(suffix, _LeftOut()).add(path)

    def _is_call(self, path: bytes) -> bool:
        return os.path.splitext(path)[1].lower() in self._suffixes

    def _is_companion(self, path: bytes, stems: set[bytes]) -> bool:
        stem, suffix = os.path.splitext(path)
        if suffix.lower() == _SIDECAR_SUFFIX and stem in stems:
            return True
        return bool(self._known) and os.path.realpath(path) in self._known


def _described_by(path: bytes) -> tuple[bytes, bytes]:
    """Return the stems of the sidecars that may describe a recording: x and x.wav."""
    return os.path.splitext(path)[0], path


def _is_directory(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, for instance: probing it says so by name
        return False


def _announces_audio(path: bytes) -> bool:
    # A pipe would block whoever opens it, and is no recording; a dangling link is neither.
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return sniff(file.read(HEAD_BYTES)) is not None


def _repeated(directory: bytes, *, loop: bool) -> Notice:
    if loop:
        cause = "a link leads back into a directory above it; it was not followed"
        return Notice(ErrorCode.PATH_LOOP, _display(directory), cause)
    return Notice(REPEATED, _display(directory), "the same directory was walked by another path")


def _unreachable(path: bytes, error: OSError) -> Notice:
    gone = isinstance(error, FileNotFoundError)
    code = ErrorCode.FILE_VANISHED if gone else ErrorCode.FILE_UNREADABLE
    return Notice(code, _display(path), f"{error.strerror}; nothing in it was submitted")


def _display(path: bytes) -> str:
    return Location("", path).name
