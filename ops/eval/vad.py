"""How much speech does the detector miss, and how much does it make up? One table.

    python -m ops.eval.vad DIR [--scene call]

DIR holds audio and ``.rttm`` files that say who speaks when; speech is when anybody does. Time
within 250 ms of a turn's start or end is not counted, as NIST's md-eval has it, since people do
not agree on it any closer; the columns "all" count it as well. With ``--no-speech``, recordings
that no ``.rttm`` names are taken to hold no speech: all that is detected in them is a false alarm.
"""

from __future__ import annotations

from collections.abc import Sequence

from ops.eval.corpus import Case
from ops.eval.detection import Detection, judge
from ops.eval.options import cases_of, decodes_of, parser_of
from ops.eval.report import print_table
from schema.span import Span

_COLLAR_MS = 250
_HEADINGS = (
    "recording",
    "speech s",
    "other s",
    "missed s",
    "%",
    "false s",
    "%",
    "missed s, all",
    "false s, all",
)


def main() -> None:
    """Detect, compare, print."""
    parser = parser_of(__doc__)
    parser.add_argument(
        "--no-speech", action="store_true", help="recordings without turns hold no speech"
    )
    arguments = parser.parse_args()
    cases = cases_of(
        arguments,
        lambda case: case.turns is not None or arguments.no_speech,
        "turns in an .rttm (--no-speech, if nobody speaks)",
    )
    decodes = decodes_of(arguments)
    results = decodes.get([(case, _whole(case)) for case in cases])
    judged = [
        tuple(_judged(case, results[case.name, _whole(case)].speech, ms) for ms in (_COLLAR_MS, 0))
        for case in cases
    ]
    rows = [_row(case.name, *own) for case, own in zip(cases, judged, strict=True)]
    rows.append(_row("all", *map(_sum, zip(*judged, strict=True))))
    title = f"{arguments.directory.name}: speech detected against turns"
    note = f"collar {_COLLAR_MS} ms on both sides of a turn's start and end, but for the last two"
    print_table(decodes.profile, title, _HEADINGS, rows, note)


def _whole(case: Case) -> Span:
    return Span(0, case.duration_ms)


def _judged(case: Case, speech: Sequence[Span], collar_ms: int) -> Detection:
    return judge(case.turns or (), speech, case.duration_ms, collar_ms)


def _sum(own: Sequence[Detection]) -> Detection:
    return Detection(*(sum(values) for values in zip(*own, strict=True)))


def _row(name: str, collared: Detection, bare: Detection) -> list[str]:
    return [
        name,
        f"{collared.speech_ms / 1000:.1f}",
        f"{collared.other_ms / 1000:.1f}",
        f"{collared.missed_ms / 1000:.2f}",
        f"{100 * collared.missed_ms / max(1, collared.speech_ms):.1f}",
        f"{collared.false_ms / 1000:.2f}",
        f"{100 * collared.false_ms / max(1, collared.other_ms):.1f}",
        f"{bare.missed_ms / 1000:.2f}",
        f"{bare.false_ms / 1000:.2f}",
    ]


if __name__ == "__main__":
    main()
