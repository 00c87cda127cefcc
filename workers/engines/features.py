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
from collections.abc import Iterator
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
from schema.pcm import Samples
from workers.engines.device import prepare

_Array = npt.NDArray[Any]

#: Milliseconds from one frame to the next.
FRAME_MS = 10

_RATE_HZ = 16_000
_STEP = 160
_LENGTH = 400
_FFT = 512
_MELS = 80
_LOWEST_HZ = 20.0
_PRE_EMPHASIS = 0.97
_FULL_SCALE = 32_768.0
_FLOOR = float(np.finfo(np.float32).eps)

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
    """The features of the segments at hand, on one device, for whoever asks first and others."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self._known: list[tuple[Samples, Tensor]] = []
        self._staging: Tensor | None = None

    def of(self, samples: Samples) -> Tensor:
        """Return float32 ``(frames, 80)`` of these very samples: computed once, until forgotten.

        Frame ``i`` covers the samples from ``160 i`` on; a stretch that begins on a frame has the
        same features as if it were cut out.
        """
        for known, mel in self._known:
            if known is samples:
                return mel
        with inference():
            mel = self._log_mel(self._on_device(samples))
        self._known.append((samples, mel))
        return mel

    def forget(self) -> None:
        """Let go of the segments; the staging memory stays, as large as the longest yet."""
        self._known.clear()

    def _on_device(self, samples: Samples) -> Tensor:
        if self.device.type == "cpu":
            return torch.from_numpy(samples)
        # Page-locked, so that the copy does not wait for the device, nor the device for it. What
        # was staged before is copied by then: whoever detects speech in it waits for the device.
        if self._staging is None or len(self._staging) < len(samples):
            self._staging = torch.empty(len(samples), pin_memory=True)
        staged = self._staging[: len(samples)]
        staged.copy_(torch.from_numpy(samples))
        return staged.to(self.device, non_blocking=True)

    def _log_mel(self, samples: Tensor) -> Tensor:
        count = frame_count(len(samples))
        together = _CPU_FRAMES if self.device.type == "cpu" else max(1, count)
        mel = torch.empty((count, _MELS), device=self.device)
        if not count:
            return mel
        frames = samples.unfold(0, _LENGTH, _STEP)
        for first in range(0, count, together):
            chosen = slice(first, first + together)
            mel[chosen] = self._log_mel_of(frames[chosen])
        return mel

    def _log_mel_of(self, frames: Tensor) -> Tensor:
        centred = frames * _FULL_SCALE
        centred -= centred.mean(dim=1, keepdim=True)
        emphasised = torch.empty_like(centred)
        torch.sub(centred[:, 1:], centred[:, :-1], alpha=_PRE_EMPHASIS, out=emphasised[:, 1:])
        emphasised[:, 0] = centred[:, 0] * (1 - _PRE_EMPHASIS)
        emphasised *= self._window
        spectrum = torch.fft.rfft(emphasised, _FFT)[:, : _FFT // 2]
        power = spectrum.real.square() + spectrum.imag.square()
        mel: Tensor = (power @ self._bands).clamp_min_(_FLOOR).log_()
        return mel

    @cached_property
    def _window(self) -> Tensor:
        return torch.hamming_window(_LENGTH, periodic=False, dtype=torch.float64).to(
            self.device, torch.float32
        )

    @cached_property
    def _bands(self) -> Tensor:
        return torch.from_numpy(_mel_bands()).to(self.device)


def open_bank(device: str) -> FilterBank:
    """Return a filter bank on a device: "cpu", "cuda" or "cuda:1".

    Raises:
        Misconfigured: this host, or its torch, has no such device.
    """
    prepare()
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
    """Return how many whole frames so many samples hold."""
    return 0 if samples < _LENGTH else 1 + (samples - _LENGTH) // _STEP


def _mel_bands() -> _Array:
    """Return Kaldi's triangular bands, float32 ``(bins, mels)``; the bin at Nyquist is left out."""
    centres = np.linspace(_mel(_LOWEST_HZ), _mel(_RATE_HZ / 2), _MELS + 2)
    left, centre, right = centres[:-2], centres[1:-1], centres[2:]
    bins = _mel(np.arange(_FFT // 2) * _RATE_HZ / _FFT)[:, None]
    rising = (bins - left) / (centre - left)
    falling = (right - bins) / (right - centre)
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def _mel(frequency_hz: float | _Array) -> _Array:
    scaled: _Array = 1127.0 * np.log1p(np.asarray(frequency_hz) / 700.0)
    return scaled


@dataclass(frozen=True, slots=True)
class Stacking:
    """How an encoder's frames are made of ours: ``width`` neighbours side by side, every ``step``.

    The first and the last frame stand in for those beyond the edges ("low frame rate", FunASR's
    ``lfr_m`` and ``lfr_n``).
    """

    width: int
    step: int

    def count(self, frames: int) -> int:
        """Return how many stacked frames so many frames make."""
        return -(-frames // self.step)

    def of(self, mel: Tensor, firsts: Tensor, frames: Tensor, count: int) -> Tensor:
        """Return float32 ``(regions, count, width * mels)``, each region's from its first frame on.

        One operation for all regions, whatever their lengths; what lies behind a region's last
        stacked frame repeats its last frame.

        Args:
            mel: float32 ``(frames, mels)`` that the regions lie in.
            firsts: int64 ``(regions,)``, where in ``mel`` each begins.
            frames: int64 ``(regions,)``, how many frames each has.
            count: how many stacked frames the result has.
        """
        steps = torch.arange(count, device=mel.device)[:, None] * self.step
        neighbours = torch.arange(self.width, device=mel.device) - (self.width - 1) // 2
        within = (steps + neighbours).clamp_min_(0)[None]
        places = torch.minimum(within, (frames - 1)[:, None, None]) + firsts[:, None, None]
        return mel[places].flatten(2)


@dataclass(frozen=True, slots=True)
class Normalisation:
    """What is added to a stacked frame, then what it is multiplied by: float32 ``(values,)``."""

    shift: Tensor
    scale: Tensor

    def of(self, stacked: Tensor) -> Tensor:
        """Return the frames, normalised."""
        return (stacked + self.shift).mul_(self.scale)

    def to(self, device: torch.device) -> Normalisation:
        """Return the same on a device."""
        return Normalisation(self.shift.to(device), self.scale.to(device))


def read_normalisation(path: Path) -> Normalisation:
    """Read an ``am.mvn``, Kaldi's nnet text with an AddShift and a Rescale component.

    Raises:
        ValueError: it has not both, or of unlike lengths.
    """
    text = path.read_text()
    found = {}
    for component in ("AddShift", "Rescale"):
        match = re.search(rf"<{component}>[^\[]*\[([^\]]*)\]", text)
        if not match:
            raise ValueError(f"{path} has no <{component}>")
        found[component] = torch.tensor([float(value) for value in match[1].split()])
    shift, scale = found["AddShift"], found["Rescale"]
    if shift.shape != scale.shape:
        raise ValueError(f"{path}: AddShift and Rescale differ in length")
    return Normalisation(shift, scale)
