"""Does a worker stay as large as it is? One table.

    python -m ops.bench.memory [--segments 1000] [--hours 10]

First as many segments as asked for, of 2 to 360 s (drawn once), one after the other as a worker
decodes them: read from a file, digest verified, heard by FSMN-VAD with its real weights, and
decoded in minibatches by a made-up BiCifParaformer, each in the scope that gives a task's memory
back. "drift" is the median of the last hundred less that of the 51st to the 150th, "range" the
largest less the smallest from the 51st on; both of what is resident after a task.

Then two recordings of ten minutes and of as many hours, by a process of its own for each: the most
that it ever held, for segments of five minutes at the beginning, the middle and the end.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from uuid import UUID

import numpy as np
import soundfile

from ops import tables
from ops.bench.madeup import build, profile_of
from ops.bench.report import say
from ops.local.models import fetch
from producer.intake.scan import scan
from schema.pcm import span_digest
from schema.profile import Profile
from schema.records import AudioFormat, Location, SegmentSource
from schema.settings import Settings
from schema.span import GRID_MS, Span
from schema.store.work.segments import Claim
from workers.process.memory import DeviceMemory, GpuMemory, keep_heap, limit_caches
from workers.segment.pipeline import SegmentDecoder

_RATE_HZ = 8_000
_SHORTEST_S, _LONGEST_S = 2, 360
_WARM = 50
_COMPARED = 100
_SEED = 20_261
_PACKAGES = ("torch", "funasr", "soundfile")
_WIDTH = 100
_NOBODY = UUID(int=0)


def main() -> None:
    """Decode, watch, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--segments", type=int, default=1_000)
    parser.add_argument("--hours", type=float, default=10.0)
    arguments = parser.parse_args()
    limit_caches()  # as a worker's parent does, on a CPU
    keep_heap()
    with tempfile.TemporaryDirectory(prefix="callscribe-memory-") as scratch:
        directory = Path(scratch)
        models = directory / "models"
        models.mkdir()
        (models / "fsmn-vad").symlink_to(fetch(["fsmn-vad"]) / "fsmn-vad")
        build("bicif", models / "bicif")
        rows = [_drift(directory, arguments.segments), *_peaks(directory, arguments.hours)]
    caption = (
        f"{tables.measured_now()}, {tables.versions_of(_PACKAGES)}; {tables.cores()}, MB resident"
    )
    headings = ("what", "segments", "hours", "at first", "at last", "drift", "range", "peak")
    tables.print_table("A worker's memory", headings, rows, caption, width=_WIDTH)


def _drift(directory: Path, segments: int) -> list[str]:
    """Return the row of one process that decodes segments of all lengths."""
    path = directory / "calls.wav"
    _compose(path, 2 * _LONGEST_S)
    draw = np.random.default_rng(_SEED)
    lengths_s = draw.integers(_SHORTEST_S, _LONGEST_S + 1, segments)
    spans = [
        Span(start_ms, start_ms + 1_000 * int(length_s))
        for length_s in lengths_s
        for start_ms in [int(draw.integers(0, 1_000 * _LONGEST_S // GRID_MS)) * GRID_MS]
    ]
    [(resident, peak)] = _in_a_process(directory, path, [spans])
    first, last = (
        median(part) for part in (resident[_WARM : _WARM + _COMPARED], resident[-_COMPARED:])
    )
    settled = resident[_WARM:]
    hours = sum(span.duration_ms for span in spans) / 3_600_000
    return [
        f"{_SHORTEST_S} to {_LONGEST_S} s",
        f"{segments:,}",
        f"{hours:.1f}",
        *(f"{value / 1e6:.1f}" for value in (first, last, last - first)),
        f"{(max(settled) - min(settled)) / 1e6:.1f}",
        f"{peak / 1e6:.0f}",
    ]


def _peaks(directory: Path, hours: float) -> list[list[str]]:
    """Return a row for a short and for a long recording."""
    rows = []
    for length_h in (1 / 6, hours):
        path = directory / f"long-{length_h:.2f}.wav"
        seconds = round(3600 * length_h)
        _compose(path, seconds)
        starts_s = (0, (seconds - 300) // 2, seconds - 300)
        spans = [Span(1000 * start_s, 1000 * (start_s + 300)) for start_s in starts_s]
        [(resident, peak)] = _in_a_process(directory, path, [spans])
        name = f"a recording of {60 * length_h:.0f} min"
        edges = (f"{resident[0] / 1e6:.1f}", f"{resident[-1] / 1e6:.1f}")
        rows.append([name, "3", f"{length_h:.1f}", *edges, "", "", f"{peak / 1e6:.0f}"])
        path.unlink()
    return rows


def _in_a_process(
    directory: Path, path: Path, jobs: Sequence[Sequence[Span]]
) -> list[tuple[list[int], int]]:
    """Decode each list of spans in a process of its own: what was resident, and the peak."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.starmap(_work, [(directory, path, list(spans)) for spans in jobs])


def _work(directory: Path, path: Path, spans: Sequence[Span]) -> tuple[list[int], int]:
    profile = profile_of(directory / "models" / "bicif")
    settings = Settings.model_validate(
        {
            "database_url": "postgresql://nowhere/none",
            "redis_url": "redis://nowhere",
            "roots": f"calls={directory}",
            "models": directory / "models",
        }
    )
    audio = AudioFormat("WAV", "PCM_16", _RATE_HZ, 1, soundfile.info(path).frames)
    digests = scan(os.fsencode(path), audio, path.name, mix=False).signals[0].digests
    segment_decoder, resident = SegmentDecoder(settings), []
    for number, span in enumerate(spans, start=1):
        claim = _claim(profile, path, audio, span, span_digest(digests, span))
        with GpuMemory(DeviceMemory()) as memory:
            segment_decoder.decode(claim, lambda: None)
        resident.append(memory.after.rss)
        if number % 100 == 0:
            say(f"{number} of {len(spans)}: {resident[-1] / 1e6:.1f} MB")
    return resident, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _claim(profile: Profile, path: Path, audio: AudioFormat, span: Span, digest: str) -> Claim:
    return Claim(
        segment_id=_NOBODY,
        recording_id=_NOBODY,
        lease_token=_NOBODY,
        name=path.name,
        index=0,
        source=SegmentSource(Location("calls", os.fsencode(path.name)), audio, 0, span, digest),
        decode_key="",
        profile=profile,
        attempt=1,
        is_cached=False,
    )


def _compose(path: Path, seconds: int) -> None:
    """Write noise in syllables, with pauses: enough like a voice for a detector."""
    draw = np.random.default_rng(_SEED)
    with soundfile.SoundFile(path, "w", _RATE_HZ, 1, subtype="PCM_16") as file:
        for _ in range(0, seconds, 60):
            time_s = np.arange(60 * _RATE_HZ) / _RATE_HZ
            pitch = np.cumsum(130 + 20 * np.sin(2 * np.pi * 0.3 * time_s)) / _RATE_HZ
            voice = sum(np.sin(2 * np.pi * k * pitch) / k for k in range(1, 20))
            syllables = 0.5 + 0.5 * np.sin(2 * np.pi * 4 * time_s)
            turns = np.repeat(draw.random(20) < 0.7, 3 * _RATE_HZ)
            hiss = draw.normal(0, 1e-3, len(time_s))
            file.write((0.1 * voice * syllables * turns + hiss).astype(np.float32))


if __name__ == "__main__":
    main()
