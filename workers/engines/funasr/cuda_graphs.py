"""Parts of a network replayed as CUDA graphs, where CALLSCRIBE_COMPILE says so.

A part of fifty layers is a thousand launches, each of which costs the host more than it costs a GPU
to compute; recorded once for a shape, all of them are one. Shapes are those of buckets
(:data:`workers.engines.minibatch.ROUNDED`), so that most minibatches of a night meet a recorded
one. What a recording computes with it holds for good: the seldom used ones make way. Where a shape
cannot be recorded, the part runs as it is called, and nothing is lost but time.
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
_MOST = 48
#: A shape is recorded when it comes for the second time: most that come once never come again.
_AFTER = 2

Part = Callable[..., tuple[Tensor, ...]]
_Key = tuple[str, tuple[tuple[int, ...], ...]]


class _Recording(NamedTuple):
    """A graph, where it reads from and where it writes to."""

    graph: Any
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class Replayed:
    """Runs parts of networks as graphs: see :class:`workers.engines.funasr.sanm.Run`.

    Args:
        device: a CUDA device.
        cuda: torch.cuda, or what stands in for it.
    """

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        self._device = device
        self._cuda = cuda
        self._seen: OrderedDict[_Key, int] = OrderedDict()
        self._recorded: OrderedDict[_Key, _Recording] = OrderedDict()
        self._refuses = False

    def __call__(self, name: str, function: Part, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return what the function does; it is overwritten by the next replay of its shape."""
        key = name, tuple(tuple(tensor.shape) for tensor in tensors)
        recording = self._recorded.get(key)
        if recording is None and self._is_due(key):
            recording = self._record(key, function, tensors)
        if recording is None:
            return function(*tensors)
        self._recorded.move_to_end(key)
        for own, given in zip(recording.inputs, tensors, strict=True):
            own.copy_(given)
        recording.graph.replay()
        return recording.outputs

    def forget(self) -> None:
        """Let go of every recording, and of the memory that they hold."""
        self._recorded.clear()
        self._seen.clear()

    def _is_due(self, key: _Key) -> bool:
        if self._refuses:
            return False
        self._seen[key] = self._seen.pop(key, 0) + 1
        while len(self._seen) > 10 * _MOST:
            self._seen.popitem(last=False)
        return self._seen[key] >= _AFTER

    def _record(self, key: _Key, function: Part, tensors: tuple[Tensor, ...]) -> _Recording | None:
        while len(self._recorded) >= _MOST:
            self._recorded.popitem(last=False)
        inputs = tuple(tensor.clone() for tensor in tensors)
        graph = self._cuda.CUDAGraph()
        try:
            # Once on a stream beside, as CUDA asks: libraries choose their ways of computing.
            beside = self._cuda.Stream(self._device)
            beside.wait_stream(self._cuda.current_stream(self._device))
            with self._cuda.stream(beside):
                function(*inputs)
            self._cuda.current_stream(self._device).wait_stream(beside)
            with self._cuda.graph(graph):
                outputs = function(*inputs)
        except torch.OutOfMemoryError:
            self.forget()
            raise
        except RuntimeError as error:
            # What cannot be recorded here never can: a library that waits for the device.
            self._refuses = True
            log.warning("graphs_not_recorded", error=str(error).splitlines()[0])
            return None
        log.info("graph_recorded", part=key[0], shapes=key[1], graphs=len(self._recorded) + 1)
        recording = self._recorded[key] = _Recording(graph, inputs, outputs)
        return recording
