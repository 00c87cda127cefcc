"""A worker whose device is pretended: it reads real audio, then is as busy as a GPU's host.

    BENCH_DEVICE_MS=25 BENCH_TIMES=FILE python -m ops.bench.pretendworker segments --name asr0

A device computes for so many ms for each segment; meanwhile its host is not idle, but launches: all
operators of a network's layers (:mod:`workers.engines.funasr.sanm`), on next to nothing. Whatever
else wants the interpreter, a thread that reads ahead say, has it between two of them, and the
launches take longer. The device's time is the longer of both: of what it computes, and of what its
host takes to launch it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ops.bench.times import Times
from schema.words import SegmentResult
from workers.__main__ import main
from workers.process.lease import LeasedClaim
from workers.process.metrics import StageSeconds
from workers.segment.pipeline import DecodedOrError, DecodeOutput, SegmentDecoder

if TYPE_CHECKING:
    from workers.context import Worker


#: Layers of Paraformer-large: fifty that hear, sixteen that write.
_LAYERS = 66
#: Minibatches of a segment, by how many segments are decoded together: each is fuller then.
#: Counted over a corpus' regions.
_MINIBATCHES = {1: 2.0, 2: 1.2, 4: 0.75}


class PretendDecoder(SegmentDecoder):
    """Reads segments as every worker does, and says nothing of them after a while."""

    def __init__(self, worker: Worker, device_s: float, times: Times) -> None:
        super().__init__(
            worker.settings, worker.read_samples if worker.settings.reads_ahead else None
        )
        self._device_s = device_s
        self._times = times

    def decode_all(self, claims: Sequence[LeasedClaim]) -> list[DecodedOrError]:
        """Read, note when the device begins and ends, and return silent segments."""
        samples = [self._read(claim) for claim, _ in claims]
        begun_s = time.monotonic()
        each = _MINIBATCHES[max(known for known in _MINIBATCHES if known <= len(claims))]
        _launch(each * len(claims))
        left_s = begun_s + self._device_s * len(claims) - time.monotonic()
        if left_s > 0:
            time.sleep(left_s)
        ended_s = time.monotonic()
        for number in range(len(claims)):
            # As if one after the other: what counts is their sum.
            share_s = (ended_s - begun_s) / len(claims)
            self._times.add(begun_s + number * share_s, begun_s + (number + 1) * share_s)
        del samples
        silent = DecodeOutput(SegmentResult((), (), None), StageSeconds(0.0, 0.0, 0.0))
        return [silent for _ in claims]


def _launch(minibatches: float) -> None:
    """Do what a host does to launch so many minibatches, on next to nothing."""
    import torch
    from torch.nn.functional import conv1d, layer_norm, scaled_dot_product_attention

    regions, frames, heads, width = 1, 8, 4, 32
    rows, wide = torch.zeros(regions * frames, width), torch.zeros(width, 3 * width)
    square, taps = torch.zeros(width, width), torch.zeros(width, 1, 11)
    column, visible = torch.ones(frames, 1), torch.ones(regions, 1, 1, frames, dtype=torch.bool)
    norm, bias = torch.ones(width), torch.zeros(3 * width)
    with torch.inference_mode():
        for _ in range(round(minibatches * _LAYERS)):
            together = torch.addmm(bias, layer_norm(rows, (width,), norm, norm), wide)
            split = together.view(regions, frames, 3, heads, -1).permute(2, 0, 3, 1, 4)
            queries, keys, values = split.unbind(0)
            attended = scaled_dot_product_attention(queries, keys, values, attn_mask=visible)
            memory = rows * column
            memory.view(regions, frames, -1).add_(
                conv1d(memory.view(regions, frames, -1).mT, taps, padding=5, groups=width).mT
            )
            rows.add_(memory.addmm_(attended.transpose(1, 2).reshape(frames, -1), square))
            hidden = torch.addmm(norm, layer_norm(rows, (width,), norm, norm), square).relu_()
            rows.add_(torch.addmm(norm, hidden, square)).zero_()


def prepare(worker: Worker) -> None:
    """Put the pretended device in place of the models."""
    device_s = float(os.environ["BENCH_DEVICE_MS"]) / 1000
    worker.segment_decoder = PretendDecoder(worker, device_s, Times(os.environ["BENCH_TIMES"]))


if __name__ == "__main__":
    sys.exit(main(prepare=prepare))
