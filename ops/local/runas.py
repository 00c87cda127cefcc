"""Running Postgres although we are root."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ops.local.process import ServerError


@dataclass(frozen=True, slots=True)
class RunAs:
    """How to run a program as a user that Postgres accepts, and whose files it then needs."""

    prefix: tuple[str, ...]
    uid: int
    gid: int

    def own(self, directory: Path) -> None:
        """Give a directory and all in it to the user, if it is not the user's already."""
        if directory.stat().st_uid == self.uid:
            return
        for path in (directory, *directory.rglob("*")):
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


def find_user(directory: Path, program: Path) -> RunAs:
    """Return a way to run ``program`` without being root, with its files below ``directory``.

    Raises:
        ServerError: we are root, and no way works here.
    """
    if os.geteuid() != 0:
        return RunAs((), os.geteuid(), os.getegid())
    for user in _users_for_root():
        if _works(user, program, directory):
            return user
    raise ServerError(
        "Postgres does not run as root, and root may not become another user here "
        "(setpriv and unshare failed): run this as an ordinary user"
    )


def _users_for_root() -> Iterator[RunAs]:
    """Yield ways for root to run Postgres as somebody else, best first.

    The checkout may lie where only root may look (/root is 0700), so the other user keeps the one
    capability to read and pass everything; where a container withholds that, the one to override
    permissions; where both, none. access(2), which initdb trusts, ignores a mere user's
    capabilities unless "no_setuid_fixup" is set. A user namespace, last, only renames root: it
    needs no privilege, but is often forbidden.
    """
    nobody = pwd.getpwnam("nobody")  # initdb insists on a user with a name
    ids = (f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups")
    setpriv = ("setpriv", *ids)
    for capability in ("dac_read_search", "dac_override"):
        keep = (f"--inh-caps=+{capability}", f"--ambient-caps=+{capability}")
        prefix = (*setpriv, "--securebits=+no_setuid_fixup", *keep, "--")
        yield RunAs(prefix, nobody.pw_uid, nobody.pw_gid)
    yield RunAs((*setpriv, "--"), nobody.pw_uid, nobody.pw_gid)
    names = (f"--map-user={nobody.pw_uid}", f"--map-group={nobody.pw_gid}")
    yield RunAs(("unshare", "--user", *names, "--"), 0, 0)


#: Reaches the interpreter, writes to the directory, and asks for the program as initdb does.
_PROBE = """
import os, sys
open(sys.argv[1], "w").close()
sys.exit(not os.access(sys.argv[2], os.R_OK | os.X_OK))
"""


def _works(user: RunAs, program: Path, directory: Path) -> bool:
    """Return whether the user can write below the directory and run the program."""
    probe = Path(tempfile.mkdtemp(prefix="probe.", dir=directory))
    python = (sys.executable, "-I", "-S", "-c", _PROBE)
    command = [*user.prefix, *python, str(probe / "file"), str(program)]
    try:
        user.own(probe)
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:  # no such tool, or we may not even give a directory away
        return False
    finally:
        shutil.rmtree(probe, ignore_errors=True)


def server_uid() -> int:
    """Return the user who owns a private server's files: nobody, if we are root."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid()
