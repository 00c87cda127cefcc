"""From the words of overlapping segments to one timeline for each channel. Pure.

Where two neighbours meet, :mod:`workers.transcript.seams` decides up to which word the left one is
believed, and from which word the right one; :mod:`workers.transcript.untimed_seams` where times are
guessed. This module joins what remains of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from schema.span import Span, merge
from schema.transcript import Seam
from schema.words import Word
from workers.transcript.seams import DecodedSegment, SeamChoice, choose_seam
from workers.transcript.untimed_seams import choose_untimed_seam


@dataclass(frozen=True, slots=True)
class ChannelTimeline:
    """A channel's one timeline: every word once, the speech heard, and how its seams lie.

    ``gaps`` are the cores of its failed segments, one for each. The times of words within
    ``untimed_speech``, a part of the speech, are guesses.
    """

    channel: int | None
    words: tuple[Word, ...]
    speech: tuple[Span, ...]
    seams: tuple[Seam, ...]
    gaps: tuple[Span, ...] = ()
    untimed_speech: tuple[Span, ...] = ()


def stitch(channel: int | None, segments: Sequence[DecodedSegment]) -> ChannelTimeline:
    """Join a channel's segments into one timeline; linear in the words, but for overlaps.

    Raises:
        ValueError: a segment begins or ends before the one before it, words of which would be lost.
    """
    for left, right in pairwise(segments):
        if left.span.start_ms > right.span.start_ms or left.span.end_ms > right.span.end_ms:
            raise ValueError(f"{right.span} begins or ends before {left.span}")
    choices = list(_choose_seams(segments))
    starts = [0, *(choice.right_start for choice in choices)]
    ends = [*(choice.left_end for choice in choices), len(segments[-1].words) if segments else 0]
    words = [
        word
        for segment, start, end in zip(segments, starts, ends, strict=False)
        for word in segment.words[start:end]
    ]
    seams = [
        Seam(
            channel=channel,
            index=index,
            rule=choice.rule,
            at_ms=choice.at_ms,
            confidence=choice.confidence,
            dropped_left=segments[index].words[choice.left_end :],
            dropped_right=segments[index + 1].words[: choice.right_start],
        )
        for index, choice in enumerate(choices)
    ]
    seams_ms = [choice.at_ms for choice in choices]
    return ChannelTimeline(
        channel,
        words=tuple(_order_times(words)),
        speech=tuple(_join_speech(segments, [s.speech for s in segments], seams_ms)),
        seams=tuple(seams),
        gaps=tuple(_find_gaps(segments, choices)),
        untimed_speech=tuple(
            _join_speech(segments, [s.untimed_speech for s in segments], seams_ms)
        ),
    )


def _choose_seams(segments: Sequence[DecodedSegment]) -> Iterator[SeamChoice]:
    """Yield the seam of each two neighbours, none of which lies before the one before it.

    A segment may be so short that the neighbours on its sides meet: what the left one was given
    of it, the right one cannot be given again.
    """
    first_word, seam_ms = 0, 0
    for left, right in pairwise(segments):
        span = Span(max(left.span.start_ms, seam_ms), max(left.span.end_ms, seam_ms))
        rest = replace(left, span=span, words=left.words[first_word:])
        choice = choose_untimed_seam(rest, right) or choose_seam(rest, right)
        yield replace(choice, left_end=first_word + choice.left_end)
        first_word, seam_ms = choice.right_start, choice.at_ms


def _find_gaps(segments: Sequence[DecodedSegment], choices: Sequence[SeamChoice]) -> Iterator[Span]:
    for index, segment in enumerate(segments):
        if segment.is_failed:
            start_ms, end_ms = segment.span.start_ms, segment.span.end_ms
            if index:
                start_ms = max(start_ms, choices[index - 1].at_ms)
            if index < len(choices):
                end_ms = min(end_ms, choices[index].at_ms)
            yield Span(start_ms, end_ms)


def _join_speech(
    segments: Sequence[DecodedSegment], speech: Sequence[Sequence[Span]], seams_ms: Sequence[int]
) -> Iterator[Span]:
    """Yield what of each segment's ``speech`` lies in its core, joined where it meets."""
    edges = [0, *seams_ms, max((segment.span.end_ms for segment in segments), default=0)]
    cores = (Span(start_ms, max(start_ms, end_ms)) for start_ms, end_ms in pairwise(edges))
    yield from merge(
        span
        for regions, core in zip(speech, cores, strict=False)
        for span in filter(None, (region.overlap(core) for region in regions))
    )


def _order_times(words: Sequence[Word]) -> Iterator[Word]:
    """Yield words with times that never go back: two decodes may differ by a little at a seam."""
    at_ms = 0
    for word in words:
        start_ms = max(word.start_ms, at_ms)
        yield replace(word, start_ms=start_ms, end_ms=max(word.end_ms, start_ms))
        at_ms = start_ms
