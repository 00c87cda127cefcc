"""Repairs of a recording: where they are needed, and how their words take their place. Pure.

A repair is a second decode of a place with what lies around it. Its words are joined to what was
there by the rules of any seam (:mod:`workers.transcript.stitch`), once on its left and once on its
right, so that no word is written twice. What was there stays unless the repair wrote more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from schema.span import Span, merge, minus
from schema.transcript import Repair, RepairOutcome, RepairReason
from schema.words import Word
from workers.transcript.coverage import bridge_pauses, filled_ms, is_confident
from workers.transcript.seams import DecodedSegment
from workers.transcript.stitch import ChannelTimeline, stitch

#: Of the time that words covered, those in the right language must cover this share to be taken.
_LANGUAGE_SHARE = 0.5

#: So much of the channel on both sides of a repair is looked at, that joining it takes no longer in
#: ten hours than in ten minutes; beyond, nothing changes.
_AROUND_MS = 30_000


@dataclass(frozen=True, slots=True)
class DecodedRepair:
    """A repair that ended: what it heard, or that it failed, and the place it was ordered for."""

    segment: DecodedSegment
    core: Span
    reason: RepairReason
    language: str | None = None
    error_code: str | None = None


def apply_repairs(
    timeline: ChannelTimeline, decoded_repairs: Sequence[DecodedRepair]
) -> tuple[ChannelTimeline, tuple[Repair, ...]]:
    """Return a channel with its repairs in place, and what each of them yielded.

    Repairs are taken in order of their cores, which are disjoint.
    """
    repairs = []
    for decoded_repair in sorted(decoded_repairs, key=lambda repair: repair.core):
        timeline, repair = _apply_repair(timeline, decoded_repair)
        repairs.append(repair)
    return timeline, tuple(repairs)


def _apply_repair(
    timeline: ChannelTimeline, decoded_repair: DecodedRepair
) -> tuple[ChannelTimeline, Repair]:
    """Return a channel with one repair in place, if it is any better, and what that yielded."""
    repair = Repair(
        timeline.channel,
        decoded_repair.core,
        decoded_repair.reason,
        RepairOutcome.UNCHANGED,
        language=decoded_repair.language,
        error_code=decoded_repair.error_code,
    )
    if decoded_repair.segment.is_failed:
        return timeline, replace(repair, outcome=RepairOutcome.FAILED)
    span = decoded_repair.segment.span
    window = Span(max(0, span.start_ms - _AROUND_MS), span.end_ms + _AROUND_MS)
    current_part = _timeline_part(timeline, window)
    repaired_part = _stitch_repair(timeline, decoded_repair, window)
    if not _is_better(current_part, repaired_part, decoded_repair):
        return timeline, repair
    words_before, words_after = Counter(current_part.words), Counter(repaired_part.words)
    return _replace_part(timeline, repaired_part, window), replace(
        repair,
        outcome=RepairOutcome.REPAIRED,
        added_words=_sort_words(words_after - words_before),
        dropped_words=_sort_words(words_before - words_after),
        rules=tuple(seam.rule for seam in repaired_part.seams),
    )


def _stitch_repair(
    timeline: ChannelTimeline, decoded_repair: DecodedRepair, window: Span
) -> ChannelTimeline:
    core, segment = decoded_repair.core, _without_gaps(decoded_repair.segment, timeline.gaps)
    left = _timeline_part(timeline, Span(window.start_ms, core.start_ms))
    right = _timeline_part(timeline, Span(core.end_ms, window.end_ms))
    # Beside a core at the recording's edge there is nothing to be joined.
    neighbours = [n for n in (left, right) if n.words or n.span.overlap(segment.span)]
    return stitch(
        timeline.channel, sorted([*neighbours, segment], key=lambda segment: segment.span)
    )


def _replace_part(
    timeline: ChannelTimeline, replacement: ChannelTimeline, window: Span
) -> ChannelTimeline:
    words_before = tuple(word for word in timeline.words if word.middle_ms < window.start_ms)
    words_after = tuple(word for word in timeline.words if word.middle_ms >= window.end_ms)
    speech_outside = [part for span in timeline.speech for part in minus(span, [window])]
    speech = merge(sorted([*speech_outside, *replacement.speech]))
    untimed_outside = [part for span in timeline.untimed_speech for part in minus(span, [window])]
    untimed_speech = merge(sorted([*untimed_outside, *replacement.untimed_speech]))
    return replace(
        timeline,
        words=(*words_before, *replacement.words, *words_after),
        speech=tuple(speech),
        untimed_speech=tuple(untimed_speech),
    )


def _without_gaps(segment: DecodedSegment, gaps: Sequence[Span]) -> DecodedSegment:
    """Return what was heard but for gaps, of which the transcript says that they have no words."""
    words = (
        word
        for word in segment.words
        if not any(gap.start_ms <= word.middle_ms < gap.end_ms for gap in gaps)
    )
    return replace(segment, words=tuple(words))


def _timeline_part(timeline: ChannelTimeline, span: Span) -> DecodedSegment:
    """Return what of a channel lies in ``span``, as if a segment had ended there."""
    return DecodedSegment(
        span,
        words=tuple(
            word for word in timeline.words if span.start_ms <= word.middle_ms < span.end_ms
        ),
        speech=tuple(filter(None, map(span.overlap, timeline.speech))),
        untimed_speech=tuple(filter(None, map(span.overlap, timeline.untimed_speech))),
    )


def _is_better(before: DecodedSegment, after: ChannelTimeline, repair: DecodedRepair) -> bool:
    """Tell whether a repair wrote more words' time than was there.

    In another language, about as much, of which the model is no less sure. The first decode wrote
    nothing, so that words of which the second is not sure are no gain: in music it finds some.
    """
    span, segment = repair.segment.span, repair.segment
    core_words = [word for word in segment.words if repair.core.overlap(word.span)]
    if not any(is_confident(word) for word in core_words):
        return False
    before_ms, after_ms = _worded_ms(before, span), _worded_ms(after, span)
    if repair.reason is RepairReason.LANGUAGE:
        replaced_words = [word for word in before.words if repair.core.overlap(word.span)]
        is_as_sure = _mean_confidence(core_words) >= _mean_confidence(replaced_words)
        return is_as_sure and after_ms >= _LANGUAGE_SHARE * before_ms
    return after_ms > before_ms


def _mean_confidence(words: Sequence[Word]) -> float:
    """Return how sure a model is of words on average; 0 where it never says, or of none."""
    return fmean(word.confidence or 0.0 for word in words) if words else 0.0


def _worded_ms(part: DecodedSegment | ChannelTimeline, span: Span) -> int:
    """Return how much of a span words cover; of those whose times are guesses, by their number."""
    untimed_speech = list(filter(None, map(span.overlap, part.untimed_speech)))
    overlaps = filter(None, map(span.overlap, bridge_pauses(part.words)))
    timed_ms = sum(p.duration_ms for overlap in overlaps for p in minus(overlap, untimed_speech))
    return timed_ms + sum(filled_ms(part.words, region) for region in untimed_speech)


def _sort_words(words: Counter[Word]) -> tuple[Word, ...]:
    return tuple(sorted(words.elements(), key=lambda word: (word.start_ms, word.end_ms)))
