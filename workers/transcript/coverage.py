"""What of the speech that was heard the words cover, and where speech was lost. Pure.

VAD and recognizer do not know of each other: a stretch that one calls speech and for which the
other wrote nothing is a word lost, or music, or a cough. Which one it is, a second decode of the
place tells; this module says where to look, and when looking has to end.

Of words whose times are guesses nobody knows what they cover: their speech is left out of every
figure. It is looked at only where they are too few to fill it, however slowly they were said.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from schema.span import GRID_MS, Span, merge, minus
from schema.text import is_cjk
from schema.transcript import Coverage, PlannedRepair, RepairReason, SeamRule, is_coverage_low
from schema.words import Word
from workers.transcript.seams import DecodedSegment
from workers.transcript.stitch import ChannelTimeline

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
_MERGE_WITHIN_MS = 2_000

#: A decode hears this much around a place, as much as two planned segments share.
CONTEXT_MS = 8_000

#: A longer stretch is several places: as many as there is time for.
_CORE_MAX_MS = 40_000

#: Of a recording, repairs decode no more than this many places, and three minutes and a tenth of
#: it: what VAD takes for speech may be an hour of music.
_REPAIRS_MAX = 12
_BUDGET_MS = 180_000
_BUDGET_SHARE = 0.1

#: Nobody takes longer for a word, on average over a region, with its pauses; nor for a character.
#: Of five readers the slowest took 740 ms in one of 242 regions, and 580 ms in the next.
_SLOW_WORD_MS = 800
_SLOW_CJK_MS = 400

#: In music that VAD takes for speech a model is sure of no word.
_STRAY_CONFIDENCE = 0.5


@dataclass(frozen=True, slots=True)
class RepairCandidate:
    """A stretch of a channel to be decoded once more; ``language`` as what, if not as before."""

    channel: int | None
    core: Span
    reason: RepairReason
    language: str | None = None


def speech_ms(timeline: ChannelTimeline) -> int:
    """Return how much of a channel VAD called speech, in ms."""
    return sum(span.duration_ms for span in timeline.speech)


def timed_speech(timeline: ChannelTimeline) -> list[Span]:
    """Return a channel's speech but for that of words whose times are guesses."""
    return [
        part
        for span in timeline.speech
        for part in minus(span, _spans_within(timeline.untimed_speech, span))
    ]


def worded_ms(timeline: ChannelTimeline) -> int:
    """Return how much of a channel's speech words whose times are known cover, in ms."""
    return _covered_ms(timed_speech(timeline), list(bridge_pauses(timeline.words)))


def bridge_pauses(words: Iterable[Word]) -> Iterator[Span]:
    """Yield the spans of words, joined over breaths; ``words`` are in order of their starts."""
    return merge((word.span for word in words), _BRIDGE_MS)


def segment_coverage(
    timeline: ChannelTimeline, segments: Sequence[DecodedSegment]
) -> tuple[Coverage, ...]:
    """Return the coverage of each planned segment's core but of those that failed.

    ``segments`` are those that ``timeline`` was stitched of, in their order; the words that count
    are the timeline's, those of repairs among them.
    """
    worded_spans = list(bridge_pauses(timeline.words))
    measured_speech = timed_speech(timeline)
    cores = zip(segments, segment_cores(timeline, segments), strict=True)
    return tuple(
        Coverage(
            timeline.channel,
            index,
            core,
            sum(span.duration_ms for span in speech),
            _covered_ms(speech, worded_spans),
        )
        for index, (segment, core) in enumerate(cores)
        if not segment.is_failed
        for speech in [_spans_within(measured_speech, core)]
    )


def segment_cores(timeline: ChannelTimeline, segments: Sequence[DecodedSegment]) -> Iterator[Span]:
    """Yield the stretch between each segment's seams."""
    if not segments:
        return
    edges_ms = [segments[0].span.start_ms, *(seam.at_ms for seam in timeline.seams)]
    for start_ms, end_ms in pairwise([*edges_ms, max(s.span.end_ms for s in segments)]):
        yield Span(start_ms, max(start_ms, end_ms))


def find_lost_speech(
    timeline: ChannelTimeline, segments: Sequence[DecodedSegment]
) -> tuple[RepairCandidate, ...]:
    """Return where a channel's speech was lost, in order; those close together are one place.

    Speech without words for :data:`LOST_MS` is lost; so are shorter stretches of a segment that
    words cover badly, and speech of too few words whose times are guesses.
    """
    low_cores = [
        coverage.core
        for coverage in segment_coverage(timeline, segments)
        if is_coverage_low(coverage.speech_ms, coverage.worded_ms)
    ]
    seams_ms = [seam.at_ms for seam in timeline.seams if seam.rule is not SeamRule.GAP]
    candidates = []
    for span in _unworded_speech(timeline):
        is_in_low = any(core.start_ms <= span.middle_ms < core.end_ms for core in low_cores)
        if span.duration_ms >= LOST_MS:
            at_seam = any(
                span.start_ms - _AT_SEAM_MS <= at_ms <= span.end_ms + _AT_SEAM_MS
                for at_ms in seams_ms
            )
            reason = RepairReason.SEAM if at_seam else RepairReason.SPEECH
            candidates.append(RepairCandidate(timeline.channel, span, reason))
        elif is_in_low and span.duration_ms >= _SHORT_LOST_MS:
            candidates.append(RepairCandidate(timeline.channel, span, RepairReason.COVERAGE))
    candidates += _sparse_speech(timeline)
    candidates.sort(key=lambda candidate: candidate.core)
    return tuple(_merge_close(part for candidate in candidates for part in split_long(candidate)))


def _sparse_speech(timeline: ChannelTimeline) -> Iterator[RepairCandidate]:
    """Yield the speech of words whose times are guesses that are too few for it."""
    for region in timeline.untimed_speech:
        if is_coverage_low(region.duration_ms, filled_ms(timeline.words, region)):
            yield RepairCandidate(timeline.channel, region, RepairReason.COVERAGE)


def filled_ms(words: Iterable[Word], region: Span) -> int:
    """Return the most of a region that the words in it can have taken, whenever they were said."""
    slow_ms = sum(
        sum(map(is_cjk, word.text)) * _SLOW_CJK_MS or _SLOW_WORD_MS
        for word in words
        if region.start_ms <= word.middle_ms < region.end_ms
    )
    return min(region.duration_ms, slow_ms)


def split_long(candidate: RepairCandidate) -> Iterator[RepairCandidate]:
    """Yield a candidate in equal parts that a repair may decode."""
    core = candidate.core
    count = -(-core.duration_ms // _CORE_MAX_MS)
    edges_ms = [core.start_ms + core.duration_ms * part // count for part in range(count + 1)]
    for start_ms, end_ms in pairwise(edges_ms):
        yield replace(candidate, core=Span(start_ms, end_ms))


def _merge_close(candidates: Iterable[RepairCandidate]) -> list[RepairCandidate]:
    places: list[RepairCandidate] = []
    for candidate in candidates:
        if places:
            core = Span(places[-1].core.start_ms, candidate.core.end_ms)
            is_close = candidate.core.start_ms - places[-1].core.end_ms <= _MERGE_WITHIN_MS
            if is_close and core.duration_ms <= _CORE_MAX_MS:
                reason = min(places[-1].reason, candidate.reason, key=_REASONS.index)
                places[-1] = RepairCandidate(candidate.channel, core, reason)
                continue
        places.append(candidate)
    return places


#: The surest gain first: of a language it is known what is wrong, and at a seam why.
_REASONS = (RepairReason.LANGUAGE, RepairReason.SEAM, RepairReason.SPEECH, RepairReason.COVERAGE)


def plan_repairs(
    candidates: Iterable[RepairCandidate],
    earlier_repairs: Iterable[PlannedRepair],
    duration_ms: int,
) -> tuple[PlannedRepair, ...]:
    """Return the repairs to order of a recording of ``duration_ms``, the surest gains first.

    A candidate that meets one of ``earlier_repairs`` is left out: what a second decode did not
    bring, a third will not. The repairs of a recording are bounded in number and in length.
    """
    new_repairs = [
        PlannedRepair(c.channel, repair_span(c.core, duration_ms), c.core, c.reason, c.language)
        for c in candidates
    ]
    new_repairs.sort(key=lambda new: (_REASONS.index(new.reason), -new.core.duration_ms))
    repairs = list(earlier_repairs)
    earlier_count = len(repairs)
    budget_ms = _BUDGET_MS + int(_BUDGET_SHARE * duration_ms)
    budget_ms -= sum(repair.span.duration_ms for repair in repairs)
    for new_repair in new_repairs:
        if len(repairs) >= _REPAIRS_MAX:
            break
        is_new = not any(
            new_repair.channel == repair.channel and new_repair.core.overlap(repair.core)
            for repair in repairs
        )
        if is_new and new_repair.span.duration_ms <= budget_ms:
            repairs.append(new_repair)
            budget_ms -= new_repair.span.duration_ms
    return tuple(repairs[earlier_count:])


def repair_span(core: Span, duration_ms: int) -> Span:
    """Return a place with its context: on the grid, but for the end of the recording."""
    start_ms = max(0, core.start_ms - CONTEXT_MS) // GRID_MS * GRID_MS
    end_ms = -(-(core.end_ms + CONTEXT_MS) // GRID_MS) * GRID_MS
    return Span(start_ms, min(end_ms, duration_ms))


def is_confident(word: Word) -> bool:
    """Tell whether the model is at all sure of a word; one that never says counts as sure."""
    return word.confidence is None or word.confidence >= _STRAY_CONFIDENCE


def _unworded_speech(timeline: ChannelTimeline) -> Iterator[Span]:
    worded_spans = list(bridge_pauses(timeline.words))
    for speech in timed_speech(timeline):
        yield from minus(speech, _spans_within(worded_spans, speech))


def _spans_within(spans: Sequence[Span], core: Span) -> list[Span]:
    """Return what of ``spans``, which are disjoint and in order, lies in ``core``."""
    start = bisect_right(spans, core.start_ms, key=lambda span: span.end_ms)
    end = bisect_left(spans, core.end_ms, key=lambda span: span.start_ms)
    return [overlap for overlap in map(core.overlap, spans[start:end]) if overlap is not None]


def _covered_ms(spans: Sequence[Span], cover: Sequence[Span]) -> int:
    """Return how long ``spans`` lie within ``cover``; each is disjoint and in order."""
    return sum(overlap.duration_ms for span in spans for overlap in _spans_within(cover, span))
