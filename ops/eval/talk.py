"""Are the figures of who talks how much right? One table.

    python -m ops.eval.talk DIR [--minutes 4]

DIR holds recordings with ``.segments.tsv`` and ``.words.tsv`` beside them. Of every two of them a
call is composed, a channel each: their utterances in turn, now after a pause, now while the other
still speaks. What is true is computed from the true words as ours is from the words decoded, so
that the table shows what recognition costs. "off" is a share of the call.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from pathlib import Path

import numpy as np

from ops import tables
from ops.eval.composing import Piece, utterances_of
from ops.eval.corpus import read_cases
from ops.eval.decode import eval_settings
from schema.pcm import SAMPLES_PER_MS, Samples
from schema.profile import Profile, load_profile
from schema.talk import talk_of
from schema.transcript import Talk
from schema.words import Word
from workers.engines.load import load_detector, load_filter_bank, load_recognizer
from workers.segment.speech_regions import find_speech
from workers.transcript.dialogue import to_dialogue
from workers.transcript.stitch import ChannelTimeline

#: Between two turns, in turn; below zero the next speaker begins before the last has ended.
_GAPS_MS = (700, 1_500, 300, -900, 2_500)

_PACKAGES = ("torch", "faster-whisper", "ctranslate2")
_HEADINGS = ("call", "figure", "true s", "ours s", "off %")
_SPEAKERS = ("agent", "customer")


@dataclass(frozen=True, slots=True)
class Call:
    """A composed call: each channel's samples, 16 kHz, and its words."""

    name: str
    channels: tuple[Samples, ...]
    words: tuple[tuple[Word, ...], ...]

    @property
    def duration_ms(self) -> int:
        """How long it lasts."""
        return len(self.channels[0]) // SAMPLES_PER_MS


def main() -> None:
    """Compose, decode, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--minutes", type=float, default=4, help="length of each call at most")
    arguments = parser.parse_args()
    calls = list(_composed(arguments.directory, round(60_000 * arguments.minutes)))
    if not calls:
        sys.exit(f"{arguments.directory} holds no two recordings with .segments.tsv and .words.tsv")
    profile = load_profile("call", {"decode": {"language": "en"}})
    decoded = list(_decoded(calls, profile))
    rows = [row for call, ours in zip(calls, decoded, strict=True) for row in _rows(call, ours)]
    caption = f"{tables.measured_now()}, {tables.versions_of(_PACKAGES)}; {tables.cores()}"
    tables.print_table("Talk of composed calls", _HEADINGS, rows, caption, width=100)


def _composed(directory: Path, longest_ms: int) -> Iterator[Call]:
    """Yield a call of every two neighbours of a directory."""
    cases = [case for case in read_cases(directory) if case.truth]
    lines = [(case.name, list(utterances_of(case))) for case in cases]
    for (left, said), (right, answered) in pairwise([own for own in lines if own[1]]):
        yield compose(f"{left}, {right}", said, answered, longest_ms)


def compose(name: str, said: Sequence[Piece], answered: Sequence[Piece], longest_ms: int) -> Call:
    """Lay two speakers' pieces, which have words, on one time line, a channel each."""
    placed: list[tuple[int, int, Piece]] = []
    at_ms = 500
    gaps = cycle(_GAPS_MS)
    turns = ((channel, piece) for pair in zip(said, answered) for channel, piece in enumerate(pair))  # noqa: B905 - the shorter ends it
    for channel, piece in turns:
        if at_ms + piece.duration_ms > longest_ms:
            break
        placed.append((channel, at_ms, piece))
        at_ms = max(at_ms + 200, at_ms + piece.duration_ms + next(gaps))
    length = (max(at + piece.duration_ms for _, at, piece in placed) + 500) * SAMPLES_PER_MS
    channels = np.zeros((2, length), np.float32)
    words: tuple[list[Word], list[Word]] = ([], [])
    for channel, begin_ms, piece in placed:
        first = begin_ms * SAMPLES_PER_MS
        channels[channel, first : first + len(piece.samples)] += piece.samples
        words[channel].extend(word.shifted(begin_ms) for word in piece.words or ())
    return Call(name, (channels[0], channels[1]), (tuple(words[0]), tuple(words[1])))


def _decoded(calls: Sequence[Call], profile: Profile) -> Iterator[Talk]:
    settings = eval_settings()
    bank = load_filter_bank(settings)
    detector = load_detector(profile, settings, bank)
    recognizer = load_recognizer(profile, settings, bank)
    for call in calls:
        words = []
        for samples in call.channels:
            bank.clear()
            speech = find_speech(detector, samples, profile.scene.max_region_ms)
            words.append(recognizer.decode(samples, speech, language="en").words)
        yield talk(words, call.duration_ms)


def talk(words: Sequence[Sequence[Word]], duration_ms: int) -> Talk:
    """Return the figures of a call by the words of its channels."""
    tracks = [ChannelTimeline(channel, tuple(own), (), ()) for channel, own in enumerate(words)]
    return talk_of(to_dialogue(tracks, _SPEAKERS), duration_ms)


def _rows(call: Call, ours: Talk) -> Iterator[list[str]]:
    true = talk(call.words, call.duration_ms)
    for one, other in zip(true.speakers, ours.speakers, strict=True):
        yield _row(call, f"{one.speaker} talks", one.talk_ms, other.talk_ms)
    yield _row(call, "silence", true.silence_ms, ours.silence_ms)
    yield _row(call, "at once", true.overlap_ms or 0, ours.overlap_ms or 0)


def _row(call: Call, figure: str, true_ms: int, ours_ms: int) -> list[str]:
    """Return a row; what is off is told as a share of the call, as an analyst reads it."""
    off = 100 * (ours_ms - true_ms) / call.duration_ms
    return [call.name, figure, f"{true_ms / 1000:.1f}", f"{ours_ms / 1000:.1f}", f"{off:+.2f}"]


if __name__ == "__main__":
    main()
