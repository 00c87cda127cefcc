"""Replays parts of a network as CUDA graphs, where CALLSCRIBE_COMPILE says so.

A part of fifty layers is a thousand launches, each of which costs the host more than it costs a GPU
to compute; recorded once for a shape, all of them are one. Shapes are those of
:data:`workers.engines.minibatch.ROUNDED_SIZES`, so that most minibatches of a night meet a recorded
one. A recording keeps its memory: the seldom used ones are dropped. Where a shape cannot be
recorded, the part runs as it is called, and nothing is lost but time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import structlog
import torch
from torch import Tensor

log = structlog.get_logger(__name__)

#: Recorded shapes at most. Each holds its inputs and outputs, some ten MB of a minibatch.
_MAX_RECORDINGS = 48
#: A shape is recorded when it comes for the second time: most that come once never come again.
_RECORD_AT_CALL = 2

NetworkPart = Callable[..., tuple[Tensor, ...]]
_Key = tuple[str, tuple[tuple[int, ...], ...]]


class _RecordedGraph(NamedTuple):
    graph: Any
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class GraphRunner:
    """Runs parts of networks as graphs: see :class:`workers.engines.funasr.sanm.PartRunner`."""

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        self._device = device
        self._cuda = cuda
        self._calls_by_shape: OrderedDict[_Key, int] = OrderedDict()
        self._recordings: OrderedDict[_Key, _RecordedGraph] = OrderedDict()
        self._is_disabled = False

    def __call__(self, name: str, function: NetworkPart, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the function's result; the next replay of its shape overwrites it."""
        key = name, tuple(tuple(tensor.shape) for tensor in tensors)
        recording = self._recordings.get(key)
        if recording is None and self._should_record(key):
            recording = self._record(key, function, tensors)
        if recording is None:
            return function(*tensors)
        self._recordings.move_to_end(key)
        for recorded_input, tensor in zip(recording.inputs, tensors, strict=True):
            recorded_input.copy_(tensor)
        recording.graph.replay()
        return recording.outputs

    def clear(self) -> None:
        """Drop every recording, with its memory."""
        self._recordings.clear()
        self._calls_by_shape.clear()

    def _should_record(self, key: _Key) -> bool:
        if self._is_disabled:
            return False
        self._calls_by_shape[key] = self._calls_by_shape.pop(key, 0) + 1
        while len(self._calls_by_shape) > 10 * _MAX_RECORDINGS:
            self._calls_by_shape.popitem(last=False)
        return self._calls_by_shape[key] >= _RECORD_AT_CALL

    def _record(
        self, key: _Key, function: NetworkPart, tensors: tuple[Tensor, ...]
    ) -> _RecordedGraph | None:
        while len(self._recordings) >= _MAX_RECORDINGS:
            self._recordings.popitem(last=False)
        inputs = tuple(tensor.clone() for tensor in tensors)
        graph = self._cuda.CUDAGraph()
        try:
            # Once on a side stream, as CUDA asks: libraries choose their algorithms.
            side_stream = self._cuda.Stream(self._device)
            side_stream.wait_stream(self._cuda.current_stream(self._device))
            with self._cuda.stream(side_stream):
                function(*inputs)
            self._cuda.current_stream(self._device).wait_stream(side_stream)
            with self._cuda.graph(graph):
                outputs = function(*inputs)
        except torch.OutOfMemoryError:
            self.clear()
            raise
        except RuntimeError as error:
            # What cannot be recorded here never can: a library that waits for the device.
            self._is_disabled = True
            log.warning("graphs_not_recorded", error=str(error).splitlines()[0])
            return None
        log.info("graph_recorded", part=key[0], shapes=key[1], graphs=len(self._recordings) + 1)
        recording = self._recordings[key] = _RecordedGraph(graph, inputs, outputs)
        return recording
