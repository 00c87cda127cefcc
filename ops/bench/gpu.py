r"""What does one GPU decode, and does its memory come back? One table; needs nothing but a GPU.

    python ops/bench/gpu.py                         on a host that has what a worker needs
    python ops/bench/gpu.py --wheels DIR            on a closed host that has torch alone
    python -m ops.bench.gpu --device cpu --small    a dry run: tiny models, a few tasks

The wheels are fetched elsewhere; the host's torch is used as it is:

    pip wheel -w DIR -c ops/constraints.txt 'funasr[knf]' soxr soundfile pydantic-settings \
        structlog rich pyyaml

Paraformer-large and SenseVoiceSmall in full size, with random weights and a predictor that writes
four to five tokens a second, since no words are judged: each task reads five minutes of one
channel of a call (8 kHz, FLAC) as a worker does, digested and resampled, computes features, runs
FSMN-VAD's network over them, and decodes regions as long as a real corpus has them (drawn once,
since random weights hear nothing), within the scope that gives a task's memory back. While one is
decoded the next one is read (:mod:`workers.ahead`).

CALLSCRIBE_COMPILE=1 measures compiled networks.

"moved %" is how many words differ if each region is decoded by itself, and "of float32 %" how many
differ from float32 on the same device. "busy %" is the device's own figure, sampled five times a
second.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

if TYPE_CHECKING:
    from schema.records import SegmentSource
    from workers.engines.funasr import FunasrRecognizer

ROOT = Path(__file__).resolve().parents[2]

_SEGMENT_S = 300
_RATE_HZ = 8_000
#: Regions of the corpus' calls, by FSMN-VAD: from half a second to the longest, most of them short.
_MEDIAN_S, _SPREAD, _PAUSE_S = 5.0, 0.9, 0.8
_LONGEST_S = 30.0
_TOKENS_A_SECOND = 4.5
_FILES = 8
_HEADINGS = (
    *("model", "tasks", "x real time", "busy %", "words a s", "moved %", "of float32 %"),
    *("loaded MB", "peak MB", "stayed MB", "most stayed MB"),
)


@dataclass(slots=True)
class Measured:
    """What a model did: seconds, words, and the device's memory before, at most, and after."""

    model: str
    loaded_bytes: int
    audio_s: float = 0.0
    wall_s: float = 0.0
    words: int = 0
    moved: float = 0.0
    from_float32: float = 0.0
    busy: float = 0.0
    peak_bytes: int = 0
    stayed_bytes: list[int] = field(default_factory=list)


def main() -> None:
    """Make sure of what is needed, then measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--kinds", nargs="+", default=["paraformer", "bicif", "sensevoice"])
    parser.add_argument("--small", action="store_true", help="tiny models, for a dry run")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install first")
    arguments = parser.parse_args()
    if arguments.wheels:
        _install_and_begin_anew(arguments.wheels)
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory(prefix="callscribe-gpu-") as scratch:
        sources = _compose(Path(scratch))
        measured = [
            _measure(
                kind, Path(scratch), sources, arguments.device, arguments.tasks, arguments.small
            )
            for kind in arguments.kinds
        ]
    _print(measured, arguments)


def _install_and_begin_anew(wheels: Path) -> None:
    """Install the wheels beside the host's own packages, and run this script there."""
    target = Path(tempfile.mkdtemp(prefix="callscribe-wheels-"))
    found = sorted(str(path) for path in wheels.glob("*.whl") if not _is_torch(path))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", str(target), *found], check=True)
    own = [argument for argument in sys.argv[1:] if argument not in ("--wheels", str(wheels))]
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(target)]))
    os.execve(  # noqa: S606 - ourselves
        sys.executable, [sys.executable, __file__, *own], {**os.environ, "PYTHONPATH": path}
    )


def _is_torch(path: Path) -> bool:
    return path.name.startswith(("torch-", "nvidia_", "triton-"))


def _compose(directory: Path) -> list[SegmentSource]:
    """Write files of noise that comes and goes, each of its own; return each as a segment."""
    import numpy as np
    import soundfile

    from schema.pcm import samples_digest
    from schema.records import AudioFormat, Location, SegmentSource
    from schema.span import Span

    planned = AudioFormat("FLAC", "PCM_16", _RATE_HZ, 1, _SEGMENT_S * _RATE_HZ)
    span = Span(0, 1000 * _SEGMENT_S)
    sources = []
    for number in range(_FILES):
        draw = np.random.default_rng(number)
        samples = draw.normal(0, 0.05, _SEGMENT_S * _RATE_HZ).astype(np.float32)
        samples *= np.repeat(draw.random(_SEGMENT_S * 5), _RATE_HZ // 5).astype(np.float32)
        path = directory / f"{number}.flac"
        soundfile.write(path, samples, _RATE_HZ)
        written = soundfile.read(path, dtype="float32")[0]
        location = Location("calls", path.name.encode())
        digest = samples_digest(written, _RATE_HZ, 0)
        sources.append(SegmentSource(location, planned, 0, span, digest))
    return sources


def _regions(number: int) -> list[Any]:
    """Return the regions of a file, as long as real ones."""
    import numpy as np

    from schema.span import Span

    draw = np.random.default_rng(100 + number)
    regions: list[Any] = []
    at_s = 0.5
    while True:
        length_s = float(np.clip(draw.lognormal(np.log(_MEDIAN_S), _SPREAD), 0.5, _LONGEST_S))
        if at_s + length_s > _SEGMENT_S:
            return regions
        regions.append(Span(round(100 * at_s) * 10, round(100 * (at_s + length_s)) * 10))
        at_s += length_s + _PAUSE_S


def _measure(
    kind: str, scratch: Path, sources: Sequence[Any], device: str, tasks: int, small: bool
) -> Measured:
    import torch

    from ops.bench.madeup import FULL, TINY, build, profile_of
    from schema.settings import Settings
    from schema.wire import Message
    from workers.ahead import ReadAhead
    from workers.audio import read_segment
    from workers.engines import funasr
    from workers.engines.features import open_bank
    from workers.memory import GpuMemory, device_memory

    directory = build(kind, scratch / "models" / kind, TINY if small else FULL)
    settings = Settings(
        database_url="postgresql://nowhere/none",
        redis_url="redis://nowhere",
        models=directory.parent,
        device=device,
        roots={"calls": scratch},
    )
    bank = open_bank(device)
    samples = read_segment(sources[0], settings)
    recognizers = {
        precision: funasr.load(profile_of(directory, precision=precision), settings, bank)
        for precision in ("float32", "bfloat16")
    }
    ours: Any = recognizers["bfloat16"]
    for recognizer in recognizers.values():
        _tune(recognizer, samples)
    measured = Measured(kind, 0)
    measured.moved, measured.from_float32 = _changed(recognizers, samples)
    del recognizers, samples
    bank.forget()
    memory = device_memory(device)
    memory.release()
    measured.loaded_bytes = memory.figures().reserved
    network = _vad_network(torch.device(device))
    messages = [Message(uuid4(), uuid4()) for _ in range(tasks)]
    by_id = {own.id: sources[number % len(sources)] for number, own in enumerate(messages)}
    ahead = ReadAhead(
        find=lambda message: by_id[message.id], read=lambda source: read_segment(source, settings)
    )
    with _sampling(device) as busy:
        begun_s = time.perf_counter()
        for task, message in enumerate(messages):
            if task + 1 < tasks:
                ahead.expect(messages[task + 1])
            with GpuMemory(memory) as scope:
                samples = ahead.samples(message.id, by_id[message.id])
                measured.words += _decode(ours, bank, network, samples, task % len(sources))
                del samples
            measured.audio_s += _SEGMENT_S
            measured.peak_bytes = max(measured.peak_bytes, scope.after.device.peak)
            measured.stayed_bytes.append(scope.after.device.reserved)
        measured.wall_s = time.perf_counter() - begun_s
    measured.busy = sum(busy) / len(busy) if busy else 0.0
    return measured


def _decode(ours: FunasrRecognizer, bank: Any, network: Any, samples: Any, number: int) -> int:
    """Decode a file as a task does; return how many words."""
    network.silence(bank.of(samples))
    words = len(ours.decode(samples, _regions(number), language="auto").words)
    bank.forget()
    return words


def _tune(recognizer: Any, samples: Any) -> None:
    """Bias a made-up predictor so that it writes as many tokens a second as people say."""
    import torch

    predictor = getattr(recognizer._family.model, "predictor", None)
    if predictor is None:
        return
    regions = _regions(0)[:8]
    speech_s = sum(region.duration_ms for region in regions) / 1000
    for _ in range(4):
        words = len(recognizer.decode(samples, regions, language="auto").words)
        found, wanted = (
            torch.logit(torch.tensor(rate * 0.06).clamp(1e-3, 0.999))
            for rate in (words / speech_s, _TOKENS_A_SECOND)
        )
        with torch.no_grad():
            predictor.cif_output.bias += (wanted - found).to(predictor.cif_output.bias.device)


def _changed(recognizers: dict[str, Any], samples: Any) -> tuple[float, float]:
    """Return which share of words changes when regions are alone, and against float32."""
    regions = _regions(0)
    ours, exact = recognizers["bfloat16"], recognizers["float32"]

    def texts(recognizer: Any, chosen: Sequence[Any]) -> list[str]:
        return [word.text for word in recognizer.decode(samples, chosen, language="auto").words]

    together = texts(ours, regions)
    alone = [text for region in regions for text in texts(ours, [region])]
    return _differing(together, alone), _differing(together, texts(exact, regions))


def _differing(one: Sequence[str], other: Sequence[str]) -> float:
    """Return how many words in a hundred are not in both, in order."""
    from difflib import SequenceMatcher

    matched = SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks()
    same = sum(block.size for block in matched)
    return 100 * (1 - same / max(1, len(one), len(other)))


def _vad_network(device: Any) -> Any:
    """Return FSMN-VAD's network with random weights: it costs what the real one costs."""
    import torch

    from workers.engines.features import Normalisation
    from workers.engines.fsmn import Encoder, read_shape

    encoder = {
        **{"input_dim": 400, "input_affine_dim": 140, "fsmn_layers": 4, "linear_dim": 250},
        **{"proj_dim": 128, "lorder": 20, "rorder": 0, "lstride": 1, "rstride": 0},
        **{"output_affine_dim": 140, "output_dim": 248},
    }
    shape = read_shape({"frontend_conf": {"lfr_m": 5, "lfr_n": 1}, "encoder_conf": encoder})
    weights = {name: 0.05 * torch.randn(size) for name, size in shape.sizes.items()}
    normalisation = Normalisation(torch.full((400,), -8.0), torch.full((400,), 0.25))
    return Encoder(shape, normalisation, weights, device)


@contextmanager
def _sampling(device: str) -> Iterator[list[float]]:
    """Sample how busy the device is, where it tells."""
    busy: list[float] = []
    if not device.startswith("cuda"):
        yield busy
        return
    index = device.partition(":")[2] or "0"
    query = ["nvidia-smi", "-i", index, "--query-gpu=utilization.gpu", "--format=csv,noheader"]
    sampler = subprocess.Popen(
        [*query, "--loop-ms=200"], stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
    )
    try:
        yield busy
    finally:
        sampler.terminate()
        output = sampler.communicate()[0]
        busy += [float(line.split()[0]) for line in output.splitlines() if line.strip()]


def _print(measured: Sequence[Measured], arguments: argparse.Namespace) -> None:
    import torch

    from ops import tables

    rows = [_row(own) for own in measured]
    is_cuda = arguments.device.startswith("cuda")
    device = torch.cuda.get_device_name(arguments.device) if is_cuda else tables.cores()
    caption = (
        f"files of {_SEGMENT_S} s to words, bfloat16; "
        f"{'tiny' if arguments.small else 'full-size'} models with random weights\n"
        f"{tables.measured_now()}, {tables.versions_of(('torch', 'funasr'))}; {device}"
    )
    tables.print_table("One device", _HEADINGS, rows, caption, width=150)


def _row(own: Measured) -> list[str]:
    sizes = (
        own.loaded_bytes,
        own.peak_bytes,
        own.stayed_bytes[-1],
        max(own.stayed_bytes),
    )
    return [
        own.model,
        f"{len(own.stayed_bytes):,}",
        f"{own.audio_s / own.wall_s:,.0f}",
        f"{own.busy:.0f}",
        f"{own.words / own.audio_s:.1f}",
        f"{own.moved:.2f}",
        f"{own.from_float32:.2f}",
        *(f"{size / 1e6:,.0f}" for size in sizes),
    ]


if __name__ == "__main__":
    main()
