"""The reduce of a recording: from the results of its segments to one stored transcript."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

import structlog

from schema.errors import CallscribeError, ErrorCode, LeaseLost, Misconfigured, Transient
from schema.metrics import FENCED_WRITES, REDUCE_SECONDS, REDUCES, ReduceOutcome, Task
from schema.profile import RenderSettings
from schema.span import Span
from schema.states import SegmentKind
from schema.store.dispatches import REDUCE_LIMIT_S
from schema.store.work import reduces as store
from schema.store.work import repairs as repair
from schema.store.work.reduces import EndedSegment, ReduceClaim
from schema.talk import talk_of
from schema.transcript import Draft, Flag, Gap, PlannedRepair, RepairReason, is_low
from schema.wire import Message
from schema.words import ResultTag, SegmentResult
from workers.process import metrics
from workers.process.lease import KeptLease
from workers.process.time_limit import limited
from workers.transcript import hallucinations
from workers.transcript.coverage import (
    Place,
    is_noise,
    lost_places,
    plan_repairs,
    segment_coverage,
    speech_ms,
    worded_ms,
)
from workers.transcript.crosstalk import without_crosstalk
from workers.transcript.dialogue import to_dialogue
from workers.transcript.hallucinations import doubts, guard
from workers.transcript.language import foreign_places, spoken_language
from workers.transcript.loudness import Loudness
from workers.transcript.repair import Redecoded, repaired
from workers.transcript.stitch import Heard, Track, stitch
from workers.transcript.text_normalisation import marked, polish, require_rules

if TYPE_CHECKING:
    from workers.context import Worker

log = structlog.get_logger(__name__)

_LEASE_LIMIT_S = 3600


def reduce_recording(worker: Worker, message: Message) -> None:
    """Stitch the recording that a message names, if that is still to be done.

    A host that cannot, say for want of a model, leaves it to others and rests, lest it be the
    fastest to take the next.
    """
    lease_s = worker.settings.lease_s
    try:
        claim = worker.ledger.single(
            lambda c: store.claim_reduce(c, message, owner=worker.owner, lease_s=lease_s)
        )
    except Misconfigured as error:
        log.warning("reduce_failed", recording=str(message.id), error=str(error))
        metrics.count(REDUCES, outcome=ReduceOutcome.ERROR)
        time.sleep(worker.settings.sweep_s)
        return
    if claim is None:
        log.info("reduce_not_claimed", recording=str(message.id))
        return
    renewed = KeptLease(
        lambda: worker.ledger.single(lambda c: store.renew_reduce(c, claim, lease_s=lease_s)),
        lease_s=lease_s,
        limit_s=_LEASE_LIMIT_S,
    )
    rests = False
    with structlog.contextvars.bound_contextvars(recording=str(claim.recording_id)), renewed:
        try:
            with limited(REDUCE_LIMIT_S):
                _reduce(worker, claim)
        except LeaseLost as error:
            log.warning("write_fenced", error=str(error))
            metrics.count(FENCED_WRITES, task=Task.REDUCE)
        except (Misconfigured, Transient) as left:
            rests = isinstance(left, Misconfigured)
            _leave(worker, claim, left)
        except Exception as error:
            log.exception("reduce_failed")
            metrics.count(REDUCES, outcome=ReduceOutcome.ERROR)
            code = error.code if isinstance(error, CallscribeError) else ErrorCode.ENGINE_FAILED
            text = f"{type(error).__name__}: {error}"
            worker.ledger.transact(lambda c: store.fail_reduce(c, claim, code, text))
    if rests:
        time.sleep(worker.settings.sweep_s)


def _leave(worker: Worker, claim: ReduceClaim, error: CallscribeError) -> None:
    """Put a recording back that cannot be reduced here or now, and its attempt with it."""
    log.warning("reduce_failed", error=str(error))
    metrics.count(REDUCES, outcome=ReduceOutcome.ERROR)
    worker.ledger.transact(lambda c: store.leave_reduce(c, claim, error.code, str(error)))


def _reduce(worker: Worker, claim: ReduceClaim) -> None:
    """Order repairs where words are missing, else store the transcript.

    Raises:
        Misconfigured: this host lacks a model that the profile asks for.
    """
    begun_s = time.monotonic()
    segments = worker.ledger.transact(lambda c: store.ended_segments(c, claim.recording_id))
    if _order_repairs(worker, claim, segments):
        metrics.count(REDUCES, outcome=ReduceOutcome.REPAIRS)
        return
    draft = draft_transcript(claim, segments, _marker(worker, claim))
    # What was drafted without the rules that this host lacks is thrown away.
    require_rules(draft.language, claim.profile.render)
    state = worker.ledger.transact(lambda c: store.store_transcript(c, claim, segments, draft))
    log.info("recording_done", state=state, flags=draft.flags, seams=len(draft.seams))
    metrics.count(REDUCES, outcome=state)
    metrics.observe(REDUCE_SECONDS, time.monotonic() - begun_s)


def _marker(worker: Worker, claim: ReduceClaim) -> Callable[[str], str] | None:
    """Return the model that writes marks, for a profile that wants one.

    Raises:
        Misconfigured: its weights, or the library that reads them, are not here.
    """
    punctuation = claim.profile.render.punctuation
    if punctuation is None:
        return None
    try:
        return worker.marker(punctuation)
    except ImportError as error:
        raise Misconfigured(
            ErrorCode.WEIGHTS_MISSING,
            f"model {punctuation.model}",
            f"what loads it is not installed: {error}",
            "Install the worker's extras on each host that reduces.",
        ) from error


def _order_repairs(worker: Worker, claim: ReduceClaim, segments: Sequence[EndedSegment]) -> bool:
    """Order what is to be decoded once more; False where there is nothing.

    The recording is reduced again when the last of it has ended.
    """
    repairs = needed_repairs(claim, segments)
    if not repairs:
        return False
    dispatches = worker.ledger.transact(lambda c: repair.order_repairs(c, claim, repairs))
    worker.publisher.publish(dispatches)
    log.info("repairs_ordered", count=len(dispatches), reasons=[r.reason for r in repairs])
    return bool(dispatches)


def needed_repairs(
    claim: ReduceClaim, segments: Sequence[EndedSegment]
) -> tuple[PlannedRepair, ...]:
    """Return the places to decode once more, but for those that were already. Pure."""
    ordered = [_ordered(segment) for segment in segments if segment.kind == SegmentKind.REPAIR]
    places: list[Place] = []
    for channel, own in _planned(segments):
        heard = [_heard(segment) for segment in own]
        track = stitch(channel, heard)
        lost = lost_places(track, heard)
        if claim.profile.decode.language == "auto":
            # The few words of a place tell less of its language than all that its channel said.
            lost = tuple(replace(place, language=spoken_language(own)) for place in lost)
            places += foreign_places(track, own, heard)
        places += lost
    return plan_repairs(places, ordered, claim.duration_ms)


def draft_transcript(
    claim: ReduceClaim,
    segments: Sequence[EndedSegment],
    mark: Callable[[str], str] | None = None,
) -> Draft:
    """Stitch a recording's segments, merge its channels, and dress the words. Pure.

    ``segments`` are in order of channel and start, repairs among them; ``mark`` writes marks into
    a phrase, for a profile that wants them.
    """
    by_channel = _planned(segments)
    planned = [[_heard(segment) for segment in own] for _, own in by_channel]
    stitched = [
        stitch(channel, heard) for (channel, _), heard in zip(by_channel, planned, strict=True)
    ]
    mended = [repaired(track, _redecoded(segments, track.channel)) for track in stitched]
    tracks = [track for track, _ in mended]
    results = _results(segments)
    guarded = [guard(track, doubts(results[track.channel])) for track in tracks]
    said = [own.track for own in guarded]
    own_words = without_crosstalk(said, {c: Loudness(own) for c, own in results.items()})
    language = spoken_language(segment for _, own in by_channel for segment in own)
    render = _render(claim)
    spoken = own_words.tracks
    if mark is not None:
        spoken = tuple(marked(track, mark) for track in spoken)
    utterances = polish(to_dialogue(spoken, render), language, render)
    return Draft(
        language=language,
        flags=(
            *claim.flags,
            *_flags(claim.profile.decode.model, segments, tracks, planned, said),
            *hallucinations.flags(guarded),
            *own_words.flags,
        ),
        speech_ms=sum(map(speech_ms, tracks)),
        worded_ms=sum(map(worded_ms, tracks)),
        utterances=utterances,
        seams=tuple(seam for track in tracks for seam in track.seams),
        gaps=tuple(_gaps(segments, tracks, render)),
        coverage=tuple(
            coverage
            for track, heard in zip(tracks, planned, strict=True)
            for coverage in segment_coverage(track, heard)
        ),
        repairs=tuple(report for _, reports in mended for report in reports),
        languages=tuple((channel, spoken_language(own)) for channel, own in by_channel),
        talk=talk_of(utterances, claim.duration_ms),
    )


def _planned(segments: Sequence[EndedSegment]) -> list[tuple[int | None, list[EndedSegment]]]:
    """Return the planned segments by channel."""
    chosen = (segment for segment in segments if segment.kind == SegmentKind.PLAN)
    grouped = groupby(chosen, key=lambda segment: segment.channel)
    return [(channel, list(own)) for channel, own in grouped]


def _ordered(segment: EndedSegment) -> PlannedRepair:
    core = segment.core or segment.span
    reason = RepairReason(segment.reason or RepairReason.SPEECH)
    return PlannedRepair(segment.channel, segment.span, core, reason, segment.language)


def _redecoded(segments: Sequence[EndedSegment], channel: int | None) -> list[Redecoded]:
    """Return what a channel's repairs heard."""
    return [
        Redecoded(_heard(segment), order.core, order.reason, order.language, segment.error_code)
        for segment in segments
        if segment.kind == SegmentKind.REPAIR and segment.channel == channel
        for order in [_ordered(segment)]
    ]


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
    codes = [s.error_code for s in segments if s.kind == SegmentKind.PLAN and s.result is None]
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


def _flags(
    model: str,
    segments: Sequence[EndedSegment],
    tracks: Sequence[Track],
    planned: Sequence[Sequence[Heard]],
    said: Sequence[Track],
) -> list[Flag]:
    """Return what readers should know of a recording.

    ``model`` was asked for; ``tracks`` are the channels with repairs in place, ``said`` these
    without what nobody said.
    """
    flags = []
    failed = any(
        segment.kind == SegmentKind.PLAN and segment.result is None for segment in segments
    )
    if failed:
        flags.append(Flag.PARTIAL)
    # Words are shared with whoever asks for that model by name, and is given no less than that.
    stood_in = {
        segment.result.tags.get(ResultTag.SMALLER_MODEL) for segment in segments if segment.result
    }
    if stood_in - {None, model}:
        flags.append(Flag.SMALLER_MODEL)
    words = [word for track in said for word in track.words]
    heard_ms, covered_ms = sum(map(speech_ms, tracks)), sum(map(worded_ms, tracks))
    if not failed and is_noise(words, heard_ms):
        flags.append(Flag.NO_SPEECH)
    is_lost = any(lost_places(track, heard) for track, heard in zip(tracks, planned, strict=True))
    if words and (is_lost or is_low(heard_ms, covered_ms)):
        flags.append(Flag.LOW_COVERAGE)
    return flags
