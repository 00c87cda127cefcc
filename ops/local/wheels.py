"""What pip would install, and which files each wheel owns, without downloading the wheels.

    pip = fetch_pip(scratch)
    wheels = resolve(pip, [".[worker,cuda]"], scratch, constraints=Path("ops/constraints.txt"))
    with WheelReader() as reader:
        print(clashes(reader.list_files(wheels)))

pip resolves in a dry run. A wheel is a zip with its directory at the end, which one or two HTTP
range requests read: 10 MB, where the wheels of the extra cuda take 3.7 GB. Only tests want it.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self
from urllib.request import getproxies

import urllib3
from packaging.utils import canonicalize_name

from ops.local.process import ProcessError

#: Older ones download every wheel even in a dry run, and a virtual environment may have any.
_PIP = "pip==26.3"
_FETCH_TIMEOUT_S = 60
_RESOLVE_TIMEOUT_S = 180

#: pip's settings that say how to reach an index; all others say which, and are left out.
_KEPT_SETTINGS = ("PIP_CERT", "PIP_CLIENT_CERT", "PIP_PROXY")

#: Nine wheels in ten have their whole directory in it.
_TAIL_BYTES = 64 * 1024
_READERS = 8
_READ_TIMEOUT_S = 30

_LIBRARY = re.compile(r"\.so(\.\d+)*$")


class IndexUnreachable(ProcessError):
    """The package index, or where it keeps its files, does not answer as it should."""


class Unresolvable(ProcessError):
    """pip finds no set of packages that fits what was asked for."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel that pip chose. ``requires`` holds its metadata's requirements, extras' included."""

    name: str
    version: str
    url: str
    requires: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WheelFile:
    """A file that a wheel installs, by its path below site-packages."""

    path: str
    size: int
    crc: int

    @property
    def name(self) -> str:
        """The path's last part."""
        return PurePosixPath(self.path).name

    @property
    def is_library(self) -> bool:
        """Whether the file is a shared library."""
        return _LIBRARY.search(self.name) is not None


def fetch_pip(directory: Path) -> Path:
    """Download a pip that resolves without downloading; return its wheel, which runs as it is.

    Raises:
        IndexUnreachable: it cannot be had.
    """
    options = ("--no-deps", "--only-binary=:all:", "--no-cache-dir", "--retries=1")
    command = ("-m", "pip", "--quiet", "download", *options, "--dest", str(directory), _PIP)
    try:
        _run(command, directory, timeout_s=_FETCH_TIMEOUT_S)
    except ProcessError as error:
        raise IndexUnreachable(f"{_PIP} cannot be had from the package index:\n{error}") from None
    return next(directory.glob("pip-*.whl"))


def resolve(
    pip: Path,
    requirements: Sequence[str],
    directory: Path,
    *,
    constraints: Path | None = None,
    dependencies: bool = True,
) -> list[Wheel]:
    """Return the wheels that pip would install here, where nothing were installed yet.

    pip's own index is asked, whatever this machine's settings say. Packages that come as source
    alone are left out: what they will install nobody knows before they are built. This
    environment's setuptools reads their requirements.

    Raises:
        Unresolvable: there is no such set, or pip gave up; the message ends with pip's.
    """
    report = directory / "report.json"
    options = [
        *("--dry-run", "--ignore-installed", "--no-build-isolation", "--no-cache-dir"),
        *("--use-feature=fast-deps", "--report", str(report)),
        *(("--constraint", str(constraints)) if constraints else ()),
        *(() if dependencies else ("--no-deps",)),
    ]
    try:
        command = (str(pip / "pip"), "--quiet", "install", *options, *requirements)
        _run(command, directory, timeout_s=_RESOLVE_TIMEOUT_S)
    except ProcessError as error:
        raise Unresolvable(f"pip cannot resolve {' '.join(requirements)}:\n{error}") from None
    return list(_wheels(json.loads(report.read_text())))


def _run(arguments: Sequence[str], directory: Path, *, timeout_s: int) -> None:
    """Run Python, with ``directory`` for what pip unpacks and no settings of this machine's."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PIP_", "PYTHON")) or name in _KEPT_SETTINGS
    }
    settings = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "TMPDIR": str(directory),
    }
    try:
        subprocess.run(
            [sys.executable, *arguments],
            env=kept | settings,
            capture_output=True,
            text=True,
            check=True,
            timeout=timeout_s,
        )
    except subprocess.CalledProcessError as error:
        raise ProcessError(error.stderr[-2_000:]) from None
    except subprocess.TimeoutExpired:
        raise ProcessError(f"no answer in {timeout_s} s") from None


def _wheels(report: Mapping[str, Any]) -> Iterator[Wheel]:
    for item in report["install"]:
        url, metadata = item["download_info"]["url"], item["metadata"]
        if url.endswith(".whl"):
            requires = tuple(metadata.get("requires_dist", ()))
            yield Wheel(canonicalize_name(metadata["name"]), metadata["version"], url, requires)


class WheelReader:
    """Reads wheels where they lie, a part at a time. ``bytes_read`` counts what was transferred."""

    def __init__(self) -> None:
        self._pool = _connections()
        self._files: dict[str, RemoteFile] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.clear()

    @property
    def bytes_read(self) -> int:
        """Bytes of wheels that were transferred so far."""
        return sum(file.bytes_read for file in self._files.values())

    def list_files(self, wheels: Sequence[Wheel]) -> dict[Wheel, list[WheelFile]]:
        """Return the files of each wheel.

        Raises:
            IndexUnreachable: a wheel's directory cannot be read.
        """
        with ThreadPoolExecutor(_READERS) as readers:
            return dict(zip(wheels, readers.map(self._list, wheels), strict=True))

    def read(self, wheel: Wheel, path: str) -> bytes:
        """Return one file of a wheel, by its path in the archive.

        Raises:
            IndexUnreachable: it cannot be read.
            KeyError: the wheel has no such file.
        """
        with self._archive(wheel) as archive:
            return archive.read(path)

    def _list(self, wheel: Wheel) -> list[WheelFile]:
        with self._archive(wheel) as archive:
            return [
                WheelFile(_installed_path(entry.filename), entry.file_size, entry.CRC)
                for entry in archive.infolist()
                if not entry.is_dir()
            ]

    def _archive(self, wheel: Wheel) -> zipfile.ZipFile:
        if wheel.url not in self._files:
            self._files[wheel.url] = RemoteFile(self._pool, wheel.url)
        return zipfile.ZipFile(self._files[wheel.url])


def _connections() -> urllib3.PoolManager:
    authorities = os.environ.get("PIP_CERT") or os.environ.get("REQUESTS_CA_BUNDLE")
    options: dict[str, Any] = {
        "maxsize": _READERS,
        "ca_certs": authorities,
        "timeout": _READ_TIMEOUT_S,
        "retries": urllib3.Retry(3, backoff_factor=0.5, status_forcelist=(429, 502, 503, 504)),
    }
    proxy = getproxies().get("https")
    return urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)


class RemoteFile(io.RawIOBase):
    """A file behind a URL, read by range requests; its end is read at once, and kept."""

    def __init__(self, pool: urllib3.PoolManager, url: str) -> None:
        self._pool = pool
        self._url = url
        self._position = 0
        self.bytes_read = 0
        self._tail, self._size = self._request(f"-{_TAIL_BYTES}")

    def readable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return true."""
        return True

    def tell(self) -> int:
        """Return where the next read begins."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to an offset from the beginning, from here, or from the end."""
        bases = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}
        self._position = bases[whence] + offset
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """Return so many bytes, or all up to the end; fewer only where the file ends."""
        begin = self._position
        end = self._size if size is None or size < 0 else min(begin + size, self._size)
        tail_begin = self._size - len(self._tail)
        if end <= begin:
            return b""
        if begin >= tail_begin:
            data = self._tail[begin - tail_begin : end - tail_begin]
        else:
            data, _ = self._request(f"{begin}-{end - 1}")
        self._position = begin + len(data)
        return data

    def _request(self, span: str) -> tuple[bytes, int]:
        """Return a range's bytes, and the size of the whole file."""
        try:
            answer = self._pool.request("GET", self._url, headers={"Range": f"bytes={span}"})
        except urllib3.exceptions.HTTPError as error:
            raise IndexUnreachable(f"{self._url}: {error}") from error
        size = re.search(r"/(\d+)$", answer.headers.get("Content-Range", ""))
        if answer.status != 206 or size is None:
            raise IndexUnreachable(f"{self._url}: no ranges are served (HTTP {answer.status})")
        self.bytes_read += len(answer.data)
        return answer.data, int(size[1])


def _installed_path(path: str) -> str:
    """Return where pip puts a file of a wheel, below site-packages; scripts keep their scheme."""
    top, _, rest = path.partition("/")
    scheme, _, below = rest.partition("/")
    if not top.endswith(".data"):
        return path
    return below if scheme in ("purelib", "platlib") else rest


def clashes(listings: Mapping[Wheel, Sequence[WheelFile]]) -> list[str]:
    """Return each path that several wheels write to, with their names.

    The last one that is installed wins, and whichever is removed takes the file along. Where the
    copies are the same, as ``__init__.py`` of a namespace may be, it does not matter who wins. A
    shared library never has two owners: their next releases differ.
    """
    owners: dict[str, list[tuple[Wheel, WheelFile]]] = defaultdict(list)
    for wheel, files in listings.items():
        for file in files:
            owners[file.path].append((wheel, file))
    return [
        f"{path}: {', '.join(sorted(f'{wheel.name} {wheel.version}' for wheel, _ in found))}"
        for path, found in sorted(owners.items())
        if len(found) > 1 and (len({file for _, file in found}) > 1 or found[0][1].is_library)
    ]
