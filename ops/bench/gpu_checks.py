"""Does a GPU decode what a CPU does, bear a lack of memory, and have a stuck process replaced?"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import SequenceMatcher
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from ops.bench import madeup
from ops.bench.gpu_models import (
    Bench,
    load_whisper,
    made_up,
    noise,
    regions_of,
    speak,
    speak_like,
    written,
)
from schema.span import Span
from schema.voices import HOP_MS, WINDOW_MS
from workers.engines.features import FilterBank, open_filter_bank
from workers.engines.funasr.isolation import isolate_funasr
from workers.engines.funasr.networks import RegionTokens
from workers.engines.minibatch import ROUNDED_SIZES
from workers.engines.voices.campplus import CamPlusEmbedder
from workers.process.memory import CudaMemory, DeviceFigures, DeviceMemory, GpuMemory, freeze_gc

#: Of each kind that is measured, the families that share its networks.
_FAMILIES = {"paraformer": ("paraformer", "bicif", "seaco"), "sensevoice": ("sensevoice",)}
_PARITY_S = 90
#: A minute of speech is little to a GPU: an error of memory needs enough to run out of.
_LARGE_S = 2_400

#: Times are whole ms, of sums in float32: one that lies between two is either.
_ROUNDED_MS = 1

#: Vectors of voices have length 1; their sums are in float32.
_VOICES_APART = 1e-3

#: Of Whisper's words, in a hundred, so many may differ. Two words as likely as each other are told
#: apart by the last bits of sums, which no two devices share.
_MAY_DIFFER = {"float32": 1.0, "float16": 5.0, "int8": 10.0}


class Check(NamedTuple):
    """A question, whether it passed, and what was found; None where it could not be asked."""

    name: str
    passed: bool | None
    said: str


def checked(bench: Bench, kinds: Sequence[str]) -> Iterator[Check]:
    """Yield the checks, each as it is done."""
    families = [family for kind in kinds for family in _FAMILIES.get(kind, ())]
    for family in families:
        yield attempted(f"{family}: tokens and times of the CPU", partial(_parity, bench, family))
    if "whisper" in kinds:
        yield from _whispers(bench)
    yield attempted("campplus: voices of the CPU", lambda: _voices(bench))
    if families:
        yield attempted("out of memory: half, and the same words", lambda: _short(bench))
    yield attempted("a device left nearly full: recycled", lambda: _stuck(bench))


def attempted(name: str, ask: Callable[[], tuple[bool | None, str]]) -> Check:
    """Return a check; whatever is raised fails it, and costs no other."""
    begun_s = time.monotonic()
    try:
        check = Check(name, *ask())
    except Exception as error:
        traceback.print_exc()
        lines = str(error).splitlines() or [""]
        check = Check(name, False, f"{type(error).__name__}: {lines[0]}"[:100])
    freeze_gc()
    state = {True: "PASS", False: "FAIL", None: "not tried"}[check.passed]
    print(f"{state}: {name} ({time.monotonic() - begun_s:.0f} s)", file=sys.stderr, flush=True)
    return check


def _parity(bench: Bench, family: str) -> tuple[bool, str]:
    """Tell whether every token and time is that of the CPU, both in float32."""
    recognizer = made_up(bench, family, madeup.TINY, bank=FilterBank("cpu"))
    bias = speak(recognizer, noise(1, _PARITY_S, 16_000), _PARITY_S)
    expected = _tokens(recognizer, family)
    other = made_up(bench, family, madeup.TINY, bank=open_filter_bank(bench.device))
    speak_like(other, bias)
    found = _tokens(other if bench.is_gpu else as_on_a_gpu(other), family)
    return alike(expected, found)


def alike(expected: Sequence[RegionTokens], found: Sequence[RegionTokens]) -> tuple[bool, str]:
    """Tell whether regions have the same tokens, at the same times but for their rounding."""
    others, late, rounded = 0, 0, 0
    for own, other in zip(expected, found, strict=True):
        if not np.array_equal(own.ids, other.ids):
            others += 1
            continue
        apart_ms = np.abs(own.times_ms - other.times_ms)
        late += int((apart_ms > _ROUNDED_MS).any())
        rounded += int((apart_ms > 0).sum())
    tokens = sum(map(len, expected))
    said = (
        f"of {len(expected)} regions {others} have other tokens, {late} other times;"
        f" of {2 * tokens:,} times {rounded} are {_ROUNDED_MS} ms apart"
    )
    return not others and not late and tokens > 0, said


def as_on_a_gpu(recognizer: Any) -> Any:
    """Return a CPU's recognizer that computes in a GPU's shapes, to have something to compare."""
    recognizer._buckets = ROUNDED_SIZES
    recognizer._family.round_tokens = ROUNDED_SIZES.tokens
    return recognizer


def _tokens(recognizer: Any, family: str) -> list[RegionTokens]:
    hotwords = ["".join(madeup.characters()[3:5])] if family == "seaco" else []
    samples, regions = noise(2, _PARITY_S, 16_000), regions_of(1, _PARITY_S)
    return written(recognizer, samples, regions, hotwords)


def _voices(bench: Bench) -> tuple[bool, str]:
    """Tell whether the vectors of voices are those of the CPU, with weights made up."""
    with isolate_funasr():
        from funasr.models.campplus.model import CAMPPlus

        torch.manual_seed(5)
        weights = CAMPPlus(feat_dim=80, embedding_size=192).state_dict()
    samples = noise(5, _PARITY_S, 16_000)
    windows = [
        Span(at_ms, at_ms + WINDOW_MS)
        for region in regions_of(5, _PARITY_S)
        for at_ms in range(region.start_ms, region.end_ms - WINDOW_MS, HOP_MS)
    ]
    windows = [Span(w.start_ms // 20 * 20, w.start_ms // 20 * 20 + WINDOW_MS) for w in windows]
    bank = open_filter_bank(bench.device)
    expected = CamPlusEmbedder(weights, FilterBank("cpu")).embed(samples, windows)
    embedder = CamPlusEmbedder(weights, bank)
    if not bench.is_gpu:
        embedder.batch_frames *= 10
    found = embedder.embed(samples, windows)
    apart = float(np.abs(expected - found).max()) if windows else 1.0
    return apart <= _VOICES_APART, f"{len(windows)} windows, at most {apart:.1e} apart"


def _whispers(bench: Bench) -> Iterator[Check]:
    """Compare the words of a small real Whisper with those of float32 on the CPU."""
    reference = list[str]()

    def compare(precision: str, device: str) -> tuple[bool, str]:
        if not reference:
            reference.extend(_said(bench, "float32", "cpu"))
        share = differing(reference, _said(bench, precision, device))
        return share <= _MAY_DIFFER[precision], f"{share:.1f} % of {len(reference)} words differ"

    precisions = ("float32", "float16") if bench.is_gpu else ("float32",)
    for device, own in (("cpu", ("int8",)), (bench.device, precisions)):
        for precision in own:
            name = f"whisper: {precision} on {device}"
            yield attempted(name, partial(compare, precision, device))


def _said(bench: Bench, precision: str, device: str) -> list[str]:
    samples, regions = bench.speech()
    recognizer = load_whisper(bench, bench.real_whisper(), precision, device)
    if not bench.is_gpu and precision == "float32":
        recognizer._batch_encoder = not recognizer._batch_encoder
    words = recognizer.decode(samples, regions, language="en").words
    if not words:
        raise RuntimeError("nothing was written")
    return [word.text.strip().casefold() for word in words]


def differing(one: Sequence[str], other: Sequence[str]) -> float:
    """Return how many words in a hundred are not in both, in order."""
    matched = SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks()
    same = sum(block.size for block in matched)
    return 100 * (1 - same / max(1, len(one), len(other)))


def _short(bench: Bench) -> tuple[bool, str]:
    """Have memory run out while a minibatch is decoded; tell whether half of it is decoded."""
    bank = open_filter_bank(bench.device)
    recognizer = made_up(bench, "paraformer", madeup.TINY, bank=bank)
    seconds = _LARGE_S if bench.is_gpu else _PARITY_S
    samples, regions = noise(3, seconds, 16_000), regions_of(2, seconds)
    recognizer.budget.ms = whole_ms = 3_600_000 if bench.is_gpu else 240_000
    bank.compute(samples)
    expected, taken = _decoded(recognizer, samples, regions, bench)
    short = _short_of_memory if bench.is_gpu else _pretending_to_be_short
    with short(recognizer, taken, bench):
        found, _ = _decoded(recognizer, samples, regions, bench)
    halved = recognizer.budget.ms < whole_ms
    said = f"{whole_ms // 1000:,} s to {recognizer.budget.ms // 1000:,} s in a minibatch"
    return halved and len(expected) > 0 and expected == found, said


def _decoded(
    recognizer: Any, samples: Any, regions: Sequence[Span], bench: Bench
) -> tuple[list[tuple[str, int, int]], int]:
    """Return words and their times, and how many bytes of the device were taken to write them."""
    before = 0
    if bench.is_gpu:
        torch.cuda.reset_peak_memory_stats(bench.device)
        before = torch.cuda.memory_allocated(bench.device)
    words = recognizer.decode(samples, regions, language="auto").words
    taken = torch.cuda.max_memory_allocated(bench.device) - before if bench.is_gpu else 0
    return [(word.text, word.start_ms, word.end_ms) for word in words], taken


@contextmanager
def _short_of_memory(recognizer: Any, taken: int, bench: Bench) -> Iterator[None]:  # noqa: ARG001
    """Let this process have six tenths of what it took, beside what it holds."""
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info(bench.device)[1]
    most = torch.cuda.memory_reserved(bench.device) + 0.6 * taken
    index = torch.device(bench.device).index or 0
    torch.cuda.set_per_process_memory_fraction(most / total, index)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, index)
        torch.cuda.empty_cache()


@contextmanager
def _pretending_to_be_short(
    recognizer: Any,
    taken: int,  # noqa: ARG001
    bench: Bench,  # noqa: ARG001
) -> Iterator[None]:
    """Raise what a GPU would, as long as minibatches are large."""
    family = recognizer._family

    class Tight:
        dtype = family.dtype

        def decode_batch(self, batch: Any, *others: Any) -> Any:
            if recognizer.budget.ms > 60_000 and len(batch.features) > 1:
                raise torch.OutOfMemoryError("no room")
            return family.decode_batch(batch, *others)

    recognizer._family = Tight()
    try:
        yield
    finally:
        recognizer._family = family


class _Filled(DeviceMemory):
    """A device that a task leaves nearly full, where there is none."""

    def __init__(self) -> None:
        self.reserved = 0

    def figures(self) -> DeviceFigures:
        """Return what is reserved of a hundred bytes."""
        return DeviceFigures(self.reserved, self.reserved, self.reserved, 100 - self.reserved, 100)


def _stuck(bench: Bench) -> tuple[bool, str]:
    """Tell whether a task that keeps nearly all memory is seen, and one that does not is not."""
    if not bench.is_gpu:
        device = _Filled()
        with GpuMemory(device) as scope:
            device.reserved = 50
        calm = not scope.is_device_full
        with GpuMemory(device) as scope:
            device.reserved = 95
        return calm and scope.is_device_full, "a pretended device, at 95 of 100"
    memory = CudaMemory(bench.device)
    freeze_gc()
    memory.release()
    with GpuMemory(memory) as scope:
        torch.empty(1 << 28, dtype=torch.uint8, device=bench.device)
    calm = not scope.is_device_full
    total = memory.figures().total
    with GpuMemory(memory) as scope:
        wanted = int(0.91 * total) - memory.figures().reserved
        held = torch.empty(wanted, dtype=torch.uint8, device=bench.device)
    stuck, reserved = scope.is_device_full, scope.after.device.reserved
    del held
    memory.release()
    return calm and stuck, f"{reserved / 1e9:.1f} of {total / 1e9:.1f} GB held"
