"""Hundreds of odd recordings, each of known sound, through the door. One table.

    python -m ops.chaos.recordings [--only PATTERN] [--keep DIR] [--jobs N] [--all]

Each file is made here: by the encoders that recorders use, in every container that they use, and
as recorders leave it behind (written to a pipe, joined end to end, cut off, tagged, with its clock
or its lengths wrong). Another tone sounds in each second, so that what a worker would read can be
held against what was written: a second that is missing, doubled or out of its place by more than
100 ms shows. Files go through the door as ``producer submit`` does it, in child processes with
limits.

Each case says what may become of it. A loss that no flag names, a good file that is refused and a
broken one that is taken without a word are failures: the exit code is 1. What FFmpeg makes of the
same file stands beside it. Cases that need an encoder that this machine lacks are counted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from ops.chaos.recorded_boxes import boxes
from ops.chaos.recorded_mpeg import mpeg
from ops.chaos.recorded_ogg import ogg
from ops.chaos.recorded_raw import raw
from ops.chaos.recorded_rest import rest
from ops.chaos.recorded_wav import waves
from ops.chaos.recorders import Case, MissingToolError, Shop, Written
from ops.chaos.tones import Finding, Truth, compare, listen
from ops.chaos.verdicts import FAILURES, Outcome, Verdict, verdict_of
from producer.intake.examine import Job, examine_all
from producer.intake.raw_audio import RAW_DEFAULTS, parse_raw_option
from producer.intake.reader_pool import Tick
from schema.errors import CallscribeError
from schema.pcm import Samples
from schema.profile import load_profile
from schema.records import NewRecording, QuarantinedRecording
from schema.settings import SPOOL_ROOT, Settings

_FFMPEG_S = 60


@dataclass(frozen=True, slots=True)
class File:
    """A case's file as it was made."""

    case: Case
    path: Path
    truth: Truth


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader made of a file: how long, how it differs from the truth, what was said."""

    length_s: float | None
    finding: Finding
    said: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """A case's end; ``as_expected`` says whether that is one of those that are legitimate."""

    file: File
    verdict: Verdict
    as_expected: bool
    ours: Reading
    ffmpeg: Reading


def main() -> int:
    """Make, hand in, listen, print; return 0 if nothing was lost without a word."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*", help="cases, for instance 'ogg/*joined*'")
    parser.add_argument("--keep", type=Path, help="where files of failed cases are kept")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--all", action="store_true", help="print a row for each file")
    arguments = parser.parse_args()
    begun_s = time.monotonic()
    chosen = [case for case in cases() if fnmatch(label(case), arguments.only)]
    with tempfile.TemporaryDirectory(prefix="recordings-") as scratch:
        results, missing = run(chosen, Path(scratch), arguments.jobs)
        if arguments.keep:
            _keep(results, arguments.keep)
    console = Console(width=180)
    if arguments.all:
        console.print(_files_table(results))
    _print_unexpected(results, console)
    _print_missing(missing, console)
    console.print(_table(results, time.monotonic() - begun_s))
    return 1 if any(result.verdict in FAILURES for result in results) else 0


def cases() -> list[Case]:
    """Return all cases, in order of families; no two have one name."""
    found = [*mpeg(), *ogg(), *waves(), *boxes(), *rest(), *raw()]
    twice = [name for name, count in Counter(map(label, found)).items() if count > 1]
    if twice:
        raise ValueError(f"several cases are called {', '.join(twice)}")
    return found


def label(case: Case) -> str:
    """Return what a case is called in lists."""
    return f"{case.family}/{case.name}"


def run(chosen: Sequence[Case], scratch: Path, jobs: int) -> tuple[list[Result], dict[str, str]]:
    """Put cases through; return their results, and what was missing for those left out."""
    bench = Bench(scratch, jobs)
    with ThreadPoolExecutor(jobs) as pool:
        made = list(pool.map(bench.make, enumerate(chosen)))
        files = [each for each in made if isinstance(each, File)]
        missing = {
            label(case): each
            for case, each in zip(chosen, made, strict=True)
            if isinstance(each, str)
        }
        outcomes = bench.hand_in(files)
        judged = pool.map(lambda file: bench.judge(file, outcomes.get(file.path.name)), files)
        return list(judged), missing


class Bench:
    """Makes files in a directory, hands them in, and listens to what workers would read."""

    def __init__(self, directory: Path, jobs: int) -> None:
        self._directory, self._jobs = directory, jobs
        self._calls, self._spool = directory / "calls", directory / "spool"
        self._calls.mkdir()
        self._spool.mkdir()
        self._settings = Settings(
            database_url=SecretStr("postgresql://"),
            redis_url=SecretStr("redis://"),
            roots={"calls": self._calls},
            spool=self._spool,
            spool_reserve_bytes=0,
        )

    def make(self, numbered: tuple[int, Case]) -> File | str:
        """Return a case's file, or the tool that it needs and that is missing."""
        number, case = numbered
        with tempfile.TemporaryDirectory(dir=self._directory) as scratch:
            try:
                made = case.make(Shop(Path(scratch)))
            except MissingToolError as error:
                return str(error)
            except Exception as error:
                error.add_note(f"while {label(case)} was made")
                raise
        written = made if isinstance(made, Written) else Written(made, case.truth)
        path = self._calls / f"{number:04} {case.name}"
        path.write_bytes(written.data)
        return File(case, path, written.truth)

    def hand_in(self, files: Sequence[File]) -> dict[str, Outcome]:
        """Return what became of each file at the door, by its name."""
        groups: dict[str, list[File]] = {}
        for file in files:
            terms = json.dumps([file.case.plan, file.case.raw], default=dict, sort_keys=True)
            groups.setdefault(terms, []).append(file)
        outcomes: dict[str, Outcome] = {}
        for group in groups.values():
            outcomes.update(self._door(group))
        return outcomes

    def _door(self, files: Sequence[File]) -> Iterator[tuple[str, Outcome]]:
        """Hand in files that have their options in common."""
        case = files[0].case
        try:
            profile = load_profile("call", {"plan": dict(case.plan)})
            raw = {**RAW_DEFAULTS, **dict(map(parse_raw_option, case.raw))}
        except CallscribeError as error:
            yield from ((file.path.name, error) for file in files)
            return
        jobs = [Job(os.fsencode(file.path)) for file in files]
        for result in examine_all(jobs, self._settings, profile, raw=raw, processes=self._jobs):
            if not isinstance(result, Tick):
                yield os.fsdecode(result.source.path), result

    def judge(self, file: File, outcome: Outcome) -> Result:
        """Return how a case ended."""
        ours = self._ours(file, outcome)
        verdict, as_expected = verdict_of(file.case, file.truth, outcome, ours.finding)
        return Result(file, verdict, as_expected, ours, self._ffmpegs(file))

    def _ours(self, file: File, outcome: Outcome) -> Reading:
        match outcome:
            case None:
                return Reading(None, Finding(("no outcome",)), "it has no outcome")
            case CallscribeError():
                return Reading(None, Finding(("not tried",)), str(outcome))
            case QuarantinedRecording(code=code, message=message):
                return Reading(None, Finding(("refused",)), f"{code}: {message}")
        root = self._settings.root_path(outcome.audio.root)
        samples, rate_hz = _samples(outcome, os.fsdecode(outcome.audio.absolute_path(root)))
        return _reading(file.truth, samples, rate_hz, ", ".join(outcome.flags))

    def _ffmpegs(self, file: File) -> Reading:
        """Return what FFmpeg makes of a file, asked for nothing in particular."""
        read = _by_ffmpeg if shutil.which("ffmpeg") else _by_pyav
        with tempfile.TemporaryDirectory(dir=self._directory) as scratch:
            heard = read(file, Path(scratch))
        if isinstance(heard, str):
            return Reading(None, Finding(("refused",)), heard)
        return _reading(file.truth, *heard, "")


def _samples(recording: NewRecording, path: str) -> tuple[Samples, int]:
    """Return the samples that workers would read, and their rate."""
    audio = recording.format
    how = (
        {"format": "RAW", "subtype": audio.encoding, "samplerate": audio.rate_hz}
        | {"channels": audio.channels}
        if audio.container == "RAW" and recording.audio.root != SPOOL_ROOT
        else {}
    )
    # By descriptor: soundfile would take whatever is called .raw for a file without header.
    with (
        open(path, "rb") as opened,
        soundfile.SoundFile(opened.fileno(), closefd=False, **how) as file,
    ):
        samples = file.read(dtype="float32", always_2d=True)
    return samples[: audio.frames], audio.rate_hz


def _reading(truth: Truth, samples: Samples, rate_hz: int, said: str) -> Reading:
    finding = compare(truth, listen(samples, rate_hz))
    return Reading(len(samples) / rate_hz, finding, said)


def _by_ffmpeg(file: File, scratch: Path) -> tuple[Samples, int] | str:
    out = scratch / "heard.wav"
    words = ["ffmpeg", "-v", "error", "-nostdin", *file.case.hints, "-i", str(file.path), "-vn"]
    try:
        done = subprocess.run(
            [*words, "-c:a", "pcm_s16le", "-f", "w64", str(out)],
            capture_output=True,
            timeout=_FFMPEG_S,
            check=False,
        )
        samples, rate_hz = soundfile.read(out, dtype="float32", always_2d=True)
    except subprocess.TimeoutExpired:
        return "it hangs"
    except soundfile.LibsndfileError:
        return done.stderr.decode(errors="replace").strip()[-200:] or "nothing"
    return (samples, rate_hz) if len(samples) else "nothing"


def _by_pyav(file: File, _: Path) -> tuple[Samples, int] | str:
    """Decode the first audio stream with the FFmpeg that comes with PyAV, as far as it goes."""
    pieces: list[Samples] = []
    rates: list[int] = []
    told = dict(zip(file.case.hints[::2], file.case.hints[1::2], strict=True))
    options = {"sample_rate": told["-ar"], "ch_layout": f"{told['-ac']}c"} if told else {}
    said = "nothing"
    try:
        with av.open(str(file.path), format=told.get("-f"), options=options) as container:
            for frame in container.decode(container.streams.audio[0]):
                rates.append(frame.sample_rate)
                pieces.extend(_flat(frame, rates[0]))
    except (av.error.FFmpegError, IndexError, UnicodeDecodeError, ValueError) as error:
        said = str(error)
    channels = {piece.shape[1] for piece in pieces}
    return (np.concatenate(pieces), rates[0]) if len(channels) == 1 else said


def _flat(frame: Any, rate_hz: int) -> Iterator[Samples]:
    for piece in av.AudioResampler("flt", frame.layout, rate_hz).resample(frame):
        yield np.asarray(piece.to_ndarray(), np.float32).reshape(-1, frame.layout.nb_channels)


def _keep(results: Sequence[Result], directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for result in results:
        if not result.as_expected:
            shutil.copy(result.file.path, directory)


def _print_unexpected(results: Sequence[Result], console: Console) -> None:
    for result in results:
        case, finding = result.file.case, result.ours.finding
        if result.as_expected:
            continue
        wanted = " or ".join(sorted(case.expected)) + (
            f", flagged {case.flag}" if case.flag else ""
        )
        console.print(
            f"[bold]{label(case)}[/]: {result.verdict}; {wanted} was expected", highlight=False
        )
        if result.verdict is Verdict.RIGHT:
            console.print("    its flag does not say where it breaks", highlight=False)
        for detail in filter(None, [*finding.problems[:3], result.ours.said, case.why]):
            console.print(f"    {detail}", highlight=False, markup=False)


def _print_missing(missing: Mapping[str, str], console: Console) -> None:
    for tool, count in Counter(missing.values()).items():
        names = ", ".join(name for name, each in missing.items() if each == tool)
        console.print(f"{count} cases left out for want of {tool}: {names}", highlight=False)


def _table(results: Sequence[Result], wall_s: float) -> Table:
    """Return a row for each family."""
    table = Table(title=f"{len(results)} recordings", caption=_caption(wall_s))
    table.add_column("family")
    headings = ("files", *Verdict, "not as expected", "FFmpeg right")
    for heading in headings:
        table.add_column(heading.lower(), justify="right")
    families = list(dict.fromkeys(result.file.case.family for result in results))
    for family in families:
        table.add_row(family, *_counts([r for r in results if r.file.case.family == family]))
    table.add_section()
    table.add_row("all", *_counts(results))
    return table


def _counts(results: Sequence[Result]) -> list[str]:
    verdicts = Counter(result.verdict for result in results)
    unexpected = sum(not result.as_expected for result in results)
    ffmpeg_right = sum(not result.ffmpeg.finding.problems for result in results)
    numbers = (len(results), *(verdicts[each] for each in Verdict), unexpected, ffmpeg_right)
    return list(map(str, numbers))


def _caption(wall_s: float) -> str:
    tool = (
        subprocess.run(["ffmpeg", "-version"], capture_output=True, check=False, text=True)
        if (shutil.which("ffmpeg"))
        else None
    )
    version = tool.stdout.split()[2] if tool else f"PyAV {av.__version__}"
    return (
        f"a broken file that FFmpeg reads is not right; {wall_s:.0f} s;"
        f" FFmpeg {version}, libsndfile {soundfile.__libsndfile_version__}, PyAV {av.__version__}"
    )


def _files_table(results: Sequence[Result]) -> Table:
    table = Table(title="each recording")
    headings = ("recording", "true s", "our s", "first ms", "last ms", "verdict", "said")
    for heading in (*headings, "FFmpeg s", "FFmpeg", "why not as FFmpeg"):
        table.add_column(heading)
    for result in results:
        finding, theirs = result.ours.finding, result.ffmpeg
        table.add_row(
            label(result.file.case),
            f"{result.file.truth.length_ms / 1000:.2f}",
            _number(result.ours.length_s, ".2f"),
            _number(finding.first_ms, "+.0f"),
            _number(finding.last_ms, "+.0f"),
            f"{result.verdict}{'' if result.as_expected else ' (!)'}",
            result.ours.said[:60],
            _number(theirs.length_s, ".2f"),
            (theirs.finding.problems or ("right",))[0],
            result.file.case.unlike_ffmpeg,
        )
    return table


def _number(value: float | None, how: str) -> str:
    return "" if value is None else format(value, how)


if __name__ == "__main__":
    sys.exit(main())
