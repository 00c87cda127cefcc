"""From the words of overlapping segments to one timeline for each channel. Pure.

Where two neighbours meet, :mod:`workers.transcript.seams` decides up to which word the left one is
believed, and from which word the right one; this module joins what is left of each.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from schema.span import Span, merged
from schema.transcript import Seam, SeamRule
from schema.words import Word
from workers.transcript.seams import Cut, Heard, decide

__all__ = ["Heard", "Track", "stitch"]


@dataclass(frozen=True, slots=True)
class Track:
    """A channel's one timeline: every word once, the speech heard, and how its seams lie.

    ``gaps`` are the cores of its failed segments, one for each.
    """

    channel: int | None
    words: tuple[Word, ...]
    speech: tuple[Span, ...]
    seams: tuple[Seam, ...]
    gaps: tuple[Span, ...] = ()


def stitch(
    channel: int | None, segments: Sequence[Heard], rules: Collection[SeamRule] = tuple(SeamRule)
) -> Track:
    """Join a channel's segments into one timeline.

    Linear in the words, but for overlaps. ``rules`` are for measurements: see
    :func:`workers.transcript.seams.decide`.

    Raises:
        ValueError: a segment begins or ends before the one before it, words of which would be lost.
    """
    for one, following in pairwise(segments):
        if one.span.start_ms > following.span.start_ms or one.span.end_ms > following.span.end_ms:
            raise ValueError(f"{following.span} begins or ends before {one.span}")
    cuts = list(_cuts(segments, rules))
    firsts = [0, *(cut.right for cut in cuts)]
    lasts = [*(cut.left for cut in cuts), len(segments[-1].words) if segments else 0]
    words = [
        word
        for segment, first, last in zip(segments, firsts, lasts, strict=False)
        for word in segment.words[first:last]
    ]
    seams = [
        Seam(
            channel=channel,
            index=index,
            rule=cut.rule,
            at_ms=cut.at_ms,
            confidence=cut.confidence,
            dropped_left=segments[index].words[cut.left :],
            dropped_right=segments[index + 1].words[: cut.right],
        )
        for index, cut in enumerate(cuts)
    ]
    speech = _joined_speech(segments, [cut.at_ms for cut in cuts])
    gaps = tuple(_gaps(segments, cuts))
    return Track(channel, tuple(_in_order(words)), tuple(speech), tuple(seams), gaps)


def _cuts(segments: Sequence[Heard], rules: Collection[SeamRule]) -> Iterator[Cut]:
    """Yield the seam of each two neighbours, none of which lies before the one before it.

    A segment may be so short that the neighbours on its sides meet: what the left one was given
    of it, the right one cannot be given again.
    """
    first, since_ms = 0, 0
    for segment, right in pairwise(segments):
        span = Span(max(segment.span.start_ms, since_ms), max(segment.span.end_ms, since_ms))
        cut = decide(replace(segment, span=span, words=segment.words[first:]), right, rules)
        yield replace(cut, left=first + cut.left)
        first, since_ms = cut.right, cut.at_ms


def _gaps(segments: Sequence[Heard], cuts: Sequence[Cut]) -> Iterator[Span]:
    """Yield the core of each failed segment."""
    for index, segment in enumerate(segments):
        if segment.failed:
            own = segment.span
            start_ms = max(own.start_ms, cuts[index - 1].at_ms) if index else own.start_ms
            end_ms = min(own.end_ms, cuts[index].at_ms) if index < len(cuts) else own.end_ms
            yield Span(start_ms, end_ms)


def _joined_speech(segments: Sequence[Heard], cuts_ms: Sequence[int]) -> Iterator[Span]:
    """Yield the speech that each segment heard in its core, joined where it meets."""
    edges = [0, *cuts_ms, max((segment.span.end_ms for segment in segments), default=0)]
    cores = (Span(start_ms, max(start_ms, end_ms)) for start_ms, end_ms in pairwise(edges))
    yield from merged(
        span
        for segment, core in zip(segments, cores, strict=False)
        for span in filter(None, (heard.overlap(core) for heard in segment.speech))
    )


def _in_order(words: Sequence[Word]) -> Iterator[Word]:
    """Yield words with times that never go back: two decodes may differ by a little at a seam."""
    at_ms = 0
    for word in words:
        start_ms = max(word.start_ms, at_ms)
        yield replace(word, start_ms=start_ms, end_ms=max(word.end_ms, start_ms))
        at_ms = start_ms
