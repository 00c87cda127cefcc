"""What was truly said, and what two segments that overlap make of it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from schema.span import Span, merge
from schema.words import Word
from workers.transcript.seams import GUARD_MS, DecodedSegment

#: VAD bridges shorter pauses.
_REGION_PAUSE_MS = 500

#: Neighbours in this list sound different, and so do words that come again seven words later.
_WORDS = ("one", "two", "three", "international", "四", "五", "book")


def words(*timed: tuple[str, int, int]) -> tuple[Word, ...]:
    return tuple(Word(text, start_ms, end_ms, 0.9) for text, start_ms, end_ms in timed)


def regions(truth, span: Span) -> tuple[Span, ...]:
    """Return the speech that a segment hears: words, joined over short pauses, cut by its edges."""
    regions_of_words = merge((word.span for word in truth), _REGION_PAUSE_MS - 1)
    return tuple(filter(None, map(span.overlap, regions_of_words)))


def decode_exactly(truth, span: Span) -> DecodedSegment:
    """Return a faithful decode: the words that lie within the segment."""
    inside = (w for w in truth if span.start_ms <= w.start_ms and w.end_ms <= span.end_ms)
    return DecodedSegment(span, tuple(inside), regions(truth, span))


def is_known(word: Word) -> bool:
    """Tell a true word from a garbled one; a true one's confidence is its number."""
    return word.confidence is not None


def mirror(segment: DecodedSegment, end_ms: int) -> DecodedSegment:
    """Return the segment as it is played backwards, on a clock that ends at ``end_ms``."""
    return DecodedSegment(
        _backwards(segment.span, end_ms),
        tuple(
            replace(word, start_ms=end_ms - word.end_ms, end_ms=end_ms - word.start_ms)
            for word in reversed(segment.words)
        ),
        tuple(_backwards(span, end_ms) for span in reversed(segment.speech)),
    )


def _backwards(span: Span, end_ms: int) -> Span:
    return Span(end_ms - span.end_ms, end_ms - span.start_ms)


@st.composite
def any_truth(draw, *, repeats: bool, count: int = 60) -> tuple[Word, ...]:
    """Draw what was said: words of 200 to 900 ms, most of them without a pause between them."""
    pause = st.sampled_from([0, 0, 0, 0, 40, 250, 700, 3_000])
    at_ms, words_drawn = draw(st.integers(0, 3_000)), []
    for index in range(draw(st.integers(1, count))):
        start_ms = at_ms + draw(pause)
        at_ms = start_ms + draw(st.integers(200, 900))
        text = draw(st.sampled_from(["one", "six"])) if repeats else _WORDS[index % len(_WORDS)]
        words_drawn.append(Word(text, start_ms, at_ms, index / 1000))
    return tuple(words_drawn)


@st.composite
def any_decode(
    draw, truth: tuple[Word, ...], span: Span, *, late_ms: int, jitter_ms: int, garbled: bool
) -> DecodedSegment:
    """Draw a segment's decode of what was said: its times off, the words at its edges wrong."""
    decoded_words: list[Word] = []
    at_ms, speech = span.start_ms, regions(truth, span)
    for word in truth:
        cut_off = word.span.overlap(span)
        if cut_off is None:
            continue
        heard_as, is_whole = word, cut_off == word.span
        if not is_whole or (garbled and _is_cut_short(word, span, speech)):
            if draw(st.booleans()):
                continue
            heard_as = Word(draw(st.sampled_from(["uh", word.text])), *_ends(cut_off), None)
        off_ms = late_ms + draw(st.integers(-jitter_ms, jitter_ms))
        start_ms = min(max(at_ms, heard_as.start_ms + off_ms), span.end_ms)
        end_ms = min(max(start_ms, heard_as.end_ms + off_ms), span.end_ms)
        decoded_words.append(replace(heard_as, start_ms=start_ms, end_ms=end_ms))
        at_ms = start_ms
    return DecodedSegment(span, tuple(decoded_words), speech)


def _is_cut_short(word: Word, span: Span, speech: tuple[Span, ...]) -> bool:
    """Tell whether a word is at an edge that cuts through a region of speech."""
    begins_cut, ends_cut = speech[0].start_ms == span.start_ms, speech[-1].end_ms == span.end_ms
    at_begin = word.start_ms < span.start_ms + GUARD_MS
    at_end = word.end_ms > span.end_ms - GUARD_MS
    return (begins_cut and at_begin) or (ends_cut and at_end)


def _ends(span: Span) -> tuple[int, int]:
    return span.start_ms, span.end_ms
