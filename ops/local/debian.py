"""Programs that only tests want: on PATH, or unpacked from Debian's packages.

    python -m ops.local.debian          fetch them; says where they are

Prometheus checks its own rules, and pgbouncer is what many a ledger lies behind; an operator has
either already. ``apt-get download`` and ``dpkg-deb --extract`` need no root, and install nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ops.local.bootstrap import STATE
from ops.local.process import ProcessError

_UNPACKED = STATE / "debian"
_TIMEOUT_S = 180

#: Debian keeps servers where only root has them on PATH.
_ADMIN_PATH = "/usr/sbin"


@dataclass(frozen=True, slots=True)
class Package:
    """A package, its programs, and which of the libraries it asks for a host may lack."""

    name: str
    programs: tuple[str, ...]
    libraries: str = ""


PROMETHEUS = Package("prometheus", ("promtool", "prometheus"))
PGBOUNCER = Package("pgbouncer", ("pgbouncer",), r"lib(?:event|c-ares)[-0-9]")


def find(package: Package) -> Path:
    """Return the directory that has a package's programs.

    Raises:
        ProcessError: there is none; the message says how to get it.
    """
    first = package.programs[0]
    on_path = shutil.which(first) or shutil.which(first, path=_ADMIN_PATH)
    candidates = [Path(on_path).resolve().parent] if on_path else []
    unpacked = _UNPACKED / package.name / "usr"
    for directory in (*candidates, unpacked / "bin", unpacked / "sbin"):
        if all(os.access(directory / name, os.X_OK) for name in package.programs):
            return directory
    raise ProcessError(
        f"there is no {first}: apt install {package.name}, or python -m ops.local.debian, which"
        " needs apt-get, dpkg-deb and a mirror of Debian or Ubuntu, and no root"
    )


def find_prometheus() -> Path:
    """Return the directory that has promtool and prometheus.

    Raises:
        ProcessError: there is none; the message says how to get it.
    """
    return find(PROMETHEUS)


def library_path(program: Path) -> dict[str, str]:
    """Return the environment in which a program that was unpacked finds its libraries."""
    if not program.is_relative_to(_UNPACKED):
        return {}
    libraries = (program.parents[1] / "lib").glob("*-linux-*")
    return {"LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries))}


def fetch(package: Package = PROMETHEUS) -> Path:
    """Return the same directory, after unpacking Debian's package where there is none yet.

    Raises:
        ProcessError: it cannot be had; the message says why.
    """
    try:
        return find(package)
    except ProcessError:
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            raise
    _UNPACKED.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_UNPACKED) as name:
        scratch = Path(name)
        for archive in _downloaded(package, scratch):
            _run(["dpkg-deb", "--extract", str(archive), str(scratch / "root")], scratch)
        shutil.rmtree(_UNPACKED / package.name, ignore_errors=True)
        (scratch / "root").rename(_UNPACKED / package.name)
    return find(package)


def _downloaded(package: Package, scratch: Path) -> Iterator[Path]:
    """Download a package and its libraries, by this host's lists or, if it has none, fresh ones."""
    options: list[str] = []
    try:
        _run(["apt-get", "download", package.name], scratch)
    except ProcessError:
        lists = scratch / "lists"
        (lists / "partial").mkdir(parents=True)
        options = ["-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={scratch}"]
        _run(["apt-get", *options, "update"], scratch)
        _run(["apt-get", *options, "download", package.name], scratch)
    archive = next(scratch.glob("*.deb"))
    if package.libraries:
        needs = _run(["dpkg-deb", "--field", str(archive), "Depends"], scratch)
        for library in re.findall(rf"(?:^|, ?)({package.libraries}[^ ,(]*)", needs):
            _run(["apt-get", *options, "download", library], scratch)
    yield from scratch.glob("*.deb")


def _run(command: list[str], directory: Path) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ProcessError(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ProcessError(f"{' '.join(command[:1] + command[-2:])}: {last}")
    return done.stdout


if __name__ == "__main__":
    try:
        for each in (PROMETHEUS, PGBOUNCER):
            print(fetch(each))
    except ProcessError as error:
        sys.exit(str(error))
