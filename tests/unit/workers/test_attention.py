"""Fused attention gives what FunASR's own layers give, padding or not."""

from __future__ import annotations

import pytest
import torch

from workers.engines.attention import fuse
from workers.engines.guest import guest

with guest():
    from funasr.models.sanm.attention import MultiHeadedAttentionCrossAtt, MultiHeadedAttentionSANM
    from funasr.models.sense_voice.model import MultiHeadedAttentionSANM as OfSenseVoice

VALUES, HEADS, TAPS = 32, 4, 5
LENGTHS = torch.tensor([9, 6, 2])


def frames(count: int) -> torch.Tensor:
    return torch.randn(3, count, VALUES, generator=torch.Generator().manual_seed(count))


def mask_of(count: int) -> torch.Tensor:
    return (torch.arange(count) < LENGTHS[:, None]).float()[:, None]


@pytest.mark.parametrize("kind", [MultiHeadedAttentionSANM, OfSenseVoice])
@pytest.mark.parametrize("masked", [True, False])
def test_attention_within_a_region_is_theirs(kind, masked: bool):
    layer = kind(HEADS, VALUES, VALUES, 0.1, TAPS).eval()
    mask = mask_of(9) if masked else None
    with torch.inference_mode():
        theirs = layer(frames(9), mask)
        assert fuse(layer) == 1
        torch.testing.assert_close(layer(frames(9), mask), theirs)


@pytest.mark.parametrize("masked", [True, False])
def test_attention_to_an_encoder_is_theirs(masked: bool):
    layer = MultiHeadedAttentionCrossAtt(HEADS, VALUES, 0.1).eval()
    mask = mask_of(9) if masked else None
    with torch.inference_mode():
        theirs = layer(frames(4), frames(9), mask)
        assert fuse(layer) == 1
        torch.testing.assert_close(layer(frames(4), frames(9), mask), theirs)


def test_whoever_asks_for_the_chances_gets_them():
    layer = MultiHeadedAttentionCrossAtt(HEADS, VALUES, 0.1).eval()
    fuse(layer)
    with torch.inference_mode():
        _, chances = layer(frames(4), frames(9), mask_of(9), ret_attn=True)
    assert chances.shape == (3, HEADS, 4, 9)
    assert float(chances[2, :, :, 2:].max()) == 0


def test_layers_of_another_kind_are_left_alone():
    assert fuse(torch.nn.Linear(2, 2)) == 0
