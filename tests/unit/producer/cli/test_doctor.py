"""What a host's workers would decode on."""

from __future__ import annotations

import os
from importlib.machinery import ModuleSpec

import pytest

from producer.cli import doctor
from producer.cli.doctor import CheckVerdict, device
from schema.settings import Settings


def settings(device_name: str) -> Settings:
    return Settings(
        database_url="postgresql://nowhere/none", redis_url="redis://nowhere", device=device_name
    )


def test_a_cpu_is_told_by_its_cores():
    finding = device(settings("cpu"))
    assert finding.verdict is CheckVerdict.OK
    assert f"{len(os.sched_getaffinity(0))} cores" in finding.detail


def test_a_gpu_is_told_by_its_driver(tmp_path, monkeypatch):
    driver = tmp_path / "nvidia-smi"
    driver.write_text(
        "#!/bin/sh\n"
        'test "$1 $2" = "-i 1" || exit 9\n'
        "echo 'NVIDIA H200, 570.1, 143771 MiB, 143000 MiB'\n"
    )
    driver.chmod(0o755)
    monkeypatch.setattr(doctor, "_DRIVER", str(driver))
    monkeypatch.setattr(doctor, "_torch_cuda", lambda: "13.0")
    monkeypatch.setattr(doctor, "_has_cublas", lambda: True)
    finding = device(settings("cuda:1"))
    assert finding.verdict is CheckVerdict.OK
    assert finding.detail == (
        "cuda:1: NVIDIA H200, driver 570.1, 143000 MiB free of 143771 MiB; "
        "torch for CUDA 13.0, cuBLAS 12"
    )
    assert device(settings("cuda:2")).verdict is CheckVerdict.FAIL
    monkeypatch.setattr(doctor, "_has_cublas", lambda: False)
    assert device(settings("cuda:1")).verdict is CheckVerdict.WARN
    monkeypatch.setattr(doctor, "_torch_cuda", lambda: None)
    finding = device(settings("cuda:1"))
    assert (finding.verdict, "no torch for CUDA" in finding.detail) == (CheckVerdict.FAIL, True)


@pytest.mark.parametrize(
    ("line", "cuda"),
    [("cuda: Optional[str] = '13.0'", "13.0"), ("cuda: Optional[str] = None", None), ("", None)],
)
def test_what_torch_was_built_for_is_read_without_it(monkeypatch, tmp_path, line, cuda):
    (tmp_path / "version.py").write_text(f"__all__ = ['cuda']\n__version__ = '2.13.0'\n{line}\n")
    spec = ModuleSpec("torch", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(doctor, "find_spec", lambda _: spec)

    assert doctor._torch_cuda() == cuda


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_a_gpu_that_is_not_there_is_said_with_what_to_do(monkeypatch, name):
    monkeypatch.setattr(doctor, "_DRIVER", "/nowhere/nvidia-smi")
    finding = device(settings(name))
    assert finding.verdict is CheckVerdict.FAIL
    assert "CALLSCRIBE_DEVICE" in finding.remedy
