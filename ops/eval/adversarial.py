"""Sets that are hard on seams, composed of a corpus of plain recordings.

    python -m ops.eval.adversarial CORPUS OUT [--minutes 10]

CORPUS holds ``english`` and ``chinese``, recordings with ``.ref.txt``, ``.segments.tsv`` (start,
end, name and text of each utterance) and for some ``.words.tsv``; and ``noise``, with hold music.
OUT gets a directory for each set, to be given to ops.eval.seams and ops.eval.words:

``digits``     utterances that are numbers read out, half a second apart (--language zh)
``no-pauses``  all that is between words left out: an overlap is one region, a cut is in mid-word
``noise``      street noise, 5 dB below the speech
``music``      hold music, 12 s of it, between any two turns
``telephone``  8 kHz mu-law
``languages``  English and Chinese utterances in turn (--language auto, or either)

Nothing is drawn at random: the same corpus gives the same sets.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import soundfile
import soxr

from ops.eval.composing import Piece, cut, in_turn, joined, lasting, noisy, silence, without_pauses
from ops.eval.corpus import Case, format_words, read_cases
from schema.pcm import SAMPLE_RATE_HZ, SAMPLES_PER_MS, Samples, downmix
from schema.span import Span

_PAUSE_MS = 500
_MUSIC_MS = 12_000
_SNR_DB = 5.0
_TELEPHONE_HZ = 8_000

_DIGITS = frozenset("零一二三四五六七八九幺")


def main() -> None:
    """Compose every set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=int, default=10, help="length of each recording at most")
    arguments = parser.parse_args()
    for name, compose in SETS.items():
        piece = joined(lasting(compose(arguments.corpus), 60_000 * arguments.minutes))
        _write(arguments.out / name, name, piece)
        print(f"{arguments.out / name}: {piece.duration_ms / 60_000:.1f} minutes")


def _digits(corpus: Path) -> Iterator[Piece]:
    for utterance in _utterances(corpus / "chinese"):
        if set(utterance.text.strip()) <= _DIGITS:
            yield from (utterance, silence(_PAUSE_MS))


def _no_pauses(corpus: Path) -> Iterator[Piece]:
    return (without_pauses(each) for each in _utterances(corpus / "english") if each.words)


def _noise(corpus: Path) -> Iterator[Piece]:
    street = _sound(corpus / "noise", "speechbrain_noise")
    return (noisy(each, street, _SNR_DB) for each in _utterances(corpus / "english"))


def _music(corpus: Path) -> Iterator[Piece]:
    music = _sound(corpus / "noise", "hold-music")
    length = _MUSIC_MS * SAMPLES_PER_MS
    parts = [
        Piece(music[first : first + length], "", ())
        for first in range(0, len(music) - length + 1, length)
    ]
    yield from in_turn([list(_utterances(corpus / "english"))], parts)


def _telephone(corpus: Path) -> Iterator[Piece]:
    return _utterances(corpus / "english")


def _languages(corpus: Path) -> Iterator[Piece]:
    lines = [list(_utterances(corpus / name)) for name in ("english", "chinese")]
    yield from in_turn(lines, [silence(_PAUSE_MS)])


SETS: Mapping[str, Callable[[Path], Iterator[Piece]]] = {
    "digits": _digits,
    "no-pauses": _no_pauses,
    "noise": _noise,
    "music": _music,
    "telephone": _telephone,
    "languages": _languages,
}


def _utterances(directory: Path) -> Iterator[Piece]:
    """Yield the utterances of a directory's recordings, in order."""
    for case in read_cases(directory):
        yield from utterances_of(case)


def utterances_of(case: Case) -> Iterator[Piece]:
    """Yield the utterances of a recording, in order, where they are listed beside it."""
    table = case.path.with_suffix(".segments.tsv")
    if table.is_file():
        recording = Piece(_read(case.path), "", case.truth or None)
        for span, text in parse_segments(table.read_text()):
            yield cut(recording, span, text)


def parse_segments(table: str) -> Iterator[tuple[Span, str]]:
    """Yield the utterances of a ``.segments.tsv``: when, and what is said."""
    for row in csv.DictReader(table.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE):
        yield Span(round(1000 * float(row["start"])), round(1000 * float(row["end"]))), row["text"]


def _sound(directory: Path, beginning: str) -> Samples:
    """Return all sounds of a directory whose names begin so, one after the other."""
    paths = sorted(p for p in directory.iterdir() if p.name.startswith(beginning))
    return np.concatenate([_read(path) for path in paths])


def _read(path: Path) -> Samples:
    """Return a file as float32, mono, 16 kHz."""
    samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    return np.asarray(soxr.resample(downmix(samples), rate_hz, SAMPLE_RATE_HZ), np.float32)


def _write(directory: Path, name: str, piece: Piece) -> None:
    """Write a piece as a directory that can be measured."""
    directory.mkdir(parents=True, exist_ok=True)
    samples = np.clip(piece.samples, -1, 1)
    if name == "telephone":
        narrow = soxr.resample(samples, SAMPLE_RATE_HZ, _TELEPHONE_HZ)
        soundfile.write(directory / f"{name}.wav", narrow, _TELEPHONE_HZ, subtype="ULAW")
    else:
        soundfile.write(directory / f"{name}.flac", samples, SAMPLE_RATE_HZ)
    (directory / f"{name}.ref.txt").write_text(piece.text + "\n")
    if piece.words is not None:
        (directory / f"{name}.words.tsv").write_text(format_words(piece.words))


if __name__ == "__main__":
    main()
