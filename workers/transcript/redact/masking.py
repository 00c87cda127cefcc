"""A protected call's results without what must not be kept. Pure.

What is masked is decided over the words as they were stitched, both speakers' together, and over
each decode by itself, since what a seam or a repair dropped is kept in the ledger, too. A mask
holds for all channels and all decodes: it goes by time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from schema.profile import RedactSettings
from schema.redaction import (
    CLASS_ORDER,
    MEASURED_LANGUAGES,
    PLACEHOLDERS,
    Mask,
    MaskClass,
    Redaction,
    join_masks,
)
from schema.span import Span, merge
from schema.states import SegmentKind
from schema.store.work.reduces import EndedSegment, MaskedResult
from schema.transcript import Flag, FlaggedPlace
from schema.words import ResultTag, SegmentResult, Word
from workers.transcript.redact.find_masks import Line, find_masks, find_unwritten
from workers.transcript.redact.spoken_digits import is_digit_like
from workers.transcript.shared_channel import THE_SPEAKERS

#: A digit this close to a mask is another decode's of what is masked.
_NEAR_MS = 1_000
#: Doubtful masks this close are one place to listen to.
_SAME_PLACE_MS = 15_000
#: Placeholders of one number that are further apart are two.
_PLACEHOLDER_PAUSE_MS = 1_000


@dataclass(frozen=True, slots=True)
class RedactedSegments:
    """A recording's segments with what is left of their results, and what was masked."""

    segments: tuple[EndedSegment, ...]
    redaction: Redaction
    flags: tuple[str, ...]
    places: tuple[FlaggedPlace, ...]
    results: tuple[MaskedResult, ...]


def redact(
    segments: Sequence[EndedSegment], stitched: Mapping[int | None, Line], policy: RedactSettings
) -> RedactedSegments:
    """Mask a recording's segments; ``stitched`` has each channel's words as a transcript would."""
    masks = [mask for segment in segments for mask in _earlier_masks(segment, stitched)]
    masks += find_masks(list(stitched.values()), policy.classes)
    for segment in segments:
        if segment.result is not None:
            masks += find_masks(_lines_around(segment, stitched), policy.classes)
    withheld = list(_withheld(segments, stitched)) if policy.other_languages == "withhold" else []
    all_masks = join_masks([*masks, *(mask for each in withheld for mask in each.masks_of_call)])
    segment_masks = {id(each.segment): each.masks for each in withheld}
    results = _mask_results(segments, all_masks, segment_masks)
    masked_segments = tuple(
        segment if segment.result is None else replace(segment, result=results[_result_id(segment)])
        for segment in segments
    )
    # Words may be said on other channels meanwhile, and stay.
    unwritten = [mask for line in stitched.values() for mask in find_unwritten(line)]
    redaction = Redaction(policy.classes, join_masks([*all_masks, *unwritten]))
    return RedactedSegments(
        masked_segments,
        redaction,
        tuple(_flags(Redaction(policy.classes, all_masks))),
        tuple(_places(all_masks, withheld)),
        tuple(_changed_results(segments, results)),
    )


def _earlier_masks(segment: EndedSegment, stitched: Mapping[int | None, Line]) -> Iterator[Mask]:
    """Yield what a reduce took out of this result before, of this recording or of a twin."""
    is_used = _is_used(segment, stitched)
    for mask in segment.result.masks if segment.result is not None else ():
        if is_used or mask.mask_class is not MaskClass.LANGUAGE:
            yield mask.shifted(segment.span.start_ms)


def _is_used(segment: EndedSegment, stitched: Mapping[int | None, Line]) -> bool:
    """Tell whether a decode's words are of the transcript; those of a repair may not be."""
    if segment.kind == SegmentKind.PLAN or segment.result is None:
        return True
    used = {(word.span, word.text) for word in stitched[segment.channel].words}
    words = (word.shifted(segment.span.start_ms) for word in segment.result.words)
    return any((word.span, word.text) in used for word in words)


def _lines_around(segment: EndedSegment, stitched: Mapping[int | None, Line]) -> list[Line]:
    """Return one decode beside what the other channels say meanwhile."""
    result, by_ms = segment.result, segment.span.start_ms
    assert result is not None  # noqa: S101 - the caller has looked
    decoded = Line(
        tuple(word.shifted(by_ms) for word in result.words),
        tuple(span.shifted(by_ms) for span in result.speech),
        tuple(
            Span(start_ms, end_ms).shifted(by_ms)
            for start_ms, end_ms in result.tags.get(ResultTag.GUESSED_TIMES, [])
        ),
    )
    others = [
        Line(
            tuple(
                w for w in line.words if segment.span.start_ms <= w.middle_ms < segment.span.end_ms
            )
        )
        for channel, line in stitched.items()
        if channel != segment.channel
    ]
    return [decoded, *others]


@dataclass(frozen=True, slots=True)
class _Withheld:
    """What a decode wrote in a language whose digits nobody measured: when, on its own clock."""

    segment: EndedSegment
    language: str
    masks: tuple[Mask, ...]
    #: What a repair wrote and nobody uses hides nothing else.
    is_used: bool

    @property
    def masks_of_call(self) -> Iterator[Mask]:
        """What is hidden of the call."""
        for mask in self.masks if self.is_used else ():
            yield mask.shifted(self.segment.span.start_ms)


def _withheld(
    segments: Sequence[EndedSegment], stitched: Mapping[int | None, Line]
) -> Iterator[_Withheld]:
    for segment in segments:
        result = segment.result
        if result is None or result.language in MEASURED_LANGUAGES:
            continue
        words = [word for word in result.words if word.text not in PLACEHOLDERS]
        if not words:
            continue
        spoken = [Span(w.start_ms, max(w.end_ms, w.start_ms + 1)) for w in words]
        yield _Withheld(
            segment,
            result.language or "unknown",
            tuple(
                Mask(span, MaskClass.LANGUAGE) for span in merge(sorted([*spoken, *result.speech]))
            ),
            is_used=_is_used(segment, stitched),
        )


def _mask_results(
    segments: Sequence[EndedSegment],
    masks: Sequence[Mask],
    masks_of_segments: Mapping[int, Sequence[Mask]],
) -> dict[tuple[str, int], SegmentResult]:
    """Return what is left of each result; segments that share one have all masks of both."""
    results: dict[tuple[str, int], SegmentResult] = {}
    for segment in segments:
        if segment.result is None:
            continue
        segment_masks = [*masks_of_segments.get(id(segment), ())]
        segment_masks += [
            Mask(part.shifted(-segment.span.start_ms), mask.mask_class, mask.is_doubtful)
            for mask in masks
            if (part := mask.span.overlap(segment.span))
        ]
        result = results.get(_result_id(segment), segment.result)
        results[_result_id(segment)] = mask_result(result, segment_masks)
    return results


def _result_id(segment: EndedSegment) -> tuple[str, int]:
    """Return what segments have in common that share a result; without a key, they share none."""
    return (segment.result_key, 0) if segment.result_key else ("", id(segment))


def mask_result(result: SegmentResult, masks: Sequence[Mask]) -> SegmentResult:
    """Return a result without the words in ``masks``; times count from the segment's start."""
    all_masks = join_masks([*result.masks, *masks])
    if not all_masks:
        return result
    words = tuple(_replace_words(result.words, all_masks))
    return replace(result, words=words, masks=all_masks)


def _replace_words(words: Sequence[Word], masks: Sequence[Mask]) -> Iterator[Word]:
    """Yield words; those that are masked and follow one another are one placeholder."""
    hidden: list[Word] = []
    classes: list[MaskClass] = []
    starts_ms = [mask.span.start_ms for mask in masks]
    for word in words:
        mask_class = _class_at(word, masks, starts_ms)
        is_apart = hidden and (
            mask_class is None or word.start_ms - hidden[-1].end_ms > _PLACEHOLDER_PAUSE_MS
        )
        if is_apart:
            yield _placeholder(hidden, classes)
            hidden, classes = [], []
        if mask_class is None:
            yield word
        else:
            hidden.append(word)
            classes.append(mask_class)
    if hidden:
        yield _placeholder(hidden, classes)


def _class_at(word: Word, masks: Sequence[Mask], starts_ms: Sequence[int]) -> MaskClass | None:
    """Return what a word is masked as: by its middle; a digit by any part of it, and beside."""
    if word.text in PLACEHOLDERS:
        return MaskClass(word.text[1:-1])
    is_digit = is_digit_like(word.text)
    reach_ms = _NEAR_MS if is_digit else 0
    # Masks are in order and apart: the one that begins last before the word, and those after it.
    first = max(0, bisect_right(starts_ms, word.start_ms - reach_ms) - 1)
    for mask in masks[first:]:
        if mask.span.start_ms > word.end_ms + reach_ms:
            break
        if mask.span.start_ms - reach_ms <= word.middle_ms < mask.span.end_ms + reach_ms:
            return mask.mask_class
        if is_digit and mask.span.start_ms < word.end_ms and word.start_ms < mask.span.end_ms:
            return mask.mask_class
    return None


def _placeholder(words: Sequence[Word], classes: Sequence[MaskClass]) -> Word:
    mask_class = min(classes, key=CLASS_ORDER.index)
    end_ms = max(word.end_ms for word in words)
    return Word(mask_class.placeholder, words[0].start_ms, end_ms)


def _changed_results(
    segments: Sequence[EndedSegment], results: Mapping[tuple[str, int], SegmentResult]
) -> Iterator[MaskedResult]:
    """Yield each result that is to be stored: what was sealed, and what has new masks."""
    keys: set[str] = set()
    for segment in segments:
        if segment.result is None or not segment.result_key or segment.result_key in keys:
            continue
        keys.add(segment.result_key)
        result = results[_result_id(segment)]
        if segment.sealed is not None or result != segment.result:
            yield MaskedResult(segment.result_key, segment.body_digest, result)


def _flags(redaction: Redaction) -> Iterator[str]:
    if redaction.number_masks:
        yield Flag.REDACTED.with_number(len(redaction.number_masks))
    if any(mask.is_doubtful for mask in redaction.masks):
        yield Flag.REDACTION_DOUBTFUL
    if any(mask.mask_class is MaskClass.LANGUAGE for mask in redaction.masks):
        yield Flag.REDACTION_UNSUPPORTED


def _places(masks: Sequence[Mask], withheld: Sequence[_Withheld]) -> Iterator[FlaggedPlace]:
    for span in merge((mask.span for mask in masks if mask.is_doubtful), _SAME_PLACE_MS):
        yield FlaggedPlace(Flag.REDACTION_DOUBTFUL, None, THE_SPEAKERS, span)
    for each in withheld:
        for mask in each.masks_of_call:
            yield FlaggedPlace(
                Flag.REDACTION_UNSUPPORTED,
                each.segment.channel,
                THE_SPEAKERS,
                mask.span,
                language=each.language,
            )
