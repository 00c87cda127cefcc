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

#: The start and the end of each token, in ms.
Times = npt.NDArray[np.int64]

#: A token fires a little before the whole number: sums of many weights fall short of it.
_FIRE_THRESHOLD = 1.0 - 1e-4

#: Frames of the upsampled weights in one of the encoder's, and how long each is.
UPSAMPLING_FACTOR = 3
_FRAME_S = 10.0 * 6 / 1000 / UPSAMPLING_FACTOR

#: In upsampled frames: a token fires this late, lasts no longer, and is followed by silence if the
#: audio goes on for longer.
_FIRE_DELAY = 1.5
_MAX_DURATION = 12
_MAX_TAIL = 5


def integrate(hidden: Tensor, weights: Tensor, tokens: int) -> Tensor:
    """Return the embeddings of the first ``tokens`` tokens, ``(regions, tokens, values)``.

    Args:
        hidden: ``(regions, frames, values)``.
        weights: float32 ``(regions, frames)``, 0 where a region is padded.
        tokens: how many fire in the region with the most.
    """
    sums = weights.double().cumsum(dim=1)
    starts = torch.arange(tokens, device=weights.device, dtype=sums.dtype)[None, :, None]
    share_starts = torch.maximum((sums - weights)[:, None], starts)
    shares = torch.minimum(sums[:, None], starts + 1) - share_starts
    return shares.clamp_min_(0).to(hidden.dtype) @ hidden


def upsampled_token_times(weights: npt.NDArray[np.floating[Any]], tokens: int) -> Times:
    """Return when each token of a region is said: int64 ``(tokens, 2)``, ms from its start.

    ``weights`` are float ``(frames,)``, one for each upsampled frame of the region.
    """
    if not tokens:
        return np.zeros((0, 2), np.int64)
    fire_frames = _fire_frames(weights)
    if len(fire_frames) != tokens + 1:
        # As many tokens must fire as were written: the weights are scaled to fit.
        total = float(np.sum(weights, dtype=np.float64))
        fire_frames = _fire_frames(weights * ((tokens + 1) / (total or 1.0)))
    positions = fire_frames - _FIRE_DELAY
    starts, next_starts = positions[:-1], positions[1:]
    ends = np.minimum(next_starts, starts + _MAX_DURATION)
    if len(ends) and ends[-1] == next_starts[-1]:
        has_silence = len(weights) - positions[-1] > _MAX_TAIL
        ends[-1] = (len(weights) + positions[-1]) * 0.5 if has_silence else len(weights)
    # As FunASR rounds it.
    exact_ms = np.stack([starts, ends], axis=1)[:tokens] * _FRAME_S * 1000
    times_ms = np.maximum(0, exact_ms.astype(np.int64))
    # Tokens that never fired are said where the last one was.
    last_ms = times_ms[-1, 1] if len(times_ms) else 0
    missing_times_ms = np.full((tokens - len(times_ms), 2), last_ms, np.int64)
    return np.concatenate([times_ms, missing_times_ms])


def plain_token_times(weights: npt.NDArray[np.floating[Any]], tokens: int, frame_ms: int) -> Times:
    """Return when each token is said, by the frames whose weights it is made of.

    int64 ``(tokens, 2)``, ms from the region's start; ``weights`` are float ``(frames,)``, of
    frames of ``frame_ms``.
    """
    sums = np.cumsum(weights, dtype=np.float64)
    whole_numbers = np.arange(1, tokens + 1)
    frames = np.searchsorted(sums, whole_numbers, side="left")
    fires = frames < len(weights)
    edges = np.full(tokens + 1, float(len(weights)))
    edges[0] = 0.0
    fire_weights = weights[frames[fires]].astype(np.float64)
    previous_sums = np.concatenate([[0.0], sums])[frames[fires]]
    edges[1:][fires] = frames[fires] + (whole_numbers[fires] - previous_sums) / fire_weights
    edges_ms = np.rint(edges * frame_ms).astype(np.int64)
    return np.stack([edges_ms[:-1], edges_ms[1:]], axis=1)


def _fire_frames(weights: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]:
    """Return the frames at which a token fires, one a frame at most.

    Of so many frames no more tokens can have fired than whole weights went in by any earlier frame,
    and frames came since.
    """
    frames = np.arange(len(weights))
    whole_weights = np.floor(np.cumsum(weights, dtype=np.float64) / _FIRE_THRESHOLD)
    counts = frames + np.minimum(1, np.minimum.accumulate(whole_weights - frames))
    return np.flatnonzero(np.diff(counts, prepend=0.0) > 0)
