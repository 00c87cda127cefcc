"""Thousands of damaged and hostile files, through both readers of untrusted audio. One table.

    python -m ops.chaos.fuzz --cases 10000 [--seed N] [--keep DIR]

Sound files of each format are damaged. Half of them are handed in at the door, in directories
that are walked and examined as ``producer submit`` does: whatever a file is, it is accepted with a
plan that makes sense, or quarantined with a code and a message. What was accepted must then be
what a worker reads. The other half take the place of a file that was planned when it was sound,
and a worker reads a segment of it: these are the very samples that were planned, or an error of
ours. Both readers run in child processes with limits.

A reader may die: that costs its file and nothing else, and is counted. All else (an exception that
reaches the parent, or is none of ours; a file without an outcome; other samples; a reader that
hangs; a GiB held by any process) is a failure: it is listed, and the exit code is 1. What case N is
depends on the seed and N alone; ``--keep`` keeps the files that failed, or whose reader died.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
import soundfile
from rich.console import Console
from rich.table import Table

from ops.chaos.mutate import Dice, mutated
from ops.chaos.readers import Bench, Case, Fate, Outcome, Planned
from ops.chaos.seeds import Seed, seeds

_FAILED = frozenset({Fate.HUNG, Fate.BROKEN, Fate.CRASHED})
_KEPT = _FAILED | {Fate.DIED}
#: A reader that grows beyond this was tricked into it; its libraries alone have 80 MB.
_MOST_BYTES = 1024**3
#: How often a file's suffix is another format's.
_WRONG_SUFFIX = 0.15
#: Suffixes of no seed: raw formats that nobody described, an encoding without an encoder, none.
_STRAY_SUFFIXES = (".pcm", ".g729", ".bin", "")


@dataclass(slots=True)
class Report:
    """What a run found: outcomes by reader and format, and the figures of the whole."""

    fates: dict[tuple[str, str], Counter[Fate]] = field(default_factory=dict)
    codes: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    remarkable: list[Outcome] = field(default_factory=list)
    slowest: Outcome | None = None
    wall_s: float = 0.0

    def add(self, reader: str, outcome: Outcome) -> None:
        """Count an outcome."""
        row = reader, outcome.case.format
        self.fates.setdefault(row, Counter())[outcome.fate] += 1
        if outcome.fate is Fate.REFUSED:
            self.codes.setdefault(row, Counter())[outcome.detail] += 1
        if outcome.fate in _KEPT:
            self.remarkable.append(outcome)
        if self.slowest is None or outcome.seconds > self.slowest.seconds:
            self.slowest = outcome

    def count(self, *fates: Fate) -> int:
        """Return how many cases ended so."""
        return sum(row[fate] for row in self.fates.values() for fate in fates)

    @property
    def cases(self) -> int:
        """How many cases there were."""
        return self.count(*Fate)

    @property
    def failed(self) -> bool:
        """Whether anything was as it must never be."""
        return self.count(*_FAILED) > 0 or max(_peaks_bytes()) > _MOST_BYTES


def main() -> int:
    """Damage, read, print; return 0 if nothing failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="where files that failed are kept")
    arguments = parser.parse_args()
    report = run(arguments.cases, arguments.seed)
    if arguments.keep:
        _keep(report, arguments.keep)
    console = Console(width=150)
    for outcome in report.remarkable:
        console.print(f"case {outcome.case.number} {outcome.case.name}: {outcome.detail}")
    console.print(_table(report, arguments.seed))
    return 1 if report.failed else 0


def run(cases: int, seed: int) -> Report:
    """Put ``cases`` cases through, half of them through each reader."""
    begun_s = time.monotonic()
    report = Report()
    sounds = seeds()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        bench = Bench(Path(scratch))
        planned = bench.plan(sounds)
        for outcome in bench.door(_door_cases(sounds, cases, seed)):
            report.add("door", outcome)
        for outcome in bench.segments(_segment_cases(planned, sounds, cases, seed)):
            report.add("segment reader", outcome)
    report.wall_s = time.monotonic() - begun_s
    return report


def _door_cases(sounds: Sequence[Seed], cases: int, seed: int) -> Iterator[Case]:
    suffixes = sorted({sound.suffix for sound in sounds} | set(_STRAY_SUFFIXES))
    for number in range(0, cases, 2):
        dice = Dice(seed, number)
        sound = dice.pick(sounds)
        data = mutated(sound, sounds, dice)
        suffix = dice.pick(suffixes) if dice.chance(_WRONG_SUFFIX) else sound.suffix
        yield Case(number, sound.suffix[1:], f"{number:08}{suffix}", data)


def _segment_cases(
    planned: Sequence[Planned], sounds: Sequence[Seed], cases: int, seed: int
) -> Iterator[Case]:
    for number in range(1, cases, 2):
        dice = Dice(seed, number)
        target = dice.pick(planned)
        data = mutated(target.seed, sounds, dice)
        suffix = target.seed.suffix
        yield Case(number, suffix[1:], f"{number:08}{suffix}", data, target)


def _keep(report: Report, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for outcome in report.remarkable:
        (directory / outcome.case.name).write_bytes(outcome.case.data)


def _table(report: Report, seed: int) -> Table:
    table = Table(title=f"{report.cases} damaged files", caption=_caption(report, seed))
    table.add_column("reader")
    table.add_column("format")
    columns = (Fate.ACCEPTED, Fate.REFUSED, Fate.LEFT_OUT, Fate.DIED, Fate.HUNG, Fate.BROKEN)
    for heading in ("cases", *columns):
        table.add_column(heading, justify="right")
    table.add_column("refused by code")
    last = None
    for row in sorted(report.fates):
        reader, form = row
        if last not in {None, reader}:
            table.add_section()
        fates = report.fates[row]
        codes = report.codes.get(row, Counter()).most_common()
        table.add_row(
            "" if reader == last else reader,
            form,
            str(fates.total()),
            *(str(fates[fate]) for fate in columns),
            ", ".join(f"{code} {count}" for code, count in codes),
        )
        last = reader
    return table


def _peaks_bytes() -> tuple[int, int]:
    """Return the largest resident set of any child of this process, and its own.

    A child's is never less than this process had when it started it: so Linux counts.
    """
    who = (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)
    child, parent = (resource.getrusage(each).ru_maxrss * 1024 for each in who)
    return child, parent


def _caption(report: Report, seed: int) -> str:
    slowest = report.slowest
    child_bytes, parent_bytes = _peaks_bytes()
    lines = [
        f"crashes of the parent {report.count(Fate.CRASHED)}; hangs {report.count(Fate.HUNG)};"
        f" broken {report.count(Fate.BROKEN)}; readers that died {report.count(Fate.DIED)}",
        f"slowest case {slowest.seconds:.1f} s ({slowest.case.name})" if slowest else "no case",
        f"largest resident set: child {child_bytes / 1e6:.0f} MB,"
        f" parent {parent_bytes / 1e6:.0f} MB; {report.wall_s:.0f} s in all",
        f"seed {seed}; libsndfile {soundfile.__libsndfile_version__},"
        f" soundfile {soundfile.__version__}, PyAV {av.__version__}"
        f" (libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}),"
        f" numpy {np.__version__}, Python {platform.python_version()},"
        f" {len(os.sched_getaffinity(0))} cores",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
