"""Do two neighbours hear the same in what they share? One table, a row for each recording.

    python -m ops.eval.hearing DIR --segment 60 --shifts 6 [--fixed] [--cache DIR]

Of the overlap of each two segments, what lies at least a second from both edges is looked at. A
speech region that lies wholly there is *the same* where the other side has one with the same start
and end, to the millisecond. Most regions of read speech are longer than that, and cut by an edge of
one of the two; so starts and ends that lie there are counted as well, each by itself: *nearly* the
same is within 50 ms. Words are the same where the other side has one of equal text within half a
second (ops.eval.merges); *at one time* where it starts within 50 ms.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise

from ops.eval.merges import twins
from ops.eval.options import add_sweep, layouts_of, parser_of, sweep_of
from ops.eval.report import print_table
from schema.span import Span
from workers.transcript.seams import GUARD_MS
from workers.transcript.stitch import Heard

_NEARLY_MS = 50
_HEADINGS = (
    "recording",
    "overlaps",
    "regions",
    "the same %",
    "starts, ends",
    "the same %",
    "nearly %",
    "words",
    "the same %",
    "at one time %",
)


@dataclass(frozen=True, slots=True)
class Agreement:
    """What two sides of overlaps have in common: counts of both sides, which can be added."""

    overlaps: int = 0
    regions: int = 0
    same_regions: int = 0
    bounds: int = 0
    same_bounds: int = 0
    near_bounds: int = 0
    words: int = 0
    same_words: int = 0
    timed_words: int = 0

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def main() -> None:
    """Sweep, compare the sides, print."""
    parser = parser_of(__doc__)
    add_sweep(parser, segment_s=60, shifts=6)
    arguments = parser.parse_args()
    decodes, swept = sweep_of(arguments)
    found = {
        each.case.name: total(agreement(*pair) for s in each.stitched for pair in pairwise(s.heard))
        for each in swept
    }
    rows = [_row(name, own) for name, own in found.items()]
    rows.append(_row("all", total(found.values())))
    title = f"{arguments.directory.name}: {layouts_of(arguments)}"
    note = "of both sides, in the overlap but a second at both of its edges"
    print_table(decodes.profile, title, _HEADINGS, rows, note)


def total(agreements: Iterable[Agreement]) -> Agreement:
    """Return the sum of counts."""
    return sum(agreements, Agreement())


def agreement(left: Heard, right: Heard) -> Agreement:
    """Compare what two neighbours heard and wrote within their overlap."""
    shared = left.span.overlap(right.span)
    if shared is None or shared.duration_ms <= 2 * GUARD_MS:
        return Agreement()
    inner = Span(shared.start_ms + GUARD_MS, shared.end_ms - GUARD_MS)
    regions = [[r for r in side.speech if _is_within(r, inner)] for side in (left, right)]
    starts = [_moments((r.start_ms for r in side.speech), inner) for side in (left, right)]
    ends = [_moments((r.end_ms for r in side.speech), inner) for side in (left, right)]
    words = [[w for w in side.words if _has(inner, w.middle_ms)] for side in (left, right)]
    pairs = twins(words[0], words[1])
    return Agreement(
        overlaps=1,
        regions=sum(map(len, regions)),
        same_regions=2 * len(set(regions[0]) & set(regions[1])),
        bounds=sum(map(len, (*starts, *ends))),
        same_bounds=_common(starts, 0) + _common(ends, 0),
        near_bounds=_common(starts, _NEARLY_MS) + _common(ends, _NEARLY_MS),
        words=sum(map(len, words)),
        same_words=2 * len(pairs),
        timed_words=2 * sum(abs(a.start_ms - b.start_ms) <= _NEARLY_MS for a, b in pairs),
    )


def _is_within(region: Span, inner: Span) -> bool:
    return inner.start_ms <= region.start_ms and region.end_ms <= inner.end_ms


def _has(inner: Span, at_ms: int) -> bool:
    return inner.start_ms <= at_ms < inner.end_ms


def _moments(moments_ms: Iterable[int], inner: Span) -> list[int]:
    return [at_ms for at_ms in moments_ms if _has(inner, at_ms)]


def _common(sides: Sequence[Sequence[int]], within_ms: int) -> int:
    """Return how many moments of either of two sides have one of the other within so many ms."""
    lefts_ms, rights_ms = sides
    return sum(
        any(abs(own_ms - other_ms) <= within_ms for other_ms in others_ms)
        for owns_ms, others_ms in ((lefts_ms, rights_ms), (rights_ms, lefts_ms))
        for own_ms in owns_ms
    )


def _row(name: str, own: Agreement) -> list[str]:
    return [
        name,
        f"{own.overlaps:,}",
        f"{own.regions:,}",
        _percent(own.same_regions, own.regions),
        f"{own.bounds:,}",
        _percent(own.same_bounds, own.bounds),
        _percent(own.near_bounds, own.bounds),
        f"{own.words:,}",
        _percent(own.same_words, own.words),
        _percent(own.timed_words, own.words),
    ]


def _percent(count: int, of: int) -> str:
    return f"{100 * count / of:.1f}" if of else ""


if __name__ == "__main__":
    main()
