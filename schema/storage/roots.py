"""Recordings where they lie: a root is a directory, or a part of a bucket.

Each host decides for itself which of the two a root is, and the ledger knows neither: it keeps the
name of a root and the path below it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from schema.errors import BadRecording, CallscribeError, ErrorCode, Misconfigured, Transient
from schema.records import Location
from schema.settings import Settings
from schema.storage.beneath import NotRegularError, OutsideError, open_file
from schema.storage.bucket_path import BucketPath

if TYPE_CHECKING:
    from schema.storage.s3 import Bucket

_VANISHED = frozenset({errno.ENOENT, errno.ENOTDIR})
_REFUSED = frozenset({errno.EACCES, errno.EPERM})


class OpenFile(Protocol):
    """A file to be read by libsndfile, to which a read that fails is the end of the file."""

    @property
    def handle(self) -> Any:
        """What ``soundfile.SoundFile`` opens; not closed by it."""

    def raise_read_error(self) -> None:
        """Raise what went wrong with a read, if anything did."""


class Storage(Protocol):
    """Where the recordings of one root lie."""

    def open(self, location: Location) -> AbstractContextManager[OpenFile]:
        """Open a recording; errors of reading it inside the context get their meaning as well.

        Raises:
            BadRecording: it lies outside the root, vanished, changed or must not be read.
            Misconfigured: this host has no access to the root.
            Transient: the storage does not answer.
        """

    def on_disk(
        self, location: Location, admit: Callable[[int], None]
    ) -> AbstractContextManager[bytes]:
        """Give a path of this process at which the file can be read, whole.

        It leads to an open file and to no name, so that nothing takes its place meanwhile.
        ``admit`` is told how many bytes have to be fetched for it, and may refuse.

        Raises:
            BadRecording, Misconfigured, Transient: as :meth:`open`, of what has to be fetched.
        """

    def check(self) -> None:
        """Raise Misconfigured or Transient where this host cannot read the root."""


def storage_of(settings: Settings, root: str) -> Storage:
    """Return where a root is on this host.

    Raises:
        Misconfigured: this host has no root of that name, or lacks what reads it.
    """
    if root in settings.buckets:
        return bucket_of(root, settings.buckets[root])
    return Directory(root, settings.root_path(root))


def bucket_of(root: str, bucket_path: BucketPath) -> Bucket:
    """Return a root that is a bucket.

    Raises:
        Misconfigured: this host lacks what reads one.
    """
    try:
        from schema.storage.s3 import Bucket
    except ImportError:
        raise Misconfigured(
            ErrorCode.SETTING_MISSING,
            f"root {root}",
            f"{bucket_path} cannot be read without s3fs",
            "Install callscribe with its extra s3.",
        ) from None
    return Bucket(root, bucket_path)


@dataclass(frozen=True, slots=True)
class Directory:
    """A root in a file system; ``path`` has its symbolic links resolved."""

    root: str
    path: str

    @contextmanager
    def open(self, location: Location) -> Iterator[_Descriptor]:
        """Open a file below the root, whichever links lead there."""
        root = os.fsencode(self.path)
        try:
            descriptor = open_file(root, location.path)
            try:
                yield _Descriptor(descriptor)
            finally:
                os.close(descriptor)
        except OutsideError:
            raise _outside_root_error(location) from None
        except NotRegularError:
            raise BadRecording(ErrorCode.FILE_UNREADABLE, location.name, "not a file") from None
        except OSError as error:
            raise _recording_error(error, location, root) from error

    @contextmanager
    def on_disk(
        self,
        location: Location,
        admit: Callable[[int], None],  # noqa: ARG002 - nothing has to be fetched
    ) -> Iterator[bytes]:
        """Give the open file itself.

        By /proc, since decoders open it again and again, each with a place of its own in it. That
        looks no name up a second time: it opens what the descriptor has open.
        """
        try:
            descriptor = open_file(os.fsencode(self.path), location.path)
        except OutsideError:
            raise _outside_root_error(location) from None
        except NotRegularError:
            raise BadRecording(
                ErrorCode.AUDIO_NOT_AUDIO,
                location.name,
                "it is not a regular file",
                "Submit a regular file.",
            ) from None
        except OSError as error:
            raise unreachable_error(location.name, error) from error
        try:
            yield b"/proc/self/fd/%d" % descriptor
        finally:
            os.close(descriptor)

    def check(self) -> None:
        """Look whether the directory is there and may be read."""
        if not os.path.isdir(self.path):
            raise self._unusable("is no directory", "Is it mounted?")
        if not os.access(self.path, os.R_OK | os.X_OK):
            raise self._unusable("cannot be read by this user", "Let this user read it.")

    def _unusable(self, cause: str, remedy: str) -> Misconfigured:
        subject = f"root {self.root}"
        return Misconfigured(ErrorCode.STORAGE_UNREACHABLE, subject, f"{self.path} {cause}", remedy)


@dataclass(frozen=True, slots=True)
class _Descriptor:
    """An open file of this host."""

    handle: int

    def raise_read_error(self) -> None:
        """Read the whole file, since of a read that failed before nothing is left."""
        at = 0
        while block := os.pread(self.handle, 1 << 20, at):
            at += len(block)


def _outside_root_error(location: Location) -> BadRecording:
    return BadRecording(
        ErrorCode.PATH_OUTSIDE_ROOTS,
        location.name,
        f"it leads out of the root {location.root}",
        "Submit a file below a configured root.",
    )


def unreachable_error(name: str, error: OSError) -> BadRecording:
    """Return the error of a file that a submit finds gone or not readable."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        remedy = "Submit again if it was moved."
        return BadRecording(ErrorCode.FILE_VANISHED, name, "there is no such file", remedy)
    remedy = "Let this user read it."
    return BadRecording(ErrorCode.FILE_UNREADABLE, name, error.strerror or str(error), remedy)


def _recording_error(error: OSError, location: Location, root: bytes) -> CallscribeError:
    cause = os.strerror(error.errno or errno.EIO)
    if error.errno in _VANISHED and _is_mounted(root):
        return BadRecording(
            ErrorCode.FILE_VANISHED,
            location.name,
            "it was there when it was submitted",
            "Put it back, then submit it again.",
        )
    if error.errno == errno.ELOOP:
        return BadRecording(ErrorCode.PATH_LOOP, location.name, cause)
    if error.errno in _REFUSED:
        return BadRecording(
            ErrorCode.FILE_UNREADABLE,
            location.name,
            cause,
            "Let the workers' user read it, then retry.",
        )
    return Transient(
        ErrorCode.STORAGE_UNREACHABLE, f"root {location.root}", f"{location.name}: {cause}"
    )


def _is_mounted(root: bytes) -> bool:
    """Tell whether a root is there; the mount point of an absent file system is an empty one."""
    try:
        with os.scandir(root) as entries:
            return next(entries, None) is not None
    except OSError:
        return False
