"""What is written where nobody speaks? One table.

    python -m ops.eval.noise DIR --language en

Every recording of DIR is decoded as a worker would, and stitched as the reducer would, with the
guards against invented words and without them. "model" is what the recognizer writes into what
VAD takes for speech; "engine" what is left after Whisper's own thresholds; "kept" what a reader
gets. Point it at hold music, noise and silence to see what the guards earn, and at speech to see
what they cost: there, "model" and "kept" should be the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch
from uuid import UUID

import numpy as np
import soundfile
import soxr
from rich.console import Console
from rich.table import Table

from ops.local.models import fetch
from schema.pcm import SAMPLES_PER_MS, Samples
from schema.profile import Profile, load_profile
from schema.settings import Settings
from schema.span import Span
from schema.store.work.reduces import EndedSegment, ReduceClaim
from schema.words import ResultTag, SegmentResult
from workers.engines import whisper
from workers.engines.load import load_detector, load_filter_bank, load_recognizer
from workers.engines.whisper import WhisperRecognizer
from workers.segment.loudness import measure_loudness
from workers.segment.speech_regions import find_speech
from workers.transcript.reduce import draft_transcript

_RATE_HZ = 1_000 * SAMPLES_PER_MS
_AUDIO = {".flac", ".wav", ".mp3", ".ogg"}


@dataclass(frozen=True, slots=True)
class Row:
    """One recording: its length, what VAD called speech, and the words after each step."""

    name: str
    seconds: float
    speech_s: float
    model: int
    engine: int
    kept: int
    flags: tuple[str, ...] = ()


def main() -> None:
    """Decode each recording with the guards and without; print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--language", default="auto")
    parser.add_argument("--profile", default="call")
    arguments = parser.parse_args()
    files = [p for p in sorted(arguments.directory.rglob("*")) if p.suffix.lower() in _AUDIO]
    if not files:
        sys.exit(f"{arguments.directory} holds no audio")
    profile = load_profile(arguments.profile, {"decode": {"language": arguments.language}})
    _print(list(_rows(files, profile)), arguments.language)


def _rows(files: Sequence[Path], profile: Profile) -> Iterator[Row]:
    settings = Settings(
        database_url="postgresql://none/none", redis_url="redis://none", models=fetch()
    )
    bank = load_filter_bank(settings)
    detector = load_detector(profile, settings, bank)
    recognizer = load_recognizer(profile, settings, bank)
    if not isinstance(recognizer, WhisperRecognizer):
        sys.exit("only Whisper has thresholds of its own to switch off")
    for number, path in enumerate(files, start=1):
        print(f"{number} of {len(files)}: {path.name}", file=sys.stderr, flush=True)
        samples = _mono(path)
        speech = find_speech(detector, samples, profile.scene.max_region_ms)
        # Without Whisper's threshold of silence, and with it.
        with patch.object(whisper._Hypothesis, "is_silence", return_value=False):
            unguarded_result = _result(samples, speech, recognizer, profile.decode.language)
        result = _result(samples, speech, recognizer, profile.decode.language)
        duration_ms = len(samples) // SAMPLES_PER_MS
        claim = ReduceClaim(UUID(int=0), UUID(int=0), path.name, duration_ms, 1, (), profile)
        segment = EndedSegment(None, 0, "plan", Span(0, duration_ms), result, None, None)
        draft = draft_transcript(claim, [segment])
        kept = sum(len(utterance.words) for utterance in draft.utterances)
        yield Row(
            path.name,
            duration_ms / 1000,
            draft.speech_ms / 1000,
            len(unguarded_result.words),
            len(result.words),
            kept,
            draft.flags,
        )


def _mono(path: Path) -> Samples:
    samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    mono: Samples = soxr.resample(samples.mean(axis=1), rate_hz, _RATE_HZ).astype(np.float32)
    return mono


def _result(
    samples: Samples, speech: tuple[Span, ...], recognizer: WhisperRecognizer, language: str
) -> SegmentResult:
    found = recognizer.decode(samples, speech, language=language)
    tags = {**found.tags, ResultTag.LOUDNESS_DB: measure_loudness(samples, speech)}
    return SegmentResult(found.words, speech, found.language, tags)


def _print(rows: Sequence[Row], language: str) -> None:
    seconds = sum(row.seconds for row in rows)
    total = Row(
        f"all {len(rows)}",
        seconds,
        sum(row.speech_s for row in rows),
        sum(row.model for row in rows),
        sum(row.engine for row in rows),
        sum(row.kept for row in rows),
    )
    table = Table(title=f"{seconds / 60:.1f} minutes, language {language}", title_justify="left")
    headings = ("recording", "s", "VAD speech s", "model", "engine", "kept", "a minute", "flags")
    for number, heading in enumerate(headings):
        is_figure = 0 < number < len(headings) - 1
        table.add_column(heading, justify="right" if is_figure else "left")
    for row in (*rows, total):
        a_minute = [f"{60 * words / row.seconds:.2f}" for words in (row.model, row.kept)]
        table.add_row(
            row.name,
            f"{row.seconds:.1f}",
            f"{row.speech_s:.1f}",
            str(row.model),
            str(row.engine),
            str(row.kept),
            " -> ".join(a_minute),
            " ".join(row.flags),
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
