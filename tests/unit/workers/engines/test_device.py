"""What a GPU's host says of itself where the GPU, its driver or a library does not work."""

import ctypes
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import SecretStr

from schema.errors import BadRequest, ErrorCode, Misconfigured
from schema.profile import load_profile
from schema.settings import Settings
from schema.span import Span
from workers.engines import device as devices
from workers.engines.base import DecodedSpeech
from workers.engines.device import configure_torch, load_cublas, report_device_errors, run_trial
from workers.segment import pipeline
from workers.segment.pipeline import SegmentDecoder

PROFILE = load_profile("call")

#: As torch, CTranslate2 and the C library say them.
FAULTS = [
    (AssertionError("Torch not compiled with CUDA enabled"), ErrorCode.DEVICE_UNUSABLE),
    (RuntimeError("Found no NVIDIA driver on your system."), ErrorCode.DEVICE_UNUSABLE),
    (RuntimeError("CUDA error: no kernel image is available\nfor you"), ErrorCode.DEVICE_UNUSABLE),
    (RuntimeError("Library libcublas.so.12 is not found"), ErrorCode.DEVICE_UNUSABLE),
    (ValueError("unsupported device cuda"), ErrorCode.DEVICE_UNUSABLE),
    (OSError("libcublas.so.12: cannot open shared object file"), ErrorCode.DEVICE_UNUSABLE),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), ErrorCode.MEMORY_SHORT),
    (RuntimeError("CUDA failed with error out of memory"), ErrorCode.MEMORY_SHORT),
]


class Network:
    """A detector and a recognizer that fail as they are told, and record their calls."""

    def __init__(self, fault=None):
        self.fault = fault
        self.heard = []

    def detect(self, samples):
        self.heard.append(("detect", len(samples), samples.any()))
        return ()

    def decode(self, samples, regions, *, language, hotwords=(), check_cancelled=lambda: None):
        self.heard.append(("decode", tuple(regions), language))
        if self.fault is not None:
            raise self.fault
        return DecodedSpeech((), None)


class Bank:
    def clear(self):
        """Nothing was computed."""


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    """Settings of a host with a GPU, whose memory is a stand-in."""
    monkeypatch.setattr("workers.engines.model_memory.free_bytes", lambda _: 1 << 40)
    monkeypatch.setattr(pipeline, "load_filter_bank", lambda _: Bank())
    return Settings(
        database_url=SecretStr("postgresql://"),
        redis_url=SecretStr("redis://"),
        models=tmp_path,
        device="cuda:0",
    )


@pytest.mark.parametrize(("fault", "code"), FAULTS)
def test_whatever_a_gpu_raises_is_its_hosts_fault(fault, code):
    with pytest.raises(Misconfigured) as caught, report_device_errors("cuda:0"):
        raise fault

    assert caught.value.code is code
    assert caught.value.subject == "device cuda:0"
    assert "\n" not in str(caught.value)


def test_what_a_cpu_raises_stays_what_it_is():
    with pytest.raises(RuntimeError, match="broken"), report_device_errors("cpu"):
        raise RuntimeError("broken")


def test_what_has_a_code_keeps_it():
    error = BadRequest(ErrorCode.OPTION_INVALID, "x", "y")

    with pytest.raises(BadRequest), report_device_errors("cuda"):
        raise error


def test_a_trial_decodes_silence():
    network = Network()

    run_trial(network, network)

    assert network.heard == [("detect", 16_000, np.False_), ("decode", (Span(0, 1_000),), "auto")]


@pytest.mark.parametrize(("fault", "code"), FAULTS)
@pytest.mark.parametrize("stage", ["bank", "detector", "recognizer", "trial"])
def test_a_host_whose_gpu_fails_while_it_loads_leaves_the_work_to_others(
    gpu, monkeypatch, stage, fault, code
):
    def load(what, network):
        def loaded(*_):
            if stage == what:
                raise fault
            return network

        return loaded

    network = Network(fault if stage == "trial" else None)
    monkeypatch.setattr(pipeline, "load_filter_bank", load("bank", Bank()))
    monkeypatch.setattr(pipeline, "load_detector", load("detector", network))
    monkeypatch.setattr(pipeline, "load_recognizer", load("recognizer", network))
    decoder = SegmentDecoder(gpu)

    with pytest.raises(Misconfigured) as caught:
        decoder._load(decoder.profile_for_host(PROFILE))

    assert caught.value.code is code
    assert decoder._models is None


def test_a_device_is_opened_before_it_is_asked_what_it_has_free(gpu, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "workers.engines.model_memory.free_bytes", lambda _: asked.append("free") or 1 << 40
    )
    monkeypatch.setattr(pipeline, "load_filter_bank", lambda _: asked.append("open") or Bank())

    SegmentDecoder(gpu).profile_for_host(PROFILE)

    assert asked == ["open", "free"]


def test_a_cpu_has_no_trial(gpu, monkeypatch):
    network = Network()
    monkeypatch.setattr(pipeline, "load_detector", lambda *_: network)
    monkeypatch.setattr(pipeline, "load_recognizer", lambda *_: network)

    SegmentDecoder(gpu.model_copy(update={"device": "cpu"}))._load(PROFILE)

    assert network.heard == []


@pytest.mark.parametrize("has_nvrtc", [True, False])
def test_cublas_is_loaded_from_where_its_wheels_lie_what_it_needs_first(
    tmp_path, monkeypatch, has_nvrtc
):
    names = {"nvidia.cublas": ["libcublas.so.12", "libcublasLt.so.12"]}
    names |= {"nvidia.cuda_nvrtc": ["libnvrtc.so.12"]} if has_nvrtc else {}
    for package, libraries in names.items():
        (tmp_path / package / "lib").mkdir(parents=True)
        for name in libraries:
            (tmp_path / package / "lib" / name).touch()

    def find(package):
        if package not in names:
            raise ModuleNotFoundError(package)
        spec = ModuleSpec(package, None, is_package=True)
        spec.submodule_search_locations = [str(tmp_path / package)]
        return spec

    monkeypatch.setattr(devices, "find_spec", find)
    loaded = []
    monkeypatch.setattr(ctypes, "CDLL", lambda path, mode: loaded.append((Path(path).name, mode)))

    paths = load_cublas()

    wanted = ["libnvrtc.so.12"] if has_nvrtc else []
    assert [path.name for path in paths] == [*wanted, "libcublasLt.so.12", "libcublas.so.12"]
    assert loaded == [(path.name, ctypes.RTLD_GLOBAL) for path in paths]


def test_without_the_wheel_the_systems_own_cublas_is_left_to_be_found(monkeypatch):
    def missing(_):
        raise ModuleNotFoundError("nvidia")

    monkeypatch.setattr(devices, "find_spec", missing)

    assert load_cublas() == []


def test_float32_means_float32_and_attention_builds_no_plans():
    import torch

    torch.backends.cudnn.conv.fp32_precision = "tf32"
    torch.backends.cuda.enable_cudnn_sdp(True)
    configure_torch()
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    found = [part.fp32_precision for part in (cuda.matmul, cudnn.conv, cudnn.rnn)]
    assert found == ["ieee"] * 3
    assert not cuda.cudnn_sdp_enabled()


def test_a_filter_bank_configures_torch(monkeypatch):
    from workers.engines import features

    calls = []
    monkeypatch.setattr(features, "configure_torch", lambda: calls.append(True))
    features.open_filter_bank("cpu")
    assert calls == [True]
