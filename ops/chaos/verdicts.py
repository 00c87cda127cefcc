"""What became of a file at the door, held against what may become of it: values in, values out."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from ops.chaos.recorders import Case, Expected
from ops.chaos.tones import Finding, Truth
from schema.errors import CallscribeError
from schema.records import NewRecording, QuarantinedRecording

#: Findings that take nothing back: who is silent, or the same on both channels.
_HARMLESS = ("dual-mono", "silent-channel", "silent-mix", "tracks-as-channels")
#: Findings that other tracks are not read.
_TRACKS = ("other-tracks", "first-audio-stream")
#: A flag may say so much beside the truth where a file breaks.
_BREAK_MS = 1_000

Outcome = NewRecording | QuarantinedRecording | CallscribeError | None


class Verdict(StrEnum):
    """What became of a file, held against what is true of it."""

    RIGHT = "right"
    FLAGGED = "flagged"
    REFUSED = "refused"
    SILENT_LOSS = "SILENT LOSS"
    GOOD_REFUSED = "GOOD FILE REFUSED"
    BROKEN_TAKEN = "BROKEN FILE TAKEN WITHOUT A WORD"
    #: It could not be tried: its options are unknown, or it has no outcome at all.
    FAILED = "FAILED"


FAILURES = frozenset(
    {Verdict.SILENT_LOSS, Verdict.GOOD_REFUSED, Verdict.BROKEN_TAKEN, Verdict.FAILED}
)


def verdict_of(
    case: Case, truth: Truth, outcome: Outcome, finding: Finding
) -> tuple[Verdict, bool]:
    """Return the verdict on a case, and whether it is one of those that are legitimate."""
    match outcome:
        case None | CallscribeError():
            return Verdict.FAILED, False
        case QuarantinedRecording(code=code, message=message):
            return _refusal(case, code, message)
        case NewRecording(flags=flags):
            return _taken(case, truth, flags, finding)


def _taken(
    case: Case, truth: Truth, raised: Sequence[str], finding: Finding
) -> tuple[Verdict, bool]:
    flags = [flag for flag in raised if not flag.startswith(_HARMLESS)]
    if case.flag:
        return _asked_for(case, truth, flags, finding)
    if finding.problems:
        return _in_part(case, flags, finding)
    if Expected.BROKEN not in case.expected or Expected.WHOLE in case.expected:
        return Verdict.RIGHT, True
    if flags:
        return Verdict.FLAGGED, Expected.FLAG in case.expected
    return Verdict.BROKEN_TAKEN, False


def _in_part(case: Case, flags: Sequence[str], finding: Finding) -> tuple[Verdict, bool]:
    """Judge a file that was taken, and of which not all is there."""
    if _excused(flags, finding):
        return Verdict.FLAGGED, Expected.FLAG in case.expected
    only_broken = case.expected == {Expected.BROKEN}
    return Verdict.BROKEN_TAKEN if only_broken else Verdict.SILENT_LOSS, False


def _excused(flags: Sequence[str], finding: Finding) -> bool:
    """Tell whether flags say what is missing; that a track is not read excuses no other's loss."""
    others = [flag for flag in flags if not flag.startswith(_TRACKS)]
    return bool(others) or (bool(flags) and not finding.of_the_heard)


def _refusal(case: Case, code: str, message: str) -> tuple[Verdict, bool]:
    if Expected.BROKEN not in case.expected:
        return Verdict.GOOD_REFUSED, False
    return Verdict.REFUSED, code in case.codes and case.message in message


def _asked_for(
    case: Case, truth: Truth, flags: Sequence[str], finding: Finding
) -> tuple[Verdict, bool]:
    """Judge a file of which a flag must say what is missing, and of which all else is there."""
    if finding.problems:
        return Verdict.SILENT_LOSS, False
    raised = [flag for flag in flags if flag.startswith(case.flag)]
    if not raised:
        return Verdict.BROKEN_TAKEN, False
    return Verdict.RIGHT, case.flag != "truncated" or _says_where(raised[0], truth)


def _says_where(flag: str, truth: Truth) -> bool:
    """Tell whether a flag says about where a file breaks."""
    said = flag.partition(":")[2]
    most_ms = truth.length_ms + truth.late_ms + _BREAK_MS
    return said.isdecimal() and truth.least_ms - _BREAK_MS <= int(said) <= most_ms
