"""What a host's workers would decode on."""

from __future__ import annotations

import os

import pytest

from producer import doctor
from producer.doctor import Verdict, device
from schema.settings import Settings


def settings(device_name: str) -> Settings:
    return Settings(
        database_url="postgresql://nowhere/none", redis_url="redis://nowhere", device=device_name
    )


def test_a_cpu_is_told_by_its_cores():
    finding = device(settings("cpu"))
    assert finding.verdict is Verdict.OK
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
    finding = device(settings("cuda:1"))
    assert finding.verdict is Verdict.OK
    assert finding.detail == ("cuda:1: NVIDIA H200, driver 570.1, 143000 MiB free of 143771 MiB")
    assert device(settings("cuda:2")).verdict is Verdict.FAIL


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_a_gpu_that_is_not_there_is_said_with_what_to_do(monkeypatch, name):
    monkeypatch.setattr(doctor, "_DRIVER", "/nowhere/nvidia-smi")
    finding = device(settings(name))
    assert finding.verdict is Verdict.FAIL
    assert "CALLSCRIBE_DEVICE" in finding.remedy
