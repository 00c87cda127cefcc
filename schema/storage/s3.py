"""A root in S3-compatible storage, read by ranges of bytes through fsspec's s3fs.

Where the server is and who we are the AWS libraries read themselves, from the environment or
wherever else they look (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID`` ...). Errors say the server's
code for what went wrong, and no text of its own: that may hold a URL.

Only a process that reads from a bucket imports this module. s3fs holds a thread and connections,
and neither survives a fork.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any

import fsspec
from botocore.exceptions import (
    BotoCoreError,
    CredentialRetrievalError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
)
from s3fs.core import S3_RETRYABLE_ERRORS
from s3fs.utils import FileExpired

from schema.errors import BadRecording, CallscribeError, ErrorCode, Misconfigured, Transient
from schema.records import Location
from schema.storage.bucket_path import BucketPath, is_plain

#: libsndfile reads pieces of some KB; they are cut from blocks of this size, each a request. A
#: segment of 300 s at 8 kHz (1.2 to 9.6 MB) took 4 to 20 requests and up to 1.3 MB more than it
#: has; blocks of 1 MiB took 3 to 11 and up to 2 MiB more.
_BLOCK_BYTES = 512 * 1024
#: A decoder goes back to the header, and a little in the audio.
_BLOCKS_HELD = 8
#: An object that is fetched whole comes in pieces of this size.
_PIECE_BYTES = 8 * 1024**2

#: A server that is away is given up after half a minute: the ledger tries again, and knows when.
_OPTIONS: Mapping[str, Any] = {
    "use_listings_cache": False,
    "config_kwargs": {
        "connect_timeout": 10,
        "read_timeout": 10,
        "retries": {"mode": "standard", "total_max_attempts": 3},
    },
}

#: What s3fs raises of a server, a network, or a configuration.
_ERRORS = (OSError, BotoCoreError, *S3_RETRYABLE_ERRORS)
_CONFIGURATION_ERRORS = (
    CredentialRetrievalError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
)
#: Refusals that the next attempt may not meet: too slow, too many.
_TEMPORARY_STATUSES = frozenset({408, 429})


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An object of a listing; ``path`` lies below the root."""

    path: bytes
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Bucket:
    """A root that is a bucket, or a part of one."""

    root: str
    base: BucketPath

    @contextmanager
    def open(self, location: Location) -> Iterator[_RangedFile]:
        """Open an object; only blocks that are asked for are fetched, all of one version of it."""
        with self._translate_errors(location):
            options = {"cache_type": "blockcache", "cache_options": {"maxblocks": _BLOCKS_HELD}}
            with self._object(location, _BLOCK_BYTES, options) as file:
                yield _RangedFile(file)

    @contextmanager
    def on_disk(self, location: Location, admit: Callable[[int], None]) -> Iterator[bytes]:
        """Fetch an object into a file without a name: whatever kills us, nothing of it stays."""
        with _scratch_file(location.name) as copy:
            with self._translate_errors(location):
                self._fetch(location, admit, copy)
            yield b"/proc/self/fd/%d" % copy.fileno()

    def check(self) -> None:
        """Ask the server for one object of the root; that there is none is no error."""
        with self._translate_errors():
            _filesystem().call_s3(
                "list_objects_v2", Bucket=self.base.bucket, Prefix=self.base.prefix, MaxKeys=1
            )

    def listing(self, path: bytes) -> list[ListedObject]:
        """Return the objects below a path, or the one at it.

        Raises:
            Misconfigured, Transient: the bucket cannot be listed, or does not answer.
        """
        with self._translate_errors():
            objects = _filesystem().find(self.base.full_name(path), detail=True)
        prefix_length = len(self.base.full_name(b"")) + 1
        return [
            ListedObject(os.fsencode(name[prefix_length:]), item["size"])
            for name, item in objects.items()
            # A name that ends in a slash stands for a directory.
            if item["type"] == "file" and not name.endswith("/")
        ]

    def read_heads(self, paths: Sequence[bytes], most_bytes: int) -> list[bytes | OSError]:
        """Return the first bytes of objects that are not empty, fetched many at a time.

        An OSError stands for those of an object that cannot be read.

        Raises:
            Misconfigured, Transient: the bucket cannot be read, or does not answer.
        """
        names = [self.base.full_name(path) for path in paths]
        with self._translate_errors():
            heads = _filesystem().cat_ranges(names, 0, most_bytes, on_error="return")
        return [self._head(path, head) for path, head in zip(paths, heads, strict=True)]

    def _head(self, path: bytes, head: bytes | Exception) -> bytes | OSError:
        if isinstance(head, bytes):
            return head
        try:
            with self._translate_errors(Location(self.root, path)):
                raise head
        except BadRecording as error:
            return OSError(errno.EACCES, error.cause)

    def _object(self, location: Location, block_bytes: int, options: Mapping[str, Any]) -> Any:
        if not is_plain(location.path):
            raise BadRecording(
                ErrorCode.PATH_OUTSIDE_ROOTS,
                location.name,
                f"it leads out of the root {location.root}",
                "Submit an object below a configured root.",
            )
        name = self.base.full_name(location.path)
        return _filesystem().open(name, "rb", block_size=block_bytes, **options)

    def _fetch(self, location: Location, admit: Callable[[int], None], copy: IO[bytes]) -> None:
        with self._object(location, _PIECE_BYTES, {"cache_type": "none"}) as file:
            admit(file.size)
            while piece := file.read(_PIECE_BYTES):
                _write(copy, piece, location.name)

    @contextmanager
    def _translate_errors(self, location: Location | None = None) -> Iterator[None]:
        """Give errors of storage their meaning for an object, or for the root as a whole."""
        try:
            yield
        except _ERRORS as error:
            raise self._recording_error(error, location) from error

    def _recording_error(self, error: Exception, location: Location | None) -> CallscribeError:
        if isinstance(error, FileExpired) and location:
            remedy = "Submit it again."
            return BadRecording(ErrorCode.AUDIO_CHANGED, location.name, "it was replaced", remedy)
        if not _is_refusal(error) or location is None:
            return self._root_error(error)
        # It is the object that is refused, and not this host, if the root is not refused as well.
        self.check()
        if isinstance(error, FileNotFoundError):
            return BadRecording(
                ErrorCode.FILE_VANISHED,
                location.name,
                "there is no such object",
                "Put it back, then submit it again.",
            )
        return BadRecording(
            ErrorCode.FILE_UNREADABLE,
            location.name,
            f"the server refuses it ({_error_code(error)})",
            "Let this host's key read it, then submit it again.",
        )

    def _root_error(self, error: Exception) -> Misconfigured | Transient:
        if _is_refusal(error) or isinstance(error, _CONFIGURATION_ERRORS):
            return Misconfigured(
                ErrorCode.SETTING_MISSING,
                f"root {self.root}",
                f"{self.base} cannot be read by this host ({_error_code(error)})",
                "Check the bucket's name and the AWS_* variables; s3:ListBucket and s3:GetObject"
                " are needed.",
            )
        return Transient(
            ErrorCode.STORAGE_UNREACHABLE,
            f"root {self.root}",
            f"{self.base} does not answer ({_error_code(error)})",
            "Check AWS_ENDPOINT_URL, the server and the network.",
        )


class _RangedFile:
    """An open object, as soundfile wants a file to be.

    It is called from C, through which nothing can be raised: an error is kept, and the file ends.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._error: Exception | None = None
        self.tell = file.tell

    @property
    def handle(self) -> _RangedFile:
        return self

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move as a file does; to before its start a broken header may want to, and stays."""
        with suppress(ValueError):
            self._file.seek(offset, whence)
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        """Read as a file does; nothing once a read has failed."""
        if self._error is None:
            try:
                return int(self._file.readinto(buffer))
            except Exception as error:
                self._error = error
        return 0

    def raise_read_error(self) -> None:
        """Raise the error that was kept; also one that is none of storage, such as a time limit."""
        if self._error is not None:
            raise self._error


def _filesystem() -> Any:
    """Return this process's connection; fsspec keeps it, and makes another one after a fork."""
    filesystem = fsspec.filesystem("s3", **_OPTIONS)
    filesystem.retries = 1  # botocore's attempts are enough; s3fs would make as many of each
    try:
        filesystem.connect()
    except (BotoCoreError, ValueError) as error:
        raise Misconfigured(
            ErrorCode.SETTING_MISSING,
            "AWS_*",
            f"no connection can be configured ({_error_code(error)})",
            "Check the AWS_* variables, AWS_ENDPOINT_URL first.",
        ) from error
    return filesystem


def _is_refusal(error: Exception) -> bool:
    """Tell whether the server answered, and refuses what it was asked for."""
    status = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    is_client_error = 400 <= status < 500 and status not in _TEMPORARY_STATUSES
    return is_client_error or isinstance(error, FileNotFoundError | PermissionError)


def _error_code(error: Exception) -> str:
    return str(_response(error).get("Error", {}).get("Code", type(error).__name__))


def _response(error: Exception) -> Mapping[str, Any]:
    """Return what the server said, which s3fs keeps as the cause of the errors it makes of it."""
    response: Mapping[str, Any] = getattr(error.__cause__, "response", {})
    return response


def _scratch_file(name: str) -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(buffering=0)
    except OSError as error:
        raise _disk_full(name, error) from error


def _write(copy: IO[bytes], piece: bytes, name: str) -> None:
    remaining = memoryview(piece)
    try:
        while remaining:
            remaining = remaining[copy.write(remaining) :]
    except OSError as error:
        raise _disk_full(name, error) from error


def _disk_full(name: str, error: OSError) -> Misconfigured:
    return Misconfigured(
        ErrorCode.SPOOL_FULL,
        name,
        f"its temporary copy cannot be written ({tempfile.gettempdir()}: {error.strerror})",
        "Free space there, or set TMPDIR to a directory that has it; then submit again.",
    )
