"""Repairs of a recording: where they are needed, and how their words take their place. Pure.

A repair is a second decode of a place with what lies around it. Its words are joined to what was
there by the rules of any seam (:mod:`workers.stitch`), once on its left and once on its right, so
that no word is written twice. What was there stays unless the repair wrote more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from schema.span import Span
from schema.transcript import Repair, RepairOutcome, RepairReason
from schema.words import Word
from workers.coverage import bridged, is_sure
from workers.stitch import Heard, Track, stitch

#: Of the time that words covered, those in the right language must cover this share to be taken.
_LANGUAGE_SHARE = 0.5


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
    joined = _joined(track, repair)
    if not _is_better(track, joined, repair):
        return track, report
    before, after = Counter(track.words), Counter(joined.words)
    return replace(joined, seams=track.seams, gaps=track.gaps), replace(
        report,
        outcome=RepairOutcome.REPAIRED,
        added=_sorted(after - before),
        dropped=_sorted(before - after),
        rules=tuple(seam.rule for seam in joined.seams),
    )


def _joined(track: Track, repair: Redecoded) -> Track:
    """Stitch a repair between what lies left and right of its core."""
    core, heard = repair.core, repair.heard
    ends_ms = [span.end_ms for span in (*track.speech[-1:], *(w.span for w in track.words[-1:]))]
    left = _part(track, Span(0, core.start_ms))
    right = _part(track, Span(core.end_ms, max(heard.span.end_ms, *ends_ms, core.end_ms) + 1))
    # Beside a core at the recording's edge there is nothing to be joined.
    beside = [part for part in (left, right) if part.words or part.span.overlap(heard.span)]
    order = sorted([*beside, heard], key=lambda part: (part.span.start_ms, part.span.end_ms))
    return stitch(track.channel, order)


def _part(track: Track, span: Span) -> Heard:
    """Return what of a channel lies in ``span``, as if a segment had ended there."""
    return Heard(
        span,
        words=tuple(word for word in track.words if span.start_ms <= word.middle_ms < span.end_ms),
        speech=tuple(filter(None, map(span.overlap, track.speech))),
    )


def _is_better(track: Track, joined: Track, repair: Redecoded) -> bool:
    """Tell whether a repair wrote more words' time than was there; as much, in another language.

    The first decode wrote nothing, so that words of which the second is not sure are no gain: in
    music it finds some.
    """
    span, heard = repair.heard.span, repair.heard
    own = [word for word in heard.words if repair.core.overlap(word.span)]
    if not any(is_sure(word) for word in own):
        return False
    before_ms, after_ms = _covered_ms(track.words, span), _covered_ms(joined.words, span)
    if repair.reason is RepairReason.LANGUAGE:
        return after_ms >= _LANGUAGE_SHARE * before_ms
    return after_ms > before_ms


def _covered_ms(words: Sequence[Word], span: Span) -> int:
    shared = map(span.overlap, bridged(words))
    return sum(part.duration_ms for part in shared if part is not None)


def _sorted(words: Counter[Word]) -> tuple[Word, ...]:
    return tuple(sorted(words.elements(), key=lambda word: (word.start_ms, word.end_ms)))
