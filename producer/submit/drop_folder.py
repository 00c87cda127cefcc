"""A drop folder: files are handed in as they are complete, for as long as anyone drops them.

Nobody says when a file is complete, so it is taken once neither its size nor its time of change has
moved for a while. One that then cannot be read may still be written by someone who pauses: it is
left until it has not moved for much longer, and only then quarantined. What was taken is in the
ledger, in a submission that stays open; the same command again goes on with it, and takes no file
twice: nor one that was moved, which is the call it was. Another file under a name that was taken is
refused by name, since a submission knows its calls by their files.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Thread
from typing import NamedTuple

from producer.sources.walk import FoundFile
from schema.errors import ErrorCode, Transient
from schema.records import Location, Notice
from schema.storage.beneath import open_regular
from schema.storage.bucket_path import is_url
from schema.store.intake.drop_folder import FolderFile
from schema.text import printable_path

#: The code of a notice: what lies there now is not transcribed.
NAME_TAKEN = "file.name-taken"

#: What those who copy call a file that is not whole yet.
_UNFINISHED = (b".part", b".partial", b".tmp", b".temp", b".filepart", b".crdownload", b".download")

#: How much longer than a readable file one that cannot be read is waited for.
UNREADABLE_GRACE_FACTOR = 60

#: A folder that cannot be read for longer is not coming back by itself.
UNREADABLE_S = 600.0
#: A share whose server is gone may let whoever asks wait for ever.
_ANSWER_S = 20.0

#: How a file's content looked: bytes, and when it was changed, ns (0 where nobody tells).
_ContentStat = tuple[int, int]


@dataclass(slots=True)
class StabilityTracker:
    """Which files have not moved for how long. ``clock`` counts seconds."""

    settle_s: float
    clock: Callable[[], float] = time.monotonic
    _since: dict[bytes, tuple[_ContentStat, float]] = field(default_factory=dict)
    _unreadable_stats: dict[bytes, _ContentStat] = field(default_factory=dict)

    def stable_files(self, files: Iterable[FoundFile]) -> Iterator[tuple[FoundFile, bool]]:
        """Yield files that can be taken, and whether their time of grace is over as well.

        ``files`` is all that is there and was not taken.
        """
        now_s = self.clock()
        stats = {}
        for file in files:
            file_stat = None if file.path.endswith(_UNFINISHED) else _read_stat(file)
            if file_stat is None:
                continue
            content_stat = (file_stat.size_bytes, file_stat.changed_ns)
            last_stat, since_s = self._since.get(file.path, (content_stat, now_s))
            stats[file.path] = (content_stat, since_s if last_stat == content_stat else now_s)
            unchanged_s = now_s - stats[file.path][1]
            if unchanged_s < self.settle_s:
                continue
            grace_is_over = unchanged_s >= UNREADABLE_GRACE_FACTOR * self.settle_s
            # What could not be read is not read again while it looks as it did.
            if self._unreadable_stats.get(file.path) != content_stat or grace_is_over:
                yield file, grace_is_over
        self._since = stats
        # Of what went away nothing is kept: a folder is watched for years.
        for path in self._unreadable_stats.keys() - stats.keys():
            del self._unreadable_stats[path]

    def retry_when_changed(self, path: bytes) -> None:
        """Leave a file that cannot be read until it has changed, or its time of grace is over."""
        self._unreadable_stats[path] = self._since[path][0]

    def discard(self, path: bytes) -> None:
        """Let go of a file that was taken."""
        self._since.pop(path, None)
        self._unreadable_stats.pop(path, None)

    @property
    def pending_files(self) -> int:
        """How many files are there and not taken."""
        return len(self._since)


class _FileStat(NamedTuple):
    """How a file looked: of an object its size alone. Nobody can set ``status_ns`` back."""

    size_bytes: int
    changed_ns: int = 0
    status_ns: int = 0
    device: int = 0
    inode: int = 0

    @property
    def identity(self) -> tuple[int, int, int, int] | None:
        """What stays for as long as it is not written to, wherever it is moved, if that is told."""
        return (self.device, self.inode, self.size_bytes, self.changed_ns) if self.inode else None


class TakenFiles:
    """The files that were taken, by their names: what still lies there, and what was moved.

    ``is_gone`` tells whether there is nothing any more at a name, as far as anyone can know.
    """

    def __init__(
        self, contents: Mapping[Location, FolderFile], is_gone: Callable[[Location], bool]
    ) -> None:
        self.contents = dict(contents)
        self._is_gone = is_gone
        #: How each file looked before it was read: as what was taken, or refused, or may be taken.
        self._stats: dict[Location, _FileStat] = {}
        self._by_digest: dict[str, set[Location]] = defaultdict(set)
        self._by_identity: dict[tuple[int, int, int, int], Location] = {}
        for source, content in contents.items():
            if content.content_digest is not None:
                self._by_digest[content.content_digest].add(source)

    def is_new(self, source: Location, file: FoundFile) -> bool:
        """Tell whether a file is new, or no more what it was when its name was taken."""
        content = self.contents.get(source)
        file_stat = _read_stat(file)
        if file_stat is None:
            return content is None
        if content is None:
            self._stats[source] = file_stat
            return True
        if self._stats.get(source) == file_stat:
            return False
        if source not in self._stats and not _is_later(file_stat, content):
            self._remember(source, file_stat)
            return False
        return True

    def is_replaced(self, source: Location, file: FoundFile) -> bool:
        """Tell whether a file under a name that was taken is not the one that was taken.

        Its content is read where its size does not tell. It is no news until it changes again.
        """
        file_stat = _read_stat(file)
        if file_stat is None:
            return False
        if _has_content(file, file_stat.size_bytes, self.contents[source]):
            self._remember(source, file_stat)
            return False
        self._stats[source] = file_stat
        return True

    def moved_from(self, file: FoundFile, digest: str | None = None) -> Location | None:
        """Return the name under which a file was taken that is gone from there, if any."""
        file_stat = _read_stat(file)
        same_file = (
            self._by_identity.get(file_stat.identity) if file_stat and file_stat.identity else None
        )
        candidates = {same_file} if same_file in self.contents else set()
        candidates |= self._by_digest.get(digest, set()) if digest is not None else set()
        name = os.path.basename(file.path)
        # Of several, the one that kept its name.
        order = sorted(candidates, key=lambda c: (os.path.basename(c.path) != name, c))
        return next((source for source in order if self._is_gone(source)), None)

    def add(self, source: Location, content: FolderFile) -> None:
        """Note that a file was taken, which looked then as it did when it was news."""
        self.contents[source] = content
        if content.content_digest is not None:
            self._by_digest[content.content_digest].add(source)
        if source in self._stats:
            self._remember(source, self._stats[source])

    def move(self, old_location: Location, new_location: Location) -> None:
        """Note that a file that was taken lies elsewhere now."""
        content = self.contents.pop(old_location)
        self._stats.pop(old_location, None)
        if content.content_digest is not None:
            self._by_digest[content.content_digest].discard(old_location)
        self.add(new_location, content)

    def _remember(self, source: Location, file_stat: _FileStat) -> None:
        self._stats[source] = file_stat
        if file_stat.identity is not None:
            self._by_identity[file_stat.identity] = source


def name_taken_notice(source: Location) -> Notice:
    """Return the refusal of another file under a name that was taken."""
    cause = (
        "another file was taken under this name, and this one is not transcribed; give it another"
        " name, or submit it by itself"
    )
    return Notice(NAME_TAKEN, source.name, cause)


def is_gone(path: bytes) -> bool:
    """Tell whether there is nothing at a path: that it cannot be asked for is no answer."""
    try:
        os.lstat(path)
    except OSError as error:
        return isinstance(error, (FileNotFoundError, NotADirectoryError))
    return False


def _read_stat(file: FoundFile) -> _FileStat | None:
    """Return how a file looks, or None where it is gone."""
    if file.key is not None:
        return _FileStat(file.size_bytes or 0)
    try:
        stat = os.stat(file.path)
    except OSError:
        return None
    return _FileStat(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_dev, stat.st_ino)


def _is_later(file_stat: _FileStat, content: FolderFile) -> bool:
    """Tell whether a file may have changed since it was taken, by an earlier producer perhaps."""
    has_other_size = content.size_bytes is not None and file_stat.size_bytes != content.size_bytes
    return has_other_size or max(file_stat.changed_ns, file_stat.status_ns) > content.added_at_ns


def _has_content(file: FoundFile, size_bytes: int, content: FolderFile) -> bool:
    if size_bytes != content.size_bytes or content.content_digest is None:
        return False
    if file.key is not None:
        return True
    try:
        with open(open_regular(file.path), "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest() == content.content_digest
    except OSError:
        return False


class FolderMonitor:
    """Whether the folders that are watched can be read, and for how long they could not be."""

    def __init__(
        self,
        paths: Sequence[bytes],
        clock: Callable[[], float] = time.monotonic,
        answer_s: float = _ANSWER_S,
    ) -> None:
        self._clock = clock
        self._answer_s = answer_s
        self._folders = {path: _Folder(os.path.abspath(path)) for path in paths if not is_url(path)}
        self._urls = [path for path in paths if is_url(path)]
        self._since_s: dict[bytes, float] = {}
        self._reported_causes: dict[bytes, str] = {}

    def look(self) -> tuple[list[bytes], list[str]]:
        """Return the paths that can be read now, and what is new to say of the others.

        Raises:
            Transient: one could not be read for ten minutes.
        """
        now_s = self._clock()
        readable_paths, news = list(self._urls), []
        for path, folder in self._folders.items():
            cause = folder.find_failure(self._answer_s)
            name = printable_path(path)
            if cause is None:
                readable_paths.append(path)
                if self._reported_causes.pop(path, None):
                    news.append(f"{name} can be read again")
                self._since_s.pop(path, None)
                continue
            if now_s - self._since_s.setdefault(path, now_s) >= UNREADABLE_S:
                raise _unreachable_error(name, cause)
            if self._reported_causes.get(path) != cause:
                self._reported_causes[path] = cause
                news.append(f"{name} cannot be read: {cause}; nothing in it is taken")
        return readable_paths, news


@dataclass(slots=True)
class _Folder:
    """A folder that is watched, and the file system that it was on."""

    path: bytes
    _mount: bytes | None = None
    _pending_check: tuple[Thread, list[str | None]] | None = None

    def find_failure(self, answer_s: float) -> str | None:
        """Return why the folder cannot be read, or None where it can."""
        if self._pending_check is None:
            answers: list[str | None] = []
            # A daemon: one that never returns must not keep us from ending.
            thread = Thread(target=lambda: answers.append(self._check()), daemon=True)
            thread.start()
            self._pending_check = thread, answers
        thread, answers = self._pending_check
        thread.join(answer_s)
        if thread.is_alive():
            return f"it has not answered for {answer_s:.0f} s"
        self._pending_check = None
        return answers[0] if answers else "asking for it failed"

    def _check(self) -> str | None:
        try:
            if not os.path.isdir(self.path):
                os.stat(self.path)
                # A file that was named itself; or one in the place of a folder.
                return "it is no directory any more" if self._mount is not None else None
            with os.scandir(self.path) as entries:
                next(entries, None)
        except OSError as error:
            return error.strerror or str(error)
        mount = _mount_of(self.path)
        if self._mount is None:
            self._mount = mount
        # An empty directory is left where a share was.
        if len(mount) < len(self._mount):
            return f"nothing is mounted at {Location('', self._mount).name} any more"
        return None


def _mount_of(path: bytes) -> bytes:
    """Return the directory at which the file system is mounted that a path lies on."""
    directory = os.path.realpath(path)
    while not os.path.ismount(directory):
        directory = os.path.dirname(directory)
    return directory


def _unreachable_error(name: str, cause: str) -> Transient:
    cause = f"it could not be read for {UNREADABLE_S / 60:.0f} minutes: {cause}"
    remedy = "Mount it, or give this user the right to read it; the same command then goes on."
    return Transient(ErrorCode.STORAGE_UNREACHABLE, name, cause, remedy)
