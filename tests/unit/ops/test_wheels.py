"""Wheels are read by ranges, and two owners of one file are told."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from ops.local.wheels import IndexUnreachable, Wheel, WheelFile, WheelReader, clashes


class _Ranges(BaseHTTPRequestHandler):
    """Serves files of a directory, by ranges where it may."""

    def __init__(self, directory: Path, ranges: bool, *rest: object) -> None:
        self._directory, self._ranges = directory, ranges
        super().__init__(*rest)

    def do_GET(self):
        data = (self._directory / self.path[1:]).read_bytes()
        begin, end = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers["Range"]).groups()
        first = int(begin) if begin else max(len(data) - int(end), 0)
        last = int(end) if begin and end else len(data) - 1
        part = data[first : last + 1] if self._ranges else data
        self.send_response(206 if self._ranges else 200)
        if self._ranges:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch, request) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    monkeypatch.delenv("https_proxy", raising=False)
    handler = partial(_Ranges, tmp_path, getattr(request, "param", True))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def pack(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def test_of_a_large_wheel_little_is_read(served: str, tmp_path: Path):
    pack(tmp_path / "large.whl", {"a/big.so": b"x" * 1_000_000, "a/small.py": b"print()"})
    wheel = Wheel("large", "1", f"{served}/large.whl")

    with WheelReader() as reader:
        listing = reader.list_files([wheel])
        assert reader.read(wheel, "a/small.py") == b"print()"
        assert reader.bytes_read < 100_000

        assert [(file.path, file.size) for file in listing[wheel]] == [
            ("a/big.so", 1_000_000),
            ("a/small.py", 7),
        ]
        assert reader.read(wheel, "a/big.so") == b"x" * 1_000_000


def test_a_directory_longer_than_the_tail_is_read_as_well(served: str, tmp_path: Path):
    names = [f"package/{number:060}.py" for number in range(2_000)]
    pack(tmp_path / "many.whl", dict.fromkeys(names, b""))
    wheel = Wheel("many", "1", f"{served}/many.whl")

    with WheelReader() as reader:
        assert [file.path for file in reader.list_files([wheel])[wheel]] == names


def test_what_goes_to_site_packages_by_a_scheme_is_found_there(served: str, tmp_path: Path):
    pack(
        tmp_path / "data.whl",
        {"d-1.data/purelib/nvidia/lib/a.so": b"", "d-1.data/scripts/run": b"", "d/b.py": b""},
    )
    wheel = Wheel("data", "1", f"{served}/data.whl")

    with WheelReader() as reader:
        paths = [file.path for file in reader.list_files([wheel])[wheel]]

    assert paths == ["nvidia/lib/a.so", "scripts/run", "d/b.py"]


@pytest.mark.parametrize("served", [False], indirect=True)
def test_a_server_without_ranges_is_said(served: str, tmp_path: Path):
    pack(tmp_path / "a.whl", {"a.py": b""})

    with WheelReader() as reader, pytest.raises(IndexUnreachable, match="no ranges are served"):
        reader.list_files([Wheel("a", "1", f"{served}/a.whl")])


def wheels(path: str, *owners: tuple[str, int, int]) -> dict[Wheel, list[WheelFile]]:
    return {
        Wheel(name, "1", f"{name}.whl"): [WheelFile(path, size, crc), WheelFile(name, 1, 1)]
        for name, size, crc in owners
    }


@pytest.mark.parametrize("path", ["nvidia/__init__.py", "nvidia/lib/libcudnn.so.9"])
def test_two_contents_of_one_path_clash(path: str):
    listings = wheels(path, ("cu13", 9, 1), ("cu12", 9, 2))

    assert clashes(listings) == [f"{path}: cu12 1, cu13 1"]


def test_copies_of_one_file_do_not_clash():
    assert clashes(wheels("nvidia/__init__.py", ("a", 0, 0), ("b", 0, 0))) == []


@pytest.mark.parametrize("name", ["libcudnn.so", "libcudnn.so.9", "_ext.cpython-311.so"])
def test_a_library_has_one_owner_even_if_the_copies_are_the_same(name: str):
    assert clashes(wheels(f"lib/{name}", ("a", 5, 5), ("b", 5, 5))) == [f"lib/{name}: a 1, b 1"]
