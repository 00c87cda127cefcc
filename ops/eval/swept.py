"""A sweep's decodes, stitched and compared with what was said."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from ops.eval.corpus import Case
from ops.eval.decode import Decodes
from ops.eval.errors import Comparison, compare, timed
from ops.eval.sweep import Layout, layouts
from ops.eval.text import Token, normalised, tokens
from schema.profile import PlanSettings
from schema.span import Span
from schema.transcript import PlannedRepair
from schema.words import SegmentResult, Word
from workers.transcript.coverage import find_lost_speech, plan_repairs
from workers.transcript.repair import DecodedRepair, apply_repairs
from workers.transcript.seams import DecodedSegment
from workers.transcript.stitch import ChannelTimeline, stitch

#: What each span of each recording yielded.
Results = Mapping[tuple[str, Span], SegmentResult]

#: A whole-file decode is not compared so soon after its own start: half a word may be its first.
_SETTLED_MS = 5_000


@dataclass(frozen=True, slots=True, eq=False)
class Whole:
    """A decode of a recording in one piece, from ``start_ms`` on."""

    start_ms: int
    written: tuple[Token, ...]
    compared: Comparison


@dataclass(frozen=True, eq=False)
class Stitched:
    """A layout's segments as decoded, joined to one track, and compared with what was said.

    ``track`` is as the seams left it, ``mended`` with the places decoded once more that lost
    speech, ``repairs`` of them: what a reader gets.
    """

    layout: Layout
    heard: tuple[DecodedSegment, ...]
    track: ChannelTimeline
    mended: ChannelTimeline
    repairs: int
    truth: tuple[Token, ...]
    whole: Whole

    @cached_property
    def written(self) -> list[Token]:
        """The tokens that a reader gets."""
        return tokens(self.mended.words)

    @cached_property
    def compared(self) -> Comparison:
        """What a reader gets against what was said."""
        return compare(self.truth, self.written)

    @cached_property
    def against_whole(self) -> Comparison:
        """What a reader gets against a whole-file decode."""
        from_ms = self.whole.start_ms
        later = [token for token in self.whole.written if token.middle_ms >= self.layout.start_ms]
        ours = [token for token in self.written if token.middle_ms >= from_ms]
        return compare(later, ours)

    @cached_property
    def cut_in_the_middle(self) -> Comparison:
        """What a merge would give that cuts each overlap in its middle, whatever lies there."""
        return compare(self.truth, tokens(middle_cut(self.heard)))


@dataclass(frozen=True, slots=True, eq=False)
class Swept:
    """One recording in all its layouts, with its whole-file decodes in order of their starts."""

    case: Case
    wholes: tuple[Whole, ...]
    stitched: tuple[Stitched, ...]

    def settled(self, at_ms: int) -> list[Whole]:
        """Return the whole-file decodes that are to be compared around a moment."""
        return [whole for whole in self.wholes if whole.start_ms + _SETTLED_MS <= at_ms]


def sweep(
    decodes: Decodes, cases: Sequence[Case], settings: PlanSettings, shifts: int, wholes: int
) -> list[Swept]:
    """Decode, or take from the cache, join and mend every layout of every recording.

    ``shifts`` layouts are cut into segments; ``wholes`` are also decoded in one piece. Repairs are
    ordered as the reducer orders them, and decoded once all segments are.
    """
    cut = [layout for case in cases for layout in layouts(case, settings, shifts)]
    uncut = [layout for case in cases for layout in layouts(case, settings, wholes)]
    results = decodes.get(
        [(layout.case, layout.whole) for layout in uncut]
        + [(layout.case, span) for layout in cut for span in layout.segments]
    )
    joined = [_joined(layout, results) for layout in cut]
    again = decodes.get((each.layout.case, o.span) for each in joined for o in each.orders)
    return [
        _swept(
            case,
            [layout for layout in uncut if layout.case is case],
            [each for each in joined if each.layout.case is case],
            {**results, **again},
        )
        for case in cases
    ]


@dataclass(frozen=True, slots=True, eq=False)
class _Joined:
    """A layout's segments, joined, and what its coverage orders to be decoded once more."""

    layout: Layout
    heard: tuple[DecodedSegment, ...]
    track: ChannelTimeline
    orders: tuple[PlannedRepair, ...]


def _joined(layout: Layout, results: Results) -> _Joined:
    case = layout.case
    heard = tuple(_heard(span, results[case.name, span]) for span in layout.segments)
    track = stitch(case.channel, heard)
    orders = plan_repairs(find_lost_speech(track, heard), (), case.duration_ms)
    return _Joined(layout, heard, track, tuple(_begun(order, layout) for order in orders))


def _begun(order: PlannedRepair, layout: Layout) -> PlannedRepair:
    """Return a repair without what was not recorded in its layout."""
    start_ms = max(order.span.start_ms, layout.start_ms)
    return replace(order, span=Span(start_ms, order.span.end_ms))


def _swept(case: Case, uncut: Sequence[Layout], cut: Sequence[_Joined], results: Results) -> Swept:
    decoded = [(layout, _heard(layout.whole, results[case.name, layout.whole])) for layout in uncut]
    truth = truth_of(case, decoded[0][1].words)
    wholes = [
        Whole(layout.start_ms, written, compare(_after(truth, layout.start_ms), written))
        for layout, heard in decoded
        for written in [tuple(tokens(heard.words))]
    ]
    begun_ms = [whole.start_ms for whole in wholes]
    stitched = []
    for joined in cut:
        start_ms = joined.layout.start_ms
        mended = _mended(joined, results)
        stitched.append(
            Stitched(
                joined.layout,
                joined.heard,
                joined.track,
                mended,
                len(joined.orders),
                tuple(_after(truth, start_ms)),
                wholes[bisect_right(begun_ms, start_ms) - 1],
            )
        )
    return Swept(case, tuple(wholes), tuple(stitched))


def _mended(joined: _Joined, results: Results) -> ChannelTimeline:
    """Put a layout's repairs in place."""
    name = joined.layout.case.name
    again = [
        DecodedRepair(_heard(order.span, results[name, order.span]), order.core, order.reason)
        for order in joined.orders
    ]
    return apply_repairs(joined.track, again)[0]


def truth_of(case: Case, decoded: Sequence[Word]) -> list[Token]:
    """Return what was said, with the times of ``decoded`` where the reference has none."""
    if case.truth:
        return tokens(case.truth)
    return timed(normalised(case.reference or "").split(), tokens(decoded))


def middle_cut(heard: Sequence[DecodedSegment]) -> list[Word]:
    """Return the words of segments, each overlap cut in its middle: what a simple merge gives."""
    cuts_ms = [(a.span.end_ms + b.span.start_ms) // 2 for a, b in pairwise(heard)]
    edges_ms = [0, *cuts_ms, max((segment.span.end_ms for segment in heard), default=0) + 1]
    return [
        word
        for segment, (start_ms, end_ms) in zip(heard, pairwise(edges_ms), strict=True)
        for word in segment.words
        if start_ms <= word.middle_ms < end_ms
    ]


def _after(truth: Sequence[Token], start_ms: int) -> list[Token]:
    return [token for token in truth if token.middle_ms >= start_ms]


def _heard(span: Span, result: SegmentResult) -> DecodedSegment:
    """Put a result, whose times count from its span's start, on the recording's clock."""
    by_ms = span.start_ms
    return DecodedSegment(
        span,
        words=tuple(word.shifted(by_ms) for word in result.words),
        speech=tuple(region.shifted(by_ms) for region in result.speech),
    )
