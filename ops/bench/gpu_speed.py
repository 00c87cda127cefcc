"""How many times as fast as people speak one device decodes, and what memory each task leaves."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import torch

from ops.bench import launches
from ops.bench.gpu_checks import Check
from ops.bench.gpu_models import LONGEST_S, MODELS, ROOT, Bench, Loaded, load_all, regions_of
from schema.pcm import Samples
from schema.records import SegmentSource
from schema.wire import Message
from workers.engines.base import DecodedSpeech, DecodeRequest
from workers.engines.funasr.cuda_graphs import GraphRunner
from workers.engines.funasr.networks import run_directly
from workers.process.memory import (
    DeviceMemory,
    GpuMemory,
    MemoryFigures,
    device_memory,
    freeze_gc,
)
from workers.segment.audio import read_segment
from workers.segment.loudness import measure_loudness as levels
from workers.segment.read_ahead import ReadAhead
from workers.segment.reader_process import Reader
from workers.segment.speech_regions import find_speech

#: As many segments as a worker decodes together on a GPU.
_TOGETHER = 4
#: A row ends after so long, however few segments it has done.
_ALONE_S, _END_TO_END_S = 10.0, 35.0
#: Claims that come before a row's time begins: what is made late is made then. A graph is recorded
#: when its shape comes for the second time; of a night that is the first minute.
_WARM, _WARM_GRAPHS = 2, 24
#: What torch counts as in use is exact; a library may take a little for good, later than others.
_SLACK_BYTES = 1 << 20

_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


@dataclass(slots=True)
class Ran:
    """A row: a model, how it was asked, what it did in which time, and memory after each task."""

    kind: str
    way: str
    together: int
    graphs: bool
    segments: int = 0
    audio_s: float = 0.0
    wall_s: float = 0.0
    words: int = 0
    busy: float | None = None
    calls: float | None = None
    waits: float | None = None
    #: Segments that no process had read when they were wanted.
    read_late: int = 0
    before: MemoryFigures | None = None
    after: list[MemoryFigures] = field(default_factory=list)

    @property
    def model(self) -> str:
        """The model's name."""
        return MODELS[self.kind]

    @property
    def is_end_to_end(self) -> bool:
        """Whether files became words, in tasks."""
        return self.way == "end to end"

    @property
    def speed(self) -> float:
        """Seconds of audio in a second."""
        return self.audio_s / self.wall_s if self.wall_s else 0.0

    def sizes(self) -> list[float]:
        """Return bytes: in use before, at most and after; reserved; the device's; the process'."""
        assert self.before is not None  # noqa: S101 - set before the first task
        devices = [each.device for each in self.after]
        reserved = [each.reserved for each in devices]
        return [
            self.before.device.allocated,
            max(each.peak for each in devices),
            max(each.allocated for each in devices),
            *(min(reserved), statistics.median(reserved), max(reserved)),
            max(each.total - each.free for each in devices),
            self.after[-1].rss,
            self.after[-1].rss - self.before.rss,
        ]


def given_back(row: Ran) -> Check:
    """Return whether after every task there was as much in use as before the first."""
    name = f"{row.model}, {row.together} together{', graphs' if row.graphs else ''}"
    assert row.before is not None  # noqa: S101 - set before the first task
    if not row.before.device.total:
        return Check(name, None, f"no GPU, {len(row.after)} tasks")
    before = row.before.device.allocated
    more = [each.device.allocated - before for each in row.after]
    said = f"{max(more):,} bytes more in use at most, after {len(more)} tasks"
    if row.graphs:
        return Check(name, None, f"{said}: recorded graphs stay")
    return Check(name, max(more) <= _SLACK_BYTES, said)


def measured(bench: Bench, kind: str) -> list[Ran | Check]:
    """Return a model's rows, each as it is asked; and a failed check for what was raised."""
    found: list[Ran | Check] = []
    try:
        with _as_readers_are_told(bench):
            loaded = load_all(bench, kind)
            for row in _rows(bench, loaded):
                said = f"{row.model}, {row.way}, {row.together} together: {row.speed:,.0f}x"
                print(said, file=sys.stderr, flush=True)
                found.append(row)
            _count_calls(bench, loaded, [row for row in found if isinstance(row, Ran)])
    except Exception as error:
        traceback.print_exc()
        found.append(Check(f"{MODELS[kind]}: measured", False, f"{type(error).__name__}: {error}"))
    freeze_gc()
    # After some errors of CUDA every later call fails as well: what was measured is printed.
    with suppress(RuntimeError):
        device_memory(bench.device).release()
    return found


def _rows(bench: Bench, loaded: Loaded) -> Iterator[Ran]:
    graphs = [False, True] if bench.is_gpu and loaded.kind != "whisper" else [False]
    for with_graphs in graphs:
        if loaded.kind != "whisper":
            own = GraphRunner(loaded.bank.device) if with_graphs else run_directly
            loaded.recognizer._family.run = own
        for way, run in (("alone", _alone), ("end to end", _end_to_end)):
            for together in (_TOGETHER,) if with_graphs else (_TOGETHER, 1):
                row = Ran(loaded.kind, way, together, with_graphs)
                if time.monotonic() > bench.until_s:
                    raise TimeoutError(f"no time was left for {way}, {together} together")
                run(bench, loaded, row)
                yield row


def _alone(bench: Bench, loaded: Loaded, row: Ran) -> None:
    """Decode segments that are in memory."""
    settings = bench.settings(bench.scratch)
    kept = [read_segment(source, settings) for source in bench.sources]

    def decode(claim: int) -> int:
        return _decode(bench, loaded, claim, row.together, lambda n: kept[n % len(kept)])

    _run(bench, row, decode, -(-bench.tasks // (2 * row.together)), _ALONE_S)


def _end_to_end(bench: Bench, loaded: Loaded, row: Ran) -> None:
    """Decode segments as a worker does, from files that are read ahead to words."""
    claims = -(-bench.tasks // row.together)
    warm = _warm(bench, row)
    messages = [Message(uuid4(), uuid4()) for _ in range((warm + claims + 1) * row.together)]
    memory = device_memory(bench.device)
    with _reading(bench, messages, row) as (ahead, sources):

        def expect(claim: int) -> None:
            for message in messages[claim * row.together : (claim + 1) * row.together]:
                ahead.start_reading(message)

        def samples_of(number: int) -> Samples:
            return ahead.read_samples(messages[number].id, sources[number])

        def decode(claim: int) -> int:
            expect(claim + 1)
            with GpuMemory(memory) as scope:
                words = _decode(bench, loaded, claim, row.together, samples_of, hears=True)
            row.after.append(scope.after)
            return words

        expect(0)
        _run(bench, row, decode, claims, _END_TO_END_S)


@contextmanager
def _reading(
    bench: Bench, messages: Sequence[Message], row: Ran
) -> Iterator[tuple[ReadAhead, list[SegmentSource]]]:
    """Have processes read what messages name, as many as a worker has."""
    settings = bench.settings(bench.scratch)
    sources = [bench.sources[n % len(bench.sources)] for n in range(len(messages))]
    by_id = {message.id: source for message, source in zip(messages, sources, strict=True)}
    readers: list[Reader] = []

    def read(source: SegmentSource) -> Samples:
        row.read_late += 1
        return read_segment(source, settings)

    def reader() -> Callable[[SegmentSource], Samples]:
        readers.append(Reader())
        return readers[-1].read

    ahead = ReadAhead(
        find_source=lambda message: by_id[message.id],
        read=read,
        make_reader=reader,
        threads=2 if (os.cpu_count() or 1) >= 8 else 1,
        segments_max=2 * row.together,
    )
    try:
        yield ahead, sources
    finally:
        ahead._threads.shutdown(cancel_futures=True)
        for each in readers:
            each.close()


@contextmanager
def _as_readers_are_told(bench: Bench) -> Iterator[None]:
    """Tell processes that are started here where calls are, and where our code is."""
    own = {
        "CALLSCRIBE_DATABASE_URL": "postgresql://nowhere/none",
        "CALLSCRIBE_REDIS_URL": "redis://nowhere",
        "CALLSCRIBE_ROOTS": f"calls={bench.calls}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _decode(
    bench: Bench,
    loaded: Loaded,
    claim: int,
    together: int,
    samples_of: Callable[[int], Samples],
    *,
    hears: bool = False,
) -> int:
    """Decode a claim's segments together; return how many words."""
    requests = []
    for number in range(claim * together, (claim + 1) * together):
        samples = samples_of(number)
        if hears:
            # What it hears in noise is of no matter: the regions are drawn.
            find_speech(loaded.detector, samples, round(1000 * LONGEST_S))
        language = "en" if loaded.kind == "whisper" else "auto"
        requests.append(DecodeRequest(samples, regions_of(number, bench.segment_s), language))
    words = 0
    for request, outcome in zip(requests, loaded.recognizer.decode_all(requests), strict=True):
        if not isinstance(outcome, DecodedSpeech):
            raise outcome
        words += len(outcome.words)
        if hears:
            levels(request.samples, request.regions)
    loaded.bank.clear()
    return words


def _warm(bench: Bench, row: Ran) -> int:
    return 1 if bench.small else _WARM_GRAPHS if row.graphs else _WARM


def _run(bench: Bench, row: Ran, decode: Callable[[int], int], claims: int, limit_s: float) -> None:
    """Decode claim after claim, and note what was done in which time."""
    warm = _warm(bench, row)
    for claim in range(warm):
        decode(claim)
    row.before = _settled(device_memory(bench.device))
    row.after.clear()
    row.read_late = 0
    with _sampling(bench) as busy:
        begun_s = time.perf_counter()
        for claim in range(warm, warm + claims):
            row.words += decode(claim)
            row.segments += row.together
            row.wall_s = time.perf_counter() - begun_s
            if row.wall_s > limit_s:
                break
    row.audio_s = row.segments * bench.segment_s
    row.busy = statistics.fmean(busy) if busy else None


def _settled(memory: DeviceMemory) -> MemoryFigures:
    """Return what is in use once all that can be let go is: what was loaded, and no copy of it."""
    freeze_gc()
    memory.release()
    with GpuMemory(memory) as scope:
        pass
    return scope.after


def _count_calls(bench: Bench, loaded: Loaded, rows: Sequence[Ran]) -> None:
    """Count what one segment asks of the host, last of all: a profiler may leave things slower."""
    for graphs in sorted({row.graphs for row in rows}, reverse=True):
        # The graphs that were recorded are there still: they were measured last.
        if loaded.kind != "whisper" and not graphs:
            loaded.recognizer._family.run = run_directly
        calls, waits = _asked(bench, loaded)
        for row in rows:
            if row.graphs == graphs:
                row.calls, row.waits = calls, waits


def _asked(bench: Bench, loaded: Loaded) -> tuple[float | None, float | None]:
    """Return how often one segment calls upon the device, and how often it waits for it."""
    if not bench.is_gpu:
        if loaded.kind == "whisper":
            return None, None
        budget, own_ms = loaded.recognizer.budget, loaded.recognizer.budget.ms
        budget.ms = 1 << 40
        counted = launches.counted(loaded.recognizer)
        budget.ms = own_ms
        loaded.bank.clear()
        return counted.operators, counted.waits
    samples = read_segment(bench.sources[0], bench.settings(bench.scratch))
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    # Twice before, so that a graph of its shapes is recorded.
    for _ in range(2):
        _decode(bench, loaded, 0, 1, lambda _: samples)
    with torch.profiler.profile(activities=activities) as profile:
        _decode(bench, loaded, 0, 1, lambda _: samples)
    calls: dict[str, int] = {each.key: each.count for each in profile.key_averages()}
    return _sum_of(calls, _LAUNCHES), _sum_of(calls, _WAITS)


def _sum_of(calls: dict[str, int], names: Sequence[str]) -> float | None:
    """Return how often these were called, whatever their endings; None where none was."""
    return sum(count for name, count in calls.items() if name.startswith(tuple(names))) or None


@contextmanager
def _sampling(bench: Bench) -> Iterator[list[float]]:
    """Sample how busy the device is, five times a second, where it tells."""
    busy: list[float] = []
    sampler: subprocess.Popen[str] | None = None
    if bench.is_gpu:
        index = bench.device.partition(":")[2] or "0"
        query = ["nvidia-smi", "-i", index, "--query-gpu=utilization.gpu", "--format=csv,noheader"]
        with suppress(OSError):
            sampler = subprocess.Popen(
                [*query, "--loop-ms=200"],
                stdout=subprocess.PIPE,
                text=True,
                stderr=subprocess.DEVNULL,
            )
    try:
        yield busy
    finally:
        if sampler is not None:
            sampler.terminate()
            busy += shares_of(sampler.communicate()[0])


def shares_of(output: str) -> Iterator[Any]:
    """Yield the figures that nvidia-smi wrote; "[N/A]" and half a line are none."""
    for line in output.splitlines():
        first = line.partition("%")[0].strip()
        if first.isdigit():
            yield float(first)
