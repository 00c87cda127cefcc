"""What does one worker's thread decode, by model, and what does it hold? One table.

    python -m ops.bench.engine FILE [--seconds 300] [--systems whisper-base ...] [--models DIR]

FILE is speech; its first seconds are heard by FSMN-VAD and decoded by one thread of the CPU, each
system in a process of its own: our engine, from samples to words, and what a user would pick
instead, which are faster-whisper's batched pipeline (beam 1, int8, batch 8, word timestamps) and
FunASR's ``generate`` with its own VAD (batch_size_s 300). Whisper's weights are real.
Paraformer-large and SenseVoiceSmall are full-size with random weights, made up under DIR once
(4 GB), since their real ones are not to be had from pip: a network takes the same time whatever it
writes.

With CALLSCRIBE_COMPILE=1 our FunASR networks are compiled, before the time begins.

"MB" is the most that the process held, its libraries included.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from ops import tables
from ops.local.models import fetch
from schema.pcm import SAMPLE_RATE_HZ, Samples, downmix
from schema.profile import Profile, load_profile
from schema.settings import Settings

_PACKAGES = ("torch", "funasr", "faster-whisper", "ctranslate2")
_HEADINGS = ("system", "of", "words", "s an hour", "x real time", "ratio", "MB")


@dataclass(frozen=True, slots=True)
class Measured:
    """What a system took: seconds for the audio, and the process' largest resident set."""

    words: int
    seconds: float
    peak_bytes: int


def main() -> None:
    """Measure each system in a process of its own; print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--systems", nargs="+", choices=MODELS, default=["whisper-base"])
    parser.add_argument("--models", type=Path, default=Path(".callscribe/made-up"))
    parser.add_argument("--only", nargs=2, metavar=("MODEL", "WHO"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.models = arguments.models.absolute()
    if arguments.only:
        model, who = arguments.only
        _measure(model, who, arguments)
        return
    rows = []
    for model in arguments.systems:
        ours, theirs = (_elsewhere(model, who, arguments) for who in ("ours", "theirs"))
        rows.append(_row("callscribe", model, ours, theirs, arguments.seconds))
        rows.append(_row(MODELS[model].rival, model, theirs, theirs, arguments.seconds))
    caption = (
        f"{arguments.file.name}, {arguments.seconds} s, one thread, models loaded before\n"
        f"{tables.measured_now()}, {tables.versions_of(_PACKAGES)}; {tables.cores()}"
    )
    tables.print_table("One thread", _HEADINGS, rows, caption, width=110)


def _elsewhere(model: str, who: str, arguments: argparse.Namespace) -> Measured:
    """Measure one system in a new process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ops.bench.engine", str(arguments.file)]
    options = ["--seconds", str(arguments.seconds), "--models", str(arguments.models)]
    done = subprocess.run(
        [*command, *options, "--only", model, who],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def _measure(model: str, who: str, arguments: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(1)
    samples = read_speech(arguments.file, arguments.seconds)
    maker = MODELS[model]
    decode = (maker.ours if who == "ours" else maker.theirs)(model, arguments.models)
    # Once before it counts: what is loaded late is loaded then.
    decode(samples[: 20 * SAMPLE_RATE_HZ])
    begun_s = time.perf_counter()
    words = decode(samples)
    seconds = time.perf_counter() - begun_s
    peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps(asdict(Measured(words, seconds, peak_bytes))))


def read_speech(path: Path, seconds: int) -> Samples:
    """Return the first seconds of a file, mono, 16 kHz."""
    samples, rate_hz = soundfile.read(path, frames=-1, dtype="float32", always_2d=True)
    mono = soxr.resample(downmix(samples), rate_hz, SAMPLE_RATE_HZ)
    return np.ascontiguousarray(mono[: seconds * SAMPLE_RATE_HZ], np.float32)


#: Decodes samples, and returns how many words were in them.
Decode = Callable[[Samples], int]


def _ours(profile: Profile, models: Path) -> Decode:
    from workers.engines.load import load_detector, load_filter_bank, load_recognizer
    from workers.process.memory import keep_heap
    from workers.segment.speech_regions import find_speech

    keep_heap()  # as a worker does
    settings = Settings(
        database_url="postgresql://nowhere/none", redis_url="redis://nowhere", models=models
    )
    bank = load_filter_bank(settings)
    detector = load_detector(profile, settings, bank)
    recognizer = load_recognizer(profile, settings, bank)

    def decode(samples: Samples) -> int:
        bank.clear()
        speech = find_speech(detector, samples, profile.scene.max_region_ms)
        language = profile.decode.language
        return len(recognizer.decode(samples, speech, language=language).words)

    return decode


def _our_whisper(model: str, _: Path) -> Decode:
    profile = load_profile("call", {"decode": {"model": model, "language": "en"}})
    return _ours(profile, fetch())


def _their_whisper(model: str, _: Path) -> Decode:
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    loaded = WhisperModel(str(fetch() / model), device="cpu", compute_type="int8", cpu_threads=1)
    pipeline = BatchedInferencePipeline(loaded)

    def decode(samples: Samples) -> int:
        segments, _ = pipeline.transcribe(
            samples, language="en", beam_size=1, batch_size=8, word_timestamps=True
        )
        return sum(len(segment.words or ()) for segment in segments)

    return decode


def _made_up(model: str, models: Path) -> Path:
    """Return where a full-size model is, made up if it was not."""
    from ops.bench.madeup import FULL, build

    directory = models / model
    if not directory.is_dir():
        build(
            {"paraformer-large": "bicif", "sensevoice-small": "sensevoice"}[model], directory, FULL
        )
    vad = models / "fsmn-vad"
    if not vad.exists():
        vad.symlink_to(fetch(["fsmn-vad"]) / "fsmn-vad")
    return directory.resolve()


def _our_funasr(model: str, models: Path) -> Decode:
    from ops.bench.madeup import profile_of

    return _ours(profile_of(_made_up(model, models)), models)


def _their_funasr(model: str, models: Path) -> Decode:
    from workers.engines.funasr.isolation import isolate_funasr

    directory = _made_up(model, models)
    with isolate_funasr():
        from funasr import AutoModel

        loaded: Any = AutoModel(
            model=str(directory),
            vad_model=str(models.resolve() / "fsmn-vad"),
            vad_kwargs={"max_single_segment_time": 30_000, "dynamic_silence": False},
            disable_update=True,
            disable_pbar=True,
            log_level="ERROR",
            device="cpu",
            ncpu=1,
        )

    def decode(samples: Samples) -> int:
        with isolate_funasr():
            [result] = loaded.generate(samples, batch_size_s=300, ncpu=1)
        return len(result["text"].split())

    return decode


@dataclass(frozen=True, slots=True)
class Maker:
    """How a model is loaded, by us and by what else there is."""

    rival: str
    ours: Callable[[str, Path], Decode]
    theirs: Callable[[str, Path], Decode]


MODELS: Mapping[str, Maker] = {
    "whisper-base": Maker("faster-whisper batched", _our_whisper, _their_whisper),
    "whisper-tiny.en": Maker("faster-whisper batched", _our_whisper, _their_whisper),
    "paraformer-large": Maker("FunASR generate", _our_funasr, _their_funasr),
    "sensevoice-small": Maker("FunASR generate", _our_funasr, _their_funasr),
}


def _row(system: str, model: str, own: Measured, theirs: Measured, seconds: int) -> list[str]:
    return [
        system,
        model,
        f"{own.words:,}",
        f"{3600 * own.seconds / seconds:.0f}",
        f"{seconds / own.seconds:.1f}",
        f"{theirs.seconds / own.seconds:.2f}",
        f"{own.peak_bytes / 1e6:.0f}",
    ]


if __name__ == "__main__":
    main()
