"""What pip installs on a GPU host fits together: nobody's file is overwritten, nothing is missing.

PyPI is asked and nothing is installed. Of 3.7 GB of wheels 36 MB are read; pip reads up to 75 MB to
resolve.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ops.local.wheels import (
    IndexUnreachable,
    Wheel,
    WheelFile,
    WheelReader,
    clashes,
    fetch_pip,
    resolve,
)
from workers.engines import device

_ROOT = Path(__file__).parents[2]
_CONSTRAINTS = _ROOT / "ops" / "constraints.txt"

#: What the driver brings, and no wheel.
_DRIVERS_OWN = {"libcuda.so.1"}
#: NVIDIA's compatibility guide: the oldest driver for each major version of CUDA.
_OLDEST_DRIVER = {12: 525, 13: 580}
#: Each build of torch for CUDA wants other versions of these, so that they cannot be pinned.
_BY_TORCH = re.compile(r"^(nvidia-|cuda-|triton$)")

pytestmark = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"),
    reason="the extra cuda is looked at for Linux on x86-64",
)

Listings = Mapping[Wheel, Sequence[WheelFile]]


@dataclass(frozen=True)
class Resolved:
    """The wheels of ``[worker,cuda]``, and what two of them say in their code."""

    listings: Listings
    #: The major version of CUDA that torch was built for.
    cuda: int
    #: Libraries of CUDA that CTranslate2 opens by name.
    opened: frozenset[str]
    bytes_read: int

    def without(self, library: str) -> Resolved:
        """Return the set without the wheels that own such a library."""
        gone = _owners(self.listings, library)
        assert gone
        left = {wheel: files for wheel, files in self.listings.items() if wheel.name not in gone}
        return replace(self, listings=left)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wheels")


@pytest.fixture(scope="module")
def pip(scratch: Path) -> Path:
    try:
        return fetch_pip(scratch)
    except IndexUnreachable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def reader() -> Iterator[WheelReader]:
    with WheelReader() as reader:
        yield reader


@pytest.fixture(scope="module")
def resolved(pip: Path, scratch: Path, reader: WheelReader) -> Resolved:
    source = scratch / "source"  # pip leaves its egg-info beside the setup.cfg that it reads
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md"):
        shutil.copy(_ROOT / name, source)
    wheels = resolve(pip, [f"{source}[worker,cuda]"], scratch, constraints=_CONSTRAINTS)
    listings = reader.list_files(wheels)
    return Resolved(
        listings,
        cuda=_torchs_cuda(reader, listings),
        opened=_opened_by_ctranslate2(reader, listings),
        bytes_read=reader.bytes_read,
    )


@pytest.fixture(scope="module")
def broken(pip: Path, scratch: Path, reader: WheelReader, resolved: Resolved) -> Resolved:
    """The set as it once was, with a cuDNN for CUDA 12 beside torch's for CUDA 13."""
    added = resolve(pip, ["nvidia-cudnn-cu12"], scratch, dependencies=False)
    return replace(resolved, listings={**resolved.listings, **reader.list_files(added)})


def _wheel(listings: Listings, name: str) -> Wheel:
    (found,) = [wheel for wheel in listings if wheel.name == name]
    return found


def _torchs_cuda(reader: WheelReader, listings: Listings) -> int:
    version = reader.read(_wheel(listings, "torch"), "torch/version.py").decode()
    found = re.search(r"^cuda\b.*= '(\d+)\.", version, re.MULTILINE)
    assert found, f"a build of torch without CUDA was taken:\n{version}"
    return int(found[1])


def _opened_by_ctranslate2(reader: WheelReader, listings: Listings) -> frozenset[str]:
    wheel = _wheel(listings, "ctranslate2")
    (library,) = [f.path for f in listings[wheel] if f.name.startswith("libctranslate2")]
    names = re.findall(rb"\b(lib(?:cu|nv)\w+\.so\.\d+)\0", reader.read(wheel, library))
    opened = frozenset(name.decode() for name in names) - _DRIVERS_OWN
    assert any(name.startswith("libcublas.") for name in opened), f"only {sorted(opened)}"
    return opened


def _owners(listings: Listings, library: str) -> set[str]:
    """Return the wheels that own a library whose name begins so."""
    return {
        wheel.name
        for wheel, files in listings.items()
        for file in files
        if file.name.startswith(library)
    }


def complaints(found: Resolved) -> list[str]:
    """Return what is wrong with the CUDA libraries of a set of wheels."""
    listings = found.listings
    torchs = {Requirement(line).name for line in _wheel(listings, "torch").requires}
    paths = {file.path for files in listings.values() for file in files}
    wrong = clashes(listings)
    wrong += [
        f"torch was built for CUDA {found.cuda}, and no wheel owns {library}.so.{found.cuda}"
        for library in ("libcudart", "libcublas", "libcublasLt")
        if not _owners(listings, f"{library}.so.{found.cuda}")
    ]
    wrong += [
        f"CTranslate2 opens {name}, which no wheel puts into nvidia/cublas/lib"
        for name in sorted(_with_cublas_lt(found.opened))
        if f"nvidia/cublas/lib/{name}" not in paths
    ]
    cudnn = _owners(listings, "libcudnn")
    if len(cudnn) != 1 or not cudnn <= torchs:
        wrong.append(f"cuDNN is not torch's alone: {', '.join(sorted(cudnn)) or 'there is none'}")
    return wrong


def _with_cublas_lt(names: frozenset[str]) -> set[str]:
    """Add what cuBLAS itself is linked to."""
    return {*names, *(name.replace("libcublas.", "libcublasLt.") for name in names)}


def test_the_wheels_of_a_gpu_host_fit_together(resolved: Resolved):
    assert complaints(resolved) == []


def test_another_cudnn_would_be_noticed(broken: Resolved):
    wrong = complaints(broken)

    overwritten = [line for line in wrong if line.startswith("nvidia/cudnn/lib/libcudnn")]
    assert any(line.startswith("nvidia/cudnn/lib/libcudnn.so.9: ") for line in overwritten)
    assert all("nvidia-cudnn-cu12 " in line for line in overwritten)
    assert any(line.startswith("cuDNN is not torch's alone: nvidia-") for line in wrong)


@pytest.mark.parametrize(
    ("missing", "complaint"),
    [
        ("libcublas.so.{opened}", "CTranslate2 opens libcublas.so.{opened}, which no wheel"),
        ("libcublas.so.{cuda}", "torch was built for CUDA {cuda}, and no wheel owns libcublas.so"),
        ("libcudnn.so", "cuDNN is not torch's alone: there is none"),
    ],
)
def test_a_missing_library_would_be_noticed(resolved: Resolved, missing: str, complaint: str):
    (opened,) = {name.rpartition(".")[2] for name in resolved.opened}
    versions = {"opened": opened, "cuda": resolved.cuda}

    wrong = complaints(resolved.without(missing.format(**versions)))

    assert any(line.startswith(complaint.format(**versions)) for line in wrong)


def test_a_worker_loads_cublas_from_where_its_wheel_puts_it(resolved: Resolved):
    packages = {name: package for package, name in device._LIBRARIES}
    names = _with_cublas_lt(resolved.opened)
    assert {packages.get(name) for name in names} == {"nvidia.cublas"}


def test_all_that_is_not_cudas_is_pinned(resolved: Resolved):
    lines = [line for line in _CONSTRAINTS.read_text().splitlines() if not line.startswith("#")]
    pinned = {canonicalize_name(Requirement(line).name) for line in lines}
    assert [
        wheel.name
        for wheel in resolved.listings
        if wheel.name not in pinned and not _BY_TORCH.match(wheel.name)
    ] == []


def test_the_driver_that_torchs_cuda_needs_is_documented(resolved: Resolved):
    text = (_ROOT / "ops" / "docs" / "operate" / "deployment.md").read_text()
    assert f"CUDA {resolved.cuda}" in text
    assert f"driver {_OLDEST_DRIVER[resolved.cuda]} or later" in text


def test_no_wheel_is_read_as_a_whole(resolved: Resolved):
    assert len(resolved.listings) > 100
    assert resolved.bytes_read < 60_000_000
