"""Continuous integrate-and-fire: from a weight a frame to tokens and their times.

Dong and Xu (2020), "CIF: Continuous Integrate-and-Fire for End-to-End Speech Recognition": frames'
weights add up, and whenever the sum passes a whole number a token fires, whose embedding is the sum
of its frames by the weight that each gave it. FunASR walks through the frames; here a frame's share
in a token is the overlap of two intervals, so that all tokens of all regions are one product of
matrices. Times are those of FunASR's ``ts_prediction_lfr6_standard``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

#: Of tokens: when each begins and ends, in ms.
Times = npt.NDArray[np.int64]

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


def token_times(weights: npt.NDArray[np.floating[Any]], tokens: int) -> Times:
    """Return when each token of a region is said: int64 ``(tokens, 2)``, ms from its start.

    Args:
        weights: float ``(frames,)``, one for each upsampled frame of the region.
        tokens: how many were written.
    """
    if not tokens:
        return np.zeros((0, 2), np.int64)
    fired = _fired(weights)
    if len(fired) != tokens + 1:
        # What is written is not what fired: the weights are stretched to fit.
        fired = _fired(weights * ((tokens + 1) / (_sum(weights) or 1.0)))
    places = fired - _LATE
    begins, nexts = places[:-1], places[1:]
    ends = np.minimum(nexts, begins + _LONGEST)
    if len(ends) and ends[-1] == nexts[-1]:
        silence = len(weights) - places[-1] > _TAIL
        ends[-1] = (len(weights) + places[-1]) * 0.5 if silence else len(weights)
    # As FunASR rounds it.
    times = np.stack([begins, ends], axis=1)[:tokens] * _FRAME_S * 1000
    found = np.maximum(0, times.astype(np.int64))
    # Tokens that never fired are said where the last one was.
    last_ms = found[-1, 1] if len(found) else 0
    missing = np.full((tokens - len(found), 2), last_ms, np.int64)
    return np.concatenate([found, missing])


def fired_times(weights: npt.NDArray[np.floating[Any]], tokens: int, frame_ms: int) -> Times:
    """Return when each token is said, by the frames whose weights it is made of.

    int64 ``(tokens, 2)``, ms from the region's start; ``weights`` are float ``(frames,)``, of
    frames of ``frame_ms``.
    """
    after = np.cumsum(weights, dtype=np.float64)
    whole = np.arange(1, tokens + 1)
    frames = np.searchsorted(after, whole, side="left")
    fired = frames < len(weights)
    edges = np.full(tokens + 1, float(len(weights)))
    edges[0] = 0.0
    own = weights[frames[fired]].astype(np.float64)
    before = np.concatenate([[0.0], after])[frames[fired]]
    edges[1:][fired] = frames[fired] + (whole[fired] - before) / own
    milliseconds = np.rint(edges * frame_ms).astype(np.int64)
    return np.stack([milliseconds[:-1], milliseconds[1:]], axis=1)


def _fired(weights: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]:
    """Return the frames at which a token fires, one a frame at most.

    Of so many frames no more tokens can have fired than whole weights went in by any earlier frame,
    and frames came since.
    """
    frames = np.arange(len(weights))
    whole = np.floor(np.cumsum(weights, dtype=np.float64) / _FIRES_AT)
    fired = frames + np.minimum(1, np.minimum.accumulate(whole - frames))
    return np.flatnonzero(np.diff(fired, prepend=0.0) > 0)


def _sum(weights: npt.NDArray[np.floating[Any]]) -> float:
    return float(np.sum(weights, dtype=np.float64))
