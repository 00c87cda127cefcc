"""One segment, from its message to the ledger: claim, decode, finish; or say why not."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import structlog
from celery.exceptions import SoftTimeLimitExceeded

from schema import errors
from schema.errors import CallscribeError, ErrorCode, LeaseLost, Misconfigured
from schema.metrics import (
    ERRORS,
    FENCED_WRITES,
    RECYCLES,
    SEGMENTS,
    STAGES,
    FencedTask,
    RecycleReason,
    SegmentOutcome,
    Stage,
)
from schema.seal import seal
from schema.store.dispatches import segment_limit_s
from schema.store.work import segments
from schema.store.work.segments import Claim, DecodeTurn, EndResult, FailureKind
from schema.store.work.voices import has_voices
from schema.wire import BACKSTOP_S, Message
from schema.words import ResultTag
from workers.process import metrics
from workers.process.lease import LeasedClaim, LeaseRenewal
from workers.process.memory import GpuMemory, device_memory
from workers.process.time_limit import limit_time

if TYPE_CHECKING:
    from schema.seal import SealedResult
    from schema.voices import Voices
    from schema.words import SegmentResult
    from workers.context import Worker
    from workers.process.metrics import StageSeconds
    from workers.process.waiting_messages import WaitingMessages

log = structlog.get_logger(__name__)

_FATES: dict[type[CallscribeError], FailureKind] = {
    errors.BadRecording: FailureKind.PERMANENT,
    errors.BadRequest: FailureKind.PERMANENT,
    errors.Transient: FailureKind.RETRY_LATER,
    errors.Misconfigured: FailureKind.WRONG_HOST,
}


class _ClaimedSegment(NamedTuple):
    """A claim and its lease; ``host_claim`` is the claim as this host decodes it."""

    claim: Claim
    lease_renewal: LeaseRenewal
    host_claim: Claim


class _MeasuredResult(NamedTuple):
    result: SegmentResult
    seconds: StageSeconds
    voices: Voices | None
    memory: GpuMemory


_Result = TypeVar("_Result", bound="SegmentResult | SealedResult")

#: The claim whose words, or whose failure, are in the ledger, and what came due by that.
_ClaimFollowUp = tuple[Claim, EndResult]


def requeue_once(worker: Worker, message: Message) -> None:
    """Send a message once more, behind what this process' dead predecessor had begun.

    A parent fetches it for its next child before that one has returned the leases of the last.
    """
    worker.requeues_first_message = False
    dispatch = worker.ledger.transact(lambda c: segments.resend_segment(c, message))
    worker.publisher.publish([dispatch] if dispatch else [])


def transcribe_segment(
    worker: Worker, message: Message, waiting_messages: WaitingMessages | None = None
) -> None:
    """Claim the segment that a message names, decode it and store its words.

    With it those of ``waiting_messages``, as many as are decoded together.
    """
    claim = _claim_segment(worker, message)
    if claim is not None:
        more_claims = (
            _claim_waiting(worker, claim, waiting_messages) if waiting_messages is not None else []
        )
        claimed_segments = [_lease(worker, claim) for claim in (claim, *more_claims)]
        if more_claims:
            decode_together(worker, claimed_segments)
        else:
            decode_or_store(worker, claimed_segments[0])
    if worker.should_pause:
        # Whoever cannot work must not be the fastest to take work.
        worker.should_pause = False
        time.sleep(worker.settings.sweep_s)
    if worker.should_recycle:
        log.warning("child_recycled")
        os._exit(1)


def _claim_segment(worker: Worker, message: Message, *, untried_only: bool = False) -> Claim | None:
    """Return the claim to a message's segment, or None where there is nothing to do here."""
    settings = worker.settings
    try:
        claim = worker.ledger.run_statement(
            lambda c: segments.claim_segment(
                c, message, owner=worker.owner, lease_s=settings.lease_s, untried_only=untried_only
            )
        )
    except Misconfigured as error:
        log.warning(
            "segment_failed", segment=str(message.id), error=str(error), fate=FailureKind.WRONG_HOST
        )
        metrics.count(SEGMENTS, outcome=SegmentOutcome.POSTPONED)
        metrics.count(ERRORS, code=error.code)
        worker.should_pause = True
        return None
    if claim is None and not untried_only:
        log.info("segment_not_claimed", segment=str(message.id))
    return claim


def _claim_waiting(worker: Worker, first: Claim, waiting_messages: WaitingMessages) -> list[Claim]:
    """Claim what is decoded together with a segment, of what waits here.

    What was tried before is decoded alone, lest what it died on takes others along.
    """
    if first.attempt > 1 or first.is_cached:
        return []
    claims: list[Claim] = []
    for message in waiting_messages.in_order():
        if len(claims) >= worker.settings.segments_together - 1:
            break
        claim = _claim_segment(worker, message, untried_only=True)
        if claim is not None:
            # Its own task, which comes, has nothing to do then.
            waiting_messages.mark_handled(message)
            claims.append(claim)
    return claims


def _lease(worker: Worker, claim: Claim) -> _ClaimedSegment:
    lease_s = worker.settings.lease_s
    renew = partial(segments.renew_lease, claim=claim, lease_s=lease_s)
    # Renewing stops at the backstop at the latest: no segment's limit is longer.
    lease_renewal = LeaseRenewal(
        lambda: worker.ledger.run_statement(renew), lease_s=lease_s, limit_s=BACKSTOP_S
    )
    return _ClaimedSegment(claim, lease_renewal, claim)


def decode_or_store(
    worker: Worker, segment: _ClaimedSegment, outcome: _MeasuredResult | Exception | None = None
) -> None:
    """Store a claimed segment's words, or why there are none; a lost lease stores nothing.

    ``outcome`` is what became of it in a decode of several; without one it is decoded here, alone.
    """
    claim = segment.claim
    with structlog.contextvars.bound_contextvars(
        recording=str(claim.recording_id), segment=str(claim.segment_id), attempt=claim.attempt
    ):
        try:
            with segment.lease_renewal:
                follow_up = _store_words_or_failure(worker, segment, outcome)
        except LeaseLost as error:
            _log_fenced_write(error)
            return
        if follow_up is not None:
            _publish_follow_ups(worker, *follow_up)


def _store_words_or_failure(
    worker: Worker, segment: _ClaimedSegment, outcome: _MeasuredResult | Exception | None
) -> _ClaimFollowUp | None:
    """Return what was stored; None where another worker decodes the segment: it was put back."""
    try:
        if outcome is None:
            with limit_time(segment_limit_s(segment.claim.span.duration_ms)):
                return _decode_or_take_cached(worker, segment)
        if isinstance(outcome, Exception):
            raise outcome  # noqa: TRY301 - recorded below, like errors of its own
        segment.lease_renewal.raise_if_lost()
        return segment.host_claim, _store_result(worker, segment, outcome)
    except LeaseLost:
        raise
    except Exception as error:
        # Of an error in a decode of several each of them is suspected, and no more.
        fate = FailureKind.STRIKE if outcome is None else FailureKind.SUSPECT
        return segment.claim, _record_failure(worker, segment.claim, error, fate)


def decode_together(worker: Worker, claimed_segments: Sequence[_ClaimedSegment]) -> None:
    """Decode several segments at once; whatever fails one of them costs no other.

    What fails all of them, or cannot be laid at one's door, has each decoded alone: here, or, where
    this process can decode nothing more, by another, with no strike against any.
    """
    with ExitStack() as leases:
        for segment in claimed_segments:
            leases.enter_context(segment.lease_renewal)
        try:
            batch = _select_batch(worker, claimed_segments)
            outcomes = _decode_batch(worker, batch) if len(batch) > 1 else []
        except Exception as error:
            for segment in claimed_segments:
                decode_or_store(worker, segment, error)
            return
        for segment, outcome in outcomes:
            decode_or_store(worker, segment, outcome)
        decoded_ids = {segment.claim.segment_id for segment, _ in outcomes}
        for segment in claimed_segments:
            if segment.claim.segment_id not in decoded_ids:
                decode_or_store(worker, segment)


def _select_batch(
    worker: Worker, claimed_segments: Sequence[_ClaimedSegment]
) -> list[_ClaimedSegment]:
    """Return what the models of the first decode, with its profile on this host.

    What needs no decoding, or other models, is left to be decoded alone, and so is what another
    worker decodes.

    Raises:
        Misconfigured: this host cannot decode it, or not seal its words.
    """
    models = claimed_segments[0].claim.profile.model_settings
    batch = [
        _with_host_profile(worker, segment)
        for segment in claimed_segments
        if not segment.claim.is_cached and segment.claim.profile.model_settings == models
    ]
    return [segment for segment in batch if _take_decode_turn(worker, segment).may_decode]


def _with_host_profile(worker: Worker, segment: _ClaimedSegment) -> _ClaimedSegment:
    """Return a segment with the profile that this host decodes by, and the key of its words.

    In a rolling upgrade a segment was planned by another version than decodes it, perhaps with
    other words for the same samples; and where memory is short, a smaller model writes them.
    Nobody who asks for the planner's words may be given these.
    """
    claim = segment.claim
    if claim.profile.redact is not None:
        # Before anything is decoded: a host that cannot seal leaves the work to others.
        worker.seal_keys.public_key()
    profile = worker.segment_decoder.profile_for_host(claim.profile)
    host_key = profile.decode_key(claim.source.pcm_digest, claim.source.format.rate_hz)
    if host_key == claim.decode_key:
        return segment
    if profile is claim.profile:
        log.info("segment_of_another_version")
    return segment._replace(host_claim=replace(claim, profile=profile, decode_key=host_key))


def _take_decode_turn(worker: Worker, segment: _ClaimedSegment) -> DecodeTurn:
    """Ask whether a segment is to be decoded here by another key than was planned.

    One whose lease was lost meanwhile is left alone, as one that another worker decodes.
    """
    key = segment.host_claim.decode_key
    if key == segment.claim.decode_key:
        return DecodeTurn()
    try:
        return worker.ledger.transact(lambda c: segments.claim_decode_key(c, segment.claim, key))
    except LeaseLost as error:
        _log_fenced_write(error)
        return DecodeTurn(is_busy=True)


def _decode_batch(
    worker: Worker, batch: Sequence[_ClaimedSegment]
) -> list[tuple[_ClaimedSegment, _MeasuredResult | CallscribeError]]:
    """Return what became of each segment; nothing where each is to be decoded alone.

    Raises:
        Exception: what ends this process' work: its time is over, or its device is spoilt.
    """
    limit_s = segment_limit_s(sum(segment.claim.span.duration_ms for segment in batch))
    try:
        with limit_time(limit_s), GpuMemory(device_memory(worker.settings.device)) as memory:
            outcomes = worker.segment_decoder.decode_all(
                [LeasedClaim(s.host_claim, s.lease_renewal.raise_if_lost) for s in batch]
            )
    except Exception as error:
        is_final = isinstance(error, SoftTimeLimitExceeded | CallscribeError)
        if is_final or worker.segment_decoder.is_spoilt_by(error):
            raise
        log.warning("decoded_alone", segments=len(batch), error=type(error).__name__)
        return []
    _recycle_if_stuck(worker, memory)
    results = [
        outcome if isinstance(outcome, CallscribeError) else _MeasuredResult(*outcome, memory)
        for outcome in outcomes
    ]
    pairs = zip(batch, results, strict=True)
    # Those that failed may have to wait a while; what was decoded is stored before.
    return sorted(pairs, key=lambda pair: isinstance(pair[1], CallscribeError))


def _decode_or_take_cached(worker: Worker, segment: _ClaimedSegment) -> _ClaimFollowUp | None:
    """Store a segment's words: those in the ledger, or else decoded now.

    None where another worker decodes it: it was put back then.
    """
    claim = segment.claim
    if claim.is_cached:
        return claim, _store_cached(worker, claim, None, _find_missing_voices(worker, segment))
    segment = _with_host_profile(worker, segment)
    host_claim, turn = segment.host_claim, _take_decode_turn(worker, segment)
    if turn.is_busy:
        log.info("segment_decoded_elsewhere")
        return None
    if turn.cached_result is not None:
        result = _tag_smaller_model(segment, turn.cached_result)
        voices = _find_missing_voices(worker, segment)
        follow_up = _store_cached(worker, host_claim, result, voices)
        return replace(host_claim, is_cached=True), follow_up
    with GpuMemory(device_memory(worker.settings.device)) as memory:
        output = worker.segment_decoder.decode(host_claim, segment.lease_renewal.raise_if_lost)
    _recycle_if_stuck(worker, memory)
    return host_claim, _store_result(worker, segment, _MeasuredResult(*output, memory))


def _find_missing_voices(worker: Worker, segment: _ClaimedSegment) -> Voices | None:
    """Return the voices of a segment whose words are known, unless the ledger has them."""
    claim = segment.claim
    if not claim.wants_voices:
        return None
    if worker.ledger.run_statement(lambda c: has_voices(c, claim.voice_key)):
        return None
    start_s = time.monotonic()
    with GpuMemory(device_memory(worker.settings.device)) as memory:
        voices = worker.segment_decoder.find_voices(claim)
    metrics.observe(STAGES, time.monotonic() - start_s, stage=Stage.VOICES)
    _recycle_if_stuck(worker, memory)
    return voices


def _recycle_if_stuck(worker: Worker, memory: GpuMemory) -> None:
    if memory.is_device_full:
        worker.should_recycle = True
        metrics.count(RECYCLES, reason=RecycleReason.MEMORY)


def _seal_if_protected(
    worker: Worker, claim: Claim, result: SegmentResult
) -> SegmentResult | SealedResult:
    if claim.profile.redact is None:
        return result
    return seal(result, claim.decode_key, worker.seal_keys.public_key())


def _store_cached(
    worker: Worker,
    claim: Claim,
    result: SegmentResult | SealedResult | None,
    voices: Voices | None,
) -> EndResult:
    log.info("segment_known", has_voices=voices is not None)
    follow_up = worker.ledger.run_statement(
        lambda c: segments.finish_segment(c, claim, result, voices)
    )
    metrics.count_cached(claim.span.duration_ms)
    return follow_up


def _store_result(
    worker: Worker, segment: _ClaimedSegment, decode_result: _MeasuredResult
) -> EndResult:
    claim, (_, seconds, voices, memory) = segment.host_claim, decode_result
    result = _tag_smaller_model(segment, decode_result.result)
    start_s = time.monotonic()
    stored_result = _seal_if_protected(worker, claim, result)
    follow_up = worker.ledger.run_statement(
        lambda c: segments.finish_segment(c, claim, stored_result, voices)
    )
    store_s = time.monotonic() - start_s
    metrics.count_decoded(claim.span.duration_ms, result.speech_ms, seconds, store_s, memory.after)
    log.info(
        "segment_done",
        audio_s=claim.span.duration_ms / 1000,
        speech_s=result.speech_ms / 1000,
        words=len(result.words),
        language=result.language,
        **{f"{stage}_s": value for stage, value in seconds._asdict().items()},
        rss_before_bytes=memory.before.rss,
        rss_after_bytes=memory.after.rss,
        device_before=memory.before.device._asdict(),
        device_after=memory.after.device._asdict(),
    )
    return follow_up


def _tag_smaller_model(segment: _ClaimedSegment, result: _Result) -> _Result:
    """Return words that say which model wrote them, where another was asked for."""
    model = segment.host_claim.profile.decode.model
    if model == segment.claim.profile.decode.model:
        return result
    return replace(result, tags={**result.tags, ResultTag.SMALLER_MODEL: model})


def _record_failure(worker: Worker, claim: Claim, error: Exception, fate: FailureKind) -> EndResult:
    """Record a failed attempt by its fate; also for MemoryError, which would end the worker.

    ``fate`` is that of an error which is none of ours.
    """
    code = ErrorCode.ENGINE_FAILED
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, CallscribeError):
        code, text = error.code, str(error)
        fate = next((f for kind, f in _FATES.items() if isinstance(error, kind)), fate)
        log.warning("segment_failed", error=text, fate=fate)
    elif isinstance(error, SoftTimeLimitExceeded):
        text = "decoding took longer than its time limit"
        log.warning("segment_failed", error=text, fate=fate)
    else:
        if claim.profile.redact is None:
            log.exception("segment_failed", fate=fate)
        else:
            # What an error says may hold what a caller said.
            text = type(error).__name__
            log.error("segment_failed", error=text, fate=fate)
        # A spoilt child that went on would strike out the whole queue; the next begins sound.
        if worker.segment_decoder.is_spoilt_by(error) and not worker.should_recycle:
            worker.should_recycle = True
            metrics.count(RECYCLES, reason=RecycleReason.ERROR)
    is_postponed = fate not in (FailureKind.PERMANENT, FailureKind.STRIKE)
    metrics.count(
        SEGMENTS, outcome=SegmentOutcome.POSTPONED if is_postponed else SegmentOutcome.FAILED
    )
    metrics.count(ERRORS, code=code)
    follow_up = worker.ledger.transact(lambda c: segments.fail_segment(c, claim, code, text, fate))
    worker.should_pause |= fate is FailureKind.WRONG_HOST
    return follow_up


def _publish_follow_ups(worker: Worker, claim: Claim, follow_up: EndResult) -> None:
    """Dispatch the reduce that is due, and wake who waited for these words, after the commit."""
    dispatches = [follow_up.reduce] if follow_up.reduce else []
    if follow_up.has_waiting_duplicates:
        finish = partial(segments.finish_waiting_duplicates, just_decoded=not claim.is_cached)
        dispatches += worker.ledger.transact(lambda c: finish(c, claim.decode_key))
    if follow_up.abandoned_keys:
        dispatches += worker.ledger.transact(
            lambda c: segments.resend_waiting_duplicates(c, follow_up.abandoned_keys)
        )
    worker.publisher.publish(dispatches)


def _log_fenced_write(error: LeaseLost) -> None:
    log.warning("write_fenced", error=str(error))
    metrics.count(FENCED_WRITES, task=FencedTask.SEGMENT)
