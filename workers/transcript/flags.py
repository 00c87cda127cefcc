"""What a transcript's readers should know of it: its flags, and where each of them is. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from schema.span import Span, merge
from schema.store.work.reduces import ReduceClaim
from schema.transcript import (
    LOW_COVERAGE,
    LOW_COVERAGE_MIN_SPEECH_MS,
    Flag,
    FlaggedPlace,
    Repair,
    is_coverage_low,
)
from schema.words import ResultTag, Word
from workers.transcript.channels import Channel
from workers.transcript.coverage import (
    find_lost_speech,
    segment_coverage,
    speech_ms,
    timed_speech,
    worded_ms,
)
from workers.transcript.dialogue import split_words
from workers.transcript.language import language_doubts
from workers.transcript.stitch import ChannelTimeline

#: Words of one flag this close are one place, and so is speech without a word in between.
_SAME_PLACE_MS = 5_000
_SAME_LOSS_MS = 15_000

#: Flags of places that are not of words, in the order they are told in.
_PLACE_FLAGS = (Flag.SMALLER_MODEL, Flag.OTHER_LANGUAGE, Flag.LOW_COVERAGE)

#: Flags that come with the number of their words, in the order they are told in.
_WORD_FLAGS = (
    Flag.NOISE_WORDS,
    Flag.DOUBTFUL_WORDS,
    Flag.CROSSTALK,
    Flag.CROSSTALK_SUSPECTED,
)


@dataclass(frozen=True, slots=True)
class FlaggedWords:
    """Words of a channel that were taken out, or are in doubt, and the flag that says so."""

    flag: Flag
    channel: int | None
    speaker: str
    words: Sequence[Word]


@dataclass(frozen=True, slots=True)
class ChannelOutcome:
    """A channel at the end of its reduce.

    ``timeline`` has the words that somebody said, on this channel or overheard from another.
    """

    channel: Channel
    speaker: str
    timeline: ChannelTimeline
    repairs: tuple[Repair, ...]


def find_places(
    claim: ReduceClaim, channels: Sequence[ChannelOutcome], words: Sequence[FlaggedWords]
) -> tuple[FlaggedPlace, ...]:
    """Return where to listen, in order of time."""
    places = [
        *_places_without_words(channels),
        *(place for outcome in channels for place in _places_of_other_languages(outcome)),
        *(place for outcome in channels for place in _places_of_smaller_model(outcome, claim)),
        *(place for outcome in channels for place in _places_of_guessed_times(outcome)),
        *(place for group in words for place in _places_of_words(group)),
    ]
    return tuple(sorted(places, key=lambda place: (place.span, place.channel or 0)))


def find_flags(
    channels: Sequence[ChannelOutcome],
    places: Sequence[FlaggedPlace],
    words: Sequence[FlaggedWords],
) -> Iterator[str]:
    """Yield a transcript's flags; those of words with how many they are."""
    is_partial = any(s.is_failed for outcome in channels for s in outcome.channel.decoded_segments)
    flags_of_places = {place.flag for place in places}
    if is_partial:
        yield Flag.PARTIAL
    elif _is_silence(channels):
        yield Flag.NO_SPEECH
    yield from (flag for flag in _PLACE_FLAGS if flag in flags_of_places)
    guessed = sum(p.words for p in places if p.flag == Flag.TIMES_GUESSED)
    if guessed:
        words_count = sum(len(outcome.timeline.words) for outcome in channels)
        yield Flag.TIMES_GUESSED.with_number(max(1, round(100 * guessed / words_count)))
    counts = Counter(dict.fromkeys(_WORD_FLAGS, 0))
    for group in words:
        counts[group.flag] += len(group.words)
    yield from (flag.with_number(count) for flag, count in counts.items() if count)


def _is_silence(channels: Sequence[ChannelOutcome]) -> bool:
    """Tell whether detector and recogniser agree that nobody speaks.

    Where more than a few seconds sound like speech and no word came, a word was lost or nobody
    spoke: no one knows which, and it is no silence.
    """
    heard_ms = sum(speech_ms(outcome.timeline) for outcome in channels)
    has_words = any(outcome.timeline.words for outcome in channels)
    return not has_words and heard_ms < LOW_COVERAGE_MIN_SPEECH_MS


def _places_without_words(channels: Sequence[ChannelOutcome]) -> Iterator[FlaggedPlace]:
    """Yield where speech has no words, and what a second decode of it came to."""
    if _is_silence(channels):
        return
    lost_spans = [_lost_spans(outcome) for outcome in channels]
    if not any(lost_spans) and is_coverage_low(
        sum(p.duration_ms for outcome in channels for p in timed_speech(outcome.timeline)),
        sum(worded_ms(outcome.timeline) for outcome in channels),
    ):
        # A little is missing everywhere.
        lost_spans = [_low_cores(outcome) for outcome in channels]
    for outcome, spans in zip(channels, lost_spans, strict=True):
        for span in spans:
            repair = _find_repair(outcome.repairs, span)
            yield FlaggedPlace(
                Flag.LOW_COVERAGE,
                outcome.channel.number,
                outcome.speaker,
                span,
                repair_reason=repair.reason if repair else None,
                repair_outcome=repair.outcome if repair else None,
            )


def _lost_spans(outcome: ChannelOutcome) -> list[Span]:
    """Return where a channel's speech was lost; what has no word in between is one place."""
    words_ms = [word.middle_ms for word in outcome.timeline.words]
    spans: list[Span] = []
    for candidate in find_lost_speech(outcome.timeline, outcome.channel.decoded_segments):
        start_ms = spans[-1].end_ms if spans else candidate.core.start_ms
        is_near = candidate.core.start_ms - start_ms <= _SAME_LOSS_MS
        has_words = bisect_left(words_ms, start_ms) < bisect_left(words_ms, candidate.core.start_ms)
        if spans and is_near and not has_words:
            spans[-1] = Span(spans[-1].start_ms, candidate.core.end_ms)
        else:
            spans.append(candidate.core)
    return spans


def _low_cores(outcome: ChannelOutcome) -> list[Span]:
    coverages = segment_coverage(outcome.timeline, outcome.channel.decoded_segments)
    return [c.core for c in coverages if c.worded_ms < LOW_COVERAGE * c.speech_ms]


def _find_repair(repairs: Sequence[Repair], span: Span) -> Repair | None:
    """Return the repair that has most of a place."""
    shared_ms = {
        i: part.duration_ms for i, r in enumerate(repairs) if (part := r.core.overlap(span))
    }
    return repairs[max(shared_ms, key=lambda i: shared_ms[i])] if shared_ms else None


def _places_of_other_languages(outcome: ChannelOutcome) -> Iterator[FlaggedPlace]:
    """Yield what may be in another language, and what a decode in that one came to.

    What has no words in either is no language: music sounds like Khmer.
    """
    for doubt in language_doubts(outcome.channel.planned_results):
        if not any(doubt.span.overlap(word.span) for word in outcome.timeline.words):
            continue
        repair = _find_repair(outcome.repairs, doubt.span)
        yield FlaggedPlace(
            Flag.OTHER_LANGUAGE,
            outcome.channel.number,
            outcome.speaker,
            doubt.span,
            repair_reason=repair.reason if repair else None,
            repair_outcome=repair.outcome if repair else None,
            language=doubt.language,
        )


def _places_of_smaller_model(outcome: ChannelOutcome, claim: ReduceClaim) -> Iterator[FlaggedPlace]:
    """Yield what another model wrote than was asked for.

    Words are shared with whoever asks for that model by name, and is given no less than that.
    """
    models = {None, claim.profile.decode.model}
    segments = (*outcome.channel.planned_segments, *outcome.channel.repair_segments)
    spans = sorted(
        segment.core or segment.span
        for segment in segments
        if segment.result and segment.result.tags.get(ResultTag.SMALLER_MODEL) not in models
    )
    for span in merge(spans):
        yield FlaggedPlace(Flag.SMALLER_MODEL, outcome.channel.number, outcome.speaker, span)


def _places_of_guessed_times(outcome: ChannelOutcome) -> Iterator[FlaggedPlace]:
    """Yield the stretches of words whose times are guesses."""
    timeline = outcome.timeline
    for span in merge(timeline.untimed_speech, _SAME_LOSS_MS):
        regions = filter(None, map(span.overlap, timeline.untimed_speech))
        count = sum(
            region.start_ms <= word.middle_ms < region.end_ms
            for region in regions
            for word in timeline.words
        )
        if count:
            yield FlaggedPlace(
                Flag.TIMES_GUESSED, outcome.channel.number, outcome.speaker, span, words=count
            )


def _places_of_words(group: FlaggedWords) -> Iterator[FlaggedPlace]:
    """Yield the stretches of flagged words; those close together are one place."""
    for words in split_words(group.words, _is_elsewhere):
        span = Span(words[0].start_ms, max(word.end_ms for word in words))
        yield FlaggedPlace(group.flag, group.channel, group.speaker, span, words=len(words))


def _is_elsewhere(words: Sequence[Word], following: Word) -> bool:
    return following.start_ms - words[-1].end_ms > _SAME_PLACE_MS
