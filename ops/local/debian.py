"""Prometheus, which checks its own rules: on PATH, or unpacked from Debian's package.

    python -m ops.local.debian          fetch it; says where it is

``apt-get download`` and ``dpkg-deb --extract`` need no root, and install nothing. Only tests want
it: an operator has a Prometheus already.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ops.local.bootstrap import STATE
from ops.local.process import ProcessError

_PACKAGE = "prometheus"
_PROGRAMS = ("promtool", "prometheus")
_UNPACKED = STATE / "debian" / _PACKAGE
_TIMEOUT_S = 180


def find_prometheus() -> Path:
    """Return the directory that has promtool and prometheus.

    Raises:
        ProcessError: there is none; the message says how to get it.
    """
    on_path = shutil.which("promtool")
    candidates = [Path(on_path).resolve().parent] if on_path else []
    for directory in (*candidates, _UNPACKED / "usr" / "bin"):
        if all(os.access(directory / name, os.X_OK) for name in _PROGRAMS):
            return directory
    raise ProcessError(
        "there is no promtool: apt install prometheus, or python -m ops.local.debian, which needs"
        " apt-get, dpkg-deb and a mirror of Debian or Ubuntu, and no root"
    )


def fetch() -> Path:
    """Return the same directory, after unpacking Debian's package where there is none yet.

    Raises:
        ProcessError: it cannot be had; the message says why.
    """
    try:
        return find_prometheus()
    except ProcessError:
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            raise
    _UNPACKED.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_UNPACKED.parent) as name:
        scratch = Path(name)
        package = _downloaded(scratch)
        _run(["dpkg-deb", "--extract", str(package), str(scratch / "root")], scratch)
        shutil.rmtree(_UNPACKED, ignore_errors=True)
        (scratch / "root").rename(_UNPACKED)
    return find_prometheus()


def _downloaded(scratch: Path) -> Path:
    """Download the package, by the lists of this host or, where it has none, by fresh ones."""
    try:
        _run(["apt-get", "download", _PACKAGE], scratch)
    except ProcessError:
        lists = scratch / "lists"
        (lists / "partial").mkdir(parents=True)
        own = ["-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={scratch}"]
        _run(["apt-get", *own, "update"], scratch)
        _run(["apt-get", *own, "download", _PACKAGE], scratch)
    return next(scratch.glob("*.deb"))


def _run(command: list[str], directory: Path) -> None:
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


if __name__ == "__main__":
    try:
        print(fetch())
    except ProcessError as error:
        sys.exit(str(error))
