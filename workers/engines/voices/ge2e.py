"""Resemblyzer's voice encoder: the original weights, in features and a network of our own.

    frames of 25 ms every 10 ms -> power in 40 mel bands -> three LSTM layers -> vector

Wan et al. (2018), "Generalized End-to-End Loss for Speaker Verification"
(https://arxiv.org/abs/1710.10467), as https://github.com/resemble-ai/Resemblyzer trained it. Its
mel bands are librosa's (Slaney's scale), and its powers have no logarithm: so the level counts,
and a window that is fainter than -30 dBFS is raised to that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from schema.errors import ErrorCode, Misconfigured
from schema.models import ModelFiles
from schema.pcm import SAMPLE_RATE_HZ, SAMPLES_PER_MS, Samples
from schema.settings import Settings
from schema.span import Span
from workers.engines.features import FRAME_MS, FilterBank, inference
from workers.engines.weights import verify_weights

_FRAME_SAMPLES = 400
_STEP_SAMPLES = FRAME_MS * SAMPLES_PER_MS
_MELS = 40
_SIZE = 256
_LAYERS = 3
_LEVEL_DBFS = -30
#: Slaney's scale: linear below, logarithmic above.
_LINEAR_HZ_PER_MEL, _BREAK_HZ, _BREAK_MEL, _LOG_STEP = 200 / 3, 1_000.0, 15.0, np.log(6.4) / 27
#: Windows that are computed together.
_CPU_WINDOWS, _GPU_WINDOWS = 64, 2_048

_FILE = "pretrained.pt"


class Ge2eEmbedder:
    """A loaded voice encoder; for one thread at a time."""

    dimension = _SIZE

    def __init__(self, weights: Mapping[str, Tensor], device: torch.device) -> None:
        self._device = device
        self._lstm = nn.LSTM(_MELS, _SIZE, _LAYERS, batch_first=True)
        self._linear = nn.Linear(_SIZE, _SIZE)
        _load(self._lstm, weights, "lstm.")
        _load(self._linear, weights, "linear.")
        self._lstm.to(device).eval()
        self._linear.to(device).eval()
        self._bands = torch.from_numpy(_mel_bands()).to(device)
        self._hann = torch.hann_window(_FRAME_SAMPLES, periodic=True, device=device)
        self._together = _CPU_WINDOWS if device.type == "cpu" else _GPU_WINDOWS

    def embed(self, samples: Samples, windows: Sequence[Span]) -> npt.NDArray[np.float32]:
        """Return a vector for each window: see :class:`workers.engines.base.VoiceEmbedder`."""
        with inference():
            vectors = [
                self._embed(samples, windows[first : first + self._together])
                for first in range(0, len(windows), self._together)
            ]
            return torch.cat([torch.empty(0, _SIZE), *vectors]).numpy()

    def _embed(self, samples: Samples, windows: Sequence[Span]) -> Tensor:
        length = max(window.duration_ms for window in windows) * SAMPLES_PER_MS
        signals = torch.from_numpy(
            np.stack([_raise_level(_cut(samples, window, length)) for window in windows])
        ).to(self._device)
        half = _FRAME_SAMPLES // 2
        frames = functional.pad(signals, (half, half)).unfold(1, _FRAME_SAMPLES, _STEP_SAMPLES)
        spectrum = torch.fft.rfft(frames[:, : length // _STEP_SAMPLES] * self._hann)
        power = spectrum.real.square() + spectrum.imag.square()
        _, (hidden, _) = self._lstm(power @ self._bands)
        return functional.normalize(torch.relu(self._linear(hidden[-1]))).cpu()


def _load(module: nn.Module, weights: Mapping[str, Tensor], prefix: str) -> None:
    module.load_state_dict(
        {
            name.removeprefix(prefix): value
            for name, value in weights.items()
            if name.startswith(prefix)
        }
    )


def _cut(samples: Samples, window: Span, length: int) -> Samples:
    """Return the samples of a window, with silence where the audio has none."""
    first = window.start_ms * SAMPLES_PER_MS
    part = samples[first : window.end_ms * SAMPLES_PER_MS]
    return np.pad(part, (0, length - len(part)))


def _raise_level(samples: Samples) -> Samples:
    root_mean_square = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
    gain = 10 ** (_LEVEL_DBFS / 20) / max(root_mean_square, 1e-6)
    return np.asarray(samples * max(1.0, gain), np.float32)


def _mel_bands() -> npt.NDArray[np.float32]:
    """Return librosa's bands of equal area, float32 ``(bins, mels)``."""
    bins_hz = np.linspace(0, SAMPLE_RATE_HZ / 2, 1 + _FRAME_SAMPLES // 2)
    top_mel = _BREAK_MEL + np.log(SAMPLE_RATE_HZ / 2 / _BREAK_HZ) / _LOG_STEP
    edges_hz = _to_hz(np.linspace(0, top_mel, _MELS + 2))
    lower, centre, upper = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    rising_edges = (bins_hz[:, None] - lower) / (centre - lower)
    falling_edges = (upper - bins_hz[:, None]) / (upper - centre)
    bands = np.maximum(0, np.minimum(rising_edges, falling_edges)) * 2 / (upper - lower)
    return np.asarray(bands, np.float32)


def _to_hz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    linear = mel * _LINEAR_HZ_PER_MEL
    return np.where(mel < _BREAK_MEL, linear, _BREAK_HZ * np.exp(_LOG_STEP * (mel - _BREAK_MEL)))


def load_ge2e(model: ModelFiles, settings: Settings, bank: FilterBank) -> Ge2eEmbedder:
    """Verify and load a voice encoder.

    Raises:
        Misconfigured: the weights are missing or changed, or are another network's.
    """
    directory = verify_weights(model, settings.models)
    checkpoint = torch.load(directory / _FILE, map_location="cpu", weights_only=True)
    try:
        return Ge2eEmbedder(checkpoint["model_state"], bank.device)
    except (KeyError, RuntimeError) as error:
        raise Misconfigured(
            ErrorCode.WEIGHTS_CHANGED,
            f"model {model.name}",
            "its weights are not those of a voice encoder",
            "Fetch the model again.",
        ) from error
