"""Checks that a GPU works before a segment is decoded on it.

CUDA fails late: a driver that is too old shows at the first call, a library that is missing at the
first product of matrices, memory that is short while weights are copied. Whatever fails while
models are loaded and tried out is the fault of the host, not of the segment: other hosts take the
work.
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

#: What CTranslate2 opens by name when it first multiplies matrices, whatever CUDA torch brought,
#: and what that opens in its turn; each needs those before it. Where their wheels lie the system's
#: loader does not look.
_LIBRARIES = (
    ("nvidia.cuda_nvrtc", "libnvrtc.so.12"),
    ("nvidia.cublas", "libcublasLt.so.12"),
    ("nvidia.cublas", "libcublas.so.12"),
)

#: Of silence: the shortest that each network computes something of.
_TRIAL_MS = 1_000
_TRIAL_SAMPLES = _TRIAL_MS * 16


def is_gpu(device: str) -> bool:
    """Tell whether CALLSCRIBE_DEVICE, such as "cuda:1", names a GPU."""
    return device.startswith("cuda")


def configure_torch() -> None:
    """Set torch's precision and attention for this process, before a network is loaded.

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
def report_device_errors(device: str) -> Iterator[None]:
    """Raise errors of a GPU or its libraries as Misconfigured: they are the host's fault."""
    try:
        yield
    except CallscribeError:
        raise
    except (RuntimeError, AssertionError, ValueError, OSError) as error:
        if not is_gpu(device):
            raise
        raise _device_error(device, error) from error


def _device_error(device: str, error: Exception) -> Misconfigured:
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
    """Load the libraries that CTranslate2 opens by name from their wheels; return the files.

    Where a wheel is not installed, CTranslate2 looks for the system's own library.

    Raises:
        OSError: a library is there and cannot be loaded.
    """
    paths = [path for package, name in _LIBRARIES if (path := _find_library(package, name))]
    for path in paths:
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    return paths


def _find_library(package: str, name: str) -> Path | None:
    try:
        spec = find_spec(package)
    except ModuleNotFoundError:
        return None
    directories: Sequence[str] = (spec.submodule_search_locations or ()) if spec else ()
    paths = (Path(directory) / "lib" / name for directory in directories)
    return next((path for path in paths if path.is_file()), None)


def run_trial(detector: SpeechDetector, recognizer: Recognizer) -> None:
    """Put a second of silence through each network.

    Raises:
        Exception: what the device or a library raises.
    """
    silence = np.zeros(_TRIAL_SAMPLES, np.float32)
    detector.detect(silence)
    recognizer.decode(silence, (Span(0, _TRIAL_MS),), language="auto")
