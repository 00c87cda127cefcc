"""Addresses for private servers: a directory that holds sockets, or a free port."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import stat
import tempfile
from pathlib import Path

from ops.local.process import ServerError
from ops.local.runas import server_uid

#: Bytes of a Unix socket's address, less the terminating zero; a kernel constant.
SOCKET_PATH_MAX = 107
#: The longest name that a server of ours gives a socket.
_LONGEST_NAME = ".s.PGSQL.5432"
#: What all clients of a socket URL read alike: Flower does not decode %-escapes.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._-]+")


def socket_directory(state: Path) -> Path:
    """Return a directory for sockets: in the state directory, or where their names fit.

    The same state always gives the same place, so that a URL stays good over a restart and a
    killed run leaves nothing behind that the next one does not find.
    """
    digest = hashlib.sha256(os.fsencode(state)).hexdigest()[:12]
    elsewhere = f"callscribe-{os.geteuid()}-{digest}"
    candidates = [state / "run"]
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        candidates.append(Path(runtime) / elsewhere)
    candidates.append(Path(tempfile.gettempdir()) / elsewhere)
    candidates.append(Path("/tmp") / elsewhere)  # noqa: S108 - private, see make_private
    for candidate in candidates:
        if _holds_sockets(candidate):
            return candidate
    raise ServerError(f"no directory for sockets: tried {', '.join(map(str, candidates))}")


def _holds_sockets(directory: Path) -> bool:
    """Return whether a socket can be made there; some network and shared folders cannot."""
    probe = directory / _LONGEST_NAME.upper()  # no server's own
    if len(os.fsencode(probe)) > SOCKET_PATH_MAX or not _PLAIN_PATH.fullmatch(str(directory)):
        return False
    try:
        make_private(directory)
        probe.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as candidate:
            candidate.bind(str(probe))
        remove_private(directory, probe.name)
    except (OSError, ServerError):
        return False
    return True


def make_private(directory: Path) -> None:
    """Make a directory that only we may enter.

    Raises:
        ServerError: somebody else made it first, which in /tmp would be an attack.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    ours = found.st_uid in (os.geteuid(), server_uid())
    if not stat.S_ISDIR(found.st_mode) or not ours:
        raise ServerError(f"{directory} belongs to somebody else")
    directory.chmod(0o700)


def remove_private(directory: Path, *names: str) -> None:
    """Remove sockets, and their directory unless something else is in it."""
    for name in names:
        (directory / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        directory.rmdir()


def free_port() -> int:
    """Return a loopback port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
