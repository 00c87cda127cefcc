"""One segment, from its message to the ledger: claim, decode, finish; or say why not."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog
from celery.exceptions import SoftTimeLimitExceeded

from schema.errors import (
    BadRecording,
    BadRequest,
    CallscribeError,
    ErrorCode,
    LeaseLost,
    Misconfigured,
    Transient,
)
from schema.metrics import ERRORS, FENCED_WRITES, RECYCLES, SEGMENTS, Outcome, Recycled, Task
from schema.store import work
from schema.store.work import Claim, Ended, Fate
from schema.wire import Message
from workers import metrics
from workers.lease import KeptLease
from workers.memory import GpuMemory, device_memory
from workers.room import SMALLER_MODEL

if TYPE_CHECKING:
    from workers.app import Worker

log = structlog.get_logger(__name__)

#: Renewing stops here at the latest: no segment's hard limit is longer.
_LEASE_LIMIT_S = 2 * 3600 + 600

_FATES: dict[type[CallscribeError], Fate] = {
    BadRecording: Fate.FOR_GOOD,
    BadRequest: Fate.FOR_GOOD,
    Transient: Fate.PAUSE,
    Misconfigured: Fate.NOT_HERE,
}


def make_way(worker: Worker, message: Message) -> None:
    """Send a message once more, behind what this process' dead predecessor had begun.

    A parent fetches it for its next child before that one has returned the leases of the last.
    """
    worker.makes_way = False
    again = worker.ledger.transact(lambda c: work.dispatch_again(c, message))
    worker.publisher.publish([again] if again else [])


def work_segment(worker: Worker, message: Message) -> None:
    """Do the work that a message names, if it is still there to be done."""
    settings = worker.settings
    try:
        claim = worker.ledger.single(
            lambda c: work.claim(c, message, owner=worker.owner, lease_s=settings.lease_s)
        )
    except Misconfigured as error:
        log.warning("segment_failed", segment=str(message.id), error=str(error), fate=Fate.NOT_HERE)
        metrics.count(SEGMENTS, outcome=Outcome.POSTPONED)
        metrics.count(ERRORS, code=error.code)
        time.sleep(settings.sweep_s)
        return
    if claim is None:
        log.info("segment_not_claimed", segment=str(message.id))
        return
    with structlog.contextvars.bound_contextvars(
        recording=str(claim.recording_id), segment=str(claim.segment_id), attempt=claim.attempt
    ):
        worked = _work_claimed(worker, claim)
        if worked is not None:
            _tell(worker, *worked)
        if worker.recycle:
            log.warning("child_recycled")
            os._exit(1)


def _as_decoded_here(worker: Worker, claim: Claim) -> Claim:
    """Return a claim with the profile that this host decodes by, and the key that its words have.

    In a rolling upgrade a segment was planned by another version than decodes it, perhaps with
    other words for the same samples; and where memory is short, a smaller model writes them.
    Nobody who asks for the planner's words may be given these.
    """
    profile = worker.route.fitting(claim.profile)
    own = profile.decode_key(claim.source.pcm_digest, claim.source.format.rate_hz)
    if own == claim.decode_key:
        return claim
    if profile is claim.profile:
        log.info("segment_of_another_version")
    return replace(claim, profile=profile, decode_key=own)


def _work_claimed(worker: Worker, claim: Claim) -> tuple[Claim, Ended] | None:
    """Decode and store, or record the failure; None where another worker has taken over.

    The claim that is returned has the key of what was stored.
    """
    lease_s = worker.settings.lease_s
    renewed = KeptLease(
        lambda: worker.ledger.single(lambda c: work.renew(c, claim, lease_s=lease_s)),
        lease_s=lease_s,
        limit_s=_LEASE_LIMIT_S,
    )
    try:
        with renewed:
            try:
                return _decode_and_finish(worker, claim, renewed.carry_on)
            except LeaseLost:
                raise
            except Exception as error:
                return claim, _record_failure(worker, claim, error)
    except LeaseLost as error:
        log.warning("write_fenced", error=str(error))
        metrics.count(FENCED_WRITES, task=Task.SEGMENT)
        return None


def _decode_and_finish(
    worker: Worker, claim: Claim, carry_on: Callable[[], None]
) -> tuple[Claim, Ended]:
    if claim.known:
        log.info("segment_known")
        ended = worker.ledger.single(lambda c: work.finish(c, claim, None))
        metrics.count_known(claim.span.duration_ms)
        return claim, ended
    wanted, claim = claim.profile.decode.model, _as_decoded_here(worker, claim)
    with GpuMemory(device_memory(worker.settings.device)) as memory:
        result, seconds = worker.route.decode(claim, carry_on)
    if claim.profile.decode.model != wanted:
        result = replace(result, tags={**result.tags, SMALLER_MODEL: claim.profile.decode.model})
    worker.recycle = memory.is_stuck
    if worker.recycle:
        metrics.count(RECYCLES, reason=Recycled.MEMORY)
    begun_s = time.monotonic()
    ended = worker.ledger.single(lambda c: work.finish(c, claim, result))
    store_s = time.monotonic() - begun_s
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
    return claim, ended


def _record_failure(worker: Worker, claim: Claim, error: Exception) -> Ended:
    """Record a failed attempt by its fate; also for MemoryError, which would end the worker."""
    code, fate = ErrorCode.ENGINE_FAILED, Fate.STRIKE
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, CallscribeError):
        code, text = error.code, str(error)
        fate = next((f for kind, f in _FATES.items() if isinstance(error, kind)), Fate.STRIKE)
        log.warning("segment_failed", error=text, fate=fate)
    elif isinstance(error, SoftTimeLimitExceeded):
        text = "decoding took longer than its time limit"
        log.warning("segment_failed", error=text, fate=fate)
    else:
        log.exception("segment_failed", fate=fate)
        # A spoilt child that went on would strike out the whole queue; the next begins sound.
        worker.recycle = worker.route.is_spoilt_by(error)
        if worker.recycle:
            metrics.count(RECYCLES, reason=Recycled.ERROR)
    paused = fate in (Fate.PAUSE, Fate.NOT_HERE)
    metrics.count(SEGMENTS, outcome=Outcome.POSTPONED if paused else Outcome.FAILED)
    metrics.count(ERRORS, code=code)
    ended = worker.ledger.transact(lambda c: work.fail(c, claim, code, text, fate))
    if fate is Fate.NOT_HERE:
        # Whoever cannot work must not be the fastest to take work.
        time.sleep(worker.settings.sweep_s)
    return ended


def _tell(worker: Worker, claim: Claim, ended: Ended) -> None:
    """Ask for the reduces that this end made due, after its commit."""
    due = [ended.reduce] if ended.reduce else []
    if ended.twins:
        decoded = not claim.known
        due += worker.ledger.transact(
            lambda c: work.settle_twins(c, claim.decode_key, decoded=decoded)
        )
    worker.publisher.publish(due)
