"""One seam: up to which word the left of two neighbours is believed, from which on the right. Pure.

Both heard the overlap, and each is weak at its own edge, where it did not hear what came next. What
they wrote is aligned first (:mod:`workers.transcript.alignment`). A seam is a place between two
columns of that alignment, so that a word which both wrote comes exactly once, also where they timed
it differently. Which place it is, the first rule that finds one decides: time first, text second.
Words are never interleaved, and no side is chosen for having written more; but a passage that one
side alone wrote is kept, and of two wordings the surer one is preferred: a rule is asked first for
places that are expected to cost a quarter of an error more than the best at most, then for any that
lose none of those words, then one.

The confidence of a seam is the chance, as far as its rule can tell, that each word said around it
is written exactly once:

* ``agreed-silence``: from 0.9 for the shortest pause to 1 for half a second;
* ``anchor``: 1 - 1 / 2n for a run of n words;
* ``one-sided``: 0.7 where the side that wrote nothing heard speech too, else 0.5;
* ``fuzzy``: between 0.3 and 0.7, by how much the words around it have in common;
* ``midpoint``: 0.2;

and never more than 0.6 where, elsewhere in the overlap, one side wrote words that the other lacks.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from schema.span import Span, minus
from schema.text import is_cjk
from schema.transcript import SeamRule
from schema.words import Word
from workers.transcript.alignment import OFFSET_MS, SAME_TIME_MS, Column, align, comparison_form

#: Words this close to their own segment's edge were heard without what came next to them, and are
#: not trusted to decide; less where the overlap is short.
GUARD_MS = 1_000

#: A region that ends this close to an edge was cut by it: VAD begins and ends a region late.
_TRUNCATION_MS = 200

#: A shorter pause lies within a phrase, and two decodes may time its words differently.
PAUSE_MS = 200
_LONG_PAUSE_MS = 500

#: How sure equal words are as an anchor: three CJK characters, two Latin words, or one long word
#: that comes once.
_CJK_WEIGHT = 2
_WORD_WEIGHT = 3
ANCHOR_WEIGHT = 6
_LONG_WORD_CHARACTERS = 8

#: Two texts that share this much are two hearings of one word ("jump" and "jumps").
_MIN_LIKENESS = 0.5

#: A place is as bad as a column of words with nothing in common if it is this much farther from
#: the middle, or cuts through words for this long; as two, if it loses a word.
_DISTANCE_PER_COLUMN_MS = 4_000
_CONFLICT_PER_COLUMN_MS = 250
_COLUMNS_PER_ERROR = 2

_CONTESTED_CONFIDENCE = 0.6

#: How sure a word is whose model does not say; how much less a word that its side does not trust.
_UNKNOWN_CONFIDENCE = 0.5
_DISTRUST_FACTOR = 0.5

#: A place is as good as the best if it is expected to cost no more errors than this beyond it.
_COST_TOLERANCE = 0.25


@dataclass(frozen=True, slots=True)
class DecodedSegment:
    """One segment of a channel on the recording's clock; ``is_failed`` where it has no result.

    ``words`` and ``speech`` are in order of their starts. The times of words within
    ``untimed_speech``, a part of the speech, are guesses.
    """

    span: Span
    words: tuple[Word, ...] = ()
    speech: tuple[Span, ...] = ()
    is_failed: bool = False
    untimed_speech: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class SeamChoice:
    """The left segment's words before ``left_end`` stay, the right one's from ``right_start``."""

    rule: SeamRule
    at_ms: int
    confidence: float
    left_end: int
    right_start: int


def choose_seam(left: DecodedSegment, right: DecodedSegment) -> SeamChoice:
    """Choose the seam of two neighbours, of which the right one begins and ends later."""
    overlap = left.span.overlap(right.span)
    if left.is_failed or right.is_failed:
        return _cut_at_failure(left, right, overlap)
    if overlap is None:
        at_ms = right.span.start_ms
        return SeamChoice(SeamRule.ADJACENT, max(at_ms, left.span.end_ms), 0.5, len(left.words), 0)
    alignment = _AlignedOverlap(left, right, overlap)
    point_sets = (alignment.points_costing(_COST_TOLERANCE), *map(alignment.points_losing, (0, 1)))
    cuts = (rule(alignment, points) for points in point_sets for rule in _RULES)
    cut = next(filter(None, cuts), None)
    return cut or _cut_where_likeliest(alignment, alignment.points_costing(1))


def _cut_at_failure(
    left: DecodedSegment, right: DecodedSegment, overlap: Span | None
) -> SeamChoice:
    """Keep all that the other one has; the transcript marks the gap."""
    at_ms = right.span.start_ms
    if overlap is not None:
        at_ms = overlap.start_ms if left.is_failed else overlap.end_ms
    # What of a failed segment another one has covered before it is not taken twice.
    right_start = sum(word.middle_ms < left.span.start_ms for word in right.words)
    return SeamChoice(SeamRule.GAP, at_ms, 0.0, len(left.words), right_start)


@dataclass(frozen=True, slots=True)
class _Side:
    """What one neighbour makes of the overlap.

    ``words`` are those in or near the overlap, the first of which is the segment's word ``first``.
    Words before ``overlap_first`` and from ``overlap_end`` on are nobody's but this side's or,
    where the words of a right side begin, an earlier neighbour's. ``edge`` is the stretch that this
    side heard without what is beyond its edge.
    """

    words: Sequence[Word]
    first: int
    overlap_first: int
    overlap_end: int
    speech: Sequence[Span]
    edge: Span
    is_truncated: bool

    @property
    def overlap_words(self) -> Sequence[Word]:
        return self.words[self.overlap_first - self.first : self.overlap_end - self.first]

    @property
    def is_wordless(self) -> bool:
        return self.overlap_first >= self.overlap_end

    def count_before(self, at_ms: int) -> int:
        """Return how many of the segment's words lie before a moment, by their middles."""
        return self.first + sum(word.middle_ms < at_ms for word in self.words)

    def reaches_edge(self, word: Word) -> bool:
        """Tell whether a word reaches into the stretch that this side heard badly."""
        return word.end_ms > self.edge.start_ms and word.start_ms < self.edge.end_ms

    def is_at_edge(self, word: Word) -> bool:
        """Tell whether a word lies in that stretch alone."""
        return self.edge.start_ms <= word.start_ms and word.end_ms <= self.edge.end_ms

    def trusts(self, word: Word) -> bool:
        """Tell whether a word of this side may decide."""
        return not (self.is_truncated and self.reaches_edge(word))

    def confidence_in(self, word: Word) -> float:
        """Return the chance that a word of this side is right, as far as can be told."""
        confidence = _UNKNOWN_CONFIDENCE if word.confidence is None else word.confidence
        return confidence if self.trusts(word) else _DISTRUST_FACTOR * confidence

    def hears_speech_during(self, word: Word) -> bool:
        """Tell whether this side's VAD heard speech while a word of the other one was said."""
        return any(s.start_ms < word.end_ms and word.start_ms < s.end_ms for s in self.speech)

    def wrote_near(self, word: Word, delay_ms: int) -> bool:
        """Tell whether this side, late by ``delay_ms``, wrote anything near the other's word."""
        start_ms = word.start_ms + delay_ms - SAME_TIME_MS
        end_ms = word.end_ms + delay_ms + SAME_TIME_MS
        return any(w.start_ms < end_ms and start_ms < w.end_ms for w in self.words)


@dataclass(frozen=True, slots=True)
class _CutPoint:
    """Where a seam may lie: before the alignment's column ``column``.

    ``left_end`` and ``right_start`` are as in :class:`SeamChoice`; ``lost_words`` is how many words
    that only one side wrote, and the other missed, neither would write; ``cost`` how many errors
    are expected of taking the columns before it from the left, and the others from the right.
    """

    column: int
    left_end: int
    right_start: int
    lost_words: int
    cost: float
    at_ms: int = 0


class _AlignedOverlap:
    """Two neighbours' decodes of one overlap, aligned, and where a seam between them may lie."""

    def __init__(self, left: DecodedSegment, right: DecodedSegment, overlap: Span) -> None:
        guard_ms = min(GUARD_MS, overlap.duration_ms // 4)
        self.span = overlap
        #: Away from both edges: a pause here was heard well by both.
        self.inner_span = Span(overlap.start_ms + guard_ms, overlap.end_ms - guard_ms)
        self.left = _left_side(left, overlap, guard_ms)
        self.right = _right_side(right, overlap, guard_ms)
        self.columns, self._right_delay_ms = align(self.left.words, self.right.words)
        self.missed_columns, self.hallucinated_columns = self._one_sided_columns()
        self._points = list(self._cut_points())

    @property
    def words(self) -> list[Word]:
        return [*self.left.words, *self.right.words]

    def distance_ms(self, at_ms: int) -> int:
        """Return how far a moment is from the overlap's middle, doubled so that it is exact."""
        return abs(2 * at_ms - self.span.start_ms - self.span.end_ms)

    def trusted_pair(self, column: int) -> tuple[Word, Word] | None:
        """Return the words of a column that has two which may decide."""
        if not 0 <= column < len(self.columns):
            return None
        i, j = self.columns[column].left_index, self.columns[column].right_index
        if i is None or j is None:
            return None
        left_word, right_word = self.left.words[i], self.right.words[j]
        are_trusted = self.left.trusts(left_word) and self.right.trusts(right_word)
        return (left_word, right_word) if are_trusted else None

    def cut_at(self, rule: SeamRule, point: _CutPoint, confidence: float) -> SeamChoice:
        """Return the cut at a place; one that words of one side alone put in doubt is less sure."""
        if self.is_contested:
            confidence = min(confidence, _CONTESTED_CONFIDENCE)
        return SeamChoice(
            rule, point.at_ms, round(confidence, 3), point.left_end, point.right_start
        )

    @property
    def is_contested(self) -> bool:
        """Whether one side missed words that it did not hear at its own edge."""
        for column in (self.columns[k] for k in self.missed_columns):
            i, j = column.left_index, column.right_index
            if i is not None and not self.right.reaches_edge(self.left.words[i]):
                return True
            if j is not None and not self.left.reaches_edge(self.right.words[j]):
                return True
        return False

    def conflict_ms(self, point: _CutPoint) -> int:
        """Return for how long a place cuts through words, which would come twice or by halves.

        A kept word of the left overlaps a kept one of the right, or a dropped one a dropped one.
        """
        i, j = point.left_end - self.left.first, point.right_start - self.right.first
        lefts, rights = self.left.words, self.right.words
        doubled_ms = halved_ms = 0
        if i > 0 and j < len(rights):
            doubled_ms = lefts[i - 1].end_ms - rights[j].start_ms + self._right_delay_ms
        if j > 0 and i < len(lefts):
            halved_ms = rights[j - 1].end_ms - self._right_delay_ms - lefts[i].start_ms
        return max(0, doubled_ms) + max(0, halved_ms)

    def _one_sided_columns(self) -> tuple[set[int], set[int]]:
        """Return the columns with words that the other side missed, and those with hallucinations.

        A word is missed if the other side, which heard the place well, wrote nothing near it. A
        run of words that lies at its own side's edge alone, while the other side, which heard
        that from its inside, heard no speech, is made up.
        """
        missed_columns: set[int] = set()
        hallucinated_columns: set[int] = set()
        groups = groupby(enumerate(self.columns), _sides_with_words)
        for (has_left, has_right), numbered_columns in groups:
            if has_left and has_right:
                continue
            worded_side, other_side = (
                (self.left, self.right) if has_left else (self.right, self.left)
            )
            delay_ms = self._right_delay_ms if has_left else -self._right_delay_ms
            run = [(k, worded_side.words[_lone_index(column)]) for k, column in numbered_columns]
            run = [(k, word) for k, word in run if not other_side.wrote_near(word, delay_ms)]
            if all(
                worded_side.is_at_edge(word) and not other_side.hears_speech_during(word)
                for _, word in run
            ):
                hallucinated_columns.update(k for k, _ in run)
            else:
                missed_columns.update(
                    k for k, word in run if worded_side.trusts(word) or other_side.is_wordless
                )
        return missed_columns, hallucinated_columns

    def points_losing(self, words: int) -> list[_CutPoint]:
        """Return the places that lose at most so many words more than need be."""
        lost_min = min((point.lost_words for point in self._points), default=0)
        return [point for point in self._points if point.lost_words <= lost_min + words]

    def points_costing(self, errors: float) -> list[_CutPoint]:
        """Return the places expected to cost so many errors more than the best at most."""
        cost_min = min((point.cost for point in self._points), default=0)
        return [
            replace(point, cost=point.cost - cost_min)
            for point in self._points
            if point.cost <= cost_min + errors
        ]

    def _cut_points(self) -> Iterator[_CutPoint]:
        """Yield the places that leave every word outside the overlap to its side."""
        i, j = self.left.first, self.right.first
        costs = [self._column_costs(k) for k in range(len(self.columns))]
        cost = sum(right_cost for _, right_cost in costs)
        lost_words = sum(self.columns[k].right_index is None for k in self.missed_columns)
        points = [_CutPoint(0, i, j, lost_words, cost)]
        for k, column in enumerate(self.columns):
            i += column.left_index is not None
            j += column.right_index is not None
            if k in self.missed_columns:
                lost_words += 1 if column.left_index is None else -1
            left_cost, right_cost = costs[k]
            cost += left_cost - right_cost
            points.append(_CutPoint(k + 1, i, j, lost_words, cost))
        first, end = self.left.overlap_first, self.right.overlap_end
        for point in points:
            if point.left_end >= first and point.right_start <= end:
                yield replace(point, at_ms=self._moment_ms(point))

    def _column_costs(self, k: int) -> tuple[float, float]:
        """Return how many errors it is expected to cost to take a column's left, and its right.

        Of two wordings the surer one is believed. To lose a word that one side alone wrote costs as
        much as that side is surer of it than not; it never pays to lose one.
        """
        column = self.columns[k]
        if column.is_equal:
            return 0.0, 0.0
        if k in self.missed_columns:
            return (0.0, 1.0) if column.right_index is None else (1.0, 0.0)
        i, j = column.left_index, column.right_index
        left_confidence = 0.0 if i is None else self.left.confidence_in(self.left.words[i])
        right_confidence = 0.0 if j is None else self.right.confidence_in(self.right.words[j])
        if column.is_pair:
            return 1 - left_confidence, 1 - right_confidence
        return max(0.0, 2 * right_confidence - 1), max(0.0, 2 * left_confidence - 1)

    def _moment_ms(self, point: _CutPoint) -> int:
        """Return the moment of a place: between the words around it, nearest the middle."""
        i, j = point.left_end - self.left.first, point.right_start - self.right.first
        lefts, rights = self.left.words, self.right.words
        ends_ms = [word.end_ms for word in (*lefts[:i][-1:], *rights[:j][-1:])]
        starts_ms = [word.start_ms for word in (*lefts[i : i + 1], *rights[j : j + 1])]
        start_ms, end_ms = self.span.start_ms, self.span.end_ms
        low_ms, high_ms = max([start_ms, *ends_ms]), min([end_ms, *starts_ms])
        if low_ms <= high_ms:
            return max(low_ms, min(high_ms, self.span.middle_ms))
        return max(start_ms, min(end_ms, (low_ms + high_ms) // 2))


def _sides_with_words(numbered_column: tuple[int, Column]) -> tuple[bool, bool]:
    return numbered_column[1].left_index is not None, numbered_column[1].right_index is not None


def _lone_index(column: Column) -> int:
    return next(index for index in (column.left_index, column.right_index) if index is not None)


def _left_side(left: DecodedSegment, overlap: Span, guard_ms: int) -> _Side:
    margin_ms = SAME_TIME_MS + OFFSET_MS
    edge_ms = left.span.end_ms
    ends_ms = [word.end_ms for word in left.words]
    indexes_before = [i for i, end_ms in enumerate(ends_ms) if end_ms <= overlap.start_ms]
    overlap_first = indexes_before[-1] + 1 if indexes_before else 0
    indexes_near = (i for i, end_ms in enumerate(ends_ms) if end_ms > overlap.start_ms - margin_ms)
    first = min(overlap_first, next(indexes_near, overlap_first))
    return _Side(
        words=left.words[first:],
        first=first,
        overlap_first=overlap_first,
        overlap_end=len(left.words),
        speech=left.speech,
        edge=Span(max(0, edge_ms - guard_ms), edge_ms + guard_ms),
        is_truncated=any(span.end_ms >= edge_ms - _TRUNCATION_MS for span in left.speech),
    )


def _right_side(right: DecodedSegment, overlap: Span, guard_ms: int) -> _Side:
    margin_ms = SAME_TIME_MS + OFFSET_MS
    edge_ms = right.span.start_ms
    # An earlier neighbour that reaches this far was given what lies before the overlap.
    is_clipped = overlap.start_ms > edge_ms
    first = sum(w.middle_ms < overlap.start_ms for w in right.words) if is_clipped else 0
    starts_ms = [word.start_ms for word in right.words]
    overlap_end = max(first, bisect_left(starts_ms, overlap.end_ms))
    end = max(overlap_end, bisect_left(starts_ms, overlap.end_ms + margin_ms))
    return _Side(
        words=right.words[first:end],
        first=first,
        overlap_first=first,
        overlap_end=overlap_end,
        speech=right.speech,
        edge=Span(max(0, edge_ms - guard_ms), edge_ms + guard_ms),
        is_truncated=any(span.start_ms <= edge_ms + _TRUNCATION_MS for span in right.speech),
    )


def _cut_empty(alignment: _AlignedOverlap, _: Sequence[_CutPoint]) -> SeamChoice | None:
    """Neither side wrote anything: there is nothing to decide."""
    left, right = alignment.left, alignment.right
    if not (left.is_wordless and right.is_wordless):
        return None
    speech = [any(map(alignment.span.overlap, side.speech)) for side in (left, right)]
    confidence = 0.5 if all(speech) else 1.0
    return SeamChoice(
        SeamRule.EMPTY, alignment.span.middle_ms, confidence, left.overlap_end, right.overlap_first
    )


def _cut_in_silence(alignment: _AlignedOverlap, points: Sequence[_CutPoint]) -> SeamChoice | None:
    """Cut at the centre of the widest pause that both heard and that no word crosses."""
    by_counts = {(point.left_end, point.right_start): point for point in points}
    sounds = [*alignment.left.speech, *alignment.right.speech, *(w.span for w in alignment.words)]
    candidates: list[tuple[tuple[int, int], _CutPoint]] = []
    for pause in minus(alignment.inner_span, sorted(sounds)):
        at_ms = pause.middle_ms
        counts = alignment.left.count_before(at_ms), alignment.right.count_before(at_ms)
        if pause.duration_ms >= PAUSE_MS and counts in by_counts:
            rank = pause.duration_ms, -alignment.distance_ms(at_ms)
            candidates.append((rank, replace(by_counts[counts], at_ms=at_ms)))
    if not candidates:
        return None
    (pause_ms, _), point = max(candidates, key=lambda candidate: candidate[0])
    share = min(1.0, (pause_ms - PAUSE_MS) / (_LONG_PAUSE_MS - PAUSE_MS))
    return alignment.cut_at(SeamRule.AGREED_SILENCE, point, 0.9 + 0.1 * share)


def _cut_one_sided(alignment: _AlignedOverlap, points: Sequence[_CutPoint]) -> SeamChoice | None:
    """Where only one wrote anything, believe it: a word too many is seen, a lost one is not.

    But for words that it made up at its edge, which is beyond all others.
    """
    left, right = alignment.left, alignment.right
    hallucinated_columns = alignment.hallucinated_columns
    if left.is_wordless == right.is_wordless or not points:
        return None
    if right.is_wordless:
        end_column = min(hallucinated_columns, default=len(alignment.columns))
        candidates = [p for p in points if p.column <= end_column]
        point, worded_side, wordless_side = (candidates or points)[-1], left, right
    else:
        start_column = max(hallucinated_columns, default=-1) + 1
        candidates = [p for p in points if p.column >= start_column]
        point, worded_side, wordless_side = (candidates or points)[0], right, left
    heard_speech = any(
        wordless_side.hears_speech_during(word) for word in worded_side.overlap_words
    )
    confidence = 0.7 if heard_speech else 0.5
    return SeamChoice(
        SeamRule.ONE_SIDED, point.at_ms, confidence, point.left_end, point.right_start
    )


def _cut_at_anchor(alignment: _AlignedOverlap, points: Sequence[_CutPoint]) -> SeamChoice | None:
    """Cut beside the equal words nearest the middle, of a run that both wrote at the same times.

    Those words are the left side's if they lie before the middle, and the right side's if after
    it: each time the side's that is farther from its edge.
    """
    by_column = {point.column: point for point in points}
    best_cut, best_distance_ms = None, math.inf
    for run in _anchor_runs(alignment):
        for column, (left_word, right_word) in run:
            twice_middle_ms = left_word.middle_ms + right_word.middle_ms
            offset_ms = twice_middle_ms - alignment.span.start_ms - alignment.span.end_ms
            point = by_column.get(column + 1 if offset_ms < 0 else column)
            if point is not None and abs(offset_ms) < best_distance_ms:
                cut = alignment.cut_at(SeamRule.ANCHOR, point, 1 - 0.5 / len(run))
                best_cut, best_distance_ms = cut, abs(offset_ms)
    return best_cut


_Run = list[tuple[int, tuple[Word, Word]]]


def _anchor_runs(alignment: _AlignedOverlap) -> Iterator[_Run]:
    open_run: _Run = []
    for k, column in enumerate(alignment.columns):
        pair = alignment.trusted_pair(k) if column.is_equal else None
        if pair:
            open_run.append((k, pair))
            continue
        if _is_anchor(open_run, alignment):
            yield open_run
        open_run = []
    if _is_anchor(open_run, alignment):
        yield open_run


def _is_anchor(run: _Run, alignment: _AlignedOverlap) -> bool:
    texts = [comparison_form(word.text) for _, (word, _) in run]
    if sum(map(anchor_weight, texts)) >= ANCHOR_WEIGHT:
        return True
    if len(texts) != 1 or len(texts[0]) < _LONG_WORD_CHARACTERS:
        return False
    return sum(comparison_form(word.text) == texts[0] for word in alignment.words) == 2


def anchor_weight(text: str) -> int:
    """Return how sure a word that two decodes share is as a part of an anchor."""
    characters = sum(map(is_cjk, text))
    return _CJK_WEIGHT * characters if characters else _WORD_WEIGHT


def _cut_where_likeliest(alignment: _AlignedOverlap, points: Sequence[_CutPoint]) -> SeamChoice:
    """Cut near the middle where the words on both sides of the cut differ the least.

    Where they have nothing in common, that is between words, as near the middle as may be.
    """
    if not points:
        return _cut_at_middle(alignment)
    point = min(points, key=lambda point: _badness(alignment, point))
    likeness = _likeness_around(alignment, point)
    if max(likeness) < _MIN_LIKENESS:
        return alignment.cut_at(SeamRule.MIDPOINT, point, 0.2)
    return alignment.cut_at(SeamRule.FUZZY, point, 0.3 + 0.2 * sum(likeness))


def _badness(alignment: _AlignedOverlap, point: _CutPoint) -> float:
    """Return how bad a place is, in columns of words that have nothing in common."""
    difference = 2 - sum(_likeness_around(alignment, point))
    distance = alignment.distance_ms(point.at_ms) / (2 * _DISTANCE_PER_COLUMN_MS)
    conflict = alignment.conflict_ms(point) / _CONFLICT_PER_COLUMN_MS
    return difference + distance + conflict + _COLUMNS_PER_ERROR * point.cost


def _likeness_around(alignment: _AlignedOverlap, point: _CutPoint) -> tuple[float, float]:
    """Return how alike the pairs before and after a place are; 0 for what is no trusted pair."""
    before, after = (
        alignment.columns[k].likeness if alignment.trusted_pair(k) else 0.0
        for k in (point.column - 1, point.column)
    )
    return before, after


def _cut_at_middle(alignment: _AlignedOverlap) -> SeamChoice:
    """Give each word to the side of its middle: the overlap is shorter than a word."""
    left, right, at_ms = alignment.left, alignment.right, alignment.span.middle_ms
    left_end = max(left.overlap_first, left.count_before(at_ms))
    right_start = min(right.overlap_end, right.count_before(at_ms))
    return SeamChoice(SeamRule.MIDPOINT, at_ms, 0.2, left_end, right_start)


_Rule = Callable[[_AlignedOverlap, Sequence[_CutPoint]], SeamChoice | None]

#: From the surest on. They are asked for a place as good as the best, then for any that loses no
#: word, then for one that loses one: a word of one side alone is as likely made up as left out.
_RULES: Sequence[_Rule] = (_cut_empty, _cut_in_silence, _cut_one_sided, _cut_at_anchor)
