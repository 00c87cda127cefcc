"""A seam of neighbours whose words' times are guesses: no time of a word decides. Pure.

What is known of such a word is the speech region that it was said in, and what comes before it.
So a seam lies in a pause between regions that both neighbours heard; without one, within a run of
words that both wrote, by their texts alone; and only as the last resort where the guesses put it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from schema.span import Span, minus
from schema.transcript import SeamRule
from schema.words import Word
from workers.transcript.alignment import comparison_form
from workers.transcript.seams import (
    ANCHOR_WEIGHT,
    PAUSE_MS,
    DecodedSegment,
    SeamChoice,
    anchor_weight,
)

#: How sure a seam is; of text alone, "one one one" may be cut at the wrong one.
_PAUSE_CONFIDENCE = 0.9
_TEXT_CONFIDENCE = 0.6
_ONE_SIDED_CONFIDENCE = 0.5
_MIDDLE_CONFIDENCE = 0.2


def choose_untimed_seam(left: DecodedSegment, right: DecodedSegment) -> SeamChoice | None:
    """Choose the seam of two neighbours; None where the times of all words around it are known."""
    overlap = left.span.overlap(right.span)
    if left.is_failed or right.is_failed or overlap is None:
        return None
    if not any(map(overlap.overlap, (*left.untimed_speech, *right.untimed_speech))):
        return None
    sides = _Sides(left, right, overlap)
    return (
        _cut_one_sided(sides) or _cut_in_pause(sides) or _cut_in_run(sides) or _cut_at_middle(sides)
    )


@dataclass(frozen=True, slots=True)
class _Sides:
    """Two neighbours and the overlap in which their seam lies."""

    left: DecodedSegment
    right: DecodedSegment
    overlap: Span

    @property
    def left_indexes(self) -> range:
        """The left's words in regions that reach into the overlap, and all after them."""
        first = _first_index(self.left, self.overlap.start_ms)
        return range(first, len(self.left.words))

    @property
    def right_indexes(self) -> range:
        """The right's words in regions that begin in the overlap, but those of an earlier one."""
        words, overlap = self.right.words, self.overlap
        is_clipped = overlap.start_ms > self.right.span.start_ms
        first = sum(word.middle_ms < overlap.start_ms for word in words) if is_clipped else 0
        ends_ms = [region.end_ms for region in self.right.speech if overlap.overlap(region)]
        end_ms = max([overlap.end_ms, *ends_ms])
        return range(first, max(first, sum(word.start_ms < end_ms for word in words)))

    def cut(self, rule: SeamRule, left_end: int, right_start: int, confidence: float) -> SeamChoice:
        """Return the cut between the left's words before one index and the right's from another."""
        ends_ms = [word.end_ms for word in self.left.words[:left_end][-1:]]
        starts_ms = [word.start_ms for word in self.right.words[right_start : right_start + 1]]
        moments_ms = [*ends_ms, *starts_ms] or [self.overlap.middle_ms]
        at_ms = sum(moments_ms) // len(moments_ms)
        at_ms = max(self.overlap.start_ms, min(self.overlap.end_ms, at_ms))
        return SeamChoice(rule, at_ms, confidence, left_end, right_start)


def _first_index(segment: DecodedSegment, at_ms: int) -> int:
    """Return the first word of a segment in a region that lasts beyond a moment."""
    start_ms = next((r.start_ms for r in segment.speech if r.end_ms > at_ms), at_ms)
    return sum(word.middle_ms < min(start_ms, at_ms) for word in segment.words)


def _cut_one_sided(sides: _Sides) -> SeamChoice | None:
    """Where only one wrote anything in the overlap, believe it; where neither did, it is empty."""
    has_left, has_right = bool(sides.left_indexes), bool(sides.right_indexes)
    if has_left and has_right:
        return None
    rule = SeamRule.ONE_SIDED if has_left or has_right else SeamRule.EMPTY
    at_ms = sides.overlap.end_ms if has_left else sides.overlap.start_ms
    right_start = sides.right_indexes.start
    return SeamChoice(rule, at_ms, _ONE_SIDED_CONFIDENCE, len(sides.left.words), right_start)


def _cut_in_pause(sides: _Sides) -> SeamChoice | None:
    """Cut in the pause that loses the fewest words, of those the widest."""
    cuts = []
    for pause in minus(sides.overlap, sorted((*sides.left.speech, *sides.right.speech))):
        if pause.duration_ms >= PAUSE_MS:
            at_ms = pause.middle_ms
            left_end, right_start = (
                sum(word.middle_ms < at_ms for word in segment.words)
                for segment in (sides.left, sides.right)
            )
            choice = SeamChoice(
                SeamRule.AGREED_SILENCE, at_ms, _PAUSE_CONFIDENCE, left_end, right_start
            )
            cuts.append(((sum(_lost_words(sides, at_ms)), -pause.duration_ms), choice))
    return min(cuts, key=lambda cut: cut[0])[1] if cuts else None


def _lost_words(sides: _Sides, at_ms: int) -> Iterator[int]:
    """Yield how many words of regions in which the other side wrote none a cut would drop."""
    for kept, dropped, span in (
        (sides.right, sides.left, Span(at_ms, sides.overlap.end_ms)),
        (sides.left, sides.right, Span(sides.overlap.start_ms, at_ms)),
    ):
        for region in filter(None, map(span.overlap, dropped.speech)):
            if not any(region.overlap(word.span) for word in kept.words):
                yield sum(bool(region.overlap(word.span)) for word in dropped.words)


def _cut_in_run(sides: _Sides) -> SeamChoice | None:
    """Cut in the middle of the longest run of words that both wrote."""
    left_indexes, right_indexes = sides.left_indexes, sides.right_indexes
    left_texts = _texts(sides.left.words, left_indexes)
    right_texts = _texts(sides.right.words, right_indexes)
    match = SequenceMatcher(None, left_texts, right_texts, autojunk=False).find_longest_match()
    run = left_texts[match.a : match.a + match.size]
    if sum(map(anchor_weight, run)) < ANCHOR_WEIGHT:
        return None
    half = match.size // 2
    return sides.cut(
        SeamRule.ANCHOR,
        left_indexes.start + match.a + half,
        right_indexes.start + match.b + half,
        _TEXT_CONFIDENCE,
    )


def _texts(words: Sequence[Word], indexes: range) -> list[str]:
    return [comparison_form(words[i].text) for i in indexes]


def _cut_at_middle(sides: _Sides) -> SeamChoice:
    at_ms = sides.overlap.middle_ms
    left_end = sum(word.middle_ms < at_ms for word in sides.left.words)
    right_start = sum(word.middle_ms < at_ms for word in sides.right.words)
    return SeamChoice(SeamRule.MIDPOINT, at_ms, _MIDDLE_CONFIDENCE, left_end, right_start)
