r"""How much does a minibatch ask of a device's host? One table, counted on a CPU.

    python -m ops.bench.launches [--kinds paraformer bicif seaco sensevoice] [--regions 35]

"operators" are calls of torch that compute something, as its dispatcher sees them; on a GPU each is
a kernel or two that Python launches. "views" only say how memory is read. "waits" are calls that
need a figure from the device, and so wait until it has caught up: reading a tensor's values, or
copying it to the host. Models are narrow, with all layers of the real ones; "host ms" is what
a minibatch of one short region takes, which is next to nothing but calls: the median of twenty.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ops import tables
from ops.bench.madeup import KINDS, NARROW, build, profile_of
from schema.pcm import Samples
from schema.settings import Settings
from schema.span import Span

if TYPE_CHECKING:
    from workers.engines.funasr.recognizer import FunasrRecognizer

_HEADINGS = ("model", "precision", "regions", "operators", "views", "waits", "words", "host ms")

#: Calls that say how memory is read, and compute nothing.
_VIEWS = frozenset(
    {
        *("alias", "as_strided", "detach", "expand", "flatten", "lift_fresh", "permute", "reshape"),
        *("resolve_conj", "resolve_neg", "select", "slice", "split", "split_with_sizes", "squeeze"),
        *("t", "transpose", "unbind", "unfold", "unsqueeze", "view", "_unsafe_view"),
    }
)

#: Calls that need a figure from the device. A copy to the host is one, whatever follows it.
_WAITS = frozenset(
    {
        *("item", "tolist", "cpu", "nonzero", "masked_select", "unique"),
        *("__bool__", "__float__", "__int__", "__index__"),
    }
)


class Counted(NamedTuple):
    """What a minibatch asked for."""

    operators: int
    views: int
    waits: int
    words: int


class _Operators(TorchDispatchMode):
    """Counts calls by their names."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.calls[function._schema.name.removeprefix("aten::")] += 1
        return function(*args, **(kwargs or {}))


class _Waits(TorchFunctionMode):
    """Counts calls, as Python makes them, that wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        if name in _WAITS:
            self.calls[name] += 1
        return function(*args, **(kwargs or {}))


def main() -> None:
    """Count each kind in both precisions; print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS])
    parser.add_argument("--regions", type=int, default=35)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="callscribe-launches-") as scratch:
        for kind in arguments.kinds:
            for precision in ("float32", "bfloat16"):
                recognizer = narrow_model(kind, Path(scratch), precision=precision)
                found = counted(recognizer, arguments.regions)
                ms = statistics.median(_timed_ms(recognizer) for _ in range(20))
                figures = (arguments.regions, *found)
                rows.append([kind, precision, *(f"{each:,}" for each in figures), f"{ms:.1f}"])
    caption = (
        "one minibatch of a segment of 300 s, as many layers as the real models\n"
        f"{tables.measured_now()}, {tables.versions_of(('torch', 'funasr'))}; {tables.cores()}"
    )
    tables.print_table("What a minibatch asks of its host", _HEADINGS, rows, caption, width=110)


def narrow_model(kind: str, root: Path, **decode: Any) -> FunasrRecognizer:
    """Return a made-up model of few values and all its layers, for minibatches of any length."""
    from workers.engines.features import FilterBank
    from workers.engines.funasr import recognizer as funasr

    directory = root / kind
    if not directory.exists():
        build(kind, directory, NARROW)
    settings = Settings(
        database_url="postgresql://nowhere/none", redis_url="redis://nowhere", models=root
    )
    recognizer = funasr.load_funasr(profile_of(directory, **decode), settings, FilterBank("cpu"))
    assert isinstance(recognizer, funasr.FunasrRecognizer)  # noqa: S101 - what is made up is known
    recognizer.budget.ms = 1 << 40
    return recognizer


def counted(recognizer: FunasrRecognizer, regions: int = 35) -> Counted:
    """Decode one minibatch of so many regions, and count."""
    samples, spans = _speech(regions)
    decode = _once(recognizer, samples, spans)
    decode()
    with _Operators() as operators, _Waits() as waits:
        words = decode()
    views = sum(n for name, n in operators.calls.items() if name in _VIEWS)
    return Counted(operators.calls.total() - views, views, waits.calls.total(), words)


def _timed_ms(recognizer: FunasrRecognizer) -> float:
    samples, _ = _speech(1)
    decode = _once(recognizer, samples, [Span(0, 1_000)])
    begun_s = time.perf_counter()
    decode()
    return 1000 * (time.perf_counter() - begun_s)


def _once(recognizer: FunasrRecognizer, samples: Samples, spans: list[Span]) -> Any:
    """Return what decodes it all in one minibatch, and says how many words; features are there."""
    from workers.engines.funasr import recognizer as funasr

    recognizer._bank.compute(samples)

    def decode() -> int:
        overhead = funasr.CPU_OVERHEAD_MS
        funasr.CPU_OVERHEAD_MS = 1 << 40
        try:
            return len(recognizer.decode(samples, spans, language="auto").words)
        finally:
            funasr.CPU_OVERHEAD_MS = overhead

    return decode


def _speech(regions: int) -> tuple[Samples, list[Span]]:
    """Return noise of 300 s, and regions of it, from a second to eight."""
    draw = np.random.default_rng(1)
    samples = draw.normal(0, 0.1, 300 * 16_000).astype(np.float32)
    every_ms = 300_000 // regions
    lengths = draw.integers(1_000, min(8_000, every_ms), regions).tolist()
    return samples, [Span(i * every_ms, i * every_ms + ms) for i, ms in enumerate(lengths)]


if __name__ == "__main__":
    main()
