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

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from schema.span import Span
from schema.transcript import SeamRule, is_cjk
from schema.words import Word
from workers.transcript.alignment import OFFSET_MS, SAME_TIME_MS, Column, align, normal

#: Words this close to their own segment's edge were heard without what came next to them, and are
#: not trusted to decide; less where the overlap is short.
GUARD_MS = 1_000

#: A region that ends this close to an edge was cut by it: VAD begins and ends a region late.
_TRUNCATED_MS = 200

#: A shorter pause lies within a phrase, and two decodes may time its words differently.
_PAUSE_MS = 200
_LONG_PAUSE_MS = 500

#: How sure equal words are as an anchor: three CJK characters, two Latin words, or one long word
#: that comes once.
_CJK_POINTS = 2
_WORD_POINTS = 3
_SURE_POINTS = 6
_LONG_WORD = 8

#: Two texts that share this much are two hearings of one word ("jump" and "jumps").
_ALIKE = 0.5

#: A place is as bad as a column of words with nothing in common if it is this much farther from
#: the middle, or cuts through words for this long; as two, if it loses a word.
_PER_COLUMN_MS = 4_000
_PER_CONFLICT_MS = 250
_COLUMNS_PER_ERROR = 2

_CONTESTED = 0.6

#: How sure a word is whose model does not say; how much less a word that its side does not trust.
_UNSAID = 0.5
_DISTRUST = 0.5

#: A place is as good as the best if it is expected to cost no more errors than this beyond it.
_AS_GOOD = 0.25


@dataclass(frozen=True, slots=True)
class Heard:
    """One segment of a channel on the recording's clock; ``failed`` where it has no result.

    ``words`` and ``speech`` are in order of their starts.
    """

    span: Span
    words: tuple[Word, ...] = ()
    speech: tuple[Span, ...] = ()
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Cut:
    """A decision: the left segment's first ``left`` words stay, the right one's from ``right``."""

    rule: SeamRule
    at_ms: int
    confidence: float
    left: int
    right: int


def decide(left: Heard, right: Heard, rules: Collection[SeamRule] = tuple(SeamRule)) -> Cut:
    """Choose the seam of two neighbours, of which the right one begins and ends later.

    ``rules`` are those that may decide: fewer than all only to measure what each of them earns.
    What is left when none of them can is the midpoint.
    """
    overlap = left.span.overlap(right.span)
    if left.failed or right.failed:
        return _beside_failure(left, right, overlap)
    if overlap is None:
        at_ms = right.span.start_ms
        return Cut(SeamRule.ADJACENT, max(at_ms, left.span.end_ms), 0.5, len(left.words), 0)
    meeting = _Meeting(left, right, overlap)
    sure = [rule for name, rule in _SURE_RULES.items() if name in rules]
    allowed = (meeting.places_costing(_AS_GOOD), *map(meeting.places_losing, (0, 1)))
    tries = (rule(meeting, places) for places in allowed for rule in sure)
    found = next(filter(None, tries), None)
    if found or SeamRule.FUZZY in rules:
        return found or _likeliest(meeting, meeting.places_costing(1))
    return _at_middle(meeting)


def _beside_failure(left: Heard, right: Heard, overlap: Span | None) -> Cut:
    """Keep all that the other one has; the transcript marks the gap."""
    at_ms = right.span.start_ms
    if overlap is not None:
        at_ms = overlap.start_ms if left.failed else overlap.end_ms
    # What of a failed segment another one has covered before it is not taken twice.
    taken = sum(word.middle_ms < left.span.start_ms for word in right.words)
    return Cut(SeamRule.GAP, at_ms, 0.0, len(left.words), taken)


@dataclass(frozen=True, slots=True)
class _Side:
    """What one neighbour makes of the overlap.

    ``words`` are those in or near the overlap, the first of which is the segment's word ``first``.
    Words before ``own_first`` and from ``own_last`` on are nobody's but this side's or, where the
    words of a right side begin, an earlier neighbour's. ``edge`` is the stretch that this side
    heard without what is beyond its edge.
    """

    words: Sequence[Word]
    first: int
    own_first: int
    own_last: int
    speech: Sequence[Span]
    edge: Span
    is_truncated: bool

    @property
    def own_words(self) -> Sequence[Word]:
        """The words in the overlap."""
        return self.words[self.own_first - self.first : self.own_last - self.first]

    @property
    def is_wordless(self) -> bool:
        """Whether it wrote nothing in the overlap."""
        return self.own_first >= self.own_last

    def before(self, at_ms: int) -> int:
        """Return how many of the segment's words lie before a moment, by their middles."""
        return self.first + sum(word.middle_ms < at_ms for word in self.words)

    def reaches_edge(self, word: Word) -> bool:
        """Tell whether a word reaches into the stretch that this side heard badly."""
        return word.end_ms > self.edge.start_ms and word.start_ms < self.edge.end_ms

    def has_at_edge(self, word: Word) -> bool:
        """Tell whether a word lies in that stretch alone."""
        return self.edge.start_ms <= word.start_ms and word.end_ms <= self.edge.end_ms

    def trusts(self, word: Word) -> bool:
        """Tell whether a word of this side may decide."""
        return not (self.is_truncated and self.reaches_edge(word))

    def sureness(self, word: Word) -> float:
        """Return the chance that a word of this side is right, as far as can be told."""
        sure = _UNSAID if word.confidence is None else word.confidence
        return sure if self.trusts(word) else _DISTRUST * sure

    def hears(self, word: Word) -> bool:
        """Tell whether this side's VAD heard speech while a word of the other one was said."""
        return any(s.start_ms < word.end_ms and word.start_ms < s.end_ms for s in self.speech)

    def wrote_near(self, word: Word, late_ms: int) -> bool:
        """Tell whether this side, late by ``late_ms``, wrote anything near the other's word."""
        begin_ms = word.start_ms + late_ms - SAME_TIME_MS
        end_ms = word.end_ms + late_ms + SAME_TIME_MS
        return any(own.start_ms < end_ms and begin_ms < own.end_ms for own in self.words)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a seam may lie: before the alignment's column ``column``.

    ``left`` and ``right`` count as in :class:`Cut`; ``lost`` is how many words that only one
    side wrote, and the other missed, would be written by neither; ``cost`` how many errors are
    expected of taking the columns before it from the left, and the others from the right.
    """

    column: int
    left: int
    right: int
    lost: int
    cost: float
    at_ms: int = 0


class _Meeting:
    """Two neighbours' decodes of one overlap, aligned, and where a seam between them may lie."""

    def __init__(self, left: Heard, right: Heard, overlap: Span) -> None:
        guard_ms = min(GUARD_MS, overlap.duration_ms // 4)
        self.overlap = overlap
        #: Away from both edges: a pause here was heard well by both.
        self.inner = Span(overlap.start_ms + guard_ms, overlap.end_ms - guard_ms)
        self.left = _left_side(left, overlap, guard_ms)
        self.right = _right_side(right, overlap, guard_ms)
        self.columns, self._late_ms = align(self.left.words, self.right.words)
        self.missed, self.ghosts = self._one_side_only()
        self._places = list(self._sound_places())

    @property
    def words(self) -> list[Word]:
        """All words in or near the overlap, of both sides."""
        return [*self.left.words, *self.right.words]

    def distance_ms(self, at_ms: int) -> int:
        """Return how far a moment is from the overlap's middle, doubled so that it is exact."""
        return abs(2 * at_ms - self.overlap.start_ms - self.overlap.end_ms)

    def pair(self, column: int) -> tuple[Word, Word] | None:
        """Return the words of a column that has two which may decide."""
        if not 0 <= column < len(self.columns):
            return None
        i, j = self.columns[column].left, self.columns[column].right
        if i is None or j is None:
            return None
        word, other = self.left.words[i], self.right.words[j]
        return (word, other) if self.left.trusts(word) and self.right.trusts(other) else None

    def cut(self, rule: SeamRule, place: _Place, confidence: float) -> Cut:
        """Return the cut at a place; one that words of one side alone put in doubt is less sure."""
        most = _CONTESTED if self.is_contested else 1.0
        sure = round(min(confidence, most), 3)
        return Cut(rule, place.at_ms, sure, place.left, place.right)

    @property
    def is_contested(self) -> bool:
        """Whether one side missed words that it did not hear at its own edge."""
        for column in (self.columns[k] for k in self.missed):
            i, j = column.left, column.right
            if i is not None and not self.right.reaches_edge(self.left.words[i]):
                return True
            if j is not None and not self.left.reaches_edge(self.right.words[j]):
                return True
        return False

    def conflict_ms(self, place: _Place) -> int:
        """Return for how long a place cuts through words, which would come twice or by halves.

        A word kept of the left overlaps one kept of the right, or one dropped one dropped.
        """
        i, j = place.left - self.left.first, place.right - self.right.first
        lefts, rights = self.left.words, self.right.words
        doubled_ms = halved_ms = 0
        if i > 0 and j < len(rights):
            doubled_ms = lefts[i - 1].end_ms - rights[j].start_ms + self._late_ms
        if j > 0 and i < len(lefts):
            halved_ms = rights[j - 1].end_ms - self._late_ms - lefts[i].start_ms
        return max(0, doubled_ms) + max(0, halved_ms)

    def _one_side_only(self) -> tuple[set[int], set[int]]:
        """Return the columns with words that the other side missed, and those with hallucinations.

        A word is missed if the other side, which heard the place well, wrote nothing near it. A
        run of words that lies at its own side's edge alone, while the other side, which heard
        that from its inside, heard no speech, is made up.
        """
        missed: set[int] = set()
        ghosts: set[int] = set()
        for (has_left, has_right), numbered in groupby(enumerate(self.columns), _sides_of):
            if has_left and has_right:
                continue
            own, other = (self.left, self.right) if has_left else (self.right, self.left)
            late_ms = self._late_ms if has_left else -self._late_ms
            run = [(k, own.words[_index(column)]) for k, column in numbered]
            run = [(k, word) for k, word in run if not other.wrote_near(word, late_ms)]
            if all(own.has_at_edge(word) and not other.hears(word) for _, word in run):
                ghosts.update(k for k, _ in run)
            else:
                missed.update(k for k, word in run if own.trusts(word) or other.is_wordless)
        return missed, ghosts

    def places_losing(self, most: int) -> list[_Place]:
        """Return the places that lose at most so many words more than need be."""
        least = min((place.lost for place in self._places), default=0)
        return [place for place in self._places if place.lost <= least + most]

    def places_costing(self, most: float) -> list[_Place]:
        """Return the places expected to cost so many errors more than the best at most."""
        least = min((place.cost for place in self._places), default=0)
        return [replace(p, cost=p.cost - least) for p in self._places if p.cost <= least + most]

    def _sound_places(self) -> Iterator[_Place]:
        """Yield the places that leave every word outside the overlap to its side."""
        i, j = self.left.first, self.right.first
        costs = [self._costs(k) for k in range(len(self.columns))]
        cost = sum(of_right for _, of_right in costs)
        lost = sum(self.columns[k].right is None for k in self.missed)
        found = [_Place(0, i, j, lost, cost)]
        for k, column in enumerate(self.columns):
            i += column.left is not None
            j += column.right is not None
            if k in self.missed:
                lost += 1 if column.left is None else -1
            of_left, of_right = costs[k]
            cost += of_left - of_right
            found.append(_Place(k + 1, i, j, lost, cost))
        for place in found:
            if place.left >= self.left.own_first and place.right <= self.right.own_last:
                yield replace(place, at_ms=self._moment_ms(place))

    def _costs(self, k: int) -> tuple[float, float]:
        """Return how many errors it is expected to cost to take a column's left, and its right.

        Of two wordings the surer one is believed. To lose a word that one side alone wrote costs as
        much as that side is surer of it than not; it never pays to lose one.
        """
        column = self.columns[k]
        if column.is_equal:
            return 0.0, 0.0
        if k in self.missed:
            return (0.0, 1.0) if column.right is None else (1.0, 0.0)
        i, j = column.left, column.right
        left = 0.0 if i is None else self.left.sureness(self.left.words[i])
        right = 0.0 if j is None else self.right.sureness(self.right.words[j])
        if column.is_pair:
            return 1 - left, 1 - right
        return max(0.0, 2 * right - 1), max(0.0, 2 * left - 1)

    def _moment_ms(self, place: _Place) -> int:
        """Return the moment of a place: between the words around it, nearest the middle."""
        i, j = place.left - self.left.first, place.right - self.right.first
        before = [word.end_ms for word in (*self.left.words[:i][-1:], *self.right.words[:j][-1:])]
        after = [
            word.start_ms for word in (*self.left.words[i : i + 1], *self.right.words[j : j + 1])
        ]
        begin_ms, end_ms = self.overlap.start_ms, self.overlap.end_ms
        low_ms, high_ms = max([begin_ms, *before]), min([end_ms, *after])
        if low_ms <= high_ms:
            return max(low_ms, min(high_ms, self.overlap.middle_ms))
        return max(begin_ms, min(end_ms, (low_ms + high_ms) // 2))


def _sides_of(numbered: tuple[int, Column]) -> tuple[bool, bool]:
    """Return which sides wrote a column's word."""
    return numbered[1].left is not None, numbered[1].right is not None


def _index(column: Column) -> int:
    """Return the index of a lone word on its own side."""
    return next(index for index in (column.left, column.right) if index is not None)


def _left_side(left: Heard, overlap: Span, guard_ms: int) -> _Side:
    margin_ms = SAME_TIME_MS + OFFSET_MS
    edge_ms = left.span.end_ms
    ends_ms = [word.end_ms for word in left.words]
    own = [i for i, end_ms in enumerate(ends_ms) if end_ms <= overlap.start_ms]
    own_first = own[-1] + 1 if own else 0
    near = (i for i, end_ms in enumerate(ends_ms) if end_ms > overlap.start_ms - margin_ms)
    first = min(own_first, next(near, own_first))
    return _Side(
        words=left.words[first:],
        first=first,
        own_first=own_first,
        own_last=len(left.words),
        speech=left.speech,
        edge=Span(max(0, edge_ms - guard_ms), edge_ms + guard_ms),
        is_truncated=any(span.end_ms >= edge_ms - _TRUNCATED_MS for span in left.speech),
    )


def _right_side(right: Heard, overlap: Span, guard_ms: int) -> _Side:
    margin_ms = SAME_TIME_MS + OFFSET_MS
    edge_ms = right.span.start_ms
    # An earlier neighbour that reaches this far was given what lies before the overlap.
    is_clipped = overlap.start_ms > edge_ms
    first = sum(w.middle_ms < overlap.start_ms for w in right.words) if is_clipped else 0
    starts_ms = [word.start_ms for word in right.words]
    own_last = max(first, bisect_left(starts_ms, overlap.end_ms))
    last = max(own_last, bisect_left(starts_ms, overlap.end_ms + margin_ms))
    return _Side(
        words=right.words[first:last],
        first=first,
        own_first=first,
        own_last=own_last,
        speech=right.speech,
        edge=Span(max(0, edge_ms - guard_ms), edge_ms + guard_ms),
        is_truncated=any(span.start_ms <= edge_ms + _TRUNCATED_MS for span in right.speech),
    )


def _empty(meeting: _Meeting, _: Sequence[_Place]) -> Cut | None:
    """Neither side wrote anything: there is nothing to decide."""
    left, right = meeting.left, meeting.right
    if not (left.is_wordless and right.is_wordless):
        return None
    speech = [any(map(meeting.overlap.overlap, side.speech)) for side in (left, right)]
    confidence = 0.5 if all(speech) else 1.0
    return Cut(
        SeamRule.EMPTY, meeting.overlap.middle_ms, confidence, left.own_last, right.own_first
    )


def _agreed_silence(meeting: _Meeting, places: Sequence[_Place]) -> Cut | None:
    """Cut at the centre of the widest pause that both heard and that no word crosses."""
    by_counts = {(place.left, place.right): place for place in places}
    sounds = [*meeting.left.speech, *meeting.right.speech, *(w.span for w in meeting.words)]
    best: tuple[int, int] | None = None
    chosen: _Place | None = None
    for pause in _pauses(sounds, meeting.inner):
        counts = meeting.left.before(pause.middle_ms), meeting.right.before(pause.middle_ms)
        rank = pause.duration_ms, -meeting.distance_ms(pause.middle_ms)
        if pause.duration_ms >= _PAUSE_MS and counts in by_counts and (not best or rank > best):
            best, chosen = rank, replace(by_counts[counts], at_ms=pause.middle_ms)
    if best is None or chosen is None:
        return None
    share = min(1.0, (best[0] - _PAUSE_MS) / (_LONG_PAUSE_MS - _PAUSE_MS))
    return meeting.cut(SeamRule.AGREED_SILENCE, chosen, 0.9 + 0.1 * share)


def _pauses(sounds: Sequence[Span], within: Span) -> Iterator[Span]:
    """Yield what of ``within`` no sound covers, in order."""
    at_ms = within.start_ms
    for sound in sorted(sounds):
        if sound.end_ms <= at_ms:
            continue
        if sound.start_ms >= within.end_ms:
            break
        if sound.start_ms > at_ms:
            yield Span(at_ms, sound.start_ms)
        at_ms = sound.end_ms
    if at_ms < within.end_ms:
        yield Span(at_ms, within.end_ms)


def _one_sided(meeting: _Meeting, places: Sequence[_Place]) -> Cut | None:
    """Where only one wrote anything, believe it: a word too many is seen, a lost one is not.

    But for words that it made up at its edge, which is beyond all others.
    """
    left, right, ghosts = meeting.left, meeting.right, meeting.ghosts
    if left.is_wordless == right.is_wordless or not places:
        return None
    if right.is_wordless:
        end = min(ghosts, default=len(meeting.columns))
        sound = [p for p in places if p.column <= end]
        place, own, other = (sound or places)[-1], left, right
    else:
        begin = max(ghosts, default=-1) + 1
        sound = [p for p in places if p.column >= begin]
        place, own, other = (sound or places)[0], right, left
    heard = any(other.hears(word) for word in own.own_words)
    confidence = 0.7 if heard else 0.5
    return Cut(SeamRule.ONE_SIDED, place.at_ms, confidence, place.left, place.right)


def _anchor(meeting: _Meeting, places: Sequence[_Place]) -> Cut | None:
    """Cut beside the equal words nearest the middle, of a run that both wrote at the same times.

    Those words are the left side's if they lie before the middle, and the right side's if after
    it: each time the side's that is farther from its edge.
    """
    by_column = {place.column: place for place in places}
    best: tuple[int, Cut] | None = None
    for run in _runs(meeting):
        for column, (word, other) in run:
            doubled_ms = word.middle_ms + other.middle_ms
            off_ms = doubled_ms - meeting.overlap.start_ms - meeting.overlap.end_ms
            place = by_column.get(column + 1 if off_ms < 0 else column)
            if place is not None and (best is None or abs(off_ms) < best[0]):
                cut = meeting.cut(SeamRule.ANCHOR, place, 1 - 0.5 / len(run))
                best = abs(off_ms), cut
    return best[1] if best else None


_Run = list[tuple[int, tuple[Word, Word]]]


def _runs(meeting: _Meeting) -> Iterator[_Run]:
    """Yield the runs of equal words, consecutive on both sides, that are sure."""
    open_run: _Run = []
    for k, column in enumerate(meeting.columns):
        pair = meeting.pair(k) if column.is_equal else None
        if pair:
            open_run.append((k, pair))
            continue
        if _is_sure(open_run, meeting):
            yield open_run
        open_run = []
    if _is_sure(open_run, meeting):
        yield open_run


def _is_sure(run: _Run, meeting: _Meeting) -> bool:
    texts = [normal(word.text) for _, (word, _) in run]
    if sum(map(_points, texts)) >= _SURE_POINTS:
        return True
    if len(texts) != 1 or len(texts[0]) < _LONG_WORD:
        return False
    return sum(normal(word.text) == texts[0] for word in meeting.words) == 2


def _points(text: str) -> int:
    characters = sum(map(is_cjk, text))
    return _CJK_POINTS * characters if characters else _WORD_POINTS


def _likeliest(meeting: _Meeting, places: Sequence[_Place]) -> Cut:
    """Cut near the middle where the words on both sides of the cut differ the least.

    Where they have nothing in common, that is between words, as near the middle as may be.
    """
    if not places:
        return _at_middle(meeting)
    place = min(places, key=lambda place: _unfitness(meeting, place))
    likeness = _likeness_around(meeting, place)
    if max(likeness) < _ALIKE:
        return meeting.cut(SeamRule.MIDPOINT, place, 0.2)
    return meeting.cut(SeamRule.FUZZY, place, 0.3 + 0.2 * sum(likeness))


def _unfitness(meeting: _Meeting, place: _Place) -> float:
    """Return how bad a place is, in columns of words that have nothing in common."""
    unlike = 2 - sum(_likeness_around(meeting, place))
    off = meeting.distance_ms(place.at_ms) / (2 * _PER_COLUMN_MS)
    conflict = meeting.conflict_ms(place) / _PER_CONFLICT_MS
    return unlike + off + conflict + _COLUMNS_PER_ERROR * place.cost


def _likeness_around(meeting: _Meeting, place: _Place) -> tuple[float, float]:
    """Return how alike the pairs before and after a place are; 0 for what is no trusted pair."""
    before, after = (
        meeting.columns[k].likeness if meeting.pair(k) else 0.0
        for k in (place.column - 1, place.column)
    )
    return before, after


def _at_middle(meeting: _Meeting) -> Cut:
    """Give each word to the side of its middle: the overlap is shorter than a word."""
    left, right, at_ms = meeting.left, meeting.right, meeting.overlap.middle_ms
    lasts = max(left.own_first, left.before(at_ms))
    firsts = min(right.own_last, right.before(at_ms))
    return Cut(SeamRule.MIDPOINT, at_ms, 0.2, lasts, firsts)


_Rule = Callable[[_Meeting, Sequence[_Place]], Cut | None]

#: From the surest on. They are asked for a place as good as the best, then for any that loses no
#: word, then for one that loses one: a word of one side alone is as likely made up as left out.
_SURE_RULES: Mapping[SeamRule, _Rule] = {
    SeamRule.EMPTY: _empty,
    SeamRule.AGREED_SILENCE: _agreed_silence,
    SeamRule.ONE_SIDED: _one_sided,
    SeamRule.ANCHOR: _anchor,
}
