"""Log-mel features as Kaldi makes them, in torch, once for each segment.

    samples -> frames of 25 ms every 10 ms -> less their mean -> pre-emphasis -> Hamming window
            -> FFT of 512 -> power -> 80 mel bands -> natural logarithm

The same code on a CPU and on a GPU. FunASR computes these for VAD and for ASR anew, one item at a
time; only how frames are stacked and normalised differs between the two. The definition is
Kaldi's ``compute-fbank-feats`` (https://kaldi-asr.org/doc/feat.html), without dither and without
an energy of its own, on samples scaled to 16 bits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from schema.errors import ErrorCode, Misconfigured
from schema.pcm import SAMPLE_RATE_HZ, Samples
from workers.engines.device import configure_torch

_Array = npt.NDArray[Any]

#: By the precisions that a profile names.
DTYPES: Mapping[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}

#: Milliseconds from one frame to the next.
FRAME_MS = 10

_STEP_SAMPLES = 160
_FRAME_SAMPLES = 400
_FFT_SIZE = 512
_MELS = 80
_LOWEST_HZ = 20.0
_PRE_EMPHASIS = 0.97
_FULL_SCALE = 32_768.0
_MIN_POWER = float(np.finfo(np.float32).eps)

#: Frames computed together on a CPU: their spectra stay in its cache. A GPU takes all at once.
_CPU_FRAMES = 512


@contextmanager
def inference() -> Iterator[None]:
    """Compute without a gradient, and on one thread of the CPU.

    One process a core, or a GPU, is the unit of scaling; a second thread would be in its way.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(threads)


class FilterBank:
    """Computes log-mel features on one device, and caches those of the current segments."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self._cache: list[tuple[Samples, Tensor]] = []
        self._staging_buffer: Tensor | None = None

    def compute(self, samples: Samples) -> Tensor:
        """Return float32 ``(frames, 80)``; cached for this very array until :meth:`clear`.

        Frame ``i`` covers the samples from ``160 i`` on; a stretch that begins on a frame has the
        same features as if it were cut out.
        """
        for cached_samples, mel in self._cache:
            if cached_samples is samples:
                return mel
        with inference():
            mel = self._compute_log_mel(self._copy_to_device(samples))
        self._cache.append((samples, mel))
        return mel

    def clear(self) -> None:
        """Drop the cached segments; the staging buffer stays, as large as the longest yet."""
        self._cache.clear()

    def _copy_to_device(self, samples: Samples) -> Tensor:
        if self.device.type == "cpu":
            return torch.from_numpy(samples)
        # Page-locked, so that the copy does not wait for the device, nor the device for it. The
        # segment before is copied by then: to detect speech in it waits for the device.
        if self._staging_buffer is None or len(self._staging_buffer) < len(samples):
            self._staging_buffer = torch.empty(len(samples), pin_memory=True)
        pinned_samples = self._staging_buffer[: len(samples)]
        pinned_samples.copy_(torch.from_numpy(samples))
        return pinned_samples.to(self.device, non_blocking=True)

    def _compute_log_mel(self, samples: Tensor) -> Tensor:
        count = frame_count(len(samples))
        chunk_frames = _CPU_FRAMES if self.device.type == "cpu" else max(1, count)
        mel = torch.empty((count, _MELS), device=self.device)
        if not count:
            return mel
        frames = samples.unfold(0, _FRAME_SAMPLES, _STEP_SAMPLES)
        for first in range(0, count, chunk_frames):
            chunk = slice(first, first + chunk_frames)
            mel[chunk] = self._frames_to_log_mel(frames[chunk])
        return mel

    def _frames_to_log_mel(self, frames: Tensor) -> Tensor:
        signal = frames * _FULL_SCALE
        signal -= signal.mean(dim=1, keepdim=True)
        windows = torch.empty_like(signal)
        torch.sub(signal[:, 1:], signal[:, :-1], alpha=_PRE_EMPHASIS, out=windows[:, 1:])
        windows[:, 0] = signal[:, 0] * (1 - _PRE_EMPHASIS)
        windows *= self._hamming_window
        spectrum = torch.fft.rfft(windows, _FFT_SIZE)[:, : _FFT_SIZE // 2]
        power = spectrum.real.square() + spectrum.imag.square()
        mel: Tensor = (power @ self._bands).clamp_min_(_MIN_POWER).log_()
        return mel

    @cached_property
    def _hamming_window(self) -> Tensor:
        return torch.hamming_window(_FRAME_SAMPLES, periodic=False, dtype=torch.float64).to(
            self.device, torch.float32
        )

    @cached_property
    def _bands(self) -> Tensor:
        return torch.from_numpy(_mel_bands()).to(self.device)


def open_filter_bank(device: str) -> FilterBank:
    """Return a filter bank on a device: "cpu", "cuda" or "cuda:1".

    Raises:
        Misconfigured: this host, or its torch, has no such device.
    """
    configure_torch()
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise Misconfigured(
            ErrorCode.DEVICE_UNUSABLE,
            f"device {device}",
            str(error).splitlines()[0],
            "Set CALLSCRIBE_DEVICE to a device that this host has: producer doctor.",
        ) from error
    return FilterBank(device)


def frame_count(samples: int) -> int:
    """Return the number of whole frames in so many samples."""
    return 0 if samples < _FRAME_SAMPLES else 1 + (samples - _FRAME_SAMPLES) // _STEP_SAMPLES


def _mel_bands() -> _Array:
    """Return Kaldi's triangular bands, float32 ``(bins, mels)``; the bin at Nyquist is left out."""
    centres = np.linspace(_to_mel(_LOWEST_HZ), _to_mel(SAMPLE_RATE_HZ / 2), _MELS + 2)
    lower, centre, upper = centres[:-2], centres[1:-1], centres[2:]
    bins = _to_mel(np.arange(_FFT_SIZE // 2) * SAMPLE_RATE_HZ / _FFT_SIZE)[:, None]
    rising_edges = (bins - lower) / (centre - lower)
    falling_edges = (upper - bins) / (upper - centre)
    return np.maximum(0, np.minimum(rising_edges, falling_edges)).astype(np.float32)


def _to_mel(frequency_hz: float | _Array) -> _Array:
    return np.asarray(1127.0 * np.log1p(np.asarray(frequency_hz) / 700.0))


@dataclass(frozen=True, slots=True)
class Stacking:
    """Stacks ``width`` neighbouring frames side by side, every ``step`` frames: "low frame rate".

    FunASR calls the two ``lfr_m`` and ``lfr_n``. The first and the last frame are repeated beyond
    the edges.
    """

    width: int
    step: int

    def count(self, frames: int) -> int:
        """Return the number of stacked frames that so many frames make."""
        return -(-frames // self.step)

    def apply(self, mel: Tensor, starts: Tensor, lengths: Tensor, count: int) -> Tensor:
        """Return float32 ``(regions, count, width * mels)``, each region's from its first frame on.

        One operation for all regions, whatever their lengths; what lies behind a region's last
        stacked frame repeats its last frame.

        Args:
            mel: float32 ``(frames, mels)`` that the regions lie in.
            starts: int64 ``(regions,)``, the first frame of each region in ``mel``.
            lengths: int64 ``(regions,)``, the number of frames of each region.
            count: the number of stacked frames in the result.
        """
        steps = torch.arange(count, device=mel.device)[:, None] * self.step
        neighbours = torch.arange(self.width, device=mel.device) - (self.width - 1) // 2
        offsets = (steps + neighbours).clamp_min_(0)[None]
        frames = torch.minimum(offsets, (lengths - 1)[:, None, None]) + starts[:, None, None]
        return mel[frames].flatten(2)


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Adds ``shift`` to a stacked frame, then multiplies by ``scale``: float32 ``(values,)``."""

    shift: Tensor
    scale: Tensor

    def apply(self, stacked_frames: Tensor) -> Tensor:
        """Return the normalised frames."""
        return (stacked_frames + self.shift).mul_(self.scale)

    def to(self, device: torch.device) -> Normalisation:
        """Return the same on a device."""
        return Normalisation(self.shift.to(device), self.scale.to(device))


def read_normalisation(path: Path) -> Normalisation:
    """Read an ``am.mvn``, Kaldi's nnet text with an AddShift and a Rescale component.

    Raises:
        ValueError: it has not both, or of unlike lengths.
    """
    text = path.read_text()
    vectors = {}
    for component in ("AddShift", "Rescale"):
        match = re.search(rf"<{component}>[^\[]*\[([^\]]*)\]", text)
        if not match:
            raise ValueError(f"{path} has no <{component}>")
        vectors[component] = torch.tensor([float(value) for value in match[1].split()])
    shift, scale = vectors["AddShift"], vectors["Rescale"]
    if shift.shape != scale.shape:
        raise ValueError(f"{path}: AddShift and Rescale differ in length")
    return Normalisation(shift, scale)
