"""Are the speakers of mono calls told right? One table.

    python -m ops.eval.speakers CORPUS [--language zh]
    python -m ops.eval.speakers --mixdown DIR [--language en]

CORPUS has the folders ``speakers`` (readers with ``.segments.tsv``), ``telephony`` and ``turns``
(two-channel calls). Two-channel calls are mixed down, and calls are composed of readers over a
telephone: pairs, turns of a word or two, speech at once, hold music, noise, one voice, three, a
change of telephone. Their seeds were chosen before anything was tuned. ``--mixdown`` measures a
directory of anybody's two-channel calls.

A word belongs to the track that is louder while it is said, by 6 dB at least; the others are
counted apart. "wrong" is the share of words given to another speaker; "DER" the diarization error
rate (pyannote.metrics, collar 0.25 s, speech at once included); "doubted" the share of words in
utterances that are marked as doubtful, and "caught" the share of the wrong ones among them. "60 s"
is the share of words whose speaker is the same where segments last a minute.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ops import tables
from ops.eval.decode import Decodes
from ops.eval.speakers.calls import (
    MonoCall,
    Reader,
    add_sound,
    change_handset,
    compose,
    insert_pause,
    mix_down,
    play_slower,
    read_audio,
    read_reader,
    single_voice,
)
from ops.eval.speakers.measure import SpeakerBench, SpeakerScore, same_speakers
from schema.models import EMBEDDERS
from schema.pcm import SAMPLE_RATE_HZ
from schema.profile import load_profile

_HEADINGS = (
    "call",
    "speakers",
    "told",
    "words",
    "wrong %",
    "DER %",
    "doubted %",
    "caught %",
    "60 s %",
    "flags",
)
_PACKAGES = ("torch", "faster-whisper", "ctranslate2", "pyannote.metrics")

#: Pairs of readers; the second and third are of one sex, as the first.
_PAIRS = (
    ("2414", "2609"),
    ("3005", "2033"),
    ("367", "533"),
    ("1688", "3331"),
    ("1998", "2414"),
    ("3080", "3005"),
)
_SHORT_CALLS = (("1998", "2609"), ("533", "3331"))
_RARE = (("1688", "2414"), ("367", "3080"))
_TRIOS = (("1688", "2414", "533"), ("3005", "1998", "2609"))
_NOISE_DB, _HOLD_S = 10, 20
#: A voice played more slowly by so much is another one, lower and of a longer throat.
_SLOWER = 1.15


def main() -> None:
    """Compose, transcribe, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path, nargs="?")
    parser.add_argument("--mixdown", type=Path, help="a directory of two-channel calls")
    parser.add_argument("--language", default="en", help="ISO 639-1 code, or auto")
    parser.add_argument("--voices", choices=EMBEDDERS, default=EMBEDDERS[0])
    parser.add_argument("--only", default="", help="calls whose names hold this")
    parser.add_argument("--cache", type=Path, default=Path(".callscribe/eval"))
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    if (arguments.corpus is None) == (arguments.mixdown is None):
        parser.error("name a corpus, or --mixdown and a directory")
    changes = {
        "decode": {"language": arguments.language},
        "render": {"diarize": "auto", "voices": {"model": arguments.voices}},
    }
    profile = load_profile("call", changes)
    decodes = Decodes(profile, arguments.cache, arguments.jobs)
    bench = SpeakerBench(decodes, arguments.cache / "speakers")
    calls = (
        mixed_calls(arguments.mixdown)
        if arguments.corpus is None
        else chinese_calls(arguments.corpus)
        if arguments.language == "zh"
        else corpus_calls(arguments.corpus)
    )
    scores, rows = [], []
    for call in calls:
        if arguments.only not in call.name:
            continue
        score = bench.score(call, 300)
        scores.append(score)
        rows.append(_row(score, same_speakers(score, bench.score(call, 60))))
        print(*rows[-1], sep="  ", file=sys.stderr)
    if not scores:
        sys.exit("no call with two channels was found")
    caption = f"{_sum(scores)}\n{tables.measured_now()}, voices by {arguments.voices}; "
    caption += f"{tables.versions_of(_PACKAGES)}; {tables.cores()}"
    tables.print_table("Speakers of mono calls", _HEADINGS, rows, caption, width=140)


def mixed_calls(directory: Path) -> Iterator[MonoCall]:
    """Yield a directory's two-channel calls, mixed down."""
    for path in sorted(directory.iterdir()):
        if path.suffix.lower() in {".wav", ".flac", ".ogg"} and read_audio(path).shape[1] == 2:
            yield mix_down(path)


def chinese_calls(corpus: Path) -> Iterator[MonoCall]:
    """Yield calls of a Chinese reader and of another, who is the first played more slowly."""
    paths = sorted((corpus / "chinese").glob("*.flac"))
    [one, other] = (read_reader(path) for path in paths)
    slower = play_slower(other, _SLOWER)
    for seed, short_turns in ((600, 0.25), (601, 0.5)):
        name = f"two Chinese readers, {100 * short_turns:.0f} % short turns"
        yield compose(name, [one, slower], seed, short_turns=short_turns)
    yield from map(single_voice, paths)


def corpus_calls(corpus: Path) -> Iterator[MonoCall]:
    """Yield every call that is measured but the Chinese ones."""
    two_channel_calls = [
        corpus / "telephony" / "aws_AutoRepairs40_L-agent_R-caller.wav",
        *sorted((corpus / "turns").glob("*.flac")),
    ]
    yield from map(mix_down, two_channel_calls)
    paths = sorted((corpus / "speakers").glob("*.flac"))
    readers = {path.stem: read_reader(path) for path in paths}
    yield from _composed(readers, corpus)
    for name in ("google_commercial_mono", "telephone_sample"):
        [path] = corpus.glob(f"t*/{name}.wav")
        yield MonoCall(name, single_voice(path).mix, (), 2)
    yield from _one_voice(corpus, two_channel_calls, paths)


def _composed(readers: dict[str, Reader], corpus: Path) -> Iterator[MonoCall]:
    def call(
        label: str, names: Sequence[str], seed: int, **options: float | tuple[float, ...]
    ) -> MonoCall:
        members = [readers[name] for name in names]
        return compose(f"{label} {'+'.join(names)}", members, seed, **options)  # type: ignore[arg-type]

    for index, names in enumerate(_PAIRS):
        yield call("pair", names, 100 + index)
    for index, names in enumerate(_SHORT_CALLS):
        yield call("30 s", names, 200 + index, minutes=0.5)
    for index, names in enumerate(_RARE):
        yield call("rare", names, 300 + index, shares=(0.93, 0.07), short_turns=0.5)
    for index, trio in enumerate(_TRIOS):
        yield call("three", trio, 400 + index)
    quiet = call("", ("2414", "1998"), 500)
    level = 0.05 / 10 ** (_NOISE_DB / 20)
    noise = np.random.default_rng(1).normal(0, level, len(quiet.mix)).astype(np.float32)
    yield add_sound(quiet, f"noise at {_NOISE_DB} dB", noise)
    held = call("", ("3005", "3331"), 501)
    middle_ms = len(held.mix) // 2 * 1000 // SAMPLE_RATE_HZ
    tune = np.resize(
        read_audio(corpus / "noise" / "hold-music-1.wav")[:, 0], _HOLD_S * SAMPLE_RATE_HZ
    )
    tune *= 0.05 / np.sqrt(np.mean(np.square(tune)))
    yield add_sound(insert_pause(held, middle_ms, 1000 * _HOLD_S), "hold music", tune, middle_ms)


def _one_voice(
    corpus: Path, two_channel_calls: Sequence[Path], readers: Sequence[Path]
) -> Iterator[MonoCall]:
    for path in two_channel_calls:
        yield from (single_voice(path, channel) for channel in (0, 1))
    yield from map(single_voice, readers)
    for name in ("ibm_05-gettysburg-address-2min", "OSR_us_000_0034_8k"):
        yield single_voice(corpus / "telephony" / f"{name}.wav")
    prompts = [
        single_voice(path).mix for path in sorted((corpus / "telephony" / "prompts").glob("*.wav"))
    ]
    spoken = np.concatenate(prompts)
    yield MonoCall("prompts", spoken, (spoken,))
    yield change_handset(single_voice(readers[3]), "another telephone")


def _row(score: SpeakerScore, same: float) -> list[str]:
    def percent(part: int, whole: int) -> str:
        return f"{100 * part / whole:.1f}" if whole else ""

    return [
        score.name[:34],
        str(score.expected),
        str(score.speaker_count),
        str(score.words),
        percent(score.wrong_words, score.words),
        "" if score.error_rate is None else f"{100 * score.error_rate:.1f}",
        percent(score.doubted_words, score.words),
        percent(score.doubted_wrong_words, score.wrong_words),
        f"{100 * same:.1f}",
        ", ".join(score.flags),
    ]


def _sum(scores: Sequence[SpeakerScore]) -> str:
    two = [score for score in scores if score.expected == 2 and score.words]
    right = sum(score.speaker_count == min(score.expected, 2) for score in scores)
    words, wrong = sum(s.words for s in two), sum(s.wrong_words for s in two)
    doubted, caught = sum(s.doubted_words for s in two), sum(s.doubted_wrong_words for s in two)
    return (
        f"{right} of {len(scores)} calls have the right number, two at most; of two speakers"
        f" {wrong} of {words:,} words are wrong; utterances marked doubtful hold {doubted:,} words"
        f" and {caught} of the wrong ones"
    )


if __name__ == "__main__":
    main()
