"""How many words do seams cost? One table, a row for each rule that decides them.

    python -m ops.eval.seams DIR --segment 60 --shifts 6 [--fixed] [--language zh] [--list]

Each recording of DIR (see ops.eval.corpus) is laid out several times, beginning later each time,
and cut into segments as the producer would (``--fixed``: at fixed times, be there a word or not).
Every segment, and every whole layout, is decoded with the real weights, or taken from the cache;
so are the places that the reducer would order to be decoded once more, since they lost speech.

Errors are counted within 2 and 5 s of each seam: ours, and those of the whole-file decodes at the
same moments, in the mean over their starts; the *excess* is the difference, with its bounds. "no
seam" is as many random moments far from all seams. "middle" is what a cut in the middle of each
overlap would make. "differ" counts the words around a seam in which we differ from one whole-file
decode. What a merge drops and doubles is defined in ops.eval.merges.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ops.eval.bounds import Bound, bounded_mean, bounded_ratio
from ops.eval.errors import Mistake
from ops.eval.merges import unreported
from ops.eval.options import add_sweep, layouts_of, parser_of, sweep_of
from ops.eval.places import NARROW_MS, STRETCH_MS, WIDE_MS, Place, elsewhere, seams_of
from ops.eval.report import print_table
from ops.eval.swept import Swept
from schema.transcript import SeamRule

_HEADINGS = (
    "seam",
    "within",
    "seams",
    "%",
    "dropped",
    "doubled",
    "ours",
    "whole",
    "excess",
    "95 %",
    "differ",
    "middle",
)


def main() -> None:
    """Sweep, measure, print."""
    parser = parser_of(__doc__)
    add_sweep(parser, segment_s=60, shifts=6)
    parser.add_argument("--wholes", type=int, default=6, help="layouts decoded in one piece")
    parser.add_argument("--list", action="store_true", help="print seams that cost words as well")
    arguments = parser.parse_args()
    decodes, swept = sweep_of(arguments, arguments.wholes)
    seams = [place for each in swept for place in seams_of(each)]
    others = [place for each in swept for place in elsewhere(each)]
    if arguments.list:
        for place in seams:
            _print_loss(place)
    title = f"{arguments.directory.name}, {len(swept)} recordings: {layouts_of(arguments)}"
    print_table(decodes.profile, title, _HEADINGS, list(_rows(seams, others)), _note(swept))


def _rows(seams: Sequence[Place], others: Sequence[Place]) -> Iterator[list[str]]:
    """Yield a row for each rule, for all seams and for no seam; in narrow and in wide windows."""
    for within_ms in (NARROW_MS, WIDE_MS):
        for rule in SeamRule:
            own = [place for place in seams if place.kind == rule.value]
            if own:
                yield _row(rule.value, own, len(seams), within_ms)
        yield _row("all", seams, len(seams), within_ms)
        yield _row("no seam", others, len(seams), within_ms)


def _row(name: str, places: Sequence[Place], seams: int, within_ms: int) -> list[str]:
    merges = [place.merge for place in places if place.merge]
    bound = excess(places, within_ms)
    return [
        name,
        f"{within_ms // 1000} s",
        f"{len(places):,}",
        f"{100 * len(places) / max(1, seams):.1f}",
        str(sum(len(merge.dropped) for merge in merges)) if merges else "",
        str(sum(len(merge.doubled) for merge in merges)) if merges else "",
        _mean([len(place.ours(within_ms)) for place in places]),
        _mean([place.whole(within_ms) for place in places]),
        f"{bound.mean:+.3f}",
        f"{bound.low:+.3f} {bound.high:+.3f}",
        _mean([place.against_whole(within_ms) for place in places]),
        _mean([place.cut_in_the_middle(within_ms) for place in places]),
    ]


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / max(1, len(values)):.3f}"


def excess(places: Sequence[Place], within_ms: int) -> Bound:
    """Return how many errors more a place has than whole-file decodes have there."""
    values = [place.excess(within_ms) for place in places]
    return bounded_mean(values, [place.stretch for place in places])


def _note(swept: Sequence[Swept]) -> str:
    differing = sum(unreported(s.heard, s.track) for each in swept for s in each.stitched)
    ours = [s.compared for each in swept for s in each.stitched]
    whole = [w.compared for each in swept for w in each.wholes]
    rates = [
        100 * sum(len(c.mistakes) for c in side) / max(1, sum(c.expected for c in side))
        for side in (ours, whole)
    ]
    return (
        f"word errors: ours {rates[0]:.2f} %, whole file {rates[1]:.2f} %; difference in points, "
        f"where both have words: {rate_difference(swept)}\n"
        f"words in the transcripts beyond, or short of, what their seams account for: {differing}; "
        f"a merge paired {_twins(swept):,} words that both sides heard; "
        f"{sum(s.repairs for each in swept for s in each.stitched):,} places decoded once more"
    )


def _twins(swept: Sequence[Swept]) -> int:
    return sum(p.merge.twins for each in swept for p in seams_of(each) if p.merge)


def rate_difference(swept: Sequence[Swept]) -> Bound:
    """Return by how many points our rate of errors exceeds the whole-file decodes'.

    Each minute of a recording counts as it is in the mean of its layouts, from the moment on when
    all of them have begun.
    """
    values: list[float] = []
    words: list[float] = []
    stretches: list[tuple[str, int]] = []
    for each in swept:
        first_ms = max(
            *(whole.start_ms for whole in each.wholes),
            *(stitched.layout.start_ms for stitched in each.stitched),
        )
        longest = max(each.stitched, key=lambda stitched: len(stitched.truth))
        for minute in range(-(-first_ms // STRETCH_MS), each.case.duration_ms // STRETCH_MS + 1):
            ours = _errors([s.compared.mistakes for s in each.stitched], minute)
            whole = _errors([w.compared.mistakes for w in each.wholes], minute)
            values.append(100 * (ours - whole))
            words.append(sum(t.middle_ms // STRETCH_MS == minute for t in longest.truth))
            stretches.append((each.case.name, minute))
    return bounded_ratio(values, words, stretches)


def _errors(sides: Sequence[Sequence[Mistake]], minute: int) -> float:
    """Return the errors in a minute of a recording, in the mean over its decodes."""
    found = sum(m.at_ms // STRETCH_MS == minute for side in sides for m in side)
    return found / len(sides)


def _print_loss(place: Place) -> None:
    """Print a seam where we make more errors than whole-file decodes do, and which."""
    if place.excess(NARROW_MS) < 0.5:
        return
    wrong = "; ".join(
        f"{m.kind} {m.expected or '-'} > {m.written or '-'}" for m in place.ours(NARROW_MS)
    )
    heard = [t.text for t in place.stitched.written if abs(t.middle_ms - place.at_ms) <= NARROW_MS]
    name, start_ms = place.swept.case.name, place.stitched.layout.start_ms
    print(
        f"{name} from {start_ms / 1000:.1f} s, seam at {place.at_ms / 1000:.2f} s, {place.kind}: "
        f"{place.excess(NARROW_MS):+.2f}; {wrong}; written: {' '.join(heard)}"
    )


if __name__ == "__main__":
    main()
