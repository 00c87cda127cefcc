"""How fast is a whole fleet on this machine, and how right are its words? One table.

    python -m ops.bench.fleet DIR... --minutes 120 --language en [--profile fast]

Each DIR holds audio with references beside it (``x.flac`` and ``x.ref.txt``), also further down.
All of them are joined to one recording, over and over until it is long enough, which goes through
a fleet of its own: submit, Redis, workers, seams, Postgres. The same recording is decoded by
faster-whisper's own batched pipeline, on the whole file, with the same weights, on as many threads
(beam 1, int8, batch 8, word timestamps). Its model is loaded before the clock starts; the fleet
loads its own after.

Word errors count substitutions, deletions and insertions per word of the reference (per character
for Chinese), normalised as ops.eval.text says.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np
import soundfile
import soxr

from ops import tables
from ops.eval.text import normalised
from ops.local.models import fetch
from ops.local.stack import Stack, producer_command, usable_workers

_RATE_HZ = 16_000
#: Between two joined files, as between two sentences.
_PAUSE_S = 0.6
_AUDIO = {".flac", ".wav", ".mp3", ".ogg"}
_PACKAGES = ("faster-whisper", "ctranslate2", "torch", "celery")
_HEADINGS = ("system", "errors %", "sub", "del", "ins", "wall s", "x real time")


@dataclass(frozen=True, slots=True)
class Row:
    """One system's result."""

    system: str
    text: str
    wall_s: float


def main() -> None:
    """Join, decode twice, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directories", type=Path, nargs="+", metavar="DIR")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--language", default="en")
    parser.add_argument("--profile", default="call")
    parser.add_argument("--segment", type=int, default=300, help="segment length in seconds")
    arguments = parser.parse_args()
    models = fetch()
    with tempfile.TemporaryDirectory() as scratch:
        calls = Path(scratch) / "calls"
        calls.mkdir()
        audio = calls / "joined.flac"
        reference, seconds = _join(arguments.directories, audio, arguments.minutes)
        options = ["--language", arguments.language, "--segment", str(arguments.segment)]
        options += ["--profile", arguments.profile]
        fleet, seams = _fleet(audio, models, options, Path(scratch))
        rows = [fleet, _batched(audio, models, arguments.language)]
    _print(rows, reference, seconds, seams)


def _join(directories: Sequence[Path], target: Path, minutes: float) -> tuple[str, float]:
    """Write the joined recording; return its reference and its length in seconds."""
    files = [
        path
        for directory in directories
        for path in sorted(directory.rglob("*"))
        if path.suffix in _AUDIO and _ref(path).is_file()
    ]
    if not files:
        sys.exit("there is no audio with a reference beside it (x.flac, x.ref.txt)")
    pause = np.zeros(int(_PAUSE_S * _RATE_HZ), np.float32)
    texts, seconds = [], 0.0
    with soundfile.SoundFile(target, "w", _RATE_HZ, 1) as out:
        while seconds < minutes * 60:
            for path in files:
                samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
                mono = soxr.resample(samples.mean(axis=1), rate_hz, _RATE_HZ)
                out.write(mono)
                out.write(pause)
                texts.append(_ref(path).read_text())
                seconds += len(mono) / _RATE_HZ + _PAUSE_S
    return "\n".join(texts), seconds


def _ref(audio: Path) -> Path:
    return audio.with_suffix(".ref.txt")


def _fleet(
    audio: Path, models: Path, options: Sequence[str], scratch: Path
) -> tuple[Row, dict[str, int]]:
    """Send a recording through a fleet; return its text, and how its seams were decided."""
    out = scratch / "out"
    stack = Stack(scratch / "state", models=models, roots={"calls": audio.parent}, durable=False)
    with stack:
        begun_s = time.monotonic()
        _run(stack, "submit", str(audio), *options, "--force", "--wait")
        wall_s = time.monotonic() - begun_s
        _run(stack, "export", "--format", "json", "--out", str(out))
    document = json.loads((out / "joined.json").read_text())
    rules: dict[str, int] = {}
    for seam in document["seams"]:
        rules[seam["rule"]] = rules.get(seam["rule"], 0) + 1
    name = f"callscribe, {usable_workers()} workers of 1 thread"
    return Row(name, document["text"], wall_s), rules


def _run(stack: Stack, *arguments: str) -> None:
    subprocess.run(producer_command(*arguments), env=stack.environment, check=True)


def _batched(audio: Path, models: Path, language: str) -> Row:
    """Decode the whole file with faster-whisper's own batched pipeline."""
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    threads = usable_workers()
    model = WhisperModel(
        str(models / "whisper-base"), device="cpu", compute_type="int8", cpu_threads=threads
    )
    begun_s = time.monotonic()
    segments, _ = BatchedInferencePipeline(model).transcribe(
        str(audio), language=language, beam_size=1, batch_size=8, word_timestamps=True
    )
    text = " ".join(segment.text for segment in segments)
    return Row(f"faster-whisper batched, {threads} threads", text, time.monotonic() - begun_s)


def _print(rows: list[Row], reference: str, seconds: float, seams: dict[str, int]) -> None:
    expected = normalised(reference)
    found = [_figures(row, expected, seconds) for row in rows]
    ratio = rows[1].wall_s / rows[0].wall_s
    caption = (
        f"{ratio:.2f} times as fast; {len(expected.split()):,} words; seams: {seams or 'none'}\n"
        f"{tables.measured_now()}, {tables.versions_of(_PACKAGES)}; {tables.cores()}"
    )
    title = f"{seconds / 60:.1f} minutes, end to end"
    tables.print_table(title, _HEADINGS, found, caption, width=120)


def _figures(row: Row, expected: str, seconds: float) -> list[str]:
    measured = jiwer.process_words(expected, normalised(row.text))
    return [
        row.system,
        f"{100 * measured.wer:.2f}",
        str(measured.substitutions),
        str(measured.deletions),
        str(measured.insertions),
        f"{row.wall_s:.0f}",
        f"{seconds / row.wall_s:.1f}",
    ]


if __name__ == "__main__":
    main()
