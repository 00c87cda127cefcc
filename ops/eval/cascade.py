"""What does each rule of the cascade earn? One table, a row for each cascade.

    python -m ops.eval.cascade DIR --segment 60 --shifts 6 [--fixed] [--language zh] [--cache DIR]

The layouts of ops.eval.seams, decoded once or taken from its cache, are joined again and again:
with every rule, with all but one, with the likeliest place of the alignment alone (fuzzy and
midpoint), and by a plain cut in the middle of the overlap, each word being its side's. Seams that
lie elsewhere have other words near them, so errors are counted around one set of moments, the
middles of the overlaps, and over half an overlap on both sides.

"dropped" and "doubled" are defined in ops.eval.merges; "errors" are against what was said, a seam;
"costs" is how many more than the full cascade makes at the same seams, with its 95 % bounds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from ops.eval.bounds import bounded_mean
from ops.eval.errors import compare, near
from ops.eval.merges import Merge, audit
from ops.eval.options import add_sweep, layouts_of, parser_of, sweep_of
from ops.eval.places import STRETCH_MS
from ops.eval.report import print_table
from ops.eval.swept import Stitched, Swept
from ops.eval.text import tokens
from schema.transcript import SeamRule
from workers.transcript.stitch import Track, stitch

_HEADINGS = ("cascade", "decided by", "seams", "dropped", "doubled", "errors", "costs", "95 %")

_EVERY = frozenset(SeamRule)
_GUESSED = frozenset({SeamRule.EMPTY, SeamRule.FUZZY, SeamRule.MIDPOINT})

#: The cascades that are compared, the full one first.
CASCADES: Mapping[str, Collection[SeamRule]] = {
    "every rule": _EVERY,
    "without agreed silence": _EVERY - {SeamRule.AGREED_SILENCE},
    "without one-sided": _EVERY - {SeamRule.ONE_SIDED},
    "without anchor": _EVERY - {SeamRule.ANCHOR},
    "without fuzzy": _EVERY - {SeamRule.FUZZY},
    "fuzzy and midpoint alone": _GUESSED,
    "plain middle": frozenset({SeamRule.EMPTY}),
}


@dataclass(frozen=True)
class Joined:
    """A layout as one cascade joins it."""

    swept: Swept
    stitched: Stitched
    rules: Collection[SeamRule]

    @cached_property
    def merges(self) -> list[tuple[SeamRule, Merge]]:
        """Which rule decided each seam, and what it did to the words that both sides heard."""
        heard = self.stitched.heard
        return [
            (seam.rule, audit(heard[seam.index], heard[seam.index + 1], seam))
            for seam in self._track.seams
        ]

    @cached_property
    def errors(self) -> list[int]:
        """The errors in each overlap."""
        compared = compare(self.stitched.truth, tokens(self._track.words))
        return [len(near(compared.mistakes, at_ms, by_ms)) for at_ms, by_ms in self._overlaps()]

    @property
    def stretches(self) -> list[tuple[str, int]]:
        """The part of the audio that each overlap lies in."""
        name = self.swept.case.name
        return [(name, at_ms // STRETCH_MS) for at_ms, _ in self._overlaps()]

    @cached_property
    def _track(self) -> Track:
        return stitch(self.swept.case.channel, self.stitched.heard, self.rules)

    def _overlaps(self) -> Iterator[tuple[int, int]]:
        """Yield the middle of each overlap, and half its length, in ms."""
        spans = [segment.span for segment in self.stitched.heard]
        for left, right in pairwise(spans):
            shared = left.overlap(right)
            if shared is not None:
                yield shared.middle_ms, shared.duration_ms // 2


def main() -> None:
    """Sweep, join, print."""
    parser = parser_of(__doc__)
    add_sweep(parser, segment_s=60, shifts=6)
    arguments = parser.parse_args()
    decodes, swept = sweep_of(arguments)
    title = f"{arguments.directory.name}: {layouts_of(arguments)}"
    note = "errors and costs a seam, over half an overlap on both sides of its middle"
    print_table(decodes.profile, title, _HEADINGS, list(rows(swept)), note)


def rows(swept: Sequence[Swept]) -> Iterator[list[str]]:
    """Yield a row for each cascade."""
    full: list[int] = []
    for name, rules in CASCADES.items():
        joined = [Joined(each, s, rules) for each in swept for s in each.stitched]
        merges = [merge for own in joined for merge in own.merges]
        errors = [count for own in joined for count in own.errors]
        stretches = [stretch for own in joined for stretch in own.stretches]
        full = full or errors
        bound = bounded_mean([a - b for a, b in zip(errors, full, strict=True)], stretches)
        yield [
            name,
            _shares([rule for rule, _ in merges]),
            f"{len(merges):,}",
            str(sum(len(merge.dropped) for _, merge in merges)),
            str(sum(len(merge.doubled) for _, merge in merges)),
            f"{sum(errors) / max(1, len(errors)):.3f}",
            f"{bound.mean:+.3f}",
            f"{bound.low:+.3f} {bound.high:+.3f}",
        ]


def _shares(rules: Sequence[SeamRule]) -> str:
    """Return how many seams in a hundred each rule decided."""
    found = ((rule, 100 * rules.count(rule) / max(1, len(rules))) for rule in SeamRule)
    return ", ".join(f"{rule.value} {share:.0f} %" for rule, share in found if share)


if __name__ == "__main__":
    main()
