"""What of the speech that was heard the words cover, and where speech was lost. Pure.

VAD and recognizer do not know of each other: a stretch that one calls speech and for which the
other wrote nothing is a word lost, or music, or a cough. Which one it is, a second decode of the
place tells; this module says where to look, and when looking has to end.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from schema.span import GRID_MS, Span, merged
from schema.transcript import Coverage, PlannedRepair, RepairReason, SeamRule, is_low
from schema.words import Word
from workers.transcript.stitch import Heard, Track

#: Words this far apart leave no speech uncovered between them: the gap is a breath.
_BRIDGE_MS = 500

#: Speech without words for this long is lost. In a sound decode of a real call, breaths, clicks and
#: what VAD adds at the end of a phrase come to 1.4 s at most, and read speech to 0.9 s.
LOST_MS = 1_500

#: Lost speech that begins or ends this close to a seam is the seam's.
_AT_SEAM_MS = 1_000

#: In a segment that words cover badly, shorter stretches count as well.
_SHORT_LOST_MS = 500

#: Places this close are decoded together.
_TOGETHER_MS = 2_000

#: A decode hears this much around a place, as much as two planned segments share.
CONTEXT_MS = 8_000

#: A longer stretch is several places: as many as there is time for.
_CORE_MAX_MS = 40_000

#: Of a recording, repairs decode no more than this many places, and three minutes and a tenth of
#: it: what VAD takes for speech may be an hour of music.
_REPAIRS_MAX = 12
_BUDGET_MS = 180_000
_BUDGET_SHARE = 0.1

#: Music that VAD takes for speech gets a stray word now and then: fewer than one in this time, and
#: none that the model is at all sure of.
_STRAY_WORD_MS = 10_000
_STRAY_CONFIDENCE = 0.5


@dataclass(frozen=True, slots=True)
class Place:
    """A stretch of a channel to be decoded once more; ``language`` as what, if not as before."""

    channel: int | None
    core: Span
    reason: RepairReason
    language: str | None = None


def speech_ms(track: Track) -> int:
    """Return how much of a channel VAD called speech, in ms."""
    return sum(span.duration_ms for span in track.speech)


def worded_ms(track: Track) -> int:
    """Return how much of a channel's speech its words cover, in ms."""
    return _shared_ms(track.speech, list(bridged(track.words)))


def bridged(words: Iterable[Word]) -> Iterator[Span]:
    """Yield the spans of words, joined over breaths; ``words`` are in order of their starts."""
    return merged((word.span for word in words), _BRIDGE_MS)


def segment_coverage(track: Track, segments: Sequence[Heard]) -> tuple[Coverage, ...]:
    """Return the coverage of each planned segment's core but of those that failed.

    ``segments`` are those that ``track`` was stitched of, in their order; the words that count are
    the track's, those of repairs among them.
    """
    covered = list(bridged(track.words))
    return tuple(
        Coverage(
            track.channel,
            index,
            core,
            sum(span.duration_ms for span in heard),
            _shared_ms(heard, covered),
        )
        for index, (segment, core) in enumerate(zip(segments, cores(track, segments), strict=True))
        if not segment.failed
        for heard in [_within(track.speech, core)]
    )


def cores(track: Track, segments: Sequence[Heard]) -> Iterator[Span]:
    """Yield the stretch between each segment's seams."""
    if not segments:
        return
    edges_ms = [segments[0].span.start_ms, *(seam.at_ms for seam in track.seams)]
    for start_ms, end_ms in pairwise([*edges_ms, max(s.span.end_ms for s in segments)]):
        yield Span(start_ms, max(start_ms, end_ms))


def lost_places(track: Track, segments: Sequence[Heard]) -> tuple[Place, ...]:
    """Return where a channel's speech was lost, in order; those close together are one place.

    Speech without words for :data:`LOST_MS` is lost; so are shorter stretches of a segment that
    words cover badly.
    """
    low = [
        coverage.core
        for coverage in segment_coverage(track, segments)
        if is_low(coverage.speech_ms, coverage.worded_ms)
    ]
    seams_ms = [seam.at_ms for seam in track.seams if seam.rule is not SeamRule.GAP]
    found = []
    for span in _uncovered(track):
        is_in_low = any(core.start_ms <= span.middle_ms < core.end_ms for core in low)
        if span.duration_ms >= LOST_MS:
            at_seam = any(
                span.start_ms - _AT_SEAM_MS <= at_ms <= span.end_ms + _AT_SEAM_MS
                for at_ms in seams_ms
            )
            reason = RepairReason.SEAM if at_seam else RepairReason.SPEECH
            found.append(Place(track.channel, span, reason))
        elif is_in_low and span.duration_ms >= _SHORT_LOST_MS:
            found.append(Place(track.channel, span, RepairReason.COVERAGE))
    return tuple(_together(part for place in found for part in _parts(place)))


def _parts(place: Place) -> Iterator[Place]:
    """Yield a place in parts of equal length, none of them overlong."""
    count = -(-place.core.duration_ms // _CORE_MAX_MS)
    edges_ms = [
        place.core.start_ms + place.core.duration_ms * part // count for part in range(count + 1)
    ]
    for start_ms, end_ms in pairwise(edges_ms):
        yield replace(place, core=Span(start_ms, end_ms))


def _together(places: Iterable[Place]) -> Iterator[Place]:
    """Yield places, those that are close to one another as one."""
    open_place: Place | None = None
    for place in places:
        if open_place is not None:
            joined = Span(open_place.core.start_ms, place.core.end_ms)
            is_close = place.core.start_ms - open_place.core.end_ms <= _TOGETHER_MS
            if is_close and joined.duration_ms <= _CORE_MAX_MS:
                reason = min(open_place.reason, place.reason, key=_ORDER.index)
                open_place = Place(place.channel, joined, reason)
                continue
            yield open_place
        open_place = place
    if open_place is not None:
        yield open_place


#: The surest gain first: of a language it is known what is wrong, and at a seam why.
_ORDER = (
    RepairReason.LANGUAGE,
    RepairReason.SEAM,
    RepairReason.SPEECH,
    RepairReason.COVERAGE,
)


def plan_repairs(
    places: Iterable[Place], ordered: Iterable[PlannedRepair], duration_ms: int
) -> tuple[PlannedRepair, ...]:
    """Return the repairs to order of a recording of ``duration_ms``, the surest gains first.

    A place that meets one that was ``ordered`` before is left: what a second decode did not bring,
    a third will not. All repairs of a recording together are bounded in number and in length.
    """
    wanted = [
        PlannedRepair(
            place.channel,
            repair_span(place.core, duration_ms),
            place.core,
            place.reason,
            place.language,
        )
        for place in places
    ]
    taken = list(ordered)
    before = len(taken)
    room_ms = _BUDGET_MS + int(_BUDGET_SHARE * duration_ms)
    room_ms -= sum(repair.span.duration_ms for repair in taken)
    for repair in sorted(wanted, key=lambda r: (_ORDER.index(r.reason), -r.core.duration_ms)):
        if len(taken) >= _REPAIRS_MAX:
            break
        if repair.span.duration_ms > room_ms or any(_meet(repair, other) for other in taken):
            continue
        taken.append(repair)
        room_ms -= repair.span.duration_ms
    return tuple(taken[before:])


def _meet(one: PlannedRepair, other: PlannedRepair) -> bool:
    return one.channel == other.channel and one.core.overlap(other.core) is not None


def repair_span(core: Span, duration_ms: int) -> Span:
    """Return a place with its context: on the grid, but for the end of the recording."""
    start_ms = max(0, core.start_ms - CONTEXT_MS) // GRID_MS * GRID_MS
    end_ms = -(-(core.end_ms + CONTEXT_MS) // GRID_MS) * GRID_MS
    return Span(start_ms, min(end_ms, duration_ms))


def is_noise(words: Sequence[Word], heard_ms: int) -> bool:
    """Tell whether nobody spoke: no words, or stray ones in what was no speech after all."""
    few = len(words) * _STRAY_WORD_MS <= heard_ms
    return few and not any(map(is_sure, words))


def is_sure(word: Word) -> bool:
    """Tell whether the model is at all sure of a word; one that never says counts as sure."""
    return word.confidence is None or word.confidence >= _STRAY_CONFIDENCE


def _uncovered(track: Track) -> Iterator[Span]:
    """Yield the stretches of speech that no words cover, in order."""
    covered = list(bridged(track.words))
    for speech in track.speech:
        at_ms = speech.start_ms
        for span in _within(covered, speech):
            if span.start_ms > at_ms:
                yield Span(at_ms, span.start_ms)
            at_ms = span.end_ms
        if at_ms < speech.end_ms:
            yield Span(at_ms, speech.end_ms)


def _within(spans: Sequence[Span], core: Span) -> list[Span]:
    """Return what of ``spans``, which are disjoint and in order, lies in ``core``."""
    first = bisect_right(spans, core.start_ms, key=lambda span: span.end_ms)
    last = bisect_left(spans, core.end_ms, key=lambda span: span.start_ms)
    return [shared for shared in map(core.overlap, spans[first:last]) if shared is not None]


def _shared_ms(spans: Sequence[Span], others: Sequence[Span]) -> int:
    """Return how long ``spans`` lie within ``others``; each is disjoint and in order."""
    return sum(shared.duration_ms for span in spans for shared in _within(others, span))
