"""CAM++: the original weights, in a forward pass of our own that hears each moment once.

    features, less their mean -> convolutions over time and pitch -> dense blocks over time
                              -> mean and deviation of each window -> vector

Wang et al. (2023), "CAM++: A Fast and Efficient Network for Speaker Verification Using
Context-Aware Masking" (https://arxiv.org/abs/2303.00332). FunASR hears every window by itself, and
neighbours share two thirds of theirs. Here windows that touch are one run, which goes through the
network once; only the pooling is by window, and the context of a mask is the mean of a window's
length around each moment. Of the corpus' windows of a hard pair of voices 2 in 100 are nearer the
other voice, where FunASR's way has 3, in less than half of its time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from schema.errors import ErrorCode, Misconfigured
from schema.models import ModelFiles
from schema.pcm import Samples
from schema.settings import Settings
from schema.span import Span
from workers.engines.features import FRAME_MS, FilterBank, inference
from workers.engines.weights import verify_weights

#: The dense blocks: how many layers each has, and how far its convolutions reach.
_BLOCKS = ((12, 1), (24, 2), (16, 2))
_GROWTH = 32
#: The network halves the rate of frames.
_STRIDE = 2
#: What a mask looks at: a second and a fifth, at every seventh of it.
_CONTEXT_FRAMES = 60
_CONTEXT_STEP = 15
#: Zeros between runs that are computed together, as if each were alone: no convolution reaches
#: further. Frames of the features.
_SEPARATOR = 8
#: Frames that are computed together: on a CPU what stays in its cache; on a GPU eight minutes,
#: which take 300 MB.
_CPU_FRAMES, _GPU_FRAMES = 500, 48_000
#: How far the convolutions over time and pitch reach together.
_REACH_FRAMES = 10

#: A run this long ends, and the next window begins another: a CPU's caches hold no more.
_RUN_MAX_MS = 30_000

_EPSILON = 1e-5


class _Run(NamedTuple):
    """Windows that touch, and the stretch that they cover."""

    span: Span
    windows: list[Span]

    @property
    def frames(self) -> int:
        return self.span.duration_ms // FRAME_MS


class CamPlusEmbedder:
    """A loaded CAM++; for one thread at a time."""

    def __init__(self, weights: Mapping[str, Tensor], bank: FilterBank) -> None:
        self._bank = bank
        #: How many frames of the features are computed together.
        self.batch_frames = _CPU_FRAMES if bank.device.type == "cpu" else _GPU_FRAMES
        self._network = _Network(weights, bank.device, self.batch_frames)

    @property
    def dimension(self) -> int:
        """The length of a vector."""
        return self._network.dimension

    def embed(self, samples: Samples, windows: Sequence[Span]) -> npt.NDArray[np.float32]:
        """Return a vector for each window: see :class:`workers.engines.base.VoiceEmbedder`."""
        if not windows:
            return np.empty((0, self.dimension), np.float32)
        mel = self._bank.compute(samples)
        with inference():
            vectors = [self._embed_runs(mel, runs) for runs in self._batches(windows)]
            return torch.cat(vectors).cpu().numpy()

    def _batches(self, windows: Sequence[Span]) -> Iterator[list[_Run]]:
        """Yield runs that are computed together; one that is longer than a batch is alone."""
        batch: list[_Run] = []
        frames = 0
        for run in _find_runs(windows):
            if batch and frames + run.frames > self.batch_frames:
                yield batch
                batch, frames = [], 0
            batch.append(run)
            frames += run.frames + _SEPARATOR
        yield batch

    def _embed_runs(self, mel: Tensor, runs: Sequence[_Run]) -> Tensor:
        """Return float32 ``(windows, dimension)`` of length 1, in order of the runs' windows."""
        pieces, edges, at = [], [], 0
        for run in runs:
            piece = _cut(mel, run.span)
            pieces += [piece - piece.mean(dim=0), piece.new_zeros(_SEPARATOR, piece.shape[1])]
            edges.append((at, at + run.frames))
            at += run.frames + _SEPARATOR
        frames = self._network.forward(torch.cat(pieces[:-1]).T, edges)
        pooled = [
            _pool(frames[:, first : first + window.duration_ms // FRAME_MS // _STRIDE])
            for run, (edge, _) in zip(runs, edges, strict=True)
            for window in run.windows
            for first in [(edge + (window.start_ms - run.span.start_ms) // FRAME_MS) // _STRIDE]
        ]
        return functional.normalize(self._network.project(torch.stack(pooled)))


def _find_runs(windows: Sequence[Span]) -> Iterator[_Run]:
    run: _Run | None = None
    for window in windows:
        touches = run is not None and window.start_ms <= run.span.end_ms
        if run is not None and touches and run.span.duration_ms < _RUN_MAX_MS:
            run = _Run(Span(run.span.start_ms, window.end_ms), [*run.windows, window])
            continue
        if run is not None:
            yield run
        run = _Run(window, [window])
    if run is not None:
        yield run


def _cut(mel: Tensor, span: Span) -> Tensor:
    """Return the frames of a span; beyond the audio the last one is repeated."""
    first, last = span.start_ms // FRAME_MS, span.end_ms // FRAME_MS
    frames = mel[first:last]
    if len(frames) < last - first:
        frames = torch.cat([frames, mel[-1:].expand(last - first - len(frames), -1)])
    return frames


def _pool(frames: Tensor) -> Tensor:
    """Return the mean and the standard deviation of ``(channels, frames)``."""
    return torch.cat([frames.mean(dim=1), frames.std(dim=1)])


@dataclass(frozen=True, slots=True)
class _Scale:
    """A batch normalisation in inference: a factor and a shift for each channel."""

    factor: Tensor
    shift: Tensor

    def apply(self, frames: Tensor) -> Tensor:
        return torch.addcmul(self.shift[:, None], frames, self.factor[:, None])


@dataclass(frozen=True, slots=True)
class _DenseLayer:
    """A layer whose output is added to the channels; the second normalisation is in its weights."""

    scale: _Scale
    weight: Tensor
    bias: Tensor
    local_weight: Tensor
    mask_weights: tuple[Tensor, Tensor]
    mask_biases: tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class _Block:
    layers: tuple[_DenseLayer, ...]
    dilation: int
    scale: _Scale
    weight: Tensor


@dataclass(frozen=True, slots=True)
class _Convolution:
    """A convolution over time and pitch with its normalisation; ``stride`` is over pitch."""

    weight: Tensor
    bias: Tensor
    stride: int = 1

    def apply(self, image: Tensor) -> Tensor:
        padding = self.weight.shape[-1] // 2
        return functional.conv2d(image, self.weight, self.bias, (self.stride, 1), padding)


class _Context(NamedTuple):
    """Where a mask's means are taken: each from ``first`` to before ``last``; the mean of a frame.

    ``mean_of_frame`` has which of them a frame takes.
    """

    first: Tensor
    last: Tensor
    mean_of_frame: Tensor


class _Network:
    """The network in inference; its images are computed in pieces of ``frames``.

    Raises KeyError where a weight is missing.
    """

    def __init__(self, weights: Mapping[str, Tensor], device: torch.device, frames: int) -> None:
        self._frames = frames
        self._weights = {name: value.to(device) for name, value in weights.items()}
        self._device = device
        self._head = [self._convolution("head.conv1", "head.bn1")]
        self._residuals = [
            self._residual(f"head.layer{layer}.{block}", 2 if block == 0 else 1)
            for layer in (1, 2)
            for block in (0, 1)
        ]
        self._tail = self._convolution("head.conv2", "head.bn2", stride=2)
        scale = self._scale("xvector.tdnn.nonlinear.batchnorm")
        self._tdnn_weight = (
            self._weights["xvector.tdnn.linear.weight"] * scale.factor[:, None, None]
        )
        self._tdnn_bias = scale.shift
        self._blocks = [
            self._block(number, layers, dilation)
            for number, (layers, dilation) in enumerate(_BLOCKS, start=1)
        ]
        self._out_scale = self._scale("xvector.out_nonlinear.batchnorm")
        dense_scale = self._scale("xvector.dense.nonlinear.batchnorm")
        dense = self._weights["xvector.dense.linear.weight"].squeeze(-1)
        self._dense_weight = dense * dense_scale.factor[:, None]
        self._dense_bias = dense_scale.shift
        self.dimension = len(dense)

    def project(self, pooled: Tensor) -> Tensor:
        """Return ``(windows, dimension)`` of pooled windows."""
        return functional.linear(pooled, self._dense_weight, self._dense_bias)

    def forward(self, mel: Tensor, edges: Sequence[tuple[int, int]]) -> Tensor:
        """Return ``(channels, frames / 2)`` of ``(mels, frames)``; ``edges`` are of runs."""
        is_run = None if len(edges) == 1 else _mask(edges, mel.shape[1], self._device)
        frames = self._convolve(mel, is_run)
        frames = functional.conv1d(
            frames[None], self._tdnn_weight, self._tdnn_bias, _STRIDE, padding=2
        )[0].relu_()
        half_edges = [(first // _STRIDE, -(-last // _STRIDE)) for first, last in edges]
        is_run = None if is_run is None else is_run[::_STRIDE]
        context = _find_context(half_edges, frames.shape[1], self._device)
        for block in self._blocks:
            frames = _forward_block(block, frames, context, is_run)
        return self._out_scale.apply(frames).relu_()

    def _convolve(self, mel: Tensor, is_run: Tensor | None) -> Tensor:
        """Return ``(channels, frames)``, piece by piece; each sees as far as it reaches."""
        count = mel.shape[1]
        pieces = []
        for first in range(0, count, self._frames):
            start, end = max(0, first - _REACH_FRAMES), first + self._frames + _REACH_FRAMES
            mask = None if is_run is None else is_run[start:end]
            image = self._convolve_piece(mel[:, start:end], mask)
            pieces.append(image[:, first - start :][:, : self._frames])
        return torch.cat(pieces, dim=1)

    def _convolve_piece(self, mel: Tensor, is_run: Tensor | None) -> Tensor:
        def masked(image: Tensor) -> Tensor:
            return image.relu_() if is_run is None else image.relu_().mul_(is_run)

        # Channels last take a tenth less time, on a CPU.
        image = mel[None, None].contiguous(memory_format=torch.channels_last)
        image = masked(self._head[0].apply(image))
        for first, second, shortcut in self._residuals:
            changed = second.apply(masked(first.apply(image)))
            image = masked(changed.add_(image if shortcut is None else shortcut.apply(image)))
        return masked(self._tail.apply(image))[0].flatten(0, 1)

    def _scale(self, name: str) -> _Scale:
        weights = self._weights
        factor = torch.rsqrt(weights[f"{name}.running_var"] + _EPSILON)
        factor = factor * weights.get(f"{name}.weight", factor.new_ones(()))
        shift = weights.get(f"{name}.bias", factor.new_zeros(()))
        return _Scale(factor, shift - weights[f"{name}.running_mean"] * factor)

    def _convolution(self, name: str, norm: str, stride: int = 1) -> _Convolution:
        scale = self._scale(norm)
        weight = self._weights[f"{name}.weight"] * scale.factor[:, None, None, None]
        weight = weight.contiguous(memory_format=torch.channels_last)
        return _Convolution(weight, scale.shift, stride)

    def _residual(
        self, name: str, stride: int
    ) -> tuple[_Convolution, _Convolution, _Convolution | None]:
        shortcut = None
        if stride != 1:
            shortcut = self._convolution(f"{name}.shortcut.0", f"{name}.shortcut.1", stride)
        first = self._convolution(f"{name}.conv1", f"{name}.bn1", stride)
        return first, self._convolution(f"{name}.conv2", f"{name}.bn2"), shortcut

    def _block(self, number: int, layers: int, dilation: int) -> _Block:
        name = f"xvector.transit{number}"
        return _Block(
            tuple(
                self._dense_layer(f"xvector.block{number}.tdnnd{layer + 1}")
                for layer in range(layers)
            ),
            dilation,
            self._scale(f"{name}.nonlinear.batchnorm"),
            self._weights[f"{name}.linear.weight"].squeeze(-1).contiguous(),
        )

    def _dense_layer(self, name: str) -> _DenseLayer:
        weights, scale = self._weights, self._scale(f"{name}.nonlinear2.batchnorm")
        masks = [f"{name}.cam_layer.linear{number}" for number in (1, 2)]
        first, second = (weights[f"{mask}.weight"].squeeze(-1).contiguous() for mask in masks)
        first_bias, second_bias = (weights[f"{mask}.bias"][:, None] for mask in masks)
        weight = weights[f"{name}.linear1.weight"].squeeze(-1) * scale.factor[:, None]
        return _DenseLayer(
            self._scale(f"{name}.nonlinear1.batchnorm"),
            weight.contiguous(),
            scale.shift[:, None],
            weights[f"{name}.cam_layer.linear_local.weight"],
            (first, second),
            (first_bias, second_bias),
        )


def _mask(edges: Sequence[tuple[int, int]], frames: int, device: torch.device) -> Tensor:
    """Return float32 ``(frames,)``: 1 within a run, 0 between."""
    mask = torch.zeros(frames)
    for first, last in edges:
        mask[first:last] = 1
    return mask.to(device)


def _find_context(edges: Sequence[tuple[int, int]], frames: int, device: torch.device) -> _Context:
    """Return where the means of masks are taken, which never reach beyond their run."""
    firsts: list[int] = []
    lasts: list[int] = []
    index = torch.zeros(frames, dtype=torch.int64)
    for first, last in edges:
        steps = torch.arange(first, last, _CONTEXT_STEP)
        index[first:last] = len(firsts) + torch.arange(last - first) // _CONTEXT_STEP
        for centre in (steps + _CONTEXT_STEP // 2).clamp_max(last - 1).tolist():
            start = max(first, min(centre - _CONTEXT_FRAMES // 2, last - _CONTEXT_FRAMES))
            firsts.append(start)
            lasts.append(min(last, start + _CONTEXT_FRAMES))
    return _Context(
        torch.tensor(firsts, device=device), torch.tensor(lasts, device=device), index.to(device)
    )


def _forward_block(
    block: _Block, frames: Tensor, context: _Context, is_run: Tensor | None
) -> Tensor:
    """Return half of the channels that a block leads to; each layer adds some to all before."""
    channels, length = frames.shape
    total = channels + _GROWTH * len(block.layers)
    # All channels, filled as they come: to join them anew in each layer would copy them all.
    grown = frames.new_empty(total, length)
    grown[:channels] = frames
    for layer in block.layers:
        hidden = layer.scale.apply(grown[:channels]).relu_()
        hidden = torch.addmm(layer.bias, layer.weight, hidden).relu_()
        if is_run is not None:
            hidden.mul_(is_run)
        local = functional.conv1d(
            hidden[None], layer.local_weight, padding=block.dilation, dilation=block.dilation
        )[0]
        mask = _context_mask(layer, hidden, context)
        torch.mul(local, mask[:, context.mean_of_frame], out=grown[channels : channels + _GROWTH])
        channels += _GROWTH
    return block.weight @ block.scale.apply(grown).relu_()


def _context_mask(layer: _DenseLayer, hidden: Tensor, context: _Context) -> Tensor:
    """Return how much of each channel passes, by what is around.

    The network adds the mean of a whole window to that of each two seconds: of a window that is no
    longer the same mean twice.
    """
    sums = functional.pad(hidden.cumsum(dim=1, dtype=torch.float64), (1, 0))
    totals = sums[:, context.last] - sums[:, context.first]
    means = (2 * totals / (context.last - context.first)).float()
    first, second = layer.mask_weights
    first_bias, second_bias = layer.mask_biases
    return torch.sigmoid(second @ torch.relu_(first @ means + first_bias) + second_bias)


def load_campplus(model: ModelFiles, settings: Settings, bank: FilterBank) -> CamPlusEmbedder:
    """Verify and load a CAM++, from its one file.

    Raises:
        Misconfigured: the weights are missing or changed, or are not those of a CAM++.
    """
    directory = verify_weights(model, settings.models)
    return CamPlusEmbedder(read_weights(directory, model), bank)


def read_weights(directory: Path, model: ModelFiles) -> dict[str, Tensor]:
    """Return the weights of a verified model, by FunASR's names.

    Raises:
        Misconfigured: they are not those of a CAM++.
    """
    names = [name for name in model.files if name.endswith((".pt", ".bin"))]
    weights: dict[str, Tensor] = {}
    if len(names) == 1:
        weights = torch.load(directory / names[0], map_location="cpu", weights_only=True)
    if "xvector.dense.linear.weight" not in weights or "head.conv1.weight" not in weights:
        raise Misconfigured(
            ErrorCode.WEIGHTS_CHANGED,
            f"model {model.name}",
            "it is not one file with the weights of a CAM++",
            "Name a CAM++ model under [render.voices].",
        )
    return weights
