"""FunASR's attention, computed by torch's fused kernels.

Its layers write out the chances of every frame against every other, several times over: of eight
regions of thirty seconds 32 MB a layer in float32, read and written by four kernels. The fused ones
keep them in registers; the sums are the same but for their order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def fuse(model: Any) -> int:
    """Give each attention layer of a model that is of a kind we know our forward pass.

    Returns how many layers that were: none where a later FunASR calls them otherwise, which costs
    speed and nothing else.
    """
    found = 0
    for layer in model.modules():
        forward = _FORWARDS.get(type(layer).__name__)
        if forward is not None:
            layer.forward = MethodType(forward, layer)
            found += 1
    return found


def _with_memory(
    layer: Any,
    frames: Tensor,
    mask: Tensor | None,
    mask_shfit_chunk: Tensor | None = None,
    mask_att_chunk_encoder: Tensor | None = None,
) -> Tensor:
    """Attend to the frames themselves, and add what the layer's memory makes of its surroundings.

    Args:
        layer: of the type MultiHeadedAttentionSANM; its ``forward`` has the same arguments.
        frames: ``(regions, frames, values)``.
        mask: ``(regions, 1, frames)``, 0 where a frame is padding.
        mask_shfit_chunk: of a model that hears in chunks.
        mask_att_chunk_encoder: likewise.
    """
    queries, keys, values, flat = layer.forward_qkv(frames)
    memory: Tensor = layer.forward_fsmn(flat, mask, mask_shfit_chunk)
    if mask is not None and mask_att_chunk_encoder is not None:
        mask = mask * mask_att_chunk_encoder
    attended: Tensor = layer.linear_out(_attended(queries, keys, values, mask))
    return attended + memory


def _to_others(
    layer: Any, frames: Tensor, memory: Tensor, memory_mask: Tensor | None, ret_attn: bool = False
) -> Any:
    """Attend to an encoder's output; ``layer`` is of the type MultiHeadedAttentionCrossAtt.

    Whoever asks for the chances, as SeACo does to choose among hotwords, gets them from FunASR.
    """
    if ret_attn:
        return type(layer).forward(layer, frames, memory, memory_mask, ret_attn=True)
    queries, keys, values = layer.forward_qkv(frames, memory)
    return layer.linear_out(_attended(queries, keys, values, memory_mask))


def _attended(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Return ``(regions, frames, values)`` of heads ``(regions, heads, frames, values)``."""
    visible = None if mask is None else mask[:, None].bool()
    heads = scaled_dot_product_attention(queries, keys, values, attn_mask=visible)
    return heads.transpose(1, 2).flatten(2)


_FORWARDS: Mapping[str, Callable[..., Any]] = {
    "MultiHeadedAttentionSANM": _with_memory,
    "MultiHeadedAttentionCrossAtt": _to_others,
}
