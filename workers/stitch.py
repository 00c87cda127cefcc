"""From the words of overlapping segments to one timeline for each channel. Pure.

Two neighbours heard the same stretch of audio, the overlap, and each is weak at its own edge. A
seam decides up to which word the left one is believed, and from which word the right one. Time
decides first, text second: a pause that both hear, then a run of words that both wrote at the same
time, and only then the middle. Words are never interleaved, and none is chosen for being longer.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from schema.span import Span
from schema.transcript import Seam, SeamRule, is_cjk
from schema.words import Word

#: Words this close to their own segment's edge were heard without what came next to them, and are
#: not trusted to decide; less where the overlap is short.
GUARD_MS = 1_000

#: A shorter pause lies within a phrase, and two decodes may time its words differently.
_PAUSE_MS = 200

#: Two decodes of one word differ by less than this; "one one one" is told apart by it.
_SAME_TIME_MS = 300

#: A run of this many characters is sure: about two Latin words, three CJK characters, or one
#: long word.
_SURE_CJK = 3
_SURE_WORDS = 2
_SURE_LETTERS = 8


@dataclass(frozen=True, slots=True)
class Heard:
    """One segment of a channel on the recording's clock; ``failed`` where it has no result.

    ``words`` and ``speech`` are in order of time.
    """

    span: Span
    words: tuple[Word, ...] = ()
    speech: tuple[Span, ...] = ()
    failed: bool = False


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


@dataclass(frozen=True, slots=True)
class _Cut:
    """A decision: the left segment's first ``left`` words stay, the right one's from ``right``."""

    rule: SeamRule
    at_ms: int
    confidence: float
    left: int
    right: int


def stitch(channel: int | None, segments: Sequence[Heard]) -> Track:
    """Join a channel's segments, in order of their starts, into one timeline."""
    cuts = [_decide(left, right) for left, right in pairwise(segments)]
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


def _decide(left: Heard, right: Heard) -> _Cut:
    """Choose the seam of two neighbours by the first rule that applies."""
    overlap = left.span.overlap(right.span)
    if overlap is None:
        return _Cut(SeamRule.GAP, right.span.start_ms, 0.0, len(left.words), 0)
    if left.failed or right.failed:
        return _beside_failure(left, overlap)
    lefts = [word for word in left.words if word.middle_ms >= overlap.start_ms]
    rights = [word for word in right.words if word.middle_ms < overlap.end_ms]
    if not lefts and not rights:
        return _at(SeamRule.EMPTY, overlap.middle_ms, 1.0, left, right)
    return (
        _agreed_silence(left, right, overlap)
        or _one_sided(left, right, overlap, lefts, rights)
        or _anchor(left, right, overlap)
        or _midpoint(left, right, overlap, [*lefts, *rights])
    )


def _at(rule: SeamRule, at_ms: int, confidence: float, left: Heard, right: Heard) -> _Cut:
    """Return the cut at a moment: each word belongs to the side that its middle is on."""
    return _Cut(
        rule,
        at_ms,
        confidence,
        sum(word.middle_ms < at_ms for word in left.words),
        sum(word.middle_ms < at_ms for word in right.words),
    )


def _beside_failure(left: Heard, overlap: Span) -> _Cut:
    """Keep all that the other one has; the transcript marks the gap."""
    at_ms = overlap.start_ms if left.failed else overlap.end_ms
    return _Cut(SeamRule.GAP, at_ms, 0.0, len(left.words), 0)


def _gaps(segments: Sequence[Heard], cuts: Sequence[_Cut]) -> Iterator[Span]:
    """Yield the core of each failed segment."""
    for index, segment in enumerate(segments):
        if segment.failed:
            own = segment.span
            start_ms = max(own.start_ms, cuts[index - 1].at_ms) if index else own.start_ms
            end_ms = min(own.end_ms, cuts[index].at_ms) if index < len(cuts) else own.end_ms
            yield Span(start_ms, end_ms)


def _agreed_silence(left: Heard, right: Heard, overlap: Span) -> _Cut | None:
    """Cut at the centre of the widest pause that both heard and that no word crosses."""
    guard_ms = min(GUARD_MS, overlap.duration_ms // 4)
    within = Span(overlap.start_ms + guard_ms, overlap.end_ms - guard_ms)
    sounds = [*left.speech, *right.speech]
    sounds += [word.span for word in (*left.words, *right.words)]
    pause = max(_pauses(sounds, within), key=lambda span: span.duration_ms, default=None)
    if pause is None or pause.duration_ms < _PAUSE_MS:
        return None
    return _at(SeamRule.AGREED_SILENCE, pause.middle_ms, 1.0, left, right)


def _pauses(sounds: Sequence[Span], within: Span) -> Iterator[Span]:
    """Yield what of ``within`` no sound covers, in order."""
    at_ms = within.start_ms
    for sound in sorted(sounds):
        if sound.end_ms <= at_ms:
            continue
        if sound.start_ms >= within.end_ms:
            break
        if sound.start_ms > at_ms:
            yield Span(at_ms, sound.start_ms)
        at_ms = sound.end_ms
    if at_ms < within.end_ms:
        yield Span(at_ms, within.end_ms)


def _one_sided(
    left: Heard, right: Heard, overlap: Span, lefts: Sequence[Word], rights: Sequence[Word]
) -> _Cut | None:
    """Where only one wrote anything, believe it: a word too many is seen, a lost one is not."""
    if lefts and rights:
        return None
    at_ms = overlap.end_ms if lefts else overlap.start_ms
    return _at(SeamRule.ONE_SIDED, at_ms, 0.6, left, right)


def _anchor(left: Heard, right: Heard, overlap: Span) -> _Cut | None:
    """Cut inside a run of words that both wrote at the same time, nearest the overlap's middle.

    The cut lies after a pair of equal words, so that the left one's timing of the words before it
    and the right one's of the words after it cannot lose or double any.
    """
    best: _Cut | None = None
    for run in _runs(left.words, right.words, overlap):
        confidence = round(1 - 0.5 / len(run), 3)
        for i, j in run:
            at_ms = left.words[i].end_ms
            cut = _Cut(SeamRule.ANCHOR, at_ms, confidence, i + 1, j + 1)
            if best is None or _distance(cut, overlap) < _distance(best, overlap):
                best = cut
    return best


def _distance(cut: _Cut, overlap: Span) -> int:
    return abs(cut.at_ms - overlap.middle_ms)


def _runs(
    lefts: Sequence[Word], rights: Sequence[Word], overlap: Span
) -> Iterator[list[tuple[int, int]]]:
    """Yield the sure runs: pairs of indexes of equal words, consecutive on both sides."""
    first = sum(word.end_ms <= overlap.start_ms for word in lefts)
    last = sum(word.start_ms < overlap.end_ms for word in rights)
    texts = [_normal(word.text) for word in rights[:last]]
    open_runs: dict[int, list[tuple[int, int]]] = {}
    for i in range(first, len(lefts)):
        text = _normal(lefts[i].text)
        grown: dict[int, list[tuple[int, int]]] = {}
        for j in range(last):
            same_time = abs(lefts[i].middle_ms - rights[j].middle_ms) <= _SAME_TIME_MS
            if text and text == texts[j] and same_time:
                grown[j] = [*open_runs.pop(j - 1, []), (i, j)]
        yield from (run for run in open_runs.values() if _is_sure(run, texts))
        open_runs = grown
    yield from (run for run in open_runs.values() if _is_sure(run, texts))


def _is_sure(run: Sequence[tuple[int, int]], texts: Sequence[str]) -> bool:
    joined = "".join(texts[j] for _, j in run)
    if is_cjk(joined[0]):
        return len(joined) >= _SURE_CJK
    return len(run) >= _SURE_WORDS or len(joined) >= _SURE_LETTERS


def _normal(text: str) -> str:
    """Return a word as it is compared: compatibility forms folded, case and punctuation gone."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(char for char in folded if char.isalnum())


def _midpoint(left: Heard, right: Heard, overlap: Span, words: Sequence[Word]) -> _Cut:
    """Cut between words, as near the middle of the overlap as no word is cut through."""
    middle_ms = overlap.middle_ms
    moments = [overlap.start_ms, overlap.end_ms, middle_ms]
    moments += [moment for word in words for moment in (word.start_ms, word.end_ms)]
    free = [
        moment
        for moment in moments
        if overlap.start_ms <= moment <= overlap.end_ms
        and not any(word.start_ms < moment < word.end_ms for word in words)
    ]
    at_ms = min(free, key=lambda moment: abs(moment - middle_ms), default=middle_ms)
    return _at(SeamRule.MIDPOINT, at_ms, 0.3, left, right)


def _joined_speech(segments: Sequence[Heard], cuts_ms: Sequence[int]) -> Iterator[Span]:
    """Yield the speech that each segment heard in its core, joined where it meets."""
    edges = [0, *cuts_ms, max((segment.span.end_ms for segment in segments), default=0)]
    open_span: Span | None = None
    for segment, start_ms, end_ms in zip(segments, edges, edges[1:], strict=False):
        core = Span(start_ms, max(start_ms, end_ms))
        for span in filter(None, (heard.overlap(core) for heard in segment.speech)):
            if open_span is not None and span.start_ms <= open_span.end_ms:
                open_span = Span(open_span.start_ms, max(open_span.end_ms, span.end_ms))
                continue
            if open_span is not None:
                yield open_span
            open_span = span
    if open_span is not None:
        yield open_span


def _in_order(words: Sequence[Word]) -> Iterator[Word]:
    """Yield words with times that never go back: two decodes may differ by a little at a seam."""
    at_ms = 0
    for word in words:
        start_ms = max(word.start_ms, at_ms)
        yield replace(word, start_ms=start_ms, end_ms=max(word.end_ms, start_ms))
        at_ms = start_ms
