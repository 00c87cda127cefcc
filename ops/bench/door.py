"""What does a file cost at the door, by its format? One table.

    python -m ops.bench.door [--files N] [--seconds N]

As many files of each format, all of one sound and no two of the same bytes, are examined as
``producer submit`` does it, in a child process for each core: walked, decoded to their end, copied
to the spool where they must be, scanned and planned. Nothing is ledgered or queued. "In place" is
what workers read as it is.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from pydantic import SecretStr

from ops import tables
from ops.bench.report import say
from producer.intake.examine import Job, examine_all
from schema.profile import load_profile
from schema.records import NewRecording
from schema.settings import SPOOL_ROOT, Settings

_PACKAGES = ("av", "soundfile", "numpy")
_WIDTH = 110


@dataclass(frozen=True, slots=True)
class Kind:
    """A format; ``numbered`` makes a file's bytes its own, and changes nothing that is heard."""

    name: str
    suffix: str
    codec: str
    rate_hz: int
    numbered: Callable[[bytes, int], bytes]
    bit_rate: int | None = None


def _id3(data: bytes, number: int) -> bytes:
    return data + b"TAG" + f"{number:0125}".encode()


def _chunk(data: bytes, number: int) -> bytes:
    return data + b"note" + (8).to_bytes(4, "little") + f"{number:08}".encode()


def _box(data: bytes, number: int) -> bytes:
    return data + (16).to_bytes(4, "big") + b"free" + f"{number:08}".encode()


def _void(data: bytes, number: int) -> bytes:
    return data + b"\xec\x88" + f"{number:08}".encode()


KINDS = (
    Kind("WAV, PCM", ".wav", "pcm_s16le", 8_000, _chunk),
    Kind("WAV, mu-law", ".wav", "pcm_mulaw", 8_000, _chunk),
    Kind("MP3, 32 kbit/s", ".mp3", "libmp3lame", 16_000, _id3, 32_000),
    Kind("Ogg Opus, 24 kbit/s", ".opus", "libopus", 48_000, _id3, 24_000),
    Kind("WebM Opus, 24 kbit/s", ".webm", "libopus", 48_000, _void, 24_000),
    Kind("M4A AAC, 32 kbit/s", ".m4a", "aac", 16_000, _box, 32_000),
)


def main() -> None:
    """Examine, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1_000)
    parser.add_argument("--seconds", type=int, default=60, help="of each file")
    arguments = parser.parse_args()
    rows = []
    for kind in KINDS:
        with tempfile.TemporaryDirectory(prefix="door-") as scratch:
            rows.append(_row(kind, Path(scratch), arguments.files, arguments.seconds))
        say(f"{kind.name}: {rows[-1][2]} s")
    title = f"{arguments.files} files of {arguments.seconds} s at the door"
    headings = ("format", "read from", "s", "files/s", "ms of a core each", "times real time")
    caption = (
        f"{tables.measured_now()}, {tables.versions_of(_PACKAGES)}\n"
        f"{tables.cores()}, load {os.getloadavg()[0]:.1f} at the end"
    )
    tables.print_table(title, headings, rows, caption, width=_WIDTH)


def _row(kind: Kind, scratch: Path, files: int, seconds: int) -> list[str]:
    calls, spool = scratch / "calls", scratch / "spool"
    calls.mkdir()
    spool.mkdir()
    data = _encoded(kind, scratch / f"one{kind.suffix}", seconds)
    jobs = []
    for number in range(files):
        path = calls / f"{number:06}{kind.suffix}"
        path.write_bytes(kind.numbered(data, number))
        jobs.append(Job(os.fsencode(path)))
    settings = Settings(
        database_url=SecretStr("postgresql://"),
        redis_url=SecretStr("redis://"),
        roots={"calls": calls},
        spool=spool,
        spool_reserve_bytes=0,
    )
    begun_s = time.monotonic()
    results = list(examine_all(jobs, settings, load_profile("call")))
    passed_s = time.monotonic() - begun_s
    wrong = [each for each in results if not isinstance(each, NewRecording)]
    if wrong or len(results) != files:
        raise SystemExit(f"{kind.name}: {len(results)} of {files} files, {wrong[:1]}")
    copied = all(isinstance(r, NewRecording) and r.audio.root == SPOOL_ROOT for r in results)
    cores = len(os.sched_getaffinity(0))
    return [
        kind.name,
        "its copy" if copied else "in place",
        f"{passed_s:.1f}",
        f"{files / passed_s:.0f}",
        f"{1000 * passed_s * cores / files:.0f}",
        f"{files * seconds / passed_s:,.0f}",
    ]


def _encoded(kind: Kind, path: Path, seconds: int) -> bytes:
    """Return noise that swells twice a second, as voices do."""
    time_s = np.arange(seconds * kind.rate_hz) / kind.rate_hz
    noise = np.random.default_rng(1).standard_normal(len(time_s))
    swell = 0.05 * (1 + np.sin(4 * np.pi * time_s))
    samples = (np.convolve(noise, np.ones(8) / 8, "same") * swell).astype(np.float32)
    options: dict[str, Any] = {} if kind.bit_rate is None else {"bit_rate": kind.bit_rate}
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(kind.codec, rate=kind.rate_hz, **options)
        stream.codec_context.layout = "mono"
        resampler = av.AudioResampler(stream.codec_context.format, "mono", kind.rate_hz)
        for at in range(0, len(samples), kind.rate_hz):
            frame = av.AudioFrame.from_ndarray(samples[None, at : at + kind.rate_hz], "flt", "mono")
            frame.sample_rate, frame.pts = kind.rate_hz, at
            for piece in resampler.resample(frame):
                container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return path.read_bytes()


if __name__ == "__main__":
    main()
