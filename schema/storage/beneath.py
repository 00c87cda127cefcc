"""Opens what lies below a directory, and nothing else, whatever is renamed or swapped meanwhile.

A path that was looked at and then opened by its name may lead elsewhere by then. Here each
directory on the way is opened below the one before it, and none through a link, so that what was
looked at is what is opened. A path with links in it is resolved first, and walked anew as what it
resolved to; one that leads out of the directory is refused. What is mounted below it is part of it,
and so is a file that has a second name (a hard link) elsewhere: no path tells those apart.

No system call is needed for it that an old kernel or a container's filter lacks, and it is faster
than resolving every path by name.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar

T = TypeVar("T")

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
#: Not blocking: a named pipe in a file's place must not hold whoever opens it for ever.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC

#: A path whose links change under our eyes is resolved anew so often.
_TRIES = 16


class OutsideError(Exception):
    """A path, or a link on its way, leads out of the directory."""


class NotRegularError(OSError):
    """A path leads to what is no regular file."""


class _LinkError(Exception):
    """A name is a link, or was one a moment ago."""


def open_file(root: bytes, path: bytes) -> int:
    """Return a descriptor of a regular file below ``root``, for reading; the caller closes it.

    ``root`` has its links resolved; links below it may lead to wherever else below it. A pipe or a
    device is refused unopened, and one that is put there at that moment is not waited for.

    Raises:
        OutsideError: it leads out of ``root``.
        NotRegularError: it is not a regular file.
        OSError: it cannot be opened.
    """
    # What leads with a slash is absolute, and a slash alone no file.
    return act_below(root, path.rstrip(b"/") or path, _open_regular)


@contextmanager
def open_directory(root: bytes, path: bytes, *, make: bool = False) -> Iterator[int]:
    """Yield a descriptor of a directory below ``root``, for names below it; ``make`` what lacks.

    Raises:
        OutsideError: it leads out of ``root``.
        OSError: it cannot be opened, or made.
    """
    directory_path = path.rstrip(b"/") + b"/" if path else path
    directory = act_below(root, directory_path, lambda at, _: os.dup(at), make=make)
    try:
        yield directory
    finally:
        os.close(directory)


def act_below(root: bytes, path: bytes, act: Callable[[int, bytes], T], *, make: bool = False) -> T:
    """Return what ``act`` does, given the directory that a path's last name is in, and that name.

    Behind a path that ends in a slash the name is empty. ``act`` leaves it to :func:`refuse_link`
    to say that the name is a link. Directories that lack are made where ``make`` says so.

    Raises:
        OutsideError: it leads out of ``root``.
        OSError: a directory cannot be opened, and whatever ``act`` raises.
    """
    names: Sequence[bytes] | None = _plain_names(path)
    for _ in range(_TRIES):
        if names is None:
            names = _resolve(root, path)
        try:
            return _walk(root, names, act, make=make)
        except _LinkError:
            names = None
    os.stat(os.path.join(root, path))  # A link to itself says so.
    raise OSError(errno.EAGAIN, "its directory is replaced again and again")


def refuse_link(directory: int, name: bytes) -> os.stat_result:
    """Return what is at a name, unless that is a link: then it is resolved, and walked anew."""
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        raise _LinkError
    return status


def open_regular(path: bytes) -> int:
    """Return a descriptor of a regular file anywhere, for reading; links are followed.

    Raises:
        NotRegularError: it is not a regular file.
        OSError: it cannot be opened.
    """
    _check_regular(os.stat(path))
    return _require_regular(os.open(path, _FILE & ~os.O_NOFOLLOW))


def is_beneath(descriptor: int, roots: Sequence[bytes]) -> bool:
    """Tell whether an open file lies below one of ``roots``, which have their links resolved."""
    path = os.readlink(b"/proc/self/fd/%d" % descriptor)
    return any(path.startswith(root.rstrip(b"/") + b"/") for root in roots)


def _plain_names(path: bytes) -> list[bytes] | None:
    """Return the names that a path consists of, the last empty if need be; None if not just names.

    They are then those of what it resolves to.
    """
    if path.startswith(b"/"):
        return None
    names = path.split(b"/")
    if b".." in names or b"" in names[:-1] or b"." in names:
        return None
    return names


def _resolve(root: bytes, path: bytes) -> list[bytes] | None:
    """Return the names below the root that a path leads to by its links; None if they changed."""
    try:
        real = os.path.realpath(os.path.join(root, path))
    except OSError:  # a link that is no link any more
        return None
    prefix = root.rstrip(b"/") + b"/"
    if real != root and not real.startswith(prefix):
        raise OutsideError(path)
    names = real[len(prefix) :].split(b"/")
    return [*names, b""] if path.endswith(b"/") and names[-1] else names


def _walk(
    root: bytes, names: Sequence[bytes] | None, act: Callable[[int, bytes], T], *, make: bool
) -> T:
    if names is None:
        raise _LinkError
    directory = os.open(root, _DIRECTORY)
    try:
        for name in names[:-1]:
            subdirectory = _enter(directory, name, make=make)
            os.close(directory)
            directory = subdirectory
        return act(directory, names[-1])
    finally:
        os.close(directory)


def _enter(directory: int, name: bytes, *, make: bool) -> int:
    flags = _DIRECTORY | os.O_NOFOLLOW
    try:
        return os.open(name, flags, dir_fd=directory)
    except NotADirectoryError:
        # A link is none, either; and what is a directory by now was a link a moment ago.
        if not stat.S_ISDIR(refuse_link(directory, name).st_mode):
            raise
        raise _LinkError from None
    except FileNotFoundError:
        if not make:
            raise
    with suppress(FileExistsError):  # another's, or a link: the next look tells
        os.mkdir(name, dir_fd=directory)
    return _enter(directory, name, make=False)


def _open_regular(directory: int, name: bytes) -> int:
    if not name:
        raise OutsideError(name)  # the root itself
    # Looked at before it is opened: opening a device may do anything.
    _check_regular(refuse_link(directory, name))
    try:
        return _require_regular(os.open(name, _FILE, dir_fd=directory))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _LinkError from None
        raise


def _require_regular(descriptor: int) -> int:
    """Return a descriptor of a regular file; close and refuse one of anything else."""
    try:
        _check_regular(os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise NotRegularError(errno.EINVAL, "it is not a regular file")
