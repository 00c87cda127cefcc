"""A GPU that works, found out before a segment is decoded on it.

CUDA fails late: a driver that is too old shows at the first call, a library that is missing at the
first product of matrices, memory that is short while weights are copied. Whatever fails while
models are loaded and tried out is this host's fault and no segment's: it leaves the work to others.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from schema.errors import CallscribeError, ErrorCode, Misconfigured
from schema.span import Span
from workers.engines.base import Recognizer, SpeechDetector

#: What CTranslate2 opens by name when it first multiplies matrices, whatever CUDA torch brought;
#: the first is needed by the second. Their wheel lies where the system's loader does not look.
_CUBLAS = ("libcublasLt.so.12", "libcublas.so.12")
_CUBLAS_PACKAGE = "nvidia.cublas"
#: What cuBLAS 12.9 opens by name in its turn, where it compiles a product for a shape.
_NVRTC = "libnvrtc.so.12"
_NVRTC_PACKAGE = "nvidia.cuda_nvrtc"

#: Of silence: the shortest that each network computes something of.
_TRIAL_MS = 1_000
_TRIAL_SAMPLES = _TRIAL_MS * 16


def is_gpu(device: str) -> bool:
    """Tell whether a device, as it is configured, is one that CUDA runs."""
    return device.startswith("cuda")


def prepare() -> None:
    """Set what torch computes with, in this process, before a network is loaded.

    float32 means float32: by default convolutions and LSTMs round their factors to ten bits on a
    GPU (TF32). And attention is not computed by cuDNN, which builds a plan for each shape that it
    meets, up to half a second each, and keeps them all.
    """
    import torch

    backends: Any = torch.backends
    for part in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn):
        part.fp32_precision = "ieee"
    backends.cuda.enable_cudnn_sdp(False)


@contextmanager
def working(device: str) -> Iterator[None]:
    """Have whatever a GPU or its libraries raise in here name this host, and cost no segment.

    Raises:
        Misconfigured: something did.
    """
    try:
        yield
    except CallscribeError:
        raise
    except (RuntimeError, AssertionError, ValueError, OSError) as error:
        if not is_gpu(device):
            raise
        raise _unusable(device, error) from error


def _unusable(device: str, error: Exception) -> Misconfigured:
    lines = str(error).splitlines()
    cause = lines[0] if lines else type(error).__name__
    if "out of memory" in str(error).casefold():
        return Misconfigured(
            ErrorCode.MEMORY_SHORT,
            f"device {device}",
            cause,
            "See what else holds its memory (nvidia-smi), or choose a smaller model.",
        )
    return Misconfigured(
        ErrorCode.DEVICE_UNUSABLE,
        f"device {device}",
        cause,
        "See the driver, CUDA and libraries of this host: producer doctor.",
    )


def load_cublas() -> list[Path]:
    """Load what CTranslate2 will open by name, from where its wheels lie; return the files.

    Where a wheel is not installed, the system's own library is left to be found.

    Raises:
        OSError: a library is there and cannot be loaded.
    """
    places = [(_NVRTC_PACKAGE, _NVRTC), *((_CUBLAS_PACKAGE, name) for name in _CUBLAS)]
    paths = [path for package, name in places if (path := _library(package, name)) is not None]
    for path in paths:
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    return paths


def _library(package: str, name: str) -> Path | None:
    try:
        spec = find_spec(package)
    except ModuleNotFoundError:
        return None
    places: Sequence[str] = (spec.submodule_search_locations or ()) if spec else ()
    paths = (Path(place) / "lib" / name for place in places)
    return next((path for path in paths if path.is_file()), None)


def try_out(detector: SpeechDetector, recognizer: Recognizer) -> None:
    """Put a second of silence through each network, as a segment would go.

    Raises:
        Exception: what the device or a library makes of it.
    """
    silence = np.zeros(_TRIAL_SAMPLES, np.float32)
    detector.detect(silence)
    recognizer.decode(silence, (Span(0, _TRIAL_MS),), language="auto")
