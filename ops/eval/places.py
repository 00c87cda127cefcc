"""Errors near seams, and near places where there is no seam. Pure but for its fixed seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from ops.eval.errors import Comparison, Mistake, near
from ops.eval.merges import Merge, audit
from ops.eval.swept import Stitched, Swept
from schema.transcript import Seam

#: How near a word is "near a seam", in the field's two customary widths.
NARROW_MS, WIDE_MS = 2_000, 5_000

#: A random place is this far from every seam and both ends.
_APART_MS = 12_000

#: What is independent of its neighbours, when bounds are drawn: a minute of a recording.
STRETCH_MS = 60_000

_SEED = 4


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A moment in a layout; ``seam`` and ``merge`` are None where there is no seam."""

    swept: Swept
    stitched: Stitched
    at_ms: int
    seam: Seam | None = None
    merge: Merge | None = None

    @property
    def stretch(self) -> tuple[str, int]:
        """The part of the audio that it lies in."""
        return self.swept.case.name, self.at_ms // STRETCH_MS

    @property
    def kind(self) -> str:
        """The rule that decided the seam, or "no seam"."""
        return self.seam.rule.value if self.seam else "no seam"

    def ours(self, within_ms: int) -> Sequence[Mistake]:
        """What is wrong around it in the joined words."""
        return near(self.stitched.compared.mistakes, self.at_ms, within_ms)

    def whole(self, within_ms: int) -> float:
        """How many errors whole-file decodes make around it, in the mean over their starts."""
        return self._mean(within_ms, [w.compared for w in self.swept.settled(self.at_ms)])

    def excess(self, within_ms: int) -> float:
        """How many errors more are ours."""
        return len(self.ours(within_ms)) - self.whole(within_ms)

    def against_whole(self, within_ms: int) -> int:
        """In how many words we differ from one whole-file decode around it."""
        return len(near(self.stitched.against_whole.mistakes, self.at_ms, within_ms))

    def cut_in_the_middle(self, within_ms: int) -> int:
        """How many errors the simple merge would make around it."""
        return len(near(self.stitched.cut_in_the_middle.mistakes, self.at_ms, within_ms))

    def _mean(self, within_ms: int, compared: Sequence[Comparison]) -> float:
        counts = [len(near(each.mistakes, self.at_ms, within_ms)) for each in compared]
        return sum(counts) / len(counts)


def seams_of(swept: Swept) -> Iterator[Place]:
    """Yield each seam of each layout."""
    for stitched in swept.stitched:
        for seam in stitched.track.seams:
            if swept.settled(seam.at_ms):
                left, right = stitched.heard[seam.index : seam.index + 2]
                merge = audit(left, right, seam)
                yield Place(swept, stitched, seam.at_ms, seam, merge)


def elsewhere(swept: Swept) -> Iterator[Place]:
    """Yield as many random moments of each layout as it has seams, far from every one."""
    draw = random.Random(f"{_SEED} {swept.case.name}")  # noqa: S311 - no secret
    place = partial(Place, swept)
    for stitched in swept.stitched:
        seams_ms = [seam.at_ms for seam in stitched.track.seams]
        first_ms = stitched.layout.start_ms + _APART_MS
        last_ms = swept.case.duration_ms - _APART_MS
        free = [
            at_ms
            for at_ms in range(first_ms, last_ms, 100)
            if all(abs(at_ms - seam_ms) >= _APART_MS for seam_ms in seams_ms)
            and swept.settled(at_ms)
        ]
        for at_ms in draw.sample(free, min(len(seams_ms), len(free))):
            yield place(stitched, at_ms)
