"""Repairs of a recording: where they are needed, and how their words take their place. Pure.

A repair is a second decode of a place with what lies around it. Its words are joined to what was
there by the rules of any seam (:mod:`workers.transcript.stitch`), once on its left and once on its
right, so that no word is written twice. What was there stays unless the repair wrote more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from schema.span import Span, merged
from schema.transcript import Repair, RepairOutcome, RepairReason
from schema.words import Word
from workers.transcript.coverage import bridged, is_sure
from workers.transcript.stitch import Heard, Track, stitch

#: Of the time that words covered, those in the right language must cover this share to be taken.
_LANGUAGE_SHARE = 0.5


#: So much of the channel on both sides of a repair is looked at, that joining it takes no longer in
#: ten hours than in ten minutes; beyond, nothing changes.
_AROUND_MS = 30_000


@dataclass(frozen=True, slots=True)
class Redecoded:
    """A repair that ended: what it heard, or that it failed, and the place it was ordered for."""

    heard: Heard
    core: Span
    reason: RepairReason
    language: str | None = None
    error_code: str | None = None


def repaired(track: Track, repairs: Sequence[Redecoded]) -> tuple[Track, tuple[Repair, ...]]:
    """Return a channel with its repairs in place, and what each of them yielded.

    Repairs are taken in order of their cores, which are disjoint.
    """
    reports = []
    for repair in sorted(repairs, key=lambda repair: repair.core):
        track, report = _taken(track, repair)
        reports.append(report)
    return track, tuple(reports)


def _taken(track: Track, repair: Redecoded) -> tuple[Track, Repair]:
    """Return a channel with one repair in place, if it is any better, and what that yielded."""
    report = Repair(
        track.channel,
        repair.core,
        repair.reason,
        RepairOutcome.UNCHANGED,
        language=repair.language,
        error_code=repair.error_code,
    )
    if repair.heard.failed:
        return track, replace(report, outcome=RepairOutcome.FAILED)
    span = repair.heard.span
    around = Span(max(0, span.start_ms - _AROUND_MS), span.end_ms + _AROUND_MS)
    here, joined = _part(track, around), _joined(track, repair, around)
    if not _is_better(here.words, joined.words, repair):
        return track, report
    before, after = Counter(here.words), Counter(joined.words)
    return _put(track, joined, around), replace(
        report,
        outcome=RepairOutcome.REPAIRED,
        added=_sorted(after - before),
        dropped=_sorted(before - after),
        rules=tuple(seam.rule for seam in joined.seams),
    )


def _joined(track: Track, repair: Redecoded, around: Span) -> Track:
    """Stitch a repair between what lies left and right of its core, ``around`` it."""
    core, heard = repair.core, _outside(repair.heard, track.gaps)
    left = _part(track, Span(around.start_ms, core.start_ms))
    right = _part(track, Span(core.end_ms, around.end_ms))
    # Beside a core at the recording's edge there is nothing to be joined.
    beside = [part for part in (left, right) if part.words or part.span.overlap(heard.span)]
    order = sorted([*beside, heard], key=lambda part: (part.span.start_ms, part.span.end_ms))
    return stitch(track.channel, order)


def _put(track: Track, joined: Track, around: Span) -> Track:
    """Return a channel with another version of what lies ``around`` a repair."""
    before = tuple(word for word in track.words if word.middle_ms < around.start_ms)
    after = tuple(word for word in track.words if word.middle_ms >= around.end_ms)
    outside = [span for span in track.speech if not around.overlap(span)]
    cut = [part for span in track.speech if around.overlap(span) for part in _cut(span, around)]
    speech = merged(sorted([*outside, *cut, *joined.speech]))
    return replace(track, words=(*before, *joined.words, *after), speech=tuple(speech))


def _cut(span: Span, hole: Span) -> Iterator[Span]:
    """Yield what of a span lies before and after a hole in it."""
    if span.start_ms < hole.start_ms:
        yield Span(span.start_ms, hole.start_ms)
    if span.end_ms > hole.end_ms:
        yield Span(hole.end_ms, span.end_ms)


def _outside(heard: Heard, gaps: Sequence[Span]) -> Heard:
    """Return what was heard but for gaps, of which the transcript says that they have no words."""
    return replace(
        heard,
        words=tuple(
            word
            for word in heard.words
            if not any(gap.start_ms <= word.middle_ms < gap.end_ms for gap in gaps)
        ),
    )


def _part(track: Track, span: Span) -> Heard:
    """Return what of a channel lies in ``span``, as if a segment had ended there."""
    return Heard(
        span,
        words=tuple(word for word in track.words if span.start_ms <= word.middle_ms < span.end_ms),
        speech=tuple(filter(None, map(span.overlap, track.speech))),
    )


def _is_better(before: Sequence[Word], after: Sequence[Word], repair: Redecoded) -> bool:
    """Tell whether a repair wrote more words' time than was there; as much, in another language.

    The first decode wrote nothing, so that words of which the second is not sure are no gain: in
    music it finds some.
    """
    span, heard = repair.heard.span, repair.heard
    own = [word for word in heard.words if repair.core.overlap(word.span)]
    if not any(is_sure(word) for word in own):
        return False
    before_ms, after_ms = _covered_ms(before, span), _covered_ms(after, span)
    if repair.reason is RepairReason.LANGUAGE:
        return after_ms >= _LANGUAGE_SHARE * before_ms
    return after_ms > before_ms


def _covered_ms(words: Sequence[Word], span: Span) -> int:
    shared = map(span.overlap, bridged(words))
    return sum(part.duration_ms for part in shared if part is not None)


def _sorted(words: Counter[Word]) -> tuple[Word, ...]:
    return tuple(sorted(words.elements(), key=lambda word: (word.start_ms, word.end_ms)))
