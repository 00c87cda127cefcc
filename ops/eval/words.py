"""How right are the words, and their times? One table, a row for each recording.

    python -m ops.eval.words DIR [--language en] [--segment 60 --shifts 6 [--fixed]]

Word errors: substitutions, deletions and insertions per word of ``x.ref.txt`` (per character for
Chinese), normalised as ops.eval.text says. Times: of words that are right, starts and ends against
``x.words.tsv``; the bias is the median of the signed error, in ms, later than said being positive.

Without ``--segment`` each recording is decoded in one piece. With it, it is laid out and cut as by
ops.eval.seams, and the times near seams are told from those elsewhere.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence

from ops.eval.corpus import Case
from ops.eval.decode import Decodes
from ops.eval.errors import compare
from ops.eval.options import add_sweep, cases_of, decodes_of, layouts_of, parser_of
from ops.eval.places import NARROW_MS, WIDE_MS
from ops.eval.report import print_table
from ops.eval.sweep import plan_settings
from ops.eval.swept import sweep, truth_of
from ops.eval.text import Token, tokens
from ops.eval.timing import Timing, median, percentile, timings, to_nearest
from schema.span import Span
from schema.words import Word

_ERRORS = ("errors %", "sub", "del", "ins", "of")
_TIMES = (
    "timed",
    "bias start",
    "bias end",
    "median ms",
    "p95 ms",
    "start p95",
    "end p95",
)

#: What a measurement is called, and its table.
Measured = tuple[str, Sequence[str], list[list[str]]]


def main() -> None:
    """Decode, compare, print."""
    parser = parser_of(__doc__)
    add_sweep(parser, segment_s=0, shifts=6)
    arguments = parser.parse_args()
    decodes = decodes_of(arguments)
    measured = _by_place if arguments.segment else _by_recording
    what, headings, rows = measured(arguments, decodes)
    note = "times of right words only; median and p95 are of errors without their signs, both edges"
    title = f"{arguments.directory.name}: {what}"
    print_table(decodes.profile, title, headings, rows, note)


def _by_recording(arguments: Namespace, decodes: Decodes) -> Measured:
    """Return a row for each recording, decoded in one piece, and one for all."""
    cases = cases_of(arguments, lambda case: bool(case.reference), "a reference")
    results = decodes.get([(case, _whole(case)) for case in cases])
    measured = [_row_of(case, results[case.name, _whole(case)].words) for case in cases]
    timed = [timing for _, found in measured for timing in found]
    rows = [row for row, _ in measured]
    rows.append(["all", *[""] * len(_ERRORS), *_times(timed)])
    return "words and their times, in one piece", ("recording", *_ERRORS, *_TIMES), rows


def _by_place(arguments: Namespace, decodes: Decodes) -> Measured:
    """Return a row of the words near seams, and one of those elsewhere."""
    cases = cases_of(arguments, lambda case: bool(case.truth), "words with times (.words.tsv)")
    settings = plan_settings(arguments.segment, arguments.overlap, fixed=arguments.fixed)
    near_seams: list[Timing] = []
    beyond: list[Timing] = []
    for each in sweep(decodes, cases, settings, arguments.shifts, wholes=1):
        for stitched in each.stitched:
            seams_ms = [seam.at_ms for seam in stitched.track.seams]
            for timing in timings(stitched.truth, stitched.mended.words):
                distance_ms = to_nearest(timing.said_ms, seams_ms)
                if distance_ms <= NARROW_MS:
                    near_seams.append(timing)
                elif distance_ms > WIDE_MS:
                    beyond.append(timing)
    rows = [
        ["within 2 s of a seam", *_times(near_seams)],
        ["beyond 5 s of all seams", *_times(beyond)],
    ]
    return layouts_of(arguments), ("words", *_TIMES), rows


def _whole(case: Case) -> Span:
    return Span(0, case.duration_ms)


def _row_of(case: Case, words: Sequence[Word]) -> tuple[list[str], list[Timing]]:
    truth: Sequence[Token] = truth_of(case, words)
    compared = compare(truth, tokens(words))
    kinds = [mistake.kind for mistake in compared.mistakes]
    found = timings(truth, words) if case.truth else []
    row = [case.name, f"{100 * compared.rate:.2f}"]
    row += [str(kinds.count(kind)) for kind in ("substitution", "deletion", "insertion")]
    return [*row, f"{compared.expected:,}", *_times(found)], found


def _times(found: Sequence[Timing]) -> Iterator[str]:
    """Yield the cells of a row that tell of times."""
    yield f"{len(found):,}"
    if not found:
        yield from [""] * 6
        return
    starts, ends = [t.start_error_ms for t in found], [t.end_error_ms for t in found]
    sizes = [abs(error) for error in (*starts, *ends)]
    yield f"{median(starts):+.0f}"
    yield f"{median(ends):+.0f}"
    yield f"{median(sizes):.0f}"
    yield f"{percentile(sizes, 95):.0f}"
    yield f"{percentile([abs(error) for error in starts], 95):.0f}"
    yield f"{percentile([abs(error) for error in ends], 95):.0f}"


if __name__ == "__main__":
    main()
