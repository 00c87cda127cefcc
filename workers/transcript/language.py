"""What language a channel is in, and which of its segments were taken for another. Pure.

With the language left to the model, each segment is decoded as what its own speech sounds like, and
half a minute of it may sound like Welsh. A channel is one speaker or a few: it is in the language
that most of its speech was decoded as, and a little speech in another is decoded again in that one.

The other way round, a stretch may be in another language than its segment: someone was put through.
The recogniser says which windows it doubts (:attr:`schema.words.ResultTag.LANGUAGE_DOUBTS`). Of
telephone calls and meetings in one language it doubts words of a few seconds now and then, and none
that last ten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from schema.span import Span, minus
from schema.store.work.reduces import EndedSegment
from schema.transcript import RepairReason
from schema.words import ResultTag, SegmentResult
from workers.transcript.coverage import RepairCandidate, segment_cores, split_long
from workers.transcript.seams import DecodedSegment
from workers.transcript.stitch import ChannelTimeline

#: More speech than this in another language is another language: someone was put through.
_FOREIGN_MAX_MS = 20_000
#: And so is more than this share of a channel's speech.
_FOREIGN_MAX_SHARE = 0.1

#: A shorter doubt is of a word or a name.
_DOUBT_MIN_MS = 10_000
#: Windows this close are one stretch: between them is a pause.
_SAME_STRETCH_MS = 3_000


def spoken_language(segments: Iterable[EndedSegment]) -> str | None:
    """Return the language that most speech of these segments was decoded as."""
    speech_ms = _speech_ms_by_language(segments)
    return max(sorted(speech_ms), key=lambda name: speech_ms[name], default=None)


def _speech_ms_by_language(segments: Iterable[EndedSegment]) -> Counter[str]:
    speech_ms: Counter[str] = Counter()
    for segment in segments:
        if segment.result is not None and segment.result.language is not None:
            speech_ms[segment.result.language] += segment.result.speech_ms
    return speech_ms


@dataclass(frozen=True, slots=True)
class LanguageDoubt:
    """A stretch of a channel that may be in another ``language`` than its words.

    ``is_likelier``: it sounds more like that one than like its words'.
    """

    span: Span
    language: str
    is_likelier: bool


def language_doubts(results: Iterable[tuple[int, SegmentResult]]) -> list[LanguageDoubt]:
    """Return what a recogniser doubts for long, from results with their segments' starts in ms.

    Windows in a row that may be in one language are one stretch.
    """
    windows = sorted(
        (start_ms + first_ms, start_ms + last_ms, language, other_probability > probability)
        for start_ms, result in results
        for first_ms, last_ms, language, other_probability, probability in result.tags.get(
            ResultTag.LANGUAGE_DOUBTS, []
        )
    )
    stretches: list[LanguageDoubt] = []
    for start_ms, end_ms, language, is_likelier in windows:
        doubt = LanguageDoubt(Span(start_ms, end_ms), language, is_likelier)
        last = stretches[-1] if stretches else None
        if (
            last is not None
            and (last.language, last.is_likelier) == (language, is_likelier)
            and start_ms - last.span.end_ms <= _SAME_STRETCH_MS
        ):
            span = Span(last.span.start_ms, max(end_ms, last.span.end_ms))
            stretches[-1] = replace(last, span=span)
        else:
            stretches.append(doubt)
    return [doubt for doubt in stretches if doubt.span.duration_ms >= _DOUBT_MIN_MS]


def choose_languages(
    channel: int | None, lost_speech: Iterable[RepairCandidate], doubts: Sequence[LanguageDoubt]
) -> Iterator[RepairCandidate]:
    """Yield lost speech, each place in the language that it may be in, and what sounds like it.

    A stretch that has words and sounds more like them keeps them.
    """
    likelier_doubts = [doubt for doubt in doubts if doubt.is_likelier]
    for doubt in likelier_doubts:
        yield from split_long(
            RepairCandidate(channel, doubt.span, RepairReason.LANGUAGE, doubt.language)
        )
    for place in lost_speech:
        for core in minus(place.core, [doubt.span for doubt in likelier_doubts]):
            yield _with_language(replace(place, core=core), doubts)


def _with_language(place: RepairCandidate, doubts: Iterable[LanguageDoubt]) -> RepairCandidate:
    """Return a place in the language that half of it or more may be in."""
    shared_ms: Counter[str] = Counter()
    for doubt in doubts:
        shared_ms[doubt.language] += _shared_ms(doubt.span, place.core)
    for language, ms in shared_ms.most_common(1):
        if 2 * ms >= place.core.duration_ms:
            return replace(place, language=language)
    return place


def _shared_ms(span: Span, other: Span) -> int:
    overlap = span.overlap(other)
    return overlap.duration_ms if overlap else 0


def find_foreign_speech(
    timeline: ChannelTimeline,
    segments: Sequence[EndedSegment],
    decoded_segments: Sequence[DecodedSegment],
) -> Iterator[RepairCandidate]:
    """Yield where a channel's segments were decoded as a language that it is hardly in.

    ``segments`` are those that ``timeline`` was stitched of, in their order;
    ``decoded_segments`` are the same on the recording's clock.
    """
    language, speech_ms = spoken_language(segments), _speech_ms_by_language(segments)
    foreign_max_ms = min(_FOREIGN_MAX_MS, int(_FOREIGN_MAX_SHARE * speech_ms.total()))
    for segment, decoded_segment, core in zip(
        segments, decoded_segments, segment_cores(timeline, decoded_segments), strict=True
    ):
        if segment.result is None or segment.result.language in (None, language):
            continue
        words = [word for word in decoded_segment.words if core.overlap(word.span)]
        if words and speech_ms[segment.result.language] <= foreign_max_ms:
            span = Span(max(core.start_ms, words[0].start_ms), min(core.end_ms, words[-1].end_ms))
            yield RepairCandidate(timeline.channel, span, RepairReason.LANGUAGE, language)
