"""Parts of a network replayed: the same figures, recorded for the shapes that come again."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest
import torch

from workers.engines.funasr import cuda_graphs
from workers.engines.funasr.cuda_graphs import GraphRunner


class Graph:
    """Runs what was recorded again, on the same memory, as a CUDA graph does."""

    def __init__(self) -> None:
        self.replay: Any = None


class Cuda:
    """Stands in for torch.cuda: a recording is the function's next call, which is kept."""

    CUDAGraph = Graph

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.recording: Graph | None = None

    @contextmanager
    def graph(self, graph: Graph):
        if self.error is not None:
            raise self.error
        self.recording = graph
        yield
        self.recording = None

    @contextmanager
    def stream(self, _):
        yield

    def Stream(self, _):  # noqa: N802 - as torch calls it
        return self

    def current_stream(self, _):
        return self

    def wait_stream(self, _) -> None:
        """Do nothing."""


class Part:
    """Doubles what it is given, and counts how often Python ran it."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self.calls = 0

    def __call__(self, tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.calls += 1
        doubled = tensor * 2
        if self.cuda.recording is not None:
            self.cuda.recording.replay = lambda: torch.mul(tensor, 2, out=doubled)
        return (doubled,)


def run(cuda: Cuda) -> tuple[GraphRunner, Part]:
    return GraphRunner(torch.device("cpu"), cuda), Part(cuda)


def test_a_shape_that_comes_again_is_recorded_and_replayed():
    replays, part = run(Cuda())
    for value in range(5):
        [found] = replays("part", part, torch.full((2, 3), float(value)))
        assert found.tolist() == [[2.0 * value] * 3] * 2
    # As it is called; then once beside and once recorded; then no more.
    assert part.calls == 3


def test_shapes_and_parts_are_told_apart():
    replays, part = run(Cuda())
    for _ in range(2):
        for name, rows in (("one", 2), ("one", 3), ("other", 2)):
            [found] = replays(name, part, torch.ones(rows, 1))
            assert found.tolist() == [[2.0]] * rows
    assert part.calls == 9


def test_what_cannot_be_recorded_runs_as_it_is_called():
    replays, part = run(Cuda(RuntimeError("operation not permitted when stream is capturing")))
    for value in range(4):
        [found] = replays("part", part, torch.full((1,), float(value)))
        assert found.tolist() == [2.0 * value]


def test_without_memory_for_it_every_recording_is_let_go_and_the_caller_told():
    replays, part = run(Cuda())
    for _ in range(2):
        replays("part", part, torch.ones(1))
    replays._cuda.error = torch.OutOfMemoryError("no room")
    replays("part", part, torch.ones(2))
    with pytest.raises(torch.OutOfMemoryError):
        replays("part", part, torch.ones(2))
    assert not replays._recordings


def test_seldom_used_recordings_make_way(monkeypatch):
    monkeypatch.setattr(cuda_graphs, "_MAX_RECORDINGS", 2)
    replays, part = run(Cuda())
    for size in (1, 2, 3):
        for _ in range(2):
            replays("part", part, torch.ones(size))
    assert [shapes for _, shapes in replays._recordings] == [((2,),), ((3,),)]
