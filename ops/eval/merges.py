"""Words that a merge itself lost or wrote twice: told from both sides' own decodes. Pure.

Twins are two words of the overlap, one of each side, that say the same at the same time (half a
second at most between their middles), in order: as many as can be paired so, and of several ways
to pair as many the one that is least apart in time. They are one word that both sides heard. It is
*dropped* where the merge writes neither and *doubled* where it writes both. Whether it was said at
all, and what only one side heard, is no affair of the merge: see :mod:`ops.eval.errors`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from ops.eval.text import normalised
from schema.span import Span
from schema.transcript import Seam
from schema.words import Word
from workers.transcript.seams import DecodedSegment
from workers.transcript.stitch import ChannelTimeline

#: Two decodes of a word were seen up to 300 ms apart; "one one one" is said at 3 a second.
_SAME_TIME_MS = 500


@dataclass(frozen=True, slots=True)
class Merge:
    """What a seam did to the words that both sides heard: ``twins`` of them."""

    twins: int
    dropped: tuple[Word, ...]
    doubled: tuple[Word, ...]


def audit(left: DecodedSegment, right: DecodedSegment, seam: Seam) -> Merge:
    """Return which words both sides heard, and which of them the seam lost or doubled."""
    overlap = left.span.overlap(right.span) or Span(right.span.start_ms, right.span.start_ms)
    lefts = [word for word in left.words if word.end_ms > overlap.start_ms]
    rights = [word for word in right.words if word.start_ms < overlap.end_ms]
    gone_left, gone_right = set(seam.dropped_left), set(seam.dropped_right)
    pairs = twins(lefts, rights)
    return Merge(
        len(pairs),
        dropped=tuple(a for a, b in pairs if a in gone_left and b in gone_right),
        doubled=tuple(a for a, b in pairs if a not in gone_left and b not in gone_right),
    )


def unreported(segments: Sequence[DecodedSegment], track: ChannelTimeline) -> int:
    """Return how many words a track has or lacks beside what its seams say they dropped."""
    expected = Counter(word.text for segment in segments for word in segment.words)
    for seam in track.seams:
        expected.subtract(word.text for word in (*seam.dropped_left, *seam.dropped_right))
    expected.subtract(word.text for word in track.words)
    return sum(map(abs, expected.values()))


def twins(lefts: Sequence[Word], rights: Sequence[Word]) -> list[tuple[Word, Word]]:
    """Pair equal words at equal times, in order: the most pairs, then the least time apart."""
    # best[i][j]: pairs and, negated, the time apart of the first i words and the first j.
    best = [[(0, 0)] * (len(rights) + 1) for _ in range(len(lefts) + 1)]
    for i, a in enumerate(lefts):
        for j, b in enumerate(rights):
            best[i + 1][j + 1] = max(best[i][j + 1], best[i + 1][j])
            if _are_twins(a, b):
                pairs, apart = best[i][j]
                best[i + 1][j + 1] = max(best[i + 1][j + 1], (pairs + 1, apart - _apart_ms(a, b)))
    found: list[tuple[Word, Word]] = []
    i, j = len(lefts), len(rights)
    while i and j:
        if best[i][j] == best[i - 1][j]:
            i -= 1
        elif best[i][j] == best[i][j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            found.append((lefts[i], rights[j]))
    return found[::-1]


def _are_twins(a: Word, b: Word) -> bool:
    return _apart_ms(a, b) <= _SAME_TIME_MS and _said(a.text) == _said(b.text) != ""


def _apart_ms(a: Word, b: Word) -> int:
    return abs(a.middle_ms - b.middle_ms)


@cache
def _said(text: str) -> str:
    return normalised(text)
