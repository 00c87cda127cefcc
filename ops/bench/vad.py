"""How fast is speech detected, and is it FunASR's? One table.

    python -m ops.bench.vad DIR [--minutes 60]

Every recording under DIR that libsndfile reads, at 16 kHz and mono, over and over until there are
so many minutes, on one thread of the CPU: our detector with its features, in float32 and in
bfloat16, and FunASR's ``generate`` with the same weights and settings (``dynamic_silence`` off,
dither 0). The three take turns, recording by recording. A boundary is the same where FunASR has one
of its kind, start or end, within 10 ms.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch

from ops import tables
from ops.local.models import fetch
from schema.pcm import SAMPLE_RATE_HZ, Samples, downmix
from schema.profile import SCENES, Scene
from schema.span import Span
from workers.engines.features import FilterBank, inference
from workers.engines.funasr.isolation import isolate_funasr
from workers.engines.vad.fsmn import FsmnDetector, FsmnEncoder, load_encoder

_PACKAGES = ("torch", "funasr", "kaldi-native-fbank", "numpy")
_HEADINGS = (
    "detector",
    "s an hour",
    "of FunASR",
    "regions",
    "boundaries",
    "within 10 ms %",
    "same %",
)
_LEAST = 16_000
_WIDTH = 110

Detect = Callable[[Samples], Sequence[Span]]


@dataclass(slots=True)
class Run:
    """What a detector did so far."""

    detect: Detect
    seconds: float = 0.0
    regions: int = 0
    near: int = 0
    same: int = 0
    boundaries: int = 0
    found: list[Sequence[Span]] = field(default_factory=list)


def main() -> None:
    """Detect, in turns; compare; print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--scene", choices=SCENES, default="call")
    arguments = parser.parse_args()
    recordings = [r for r in map(_read, sorted(arguments.directory.rglob("*"))) if r is not None]
    if not recordings:
        sys.exit(f"{arguments.directory} holds no audio")
    directory = fetch(["fsmn-vad"]) / "fsmn-vad"
    scene = SCENES[arguments.scene]
    runs = {
        "FunASR generate": Run(_theirs(directory, scene)),
        "ours, float32": Run(_ours(directory, scene, torch.float32)),
        "ours, bfloat16": Run(_ours(directory, scene, torch.bfloat16)),
    }
    heard_s, samples = 0.0, 0
    for recording in cycle(recordings):
        if heard_s >= 60 * arguments.minutes:
            break
        for run in runs.values():
            _time(run, recording)
        heard_s += len(recording) / SAMPLE_RATE_HZ
        samples += 1
        _compare(runs, first_time=samples <= len(recordings))
    rows = [_row(name, run, runs["FunASR generate"], heard_s) for name, run in runs.items()]
    caption = (
        f"{heard_s / 60:.0f} minutes, {min(samples, len(recordings))} recordings, scene "
        f"{arguments.scene}, one thread\n{tables.measured_now()}, {tables.versions_of(_PACKAGES)}; "
        f"{tables.cores()}"
    )
    tables.print_table("Speech detected", _HEADINGS, rows, caption, width=_WIDTH)


def _time(run: Run, recording: Samples) -> None:
    begun_s = time.perf_counter()
    found = run.detect(recording)
    run.seconds += time.perf_counter() - begun_s
    run.found = [found]


def _compare(runs: dict[str, Run], *, first_time: bool) -> None:
    """Count each detector's boundaries against FunASR's, each recording once."""
    if not first_time:
        return
    [theirs] = runs["FunASR generate"].found
    for run in runs.values():
        [own] = run.found
        run.regions += len(own)
        run.same += sum(region in set(own) for region in theirs)
        for kind in ("start_ms", "end_ms"):
            expected = np.array([getattr(region, kind) for region in theirs])
            actual = np.array([getattr(region, kind) for region in own])
            run.boundaries += len(expected)
            if len(expected) and len(actual):
                apart = np.abs(expected[:, None] - actual).min(axis=1)
                run.near += int((apart <= 10).sum())


def _row(name: str, run: Run, theirs: Run, heard_s: float) -> list[str]:
    return [
        name,
        f"{3600 * run.seconds / heard_s:.2f}",
        f"{run.seconds / theirs.seconds:.2f}",
        f"{run.regions:,}",
        f"{run.boundaries:,}",
        f"{100 * run.near / max(1, run.boundaries):.2f}",
        f"{100 * run.same / max(1, theirs.regions):.2f}",
    ]


def _ours(directory: Path, scene: Scene, dtype: torch.dtype) -> Detect:
    encoder: FsmnEncoder = load_encoder(directory, torch.device("cpu"), dtype)

    def detect(recording: Samples) -> Sequence[Span]:
        return FsmnDetector(encoder, FilterBank("cpu"), scene).detect(recording)

    return detect


def _theirs(directory: Path, scene: Scene) -> Detect:
    with isolate_funasr():
        from funasr import AutoModel

        model: Any = AutoModel(
            model=str(directory),
            disable_update=True,
            disable_pbar=True,
            log_level="ERROR",
            device="cpu",
            ncpu=1,
            max_end_silence_time=scene.end_silence_ms,
            speech_noise_thres=scene.speech_noise_threshold,
            max_single_segment_time=sys.maxsize,
            dynamic_silence=False,
            frontend_conf={"dither": 0.0},
        )

    def detect(recording: Samples) -> Sequence[Span]:
        with isolate_funasr(), inference():
            [result] = model.generate(recording, key="x")
        return [Span(start_ms, end_ms) for start_ms, end_ms in result["value"]]

    return detect


def _read(path: Path) -> Samples | None:
    """Return a file as mono at 16 kHz, or None where it is no audio, or a blink of it."""
    if not path.is_file():
        return None
    try:
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError:
        return None
    mono = soxr.resample(downmix(samples), rate_hz, SAMPLE_RATE_HZ)
    return np.ascontiguousarray(mono, np.float32) if len(mono) >= _LEAST else None


if __name__ == "__main__":
    main()
