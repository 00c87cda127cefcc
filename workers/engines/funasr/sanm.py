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


class Rows(NamedTuple):
    """Which rows are not padding, of ``regions * frames`` rows under each other.

    ``present`` is 1 or 0, ``(regions, frames)``, in the precision that the network computes in;
    ``visible`` the same as a mask of attention, bool ``(regions, 1, 1, frames)``.
    """

    present: Tensor
    visible: Tensor

    @property
    def column(self) -> Tensor:
        """The same as a factor of rows, ``(regions * frames, 1)``."""
        return self.present.view(-1, 1)


def rows_of(lengths: Tensor, frames: int, dtype: torch.dtype) -> Rows:
    """Return which of ``frames`` frames each region has, by its length, int ``(regions,)``."""
    present = torch.arange(frames, device=lengths.device) < lengths[:, None]
    return Rows(present.to(dtype), present[:, None, None, :])


#: Computes a network's part as it is called, or by a replay: :mod:`workers.engines.graphs`.
class Run(Protocol):
    """Runs a function of tensors, whose shapes and ``name`` say all that it depends on."""

    def __call__(
        self, name: str, function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        """Return what the function does."""
        ...


class _Linear:
    """A product and a sum, on rows."""

    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        module.to(dtype)
        self.weight: Tensor = module.weight.detach().t()
        self.bias: Tensor | None = None if module.bias is None else module.bias.detach()

    def of(self, rows: Tensor) -> Tensor:
        if self.bias is None:
            return torch.mm(rows, self.weight)
        return torch.addmm(self.bias, rows, self.weight)


class _Norm:
    """Normalises rows: in the precision of its weights, then in that of the network."""

    def __init__(self, module: Any, into: torch.dtype, dtype: torch.dtype = torch.float32) -> None:
        module.to(dtype)
        self._shape: Sequence[int] = module.normalized_shape
        self._weight, self._bias, self._eps = module.weight, module.bias, module.eps
        self._into = into

    def of(self, rows: Tensor) -> Tensor:
        normal = layer_norm(rows, self._shape, self._weight, self._bias, self._eps)
        return normal if normal.dtype == self._into else normal.to(self._into)


class _Memory:
    """The convolution over each value's own past and future frames, and the frame itself."""

    def __init__(self, attention: Any, dtype: torch.dtype, bias: Tensor | None = None) -> None:
        # Of what is added to what is remembered, so that it is added at the same time.
        self._bias = bias
        block = attention.fsmn_block.to(dtype)
        self._weight: Tensor = block.weight.detach()
        self._groups: int = block.groups
        left, right = attention.pad_fn.padding
        # Padded alike on both sides, which a convolution does by itself; what lies behind the
        # frames, where the left is the longer one, is left out.
        self._padding = max(left, right)
        self._first = self._padding - left

    def of(self, rows: Tensor, present: Rows) -> Tensor:
        """Return what is remembered, in ``(regions * frames, values)``, of such rows."""
        regions, frames = present.present.shape
        own = rows * present.column
        columns = own.view(regions, frames, -1).transpose(1, 2)
        summed = conv1d(
            columns, self._weight, self._bias, padding=self._padding, groups=self._groups
        )
        within = summed[..., self._first : self._first + frames]
        own.view(regions, frames, -1).add_(within.transpose(1, 2))
        return own


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

    def of(self, rows: Tensor, present: Rows) -> Tensor:
        """Return the rows of the next layer; those given are overwritten."""
        regions, frames = present.present.shape
        together = self._qkv.of(self._norm1.of(rows))
        heads = together.view(regions, frames, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        queries, keys, values = heads.unbind(0)
        attended = _attended(queries, keys, values, present.visible)
        held = together[:, together.shape[1] // 3 * 2 :]
        added = self._memory.of(held, present).addmm_(attended, self._out.weight)
        rows = rows.add_(added) if self._has_residual else added.float()
        wide = self._wide.of(self._norm2.of(rows)).relu_()
        return rows.add_(self._narrow.of(wide))


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

    def of(self, rows: Tensor, present: Rows, memory: Tensor, visible: Tensor) -> Tensor:
        """Return the rows of the next layer; those given are overwritten.

        Args:
            rows: float32 ``(regions * tokens, values)``.
            present: which of them are tokens.
            memory: what is attended to, ``(regions * frames, values)``.
            visible: which of its frames can be, bool ``(regions, 1, 1, frames)``.
        """
        hidden = self._wide.of(self._norm1.of(rows)).relu_()
        hidden = self._narrow.of(self._norm.of(hidden))
        if self._memory is None:
            return hidden.float()
        rows = rows.add_(self._memory.of(self._norm2.of(hidden), present))
        if self._query is None:
            return rows
        regions, tokens = present.present.shape
        query = self._query.of(self._norm3.of(rows))
        query = query.view(regions, tokens, self._heads, -1).transpose(1, 2)
        both = self._keys_values.of(memory).view(regions, visible.shape[-1], 2, self._heads, -1)
        keys, values = both.permute(2, 0, 3, 1, 4).unbind(0)
        return rows.add_(self._out.of(_attended(query, keys, values, visible)))


def _attended(queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
    """Return rows of heads ``(regions, heads, frames, values)``, after attention."""
    heads = scaled_dot_product_attention(queries, keys, values, attn_mask=visible)
    return heads.transpose(1, 2).reshape(heads.shape[0] * heads.shape[2], -1)


class Encoder:
    """A SANMEncoder or a SenseVoiceEncoderSmall, of FunASR's weights in one precision."""

    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._scale = float(module.output_size() ** 0.5)
        self._embed = module.embed
        self._positions: Tensor | None = None
        # By the part after which it normalises: a SenseVoice has a second one.
        self._parts = [
            ([_EncoderLayer(each, dtype) for each in layers], _Norm(norm, torch.float32))
            for layers, norm in _encoder_parts(module)
        ]

    def of(self, features: Tensor, present: Rows) -> Tensor:
        """Return float32 ``(regions, frames, values)``.

        Args:
            features: float32 ``(regions, frames, values)``; what is padding is of no matter.
            present: which frames are not padding.
        """
        regions, frames, width = features.shape
        placed = torch.add(self._places(frames, width), features, alpha=self._scale)
        rows = placed.view(regions * frames, width)
        for layers, norm in self._parts:
            for layer in layers:
                rows = layer.of(rows, present)
            rows = norm.of(rows)
        return rows.view(regions, frames, -1)

    def _places(self, frames: int, width: int) -> Tensor:
        """Return what is added to each frame for its place, ``(1, frames, width)``."""
        if self._positions is None or self._positions.shape[1] < frames:
            device = self._parts[0][0][0]._qkv.weight.device
            count = -(-frames // _PLACES) * _PLACES
            positions = torch.arange(1, count + 1, device=device)[None]
            self._positions = self._embed.encode(positions, width, torch.float32)
        return self._positions[:, :frames]


#: Places are computed for so many frames at a time, which is half a minute.
_PLACES = 512


class Decoder:
    """A ParaformerSANMDecoder, of FunASR's weights in one precision."""

    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._layers = [_DecoderLayer(each, dtype) for each in _decoder_layers(module)]
        self._norm = _Norm(module.after_norm, dtype)
        layer = module.output_layer
        self._output = None if layer is None else _Linear(layer, dtype)

    def hidden(self, memory: Tensor, visible: Tensor, embeddings: Tensor, present: Rows) -> Tensor:
        """Return ``(regions * tokens, values)``, before the layer that scores.

        Args:
            memory: what is attended to, float32 ``(regions, frames, values)``.
            visible: which of its frames can be, bool ``(regions, 1, 1, frames)``.
            embeddings: float32 ``(regions, tokens, values)``.
            present: which tokens there are.
        """
        kept = memory.to(self.dtype).flatten(0, 1)
        rows = embeddings.flatten(0, 1).clone()
        for layer in self._layers:
            rows = layer.of(rows, present, kept, visible)
        return self._norm.of(rows)

    def scores(self, hidden: Tensor) -> Tensor:
        """Return float32 ``(rows, ids)``: the scores of every token, before a softmax."""
        if self._output is None:
            raise ValueError("a decoder without an output layer scores nothing")
        return self._output.of(hidden).float()


def _encoder_parts(module: Any) -> Iterator[tuple[Iterable[Any], Any]]:
    """Yield an encoder's layers, and what normalises after them."""
    yield [*module.encoders0, *module.encoders], module.after_norm
    if len(getattr(module, "tp_encoders", ())):
        yield module.tp_encoders, module.tp_norm


def _decoder_layers(module: Any) -> list[Any]:
    parts = (module.decoders, module.decoders2, module.decoders3)
    return [layer for part in parts if part is not None for layer in part]


def is_known(model: Any) -> bool:
    """Tell whether a model's networks are of the kind that is computed here.

    A later FunASR, or a model of somebody's own, may have layers that look alike and are not.
    """
    encoder, decoder = model.encoder, getattr(model, "decoder", None)
    layers = [each for part, _ in _encoder_parts(encoder) for each in part]
    known = (
        type(encoder).__name__ in ("SANMEncoder", "SenseVoiceEncoderSmall")
        and type(encoder.embed).__name__ == "SinusoidalPositionEncoder"
        and not getattr(encoder, "interctc_layer_idx", ())
        and all(_is_known_layer(each, "EncoderLayerSANM") for each in layers)
    )
    if decoder is None:
        return known
    return (
        known
        and type(decoder).__name__ == "ParaformerSANMDecoder"
        and all(_is_known_layer(each, "DecoderLayerSANM") for each in _decoder_layers(decoder))
    )


def _is_known_layer(layer: Any, name: str) -> bool:
    activation = type(layer.feed_forward.activation).__name__
    linear = {type(part).__name__ for part in layer.modules() if hasattr(part, "lora_A")}
    return (
        type(layer).__name__ == name
        and activation == "ReLU"
        and bool(layer.normalize_before)
        and not layer.concat_after
        and not linear
    )
