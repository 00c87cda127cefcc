"""Continuous integrate-and-fire: from a weight a frame to tokens and their times.

Dong and Xu (2020), "CIF: Continuous Integrate-and-Fire for End-to-End Speech Recognition": frames'
weights add up, and whenever the sum passes a whole number a token fires, whose embedding is the sum
of its frames by the weight that each gave it. FunASR walks through the frames; here a frame's share
in a token is the overlap of two intervals, so that all tokens of all regions are one product of
matrices. Times are those of FunASR's ``ts_prediction_lfr6_standard``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

#: A token fires a little before the whole number: sums of many weights fall short of it.
_FIRES_AT = 1.0 - 1e-4

#: Frames of the upsampled weights in one of the encoder's, and how long each is.
UPSAMPLED = 3
_FRAME_S = 10.0 * 6 / 1000 / UPSAMPLED

#: Upsampled frames: a token fires this late, lasts no longer, and is followed by silence if the
#: audio goes on for longer.
_LATE = 1.5
_LONGEST = 12
_TAIL = 5


def integrate(hidden: Tensor, weights: Tensor, tokens: int) -> Tensor:
    """Return the embeddings of the first ``tokens`` tokens, ``(regions, tokens, values)``.

    Args:
        hidden: ``(regions, frames, values)``.
        weights: float32 ``(regions, frames)``, 0 where a region is padded.
        tokens: how many fire in the region with the most.
    """
    after = weights.double().cumsum(dim=1)
    before = after - weights
    begins = torch.arange(tokens, device=weights.device, dtype=after.dtype)[None, :, None]
    shares = torch.minimum(after[:, None], begins + 1) - torch.maximum(before[:, None], begins)
    return shares.clamp_min_(0).to(hidden.dtype) @ hidden


def token_times(weights: Sequence[float], tokens: int) -> list[tuple[int, int]]:
    """Return when each token of a region is said: start and end in ms from the region's start.

    Args:
        weights: one for each upsampled frame of the region.
        tokens: how many were written.
    """
    if not tokens:
        return []
    fired = _fired(weights)
    if len(fired) != tokens + 1:
        # What is written is not what fired: the weights are stretched to fit.
        scale = (tokens + 1) / (sum(weights) or 1.0)
        fired = _fired([weight * scale for weight in weights])
    places = [at - _LATE for at in fired]
    spans = [[begin, min(end, begin + _LONGEST), end] for begin, end in pairwise(places)]
    if spans and spans[-1][1] == spans[-1][2]:
        silence = len(weights) - places[-1] > _TAIL
        spans[-1][1] = (len(weights) + places[-1]) * 0.5 if silence else len(weights)
    times = [(_ms(begin), _ms(end)) for begin, end, _ in spans[:tokens]]
    # Tokens that never fired are said where the last one was.
    last_ms = times[-1][1] if times else 0
    return times + [(last_ms, last_ms)] * (tokens - len(times))


def _fired(weights: Sequence[float]) -> list[int]:
    """Return the frames at which a token fires."""
    fired, held = [], 0.0
    for frame, weight in enumerate(weights):
        held += weight
        if held >= _FIRES_AT:
            fired.append(frame)
            held -= _FIRES_AT
    return fired


def _ms(place: float) -> int:
    # As FunASR rounds it.
    return max(0, int(place * _FRAME_S * 1000))
