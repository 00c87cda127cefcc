"""One segment, from its message to the ledger: claim, decode, finish; or say why not."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

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
from schema.store.dispatches import segment_limit_s
from schema.store.work import segments
from schema.store.work.segments import Claim, Ended, Fate, Turn
from schema.wire import BACKSTOP_S, Message
from schema.words import ResultTag
from workers.process import metrics
from workers.process.lease import KeptLease
from workers.process.memory import GpuMemory, device_memory
from workers.process.time_limit import limited

if TYPE_CHECKING:
    from schema.words import SegmentResult
    from workers.context import Worker
    from workers.process.metrics import StageSeconds
    from workers.process.waiting_messages import Waiting

log = structlog.get_logger(__name__)

#: Renewing stops here at the latest: no segment's limit is longer.
_LEASE_LIMIT_S = BACKSTOP_S

_FATES: dict[type[CallscribeError], Fate] = {
    BadRecording: Fate.FOR_GOOD,
    BadRequest: Fate.FOR_GOOD,
    Transient: Fate.PAUSE,
    Misconfigured: Fate.NOT_HERE,
}


class _Held(NamedTuple):
    """A claim, the lease that keeps it, and the claim as this host decodes it, if that differs."""

    claim: Claim
    lease: KeptLease
    here: Claim | None = None

    @property
    def as_decoded(self) -> Claim:
        return self.here or self.claim


class _Decoded(NamedTuple):
    """A segment's words, how long they took, and the memory they took."""

    result: SegmentResult
    seconds: StageSeconds
    memory: GpuMemory


def requeue_once(worker: Worker, message: Message) -> None:
    """Send a message once more, behind what this process' dead predecessor had begun.

    A parent fetches it for its next child before that one has returned the leases of the last.
    """
    worker.requeues_first_message = False
    again = worker.ledger.transact(lambda c: segments.dispatch_again(c, message))
    worker.publisher.publish([again] if again else [])


def work_segment(worker: Worker, message: Message, waiting: Waiting | None = None) -> None:
    """Do the work that a message names, if it is still there to be done.

    With it that of the messages that are ``waiting`` here, as many as are decoded together.
    """
    claim = _claim(worker, message)
    if claim is not None:
        others = _others(worker, claim, waiting) if waiting is not None else []
        if others:
            _work_together(worker, [claim, *others])
        else:
            _work_alone(worker, claim, _kept(worker, claim))
    if worker.rests:
        # Whoever cannot work must not be the fastest to take work.
        worker.rests = False
        time.sleep(worker.settings.sweep_s)
    if worker.recycle:
        log.warning("child_recycled")
        os._exit(1)


def _claim(worker: Worker, message: Message, *, untried: bool = False) -> Claim | None:
    """Return the claim to a message's segment, or None where there is nothing to do here."""
    settings = worker.settings
    try:
        claim = worker.ledger.single(
            lambda c: segments.claim(
                c, message, owner=worker.owner, lease_s=settings.lease_s, untried=untried
            )
        )
    except Misconfigured as error:
        log.warning("segment_failed", segment=str(message.id), error=str(error), fate=Fate.NOT_HERE)
        metrics.count(SEGMENTS, outcome=Outcome.POSTPONED)
        metrics.count(ERRORS, code=error.code)
        worker.rests = True
        return None
    if claim is None and not untried:
        log.info("segment_not_claimed", segment=str(message.id))
    return claim


def _others(worker: Worker, first: Claim, waiting: Waiting) -> list[Claim]:
    """Claim what is decoded together with a segment, of what waits here.

    What was tried before is decoded alone, lest what it died on takes others along.
    """
    room = worker.settings.segments_together - 1
    if first.attempt > 1 or first.known:
        return []
    claims: list[Claim] = []
    for message in waiting.following():
        if len(claims) >= room:
            break
        claim = _claim(worker, message, untried=True)
        if claim is not None:
            # Its own task, which comes, has nothing to do then.
            waiting.take(message)
            claims.append(claim)
    return claims


def _kept(worker: Worker, claim: Claim) -> KeptLease:
    lease_s = worker.settings.lease_s
    return KeptLease(
        lambda: worker.ledger.single(lambda c: segments.renew(c, claim, lease_s=lease_s)),
        lease_s=lease_s,
        limit_s=_LEASE_LIMIT_S,
    )


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


def _work_alone(worker: Worker, claim: Claim, lease: KeptLease) -> None:
    """Decode and store, or record the failure; then say what is due by it."""
    with structlog.contextvars.bound_contextvars(**_names(claim)):
        ended = None
        with _fenced(), lease:
            try:
                with limited(segment_limit_s(claim.span.duration_ms)):
                    ended = _decode_and_finish(worker, _Held(claim, lease))
            except LeaseLost:
                raise
            except Exception as error:
                ended = claim, _record_failure(worker, claim, error)
        if ended is not None:
            _tell(worker, *ended)


def _work_together(worker: Worker, claims: Sequence[Claim]) -> None:
    """Decode several segments at once; whatever fails one of them costs no other.

    What fails all of them, or cannot be laid at one's door, has each decoded alone: here, or, where
    this process can decode nothing more, by another, with no strike against any.
    """
    with ExitStack() as stack:
        held = [_Held(claim, stack.enter_context(_kept(worker, claim))) for claim in claims]
        try:
            decodable = _alike(worker, held)
            decoded = _decoded_together(worker, decodable) if len(decodable) > 1 else []
        except Exception as error:
            for each in held:
                _fail(worker, each, error)
            return
        for each, outcome in decoded:
            _end(worker, each, outcome)
        ended = {each.claim.segment_id for each, _ in decoded}
        for each in held:
            if each.claim.segment_id not in ended:
                _work_alone(worker, each.claim, each.lease)


def _alike(worker: Worker, held: Sequence[_Held]) -> list[_Held]:
    """Return what is decoded by the models of the first, as it is decoded here.

    What needs no decoding, or other models, is left to be worked by itself, and so is what another
    decodes.

    Raises:
        Misconfigured: this host cannot decode it.
    """
    models = held[0].claim.profile.models
    decodable = [
        each._replace(here=_as_decoded_here(worker, each.claim))
        for each in held
        if not each.claim.known and each.claim.profile.models == models
    ]
    return [each for each in decodable if _turn(worker, each) == Turn()]


def _turn(worker: Worker, held: _Held) -> Turn:
    """Ask whether a segment is to be decoded here by another key than was planned.

    One whose lease was lost meanwhile is none of ours, as one that another decodes.
    """
    key = held.as_decoded.decode_key
    if key == held.claim.decode_key:
        return Turn()
    try:
        return worker.ledger.transact(lambda c: segments.decode_as(c, held.claim, key))
    except LeaseLost as error:
        log.warning("write_fenced", error=str(error))
        metrics.count(FENCED_WRITES, task=Task.SEGMENT)
        return Turn(busy=True)


def _decoded_together(
    worker: Worker, decodable: Sequence[_Held]
) -> list[tuple[_Held, _Decoded | CallscribeError]]:
    """Return what became of each, and the memory it took; nothing where each is to be alone.

    Raises:
        Exception: what ends this process' work: its time is over, or its device is spoilt.
    """
    asked = [(each.as_decoded, each.lease.carry_on) for each in decodable]
    limit_s = segment_limit_s(sum(claim.span.duration_ms for claim, _ in asked))
    try:
        with limited(limit_s), GpuMemory(device_memory(worker.settings.device)) as memory:
            outcomes = worker.route.decode_all(asked)
    except Exception as error:
        is_over = isinstance(error, SoftTimeLimitExceeded | CallscribeError)
        if is_over or worker.route.is_spoilt_by(error):
            raise
        log.warning("decoded_alone", segments=len(decodable), error=type(error).__name__)
        return []
    _recycle_if_stuck(worker, memory)
    found = [
        (each, outcome if isinstance(outcome, CallscribeError) else _Decoded(*outcome, memory))
        for each, outcome in zip(decodable, outcomes, strict=True)
    ]
    # Those that failed may have to wait a while; what was decoded is stored before.
    return sorted(found, key=lambda pair: isinstance(pair[1], CallscribeError))


def _end(worker: Worker, held: _Held, outcome: _Decoded | CallscribeError) -> None:
    """Store what was decoded together with others, or record why it was not."""
    if isinstance(outcome, CallscribeError) and not isinstance(outcome, LeaseLost):
        _fail(worker, held, outcome)
        return
    with structlog.contextvars.bound_contextvars(**_names(held.claim)):
        ended = None
        with _fenced(), held.lease:
            held.lease.carry_on()
            if isinstance(outcome, LeaseLost):
                raise outcome
            try:
                ended = held.as_decoded, _finish(worker, held, outcome)
            except LeaseLost:
                raise
            except Exception as error:
                ended = held.claim, _record_failure(worker, held.claim, error, Fate.SUSPECT)
        if ended is not None:
            _tell(worker, *ended)


def _fail(worker: Worker, held: _Held, error: Exception) -> None:
    """Record why a segment was not decoded; of others' errors it is suspected, and no more."""
    with structlog.contextvars.bound_contextvars(**_names(held.claim)):
        ended = None
        with _fenced(), held.lease:
            ended = _record_failure(worker, held.claim, error, Fate.SUSPECT)
        if ended is not None:
            _tell(worker, held.claim, ended)


def _names(claim: Claim) -> dict[str, str | int]:
    """Return what every line that is logged of a claim says."""
    return {
        "recording": str(claim.recording_id),
        "segment": str(claim.segment_id),
        "attempt": claim.attempt,
    }


@contextmanager
def _fenced() -> Iterator[None]:
    """Leave work that another has taken over, or that is wanted no more."""
    try:
        yield
    except LeaseLost as error:
        log.warning("write_fenced", error=str(error))
        metrics.count(FENCED_WRITES, task=Task.SEGMENT)


def _decode_and_finish(worker: Worker, held: _Held) -> tuple[Claim, Ended] | None:
    """Decode and store; return the claim with the key of what was stored.

    None where another decodes it: it was put back then.
    """
    claim = held.claim
    if claim.known:
        log.info("segment_known")
        ended = worker.ledger.single(lambda c: segments.finish(c, claim, None))
        metrics.count_known(claim.span.duration_ms)
        return claim, ended
    held = held._replace(here=_as_decoded_here(worker, claim))
    here, turn = held.as_decoded, _turn(worker, held)
    if turn.busy:
        log.info("segment_decoded_elsewhere")
        return None
    if turn.known is not None:
        log.info("segment_known")
        words = _tagged(held, turn.known)
        ended = worker.ledger.single(lambda c: segments.finish(c, here, words))
        metrics.count_known(claim.span.duration_ms)
        return replace(here, known=True), ended
    with GpuMemory(device_memory(worker.settings.device)) as memory:
        result, seconds = worker.route.decode(here, held.lease.carry_on)
    _recycle_if_stuck(worker, memory)
    return here, _finish(worker, held, _Decoded(result, seconds, memory))


def _recycle_if_stuck(worker: Worker, memory: GpuMemory) -> None:
    if memory.is_stuck:
        worker.recycle = True
        metrics.count(RECYCLES, reason=Recycled.MEMORY)


def _finish(worker: Worker, held: _Held, decoded: _Decoded) -> Ended:
    """Store a segment's words, count and log them."""
    claim, (result, seconds, memory) = held.as_decoded, decoded
    result = _tagged(held, result)
    begun_s = time.monotonic()
    ended = worker.ledger.single(lambda c: segments.finish(c, claim, result))
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
    return ended


def _tagged(held: _Held, result: SegmentResult) -> SegmentResult:
    """Return words that say which model wrote them, where another was asked for."""
    model = held.as_decoded.profile.decode.model
    if model == held.claim.profile.decode.model:
        return result
    return replace(result, tags={**result.tags, ResultTag.SMALLER_MODEL: model})


def _record_failure(
    worker: Worker, claim: Claim, error: Exception, fate: Fate = Fate.STRIKE
) -> Ended:
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
        log.exception("segment_failed", fate=fate)
        # A spoilt child that went on would strike out the whole queue; the next begins sound.
        if worker.route.is_spoilt_by(error) and not worker.recycle:
            worker.recycle = True
            metrics.count(RECYCLES, reason=Recycled.ERROR)
    paused = fate not in (Fate.FOR_GOOD, Fate.STRIKE)
    metrics.count(SEGMENTS, outcome=Outcome.POSTPONED if paused else Outcome.FAILED)
    metrics.count(ERRORS, code=code)
    ended = worker.ledger.transact(lambda c: segments.fail(c, claim, code, text, fate))
    worker.rests |= fate is Fate.NOT_HERE
    return ended


def _tell(worker: Worker, claim: Claim, ended: Ended) -> None:
    """Ask for the reduces that this end made due, and wake who waited for it, after its commit."""
    due = [ended.reduce] if ended.reduce else []
    if ended.twins:
        decoded = not claim.known
        due += worker.ledger.transact(
            lambda c: segments.settle_twins(c, claim.decode_key, decoded=decoded)
        )
    if ended.left:
        due += worker.ledger.transact(lambda c: segments.wake(c, ended.left))
    worker.publisher.publish(due)
