"""What does a segment cost beside its device? How long the device works, of the time there is work.

    python -m ops.bench.ahead [--segments 80] [--device-ms 25] [--formats WAV FLAC]

A real ledger, a real Redis and one real worker, whose segments are five minutes of calls with 8 kHz
in files of their own; only the device is pretended, which takes as long for each as a GPU that
decodes 12,000 times as fast as people speak, and keeps the worker's interpreter as busy as launches
do (:mod:`ops.bench.pretendworker`): "device ms" is longer than asked for where launches take longer
than that, or wait for the interpreter. "reads as it comes" is the same worker with
CALLSCRIBE_READ_AHEAD=0; "four together" is CALLSCRIBE_TOGETHER=4. "beside ms" is what passes for
each segment in which the device does nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from ops.bench import pretendworker
from ops.bench.bed import Bed, calls, new_submission, open_bed, wait_until
from ops.bench.report import print_table, say
from ops.bench.times import parse_times
from ops.local.stack import worker_command
from schema.pcm import samples_digest
from schema.records import AudioFormat, NewRecording
from schema.wire import Dispatch

_RATE_HZ = 8_000
_SEGMENT_S = 300
_PATIENCE_S = 300.0
_HEADINGS = (
    "files",
    "worker",
    "segments/s",
    "x real time",
    "device works %",
    "device ms",
    "beside ms",
)

#: By name: whether it reads ahead, and how many segments it takes together.
_WORKERS = {
    "reads as it comes": (False, 1),
    "reads ahead": (True, 1),
    "four together": (True, 4),
}

#: As libsndfile calls them.
_ENCODINGS = {"WAV": "PCM_16", "FLAC": "PCM_16"}


def main() -> None:
    """Measure each format with and without; print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--segments", type=int, default=80)
    parser.add_argument("--device-ms", type=int, default=25)
    parser.add_argument("--formats", nargs="+", choices=_ENCODINGS, default=[*_ENCODINGS])
    arguments = parser.parse_args()
    rows = []
    with open_bed() as bed:
        for container in arguments.formats:
            for name, (ahead, together) in _WORKERS.items():
                bed.empty()
                dispatches = _fill(bed, container, arguments.segments)
                own = {
                    "CALLSCRIBE_READ_AHEAD": str(int(ahead)),
                    "CALLSCRIBE_TOGETHER": str(together),
                    "BENCH_DEVICE_MS": str(arguments.device_ms),
                }
                rows.append([container, name, *_measure(bed, dispatches, own)])
                say(", ".join(rows[-1]))
        title = f"One worker, a device that takes {arguments.device_ms} ms for {_SEGMENT_S} s"
        print_table(bed, title, _HEADINGS, rows)


def _fill(bed: Bed, container: str, segments: int) -> list[Dispatch]:
    """Write files of one segment each, and enter them."""
    directory = bed.directory / "calls"
    recordings = list(_recordings(directory, container, segments))
    return [
        dispatch
        for first in range(0, segments, 100)
        for dispatch in bed.add(
            new_submission(bed.ledger), recordings[first : first + 100], room=1 << 30
        )
    ]


def _recordings(directory: Path, container: str, count: int) -> Iterator[NewRecording]:
    planned = AudioFormat(container, _ENCODINGS[container], _RATE_HZ, 1, _SEGMENT_S * _RATE_HZ)
    for plain in calls(count):
        path = directory / plain.audio.path.decode()
        path.parent.mkdir(exist_ok=True)
        draw = np.random.default_rng()
        samples = draw.normal(0, 0.02, planned.frames).astype(np.float32)
        with path.open("wb") as file:
            soundfile.write(file, samples, _RATE_HZ, planned.encoding, format=container)
        written = soundfile.read(path, dtype="float32")[0]
        digest = samples_digest(written, _RATE_HZ, 0)
        [segment] = plain.segments
        yield replace(
            plain,
            format=planned,
            content_digest=hashlib.sha256(digest.encode()).hexdigest(),
            segments=(replace(segment, pcm_digest=digest),),
        )


def _measure(bed: Bed, dispatches: Sequence[Dispatch], own: Mapping[str, str]) -> list[str]:
    """Let a worker do it all; return how fast, and how much of the time its device worked."""
    times = bed.directory / f"times-{time.monotonic_ns()}"
    own = {**own, "BENCH_TIMES": str(times)}
    worker = bed.child("pretend", worker_command("pretend", pretendworker.__name__), own)
    with worker:
        bed.wait_for_workers([worker])
        bed.publisher.publish(dispatches)
        wait_until(
            lambda: times.exists() and times.read_text().count("\n") >= len(dispatches),
            _PATIENCE_S,
        )
    # The first ones pay for what is imported, and for messages that were still being sent.
    ran = parse_times(times.read_text())[len(dispatches) // 4 :]
    passed_s = ran[-1].ended_s - ran[0].ended_s
    worked_s = sum(task.ended_s - task.begun_s for task in ran[1:])
    rate = (len(ran) - 1) / passed_s
    beside_ms = 1000 * (passed_s - worked_s) / (len(ran) - 1)
    return [
        f"{rate:.1f}",
        f"{rate * _SEGMENT_S:,.0f}",
        f"{100 * worked_s / passed_s:.0f}",
        f"{1000 * worked_s / (len(ran) - 1):.1f}",
        f"{beside_ms:.1f}",
    ]


if __name__ == "__main__":
    main()
