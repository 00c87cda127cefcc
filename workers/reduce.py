"""The reduce of a recording: from the results of its segments to one stored transcript."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

import structlog

from schema.errors import CallscribeError, ErrorCode, LeaseLost
from schema.profile import RenderSettings
from schema.span import Span
from schema.store import reduce as store
from schema.store.reduce import EndedSegment, ReduceClaim
from schema.transcript import Draft, Flag, Gap
from schema.wire import Message
from schema.words import SegmentResult, Word
from workers import guards
from workers.crosstalk import without_crosstalk
from workers.dialogue import to_dialogue, worded_ms
from workers.guards import doubts, guard
from workers.lease import KeptLease
from workers.loudness import Loudness
from workers.polish import polish
from workers.stitch import Heard, Track, stitch

if TYPE_CHECKING:
    from workers.app import Worker

log = structlog.get_logger(__name__)

_LEASE_LIMIT_S = 3600

#: Below this share of worded speech a recording says so; less speech than this proves nothing.
_LOW_COVERAGE = 0.5

#: Music that VAD takes for speech gets a stray word now and then: fewer than one in this time, and
#: none that the model is at all sure of.
_STRAY_WORD_MS = 10_000
_STRAY_CONFIDENCE = 0.5
_LOW_COVERAGE_MIN_SPEECH_MS = 3_000


def reduce_recording(worker: Worker, message: Message) -> None:
    """Stitch the recording that a message names, if that is still to be done."""
    lease_s = worker.settings.lease_s
    claim = worker.ledger.single(
        lambda c: store.claim_reduce(c, message, owner=worker.owner, lease_s=lease_s)
    )
    if claim is None:
        log.info("reduce_not_claimed", recording=str(message.id))
        return
    renewed = KeptLease(
        lambda: worker.ledger.single(lambda c: store.renew_reduce(c, claim, lease_s=lease_s)),
        lease_s=lease_s,
        limit_s=_LEASE_LIMIT_S,
    )
    with structlog.contextvars.bound_contextvars(recording=str(claim.recording_id)), renewed:
        try:
            segments = worker.ledger.transact(lambda c: store.ended_segments(c, claim.recording_id))
            draft = draft_transcript(claim, segments)
            state = worker.ledger.transact(
                lambda c: store.store_transcript(c, claim, segments, draft)
            )
            log.info("recording_done", state=state, flags=draft.flags, seams=len(draft.seams))
        except LeaseLost as error:
            log.warning("write_fenced", error=str(error))
        except Exception as error:
            log.exception("reduce_failed")
            code = error.code if isinstance(error, CallscribeError) else ErrorCode.ENGINE_FAILED
            text = f"{type(error).__name__}: {error}"
            worker.ledger.transact(lambda c: store.fail_reduce(c, claim, code, text))


def draft_transcript(claim: ReduceClaim, segments: Sequence[EndedSegment]) -> Draft:
    """Stitch a recording's segments, merge its channels, and dress the words. Pure.

    ``segments`` are in order of channel and start.
    """
    tracks = [
        stitch(channel, [_heard(segment) for segment in own])
        for channel, own in groupby(segments, key=lambda segment: segment.channel)
    ]
    results = _results(segments)
    language = _language(segments)
    render = _render(claim)
    speech_ms = sum(span.duration_ms for track in tracks for span in track.speech)
    covered_ms = sum(worded_ms(track) for track in tracks)
    guarded = [guard(track, doubts(results[track.channel])) for track in tracks]
    said = [own.track for own in guarded]
    own_words = without_crosstalk(said, {c: Loudness(own) for c, own in results.items()})
    return Draft(
        language=language,
        flags=(
            *claim.flags,
            *_flags(segments, said, speech_ms, covered_ms),
            *guards.flags(guarded),
            *own_words.flags,
        ),
        speech_ms=speech_ms,
        worded_ms=covered_ms,
        utterances=polish(to_dialogue(own_words.tracks, render), language, render),
        seams=tuple(seam for track in tracks for seam in track.seams),
        gaps=tuple(_gaps(segments, tracks, render)),
    )


def _results(segments: Sequence[EndedSegment]) -> dict[int | None, list[tuple[int, SegmentResult]]]:
    """Return each channel's results with the start of their segments, in ms."""
    return {
        channel: [(s.span.start_ms, s.result) for s in own if s.result is not None]
        for channel, own in groupby(segments, key=lambda segment: segment.channel)
    }


def _gaps(
    segments: Sequence[EndedSegment], tracks: Sequence[Track], render: RenderSettings
) -> Iterator[Gap]:
    """Yield what failed segments left out, as one gap where several in a row failed alike."""
    codes = [segment.error_code for segment in segments if segment.result is None]
    spans = [(track.channel, span) for track in tracks for span in track.gaps]
    last: Gap | None = None
    for code, (channel, span) in zip(codes, spans, strict=True):
        gap = Gap(channel, render.speaker(channel), span, code or ErrorCode.ENGINE_FAILED)
        if last and replace(last, span=span) == gap and last.span.end_ms == span.start_ms:
            gap = replace(gap, span=Span(last.span.start_ms, span.end_ms))
        elif last:
            yield last
        last = gap
    if last:
        yield last


def _render(claim: ReduceClaim) -> RenderSettings:
    """Return how this recording is dressed: names of speakers are for channels of their own.

    Where agent and customer share one channel, calling it "agent" would be wrong half of the time.
    """
    render = claim.profile.render
    shared = claim.channels < len(render.speakers) or Flag.DUAL_MONO in claim.flags
    return render.model_copy(update={"speakers": ()}) if shared else render


def _heard(segment: EndedSegment) -> Heard:
    """Put a segment's result, whose times start with the segment, on the recording's clock."""
    if segment.result is None:
        return Heard(segment.span, failed=True)
    by_ms = segment.span.start_ms
    return Heard(
        segment.span,
        words=tuple(word.shifted(by_ms) for word in segment.result.words),
        speech=tuple(span.shifted(by_ms) for span in segment.result.speech),
    )


def _language(segments: Sequence[EndedSegment]) -> str | None:
    """Return the language that most speech was decoded as."""
    spoken: Counter[str] = Counter()
    for segment in segments:
        if segment.result is not None and segment.result.language is not None:
            spoken[segment.result.language] += segment.result.speech_ms
    return max(sorted(spoken), key=lambda name: spoken[name], default=None)


def _flags(
    segments: Sequence[EndedSegment], tracks: Sequence[Track], speech_ms: int, covered_ms: int
) -> list[Flag]:
    flags = []
    failed = any(segment.result is None for segment in segments)
    if failed:
        flags.append(Flag.PARTIAL)
    words = [word for track in tracks for word in track.words]
    if not failed and _is_noise(words, speech_ms):
        flags.append(Flag.NO_SPEECH)
    if (
        words
        and speech_ms >= _LOW_COVERAGE_MIN_SPEECH_MS
        and covered_ms < _LOW_COVERAGE * speech_ms
    ):
        flags.append(Flag.LOW_COVERAGE)
    return flags


def _is_noise(words: Sequence[Word], speech_ms: int) -> bool:
    """Tell whether nobody spoke: no words, or stray ones in what was no speech after all."""
    few = len(words) * _STRAY_WORD_MS <= speech_ms
    return few and all((word.confidence or 1.0) < _STRAY_CONFIDENCE for word in words)
