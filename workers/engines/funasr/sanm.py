"""FunASR's encoders and decoders in a forward pass of our own: few operations, one precision.

Gao et al. (2020), "SAN-M: Memory Equipped Self-Attention for End-to-End Speech Recognition": each
layer attends to the frames, and adds what a convolution over the values remembers of each frame's
surroundings. The weights are FunASR's, and so are the sums, but for their order.

A device waits for its host: FunASR's own pass is 25 operations a layer, of which each costs the
host as much as it costs a GPU to compute it, and under autocast ten more, which cast the same
weights each time. Here rows of all regions lie under each other, so that a linear layer is one
product; attention is fused; nothing is dropped out, padded or copied; and weights are held in the
precision that is asked for. The sums of the residual stream and what normalises it stay in float32,
as under autocast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import conv1d, layer_norm, scaled_dot_product_attention


class RowMask(NamedTuple):
    """Which of ``regions * frames`` rows, under each other, are not padding.

    ``factors`` is 1 or 0, ``(regions, frames)``, in the precision that the network computes in;
    ``attention`` the same as a mask of attention, bool ``(regions, 1, 1, frames)``.
    """

    factors: Tensor
    attention: Tensor

    @property
    def column(self) -> Tensor:
        """The factors of rows, ``(regions * frames, 1)``."""
        return self.factors.view(-1, 1)


def mask_rows(lengths: Tensor, frames: int, dtype: torch.dtype) -> RowMask:
    """Return which of ``frames`` frames each region has, by its length, int ``(regions,)``."""
    is_row = torch.arange(frames, device=lengths.device) < lengths[:, None]
    return RowMask(is_row.to(dtype), is_row[:, None, None, :])


class PartRunner(Protocol):
    """Runs a function of tensors, whose shapes and ``name`` say all that it depends on.

    Directly, or by a replay: :mod:`workers.engines.funasr.cuda_graphs`.
    """

    def __call__(
        self, name: str, function: Callable[..., tuple[Tensor, ...]], /, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the function's result."""


class _Linear:
    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        module.to(dtype)
        self.weight: Tensor = module.weight.detach().t()
        self.bias: Tensor | None = None if module.bias is None else module.bias.detach()

    def apply(self, rows: Tensor) -> Tensor:
        if self.bias is None:
            return torch.mm(rows, self.weight)
        return torch.addmm(self.bias, rows, self.weight)


class _Norm:
    """Normalises rows in the precision of its weights, and returns them in ``output_dtype``."""

    def __init__(
        self, module: Any, output_dtype: torch.dtype, dtype: torch.dtype = torch.float32
    ) -> None:
        module.to(dtype)
        self._shape: Sequence[int] = module.normalized_shape
        self._weight, self._bias, self._eps = module.weight, module.bias, module.eps
        self._output_dtype = output_dtype

    def apply(self, rows: Tensor) -> Tensor:
        normal_rows = layer_norm(rows, self._shape, self._weight, self._bias, self._eps)
        same = normal_rows.dtype == self._output_dtype
        return normal_rows if same else normal_rows.to(self._output_dtype)


class _Memory:
    """The convolution over each value's own past and future frames, and the frame itself."""

    def __init__(self, attention: Any, dtype: torch.dtype, bias: Tensor | None = None) -> None:
        # Of the attention's output, to which the memory is added: both are added at once.
        self._bias = bias
        block = attention.fsmn_block.to(dtype)
        self._weight: Tensor = block.weight.detach()
        self._groups: int = block.groups
        left, right = attention.pad_fn.padding
        # Padded alike on both sides, which a convolution does by itself; what lies behind the
        # frames, where the left is the longer one, is left out.
        self._padding = max(left, right)
        self._first = self._padding - left

    def apply(self, rows: Tensor, mask: RowMask) -> Tensor:
        """Return the memory of such rows, ``(regions * frames, values)``."""
        regions, frames = mask.factors.shape
        memory = rows * mask.column
        columns = memory.view(regions, frames, -1).transpose(1, 2)
        sums = conv1d(columns, self._weight, self._bias, padding=self._padding, groups=self._groups)
        frame_sums = sums[..., self._first : self._first + frames]
        memory.view(regions, frames, -1).add_(frame_sums.transpose(1, 2))
        return memory


class _EncoderLayer:
    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        attention, forward = module.self_attn, module.feed_forward
        self._heads: int = attention.h
        self._norm1 = _Norm(module.norm1, dtype)
        self._qkv = _Linear(attention.linear_q_k_v, dtype)
        self._out = _Linear(attention.linear_out, dtype)
        self._memory = _Memory(attention, dtype, self._out.bias)
        self._norm2 = _Norm(module.norm2, dtype)
        self._wide = _Linear(forward.w_1, dtype)
        self._narrow = _Linear(forward.w_2, dtype)
        self._has_residual: bool = module.in_size == module.size

    def apply(self, rows: Tensor, mask: RowMask) -> Tensor:
        """Return the rows of the next layer; overwrite ``rows``."""
        regions, frames = mask.factors.shape
        qkv = self._qkv.apply(self._norm1.apply(rows))
        heads = qkv.view(regions, frames, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        queries, keys, values = heads.unbind(0)
        attention = _attend(queries, keys, values, mask.attention)
        value_rows = qkv[:, qkv.shape[1] // 3 * 2 :]
        update = self._memory.apply(value_rows, mask).addmm_(attention, self._out.weight)
        rows = rows.add_(update) if self._has_residual else update.float()
        wide_rows = self._wide.apply(self._norm2.apply(rows)).relu_()
        return rows.add_(self._narrow.apply(wide_rows))


class _DecoderLayer:
    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        forward = module.feed_forward
        self._norm1 = _Norm(module.norm1, dtype)
        self._wide = _Linear(forward.w_1, dtype)
        self._norm = _Norm(forward.norm, dtype, dtype)
        self._narrow = _Linear(forward.w_2, dtype)
        self._memory: _Memory | None = None
        self._query: _Linear | None = None
        if module.self_attn is not None:
            self._norm2 = _Norm(module.norm2, dtype, dtype)
            self._memory = _Memory(module.self_attn, dtype)
        if module.src_attn is not None:
            attention = module.src_attn
            self._heads: int = attention.h
            self._norm3 = _Norm(module.norm3, dtype)
            self._query = _Linear(attention.linear_q, dtype)
            self._keys_values = _Linear(attention.linear_k_v, dtype)
            self._out = _Linear(attention.linear_out, dtype)

    def apply(self, rows: Tensor, mask: RowMask, source: Tensor, source_mask: Tensor) -> Tensor:
        """Return the rows of the next layer; overwrite ``rows``. Shapes: :class:`SanmDecoder`."""
        hidden = self._wide.apply(self._norm1.apply(rows)).relu_()
        hidden = self._narrow.apply(self._norm.apply(hidden))
        if self._memory is None:
            return hidden.float()
        rows = rows.add_(self._memory.apply(self._norm2.apply(hidden), mask))
        if self._query is None:
            return rows
        regions, tokens = mask.factors.shape
        frames = source_mask.shape[-1]
        query = self._query.apply(self._norm3.apply(rows))
        query = query.view(regions, tokens, self._heads, -1).transpose(1, 2)
        keys_values = self._keys_values.apply(source).view(regions, frames, 2, self._heads, -1)
        keys, values = keys_values.permute(2, 0, 3, 1, 4).unbind(0)
        return rows.add_(self._out.apply(_attend(query, keys, values, source_mask)))


def _attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Return rows of heads ``(regions, heads, frames, values)``, after attention."""
    heads = scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    return heads.transpose(1, 2).reshape(heads.shape[0] * heads.shape[2], -1)


class SanmEncoder:
    """A SANMEncoder or a SenseVoiceEncoderSmall, of FunASR's weights in one precision."""

    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        self._scale = float(module.output_size() ** 0.5)
        self._embed = module.embed
        self._positions: Tensor | None = None
        # Layers, and what normalises after them: a SenseVoice has two such parts.
        self._parts = [
            ([_EncoderLayer(layer, dtype) for layer in layers], _Norm(norm, torch.float32))
            for layers, norm in _encoder_parts(module)
        ]

    def apply(self, features: Tensor, mask: RowMask) -> Tensor:
        """Return float32 ``(regions, frames, values)``, of features of the same shape."""
        regions, frames, width = features.shape
        inputs = torch.add(self._encode_positions(frames, width), features, alpha=self._scale)
        rows = inputs.view(regions * frames, width)
        for layers, norm in self._parts:
            for layer in layers:
                rows = layer.apply(rows, mask)
            rows = norm.apply(rows)
        return rows.view(regions, frames, -1)

    def _encode_positions(self, frames: int, width: int) -> Tensor:
        """Return what is added to each frame for its position, ``(1, frames, width)``."""
        if self._positions is None or self._positions.shape[1] < frames:
            device = self._parts[0][0][0]._qkv.weight.device
            count = -(-frames // _POSITIONS_STEP) * _POSITIONS_STEP
            positions = torch.arange(1, count + 1, device=device)[None]
            self._positions = self._embed.encode(positions, width, torch.float32)
        return self._positions[:, :frames]


#: Positions are encoded for so many frames at a time, which is half a minute.
_POSITIONS_STEP = 512


class SanmDecoder:
    """A ParaformerSANMDecoder, of FunASR's weights in one precision."""

    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._layers = [_DecoderLayer(layer, dtype) for layer in _decoder_layers(module)]
        self._norm = _Norm(module.after_norm, dtype)
        layer = module.output_layer
        self._output = None if layer is None else _Linear(layer, dtype)

    def apply(
        self, source: Tensor, source_mask: Tensor, embeddings: Tensor, mask: RowMask
    ) -> Tensor:
        """Return ``(regions * tokens, values)``, before the layer that scores.

        Args:
            source: the frames to attend to, float32 ``(regions, frames, values)``.
            source_mask: which of them are not padding, bool ``(regions, 1, 1, frames)``.
            embeddings: float32 ``(regions, tokens, values)``.
            mask: which tokens are not padding.
        """
        source_rows = source.to(self._dtype).flatten(0, 1)
        rows = embeddings.flatten(0, 1).clone()
        for layer in self._layers:
            rows = layer.apply(rows, mask, source_rows, source_mask)
        return self._norm.apply(rows)

    def score(self, hidden: Tensor) -> Tensor:
        """Return float32 ``(rows, ids)``: the scores of every token, before a softmax."""
        if self._output is None:
            raise ValueError("a decoder without an output layer scores nothing")
        return self._output.apply(hidden).float()


def _encoder_parts(module: Any) -> Iterator[tuple[Iterable[Any], Any]]:
    """Yield an encoder's layers, and what normalises after them."""
    yield [*module.encoders0, *module.encoders], module.after_norm
    if len(getattr(module, "tp_encoders", ())):
        yield module.tp_encoders, module.tp_norm


def _decoder_layers(module: Any) -> list[Any]:
    parts = (module.decoders, module.decoders2, module.decoders3)
    return [layer for part in parts if part is not None for layer in part]


def is_supported_model(model: Any) -> bool:
    """Tell whether a model's networks are of the kind that is computed here.

    A later FunASR, or a model of somebody's own, may have layers that look alike and are not.
    """
    encoder, decoder = model.encoder, getattr(model, "decoder", None)
    layers = [layer for part, _ in _encoder_parts(encoder) for layer in part]
    is_supported_encoder = (
        type(encoder).__name__ in ("SANMEncoder", "SenseVoiceEncoderSmall")
        and type(encoder.embed).__name__ == "SinusoidalPositionEncoder"
        and not getattr(encoder, "interctc_layer_idx", ())
        and all(_is_supported_layer(layer, "EncoderLayerSANM") for layer in layers)
    )
    if decoder is None:
        return is_supported_encoder
    return (
        is_supported_encoder
        and type(decoder).__name__ == "ParaformerSANMDecoder"
        and all(
            _is_supported_layer(layer, "DecoderLayerSANM") for layer in _decoder_layers(decoder)
        )
    )


def _is_supported_layer(layer: Any, name: str) -> bool:
    activation = type(layer.feed_forward.activation).__name__
    lora_layers = [part for part in layer.modules() if hasattr(part, "lora_A")]
    return (
        type(layer).__name__ == name
        and activation == "ReLU"
        and bool(layer.normalize_before)
        and not layer.concat_after
        and not lora_layers
    )
