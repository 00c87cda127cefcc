"""What does it cost to hear whose voice it is? One table, a row for each model.

    python -m ops.bench.voices FILE [--seconds 300]

FILE is speech. Each model embeds the windows of its speech (1.2 s every 0.4 s) on one thread;
beside them Whisper base writes its words, as the default profile does. "share" is of Whisper's
time. "kB" is what an hour of speech keeps in the ledger until its transcript is stored.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from ops import tables
from ops.bench.engine import read_speech
from ops.local.models import fetch
from schema.models import EMBEDDERS
from schema.pcm import Samples
from schema.profile import load_profile
from schema.settings import Settings
from schema.span import Span
from workers.engines.base import VoiceEmbedder

_ROUNDS = 3
_HEADINGS = ("system", "windows", "s an hour of speech", "share", "kB an hour of speech")
_PACKAGES = ("torch", "faster-whisper", "ctranslate2")


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--seconds", type=int, default=300)
    arguments = parser.parse_args()
    samples = read_speech(arguments.file, arguments.seconds)
    caption = f"{arguments.file.name}, {arguments.seconds} s, one thread, models loaded before,"
    caption += f" median of {_ROUNDS} by turns\n{tables.measured_now()}, "
    caption += f"{tables.versions_of(_PACKAGES)}; {tables.cores()}"
    rows = _measure(samples)
    tables.print_table("Voices", _HEADINGS, rows, caption, width=100)


def _measure(samples: Samples) -> list[list[str]]:
    from workers.engines.load import (
        load_detector,
        load_embedder,
        load_filter_bank,
        load_recognizer,
    )
    from workers.process.memory import keep_heap
    from workers.segment.speech_regions import find_speech
    from workers.segment.voices import embed_voices

    keep_heap()
    nowhere = {"database_url": "postgresql://none/none", "redis_url": "redis://none"}
    settings = Settings.model_validate({**nowhere, "models": fetch()})
    profile = load_profile("call", {"decode": {"language": "en"}})
    # CAM++ hears the features that VAD did.
    bank = load_filter_bank(settings)
    detector = load_detector(profile, settings, bank)
    speech = find_speech(detector, samples, profile.scene.max_region_ms)
    recognizer = load_recognizer(profile, settings, bank)
    systems: dict[str, Callable[[], object]] = {
        profile.decode.model: lambda: recognizer.decode(samples, speech, language="en")
    }
    windows, kept = {}, {}
    for name in EMBEDDERS:
        embedder_profile = load_profile(
            "call", {"render": {"diarize": "auto", "voices": {"model": name}}}
        )
        embedder = load_embedder(embedder_profile, settings, bank)

        def embed(embedder: VoiceEmbedder = embedder) -> object:
            return embed_voices(embedder, samples, speech, 0)

        voices = embed_voices(embedder, samples, speech, 0)
        windows[name], kept[name] = len(voices.starts_ms), len(voices.to_bytes())
        systems[name] = embed
    hours = sum(map(_duration_ms, speech)) / 3_600_000
    seconds = _time_by_turns(systems)
    words_s = seconds[profile.decode.model]
    return [
        [
            name,
            str(windows.get(name, "")),
            f"{system_s / hours:.0f}",
            f"{system_s / words_s:.2f}",
            f"{kept[name] / 1000 / hours:.0f}" if name in kept else "",
        ]
        for name, system_s in seconds.items()
    ]


def _duration_ms(span: Span) -> int:
    return span.duration_ms


def _time_by_turns(systems: dict[str, Callable[[], object]]) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(_ROUNDS):
        for name, run in systems.items():
            begun_s = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begun_s)
    return {name: sorted(rounds)[_ROUNDS // 2] for name, rounds in times.items()}


if __name__ == "__main__":
    main()
