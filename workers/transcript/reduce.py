"""The reduce of a recording: from the results of its segments to one stored transcript."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

import structlog
from sqlalchemy import Connection

from schema.errors import CallscribeError, ErrorCode, LeaseLost, Misconfigured, Transient
from schema.metrics import (
    FENCED_WRITES,
    GUESSED_CALLS,
    MASKS,
    PROTECTED_CALLS,
    REDUCE_SECONDS,
    REDUCES,
    SPEAKER_NUMBERS,
    FencedTask,
    ReduceOutcome,
)
from schema.profile import RenderSettings
from schema.span import Span
from schema.states import RecordingState, SegmentKind
from schema.store.dispatches import REDUCE_LIMIT_S
from schema.store.work import reduces, repairs
from schema.store.work.reduces import EndedSegment, MaskedResult, ReduceClaim
from schema.store.work.seals import order_decodes
from schema.store.work.voices import erase_voices_of, order_voices, read_voices
from schema.talk import talk_of
from schema.transcript import (
    Draft,
    Flag,
    Gap,
    PlannedRepair,
    SpeakersFrom,
    has_flag,
    is_channel_shared,
)
from schema.voices import Voices, voice_key
from schema.wire import Message
from workers.process import metrics
from workers.process.lease import LeaseRenewal
from workers.process.time_limit import limit_time
from workers.transcript import coverage
from workers.transcript.channels import Channel, group_by_channel
from workers.transcript.coverage import find_lost_speech, segment_coverage, speech_ms, worded_ms
from workers.transcript.crosstalk import CrosstalkResult, drop_crosstalk
from workers.transcript.flags import ChannelOutcome, FlaggedWords, find_flags, find_places
from workers.transcript.hallucinations import HallucinationResult, drop_hallucinations, model_doubts
from workers.transcript.language import (
    choose_languages,
    find_foreign_speech,
    language_doubts,
    spoken_language,
)
from workers.transcript.loudness import Loudness
from workers.transcript.redact.find_masks import Line
from workers.transcript.redact.masking import RedactedSegments, redact
from workers.transcript.redact.unsealing import unseal_segments
from workers.transcript.repair import apply_repairs
from workers.transcript.shared_channel import (
    add_doubtful_places,
    find_shared_channel,
    find_speaker_flags,
    merge_dialogue,
    name_owners,
)
from workers.transcript.stitch import ChannelTimeline, stitch
from workers.transcript.text_normalisation import normalise_numbers, punctuate, require_rules

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
        claim = worker.ledger.run_statement(
            lambda c: reduces.claim_reduce(c, message, owner=worker.owner, lease_s=lease_s)
        )
    except Misconfigured as error:
        log.warning("reduce_failed", recording=str(message.id), error=str(error))
        metrics.count(REDUCES, outcome=ReduceOutcome.ERROR)
        time.sleep(worker.settings.sweep_s)
        return
    if claim is None:
        log.info("reduce_not_claimed", recording=str(message.id))
        return
    renew = partial(reduces.renew_reduce, claim=claim, lease_s=lease_s)
    lease_renewal = LeaseRenewal(
        lambda: worker.ledger.run_statement(renew), lease_s=lease_s, limit_s=_LEASE_LIMIT_S
    )
    should_pause = False
    with structlog.contextvars.bound_contextvars(recording=str(claim.recording_id)), lease_renewal:
        try:
            with limit_time(REDUCE_LIMIT_S):
                _reduce(worker, claim)
        except LeaseLost as error:
            log.warning("write_fenced", error=str(error))
            metrics.count(FENCED_WRITES, task=FencedTask.REDUCE)
        except (Misconfigured, Transient) as error:
            should_pause = isinstance(error, Misconfigured)
            code, text = error.code, str(error)
            log.warning("reduce_failed", error=text)
            metrics.count(REDUCES, outcome=ReduceOutcome.ERROR)
            # Its attempt is put back with it.
            worker.ledger.transact(lambda c: reduces.postpone_reduce(c, claim, code, text))
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            if claim.profile.redact is None:
                log.exception("reduce_failed")
            else:
                # What an error says may hold what a caller said.
                text = type(error).__name__
                log.error("reduce_failed", error=text)  # noqa: TRY400
            metrics.count(REDUCES, outcome=ReduceOutcome.ERROR)
            code = error.code if isinstance(error, CallscribeError) else ErrorCode.ENGINE_FAILED
            worker.ledger.transact(lambda c: reduces.fail_reduce(c, claim, code, text))
    if should_pause:
        time.sleep(worker.settings.sweep_s)


def _reduce(worker: Worker, claim: ReduceClaim) -> None:
    """Order repairs where words are missing, else store the transcript."""
    begun_s = time.monotonic()
    segments = _read_segments(worker, claim)
    if segments is None:
        metrics.count(REDUCES, outcome=ReduceOutcome.DECODES)
        return
    if _order_repairs(worker, claim, segments):
        metrics.count(REDUCES, outcome=ReduceOutcome.REPAIRS)
        return
    voices = _read_voices(worker, claim, segments)
    if voices is None:
        metrics.count(REDUCES, outcome=ReduceOutcome.VOICES)
        return
    redacted = redact_segments(claim, segments)
    if redacted is not None:
        segments = redacted.segments
    draft = draft_transcript(claim, segments, _load_punctuator(worker, claim), voices)
    if redacted is not None:
        draft = _with_redaction(draft, redacted)
    # What was drafted without the rules that this host lacks is thrown away.
    require_rules(draft.language, claim.profile.render)
    results = redacted.results if redacted is not None else ()
    state = worker.ledger.transact(lambda c: _store(c, worker, claim, segments, draft, results))
    log.info("recording_done", state=state, flags=draft.flags, seams=len(draft.seams))
    metrics.count(REDUCES, outcome=state)
    if draft.speakers_from == SpeakersFrom.GUESSED:
        is_doubtful = has_flag(draft.flags, Flag.SPEAKERS_DOUBTFUL)
        metrics.count(
            GUESSED_CALLS, speakers=count_speakers(draft), doubtful=str(is_doubtful).lower()
        )
    if draft.redaction is not None:
        metrics.count(PROTECTED_CALLS, masked=str(bool(draft.redaction.number_masks)).lower())
        for mask in draft.redaction.masks:
            metrics.count(MASKS, hides=mask.mask_class)
    metrics.observe(REDUCE_SECONDS, time.monotonic() - begun_s)


def _read_segments(worker: Worker, claim: ReduceClaim) -> Sequence[EndedSegment] | None:
    """Return a recording's segments, unsealed; None where some were ordered to be decoded again.

    Raises:
        Misconfigured: this host lacks a key of a protected call.
    """
    is_protected = claim.profile.redact is not None
    segments = worker.ledger.transact(
        lambda c: reduces.read_ended_segments(c, claim.recording_id, is_protected=is_protected)
    )
    if not is_protected:
        return segments
    unsealed_segments, lost_ids = unseal_segments(segments, worker.seal_keys)
    if not lost_ids:
        return unsealed_segments
    dispatches = worker.ledger.transact(lambda c: order_decodes(c, claim, lost_ids))
    worker.publisher.publish(dispatches)
    log.warning("decodes_ordered", count=len(dispatches), reason="their keys are destroyed")
    return None


def redact_segments(
    claim: ReduceClaim, segments: Sequence[EndedSegment]
) -> RedactedSegments | None:
    """Return a protected call's segments without what must not be kept; None of any other. Pure."""
    policy = claim.profile.redact
    if policy is None:
        return None
    stitched: dict[int | None, Line] = {}
    for channel in group_by_channel(segments, claim.profile.render.chinese_script):
        timeline, _ = apply_repairs(_stitch_spoken(channel).timeline, channel.decoded_repairs)
        stitched[channel.number] = Line(timeline.words, timeline.speech, timeline.untimed_speech)
    return redact(segments, stitched, policy)


def _with_redaction(draft: Draft, redacted: RedactedSegments) -> Draft:
    places = sorted((*draft.places, *redacted.places), key=lambda p: (p.span, p.channel or 0))
    return replace(
        draft,
        redaction=redacted.redaction,
        flags=(*draft.flags, *redacted.flags),
        places=tuple(places),
    )


def _store(
    connection: Connection,
    worker: Worker,
    claim: ReduceClaim,
    segments: Sequence[EndedSegment],
    draft: Draft,
    masked_results: Sequence[MaskedResult],
) -> RecordingState:
    """Store a transcript; what it was made of and must not be kept goes in the same transaction."""
    state = reduces.store_transcript(connection, claim, segments, draft, masked_results)
    if claim.profile.render.tells_voices and worker.settings.voices_keep is None:
        erase_voices_of(connection, claim.recording_id)
    return state


def count_speakers(draft: Draft) -> str:
    """Return how many speak, as the metric has it."""
    count = len({utterance.speaker for utterance in draft.utterances})
    return SPEAKER_NUMBERS[min(count, len(SPEAKER_NUMBERS) - 1)]


def _read_voices(
    worker: Worker, claim: ReduceClaim, segments: Sequence[EndedSegment]
) -> Mapping[UUID, Voices] | None:
    """Return the voices of segments of shared channels; None where they were ordered just now."""
    keys = {
        segment.id: voice_key(claim.profile, segment.pcm_digest, claim.rate_hz)
        for segment in segments
        if segment.id is not None and _wants_voices(claim, segment)
    }
    if not keys:
        return {}
    voices = worker.ledger.transact(lambda c: read_voices(c, keys))
    missing_ids = keys.keys() - voices.keys()
    if not missing_ids or claim.has_ordered_voices:
        return voices
    dispatches = worker.ledger.transact(lambda c: order_voices(c, claim, missing_ids))
    worker.publisher.publish(dispatches)
    log.info("voices_ordered", count=len(dispatches))
    return None if dispatches else voices


def _wants_voices(claim: ReduceClaim, segment: EndedSegment) -> bool:
    return (
        claim.profile.render.tells_voices
        and segment.kind == SegmentKind.PLAN
        and segment.result is not None
        and is_channel_shared(segment.channel, claim.channels, claim.flags)
    )


def _load_punctuator(worker: Worker, claim: ReduceClaim) -> Callable[[str], str] | None:
    """Return the model that writes marks, for a profile that wants one."""
    punctuation = claim.profile.render.punctuation
    if punctuation is None:
        return None
    try:
        return worker.punctuator(punctuation)
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
    planned_repairs = find_needed_repairs(claim, segments)
    if not planned_repairs:
        return False
    dispatches = worker.ledger.transact(lambda c: repairs.order_repairs(c, claim, planned_repairs))
    worker.publisher.publish(dispatches)
    log.info("repairs_ordered", count=len(dispatches), reasons=[r.reason for r in planned_repairs])
    return bool(dispatches)


def find_needed_repairs(
    claim: ReduceClaim, segments: Sequence[EndedSegment]
) -> tuple[PlannedRepair, ...]:
    """Return the places to decode once more, but for those that were already. Pure."""
    channels = group_by_channel(segments, claim.profile.render.chinese_script)
    candidates: list[coverage.RepairCandidate] = []
    for channel in channels:
        # A word that nobody said covers no speech.
        timeline = _stitch_spoken(channel).timeline
        lost_speech = find_lost_speech(timeline, channel.decoded_segments)
        if claim.profile.decode.language == "auto":
            # The few words of a place tell less of its language than all that its channel said.
            language = spoken_language(channel.planned_segments)
            lost_speech = tuple(replace(place, language=language) for place in lost_speech)
            candidates += find_foreign_speech(
                timeline, channel.planned_segments, channel.decoded_segments
            )
        doubts = language_doubts(channel.planned_results)
        candidates += choose_languages(channel.number, lost_speech, doubts)
    earlier_repairs = [repair for channel in channels for repair in channel.planned_repairs]
    return coverage.plan_repairs(candidates, earlier_repairs, claim.duration_ms)


def draft_transcript(
    claim: ReduceClaim,
    segments: Sequence[EndedSegment],
    punctuator: Callable[[str], str] | None = None,
    voices: Mapping[UUID, Voices] | None = None,
) -> Draft:
    """Stitch a recording's segments, merge its channels, and format the words. Pure.

    ``segments`` are in order of channel and start, repairs among them; ``punctuator`` writes marks
    into a phrase, for a profile that wants them. ``voices`` has those of planned segments by their
    ids, for a profile that tells speakers apart.
    """
    channels = group_by_channel(segments, claim.profile.render.chinese_script)
    render = _render_settings(claim)
    speakers = [render.speaker(channel.number) for channel in channels]
    stitch_results = list(map(_stitch_spoken, channels))
    repair_results = [
        apply_repairs(result.timeline, channel.decoded_repairs)
        for result, channel in zip(stitch_results, channels, strict=True)
    ]
    # A repair has doubts of its own.
    final_results = [
        drop_hallucinations(timeline, model_doubts(channel.results))
        for (timeline, _), channel in zip(repair_results, channels, strict=True)
    ]
    spoken_timelines = [result.timeline for result in final_results]
    crosstalk_result = drop_crosstalk(
        spoken_timelines, {channel.number: Loudness(channel.results) for channel in channels}
    )
    punctuated_timelines = [
        punctuate(timeline, punctuator) for timeline in crosstalk_result.timelines
    ]
    language = _language_of(channels, spoken_timelines)
    shared_channels = [
        find_shared_channel(claim, channel, timeline, voices or {})
        for channel, timeline in zip(channels, punctuated_timelines, strict=True)
    ]
    dialogue = merge_dialogue(punctuated_timelines, speakers, shared_channels)
    utterances = normalise_numbers(dialogue, language, render)
    owners = name_owners(speakers, shared_channels)
    outcomes = [
        ChannelOutcome(channel, owner, timeline, repairs)
        for channel, owner, timeline, (_, repairs) in zip(
            channels, owners, spoken_timelines, repair_results, strict=True
        )
    ]
    flagged_words = list(_flagged_words(outcomes, stitch_results, final_results, crosstalk_result))
    is_guessed = any(shared is not None and shared.is_known for shared in shared_channels)
    places = add_doubtful_places(
        find_places(claim, outcomes, flagged_words), channels, shared_channels
    )
    flags = (
        *claim.flags,
        *find_flags(outcomes, places, flagged_words),
        *find_speaker_flags(shared_channels),
    )
    return Draft(
        language=language,
        flags=flags,
        speech_ms=sum(map(speech_ms, spoken_timelines)),
        worded_ms=sum(map(worded_ms, spoken_timelines)),
        utterances=utterances,
        seams=tuple(seam for timeline in spoken_timelines for seam in timeline.seams),
        gaps=_merge_gaps(channels, owners, spoken_timelines),
        coverage=tuple(
            segment
            for outcome in outcomes
            for segment in segment_coverage(outcome.timeline, outcome.channel.decoded_segments)
        ),
        repairs=tuple(repair for outcome in outcomes for repair in outcome.repairs),
        languages=tuple(
            (channel.number, _language_of([channel], [timeline]))
            for channel, timeline in zip(channels, spoken_timelines, strict=True)
        ),
        talk=talk_of(utterances, claim.duration_ms, hears_overlap=not is_guessed)
        if not has_flag(flags, Flag.TIMES_GUESSED)
        else None,
        places=places,
        speakers_from=SpeakersFrom.GUESSED if is_guessed else SpeakersFrom.CHANNEL,
    )


def _language_of(channels: Sequence[Channel], timelines: Sequence[ChannelTimeline]) -> str | None:
    """Return what most speech of channels is in; of repairs where all words are theirs.

    None without words: the language of music is a guess that nobody should act on.
    """
    if not any(timeline.words for timeline in timelines):
        return None
    planned_language = spoken_language(s for c in channels for s in c.planned_segments)
    return planned_language or spoken_language(s for c in channels for s in c.repair_segments)


def _stitch_spoken(channel: Channel) -> HallucinationResult:
    """Stitch a channel's planned segments, without the words that nobody said."""
    timeline = stitch(channel.number, channel.decoded_segments)
    return drop_hallucinations(timeline, model_doubts(channel.planned_results))


def _flagged_words(
    outcomes: Sequence[ChannelOutcome],
    stitch_results: Sequence[HallucinationResult],
    final_results: Sequence[HallucinationResult],
    crosstalk_result: CrosstalkResult,
) -> Iterator[FlaggedWords]:
    """Yield what was taken out of each channel, before its repairs or after, and what may be."""
    for index, outcome in enumerate(outcomes):
        noise_words = (*stitch_results[index].removed_words, *final_results[index].removed_words)
        words_by_flag = {
            Flag.NOISE_WORDS: sorted(noise_words, key=lambda word: word.span),
            Flag.DOUBTFUL_WORDS: final_results[index].doubtful_words,
            Flag.CROSSTALK: crosstalk_result.removed_words[index],
            Flag.CROSSTALK_SUSPECTED: crosstalk_result.suspected_words[index],
        }
        for flag, words in words_by_flag.items():
            yield FlaggedWords(flag, outcome.channel.number, outcome.speaker, words)


def _merge_gaps(
    channels: Sequence[Channel], owners: Sequence[str], timelines: Sequence[ChannelTimeline]
) -> tuple[Gap, ...]:
    """Return what failed segments left out, as one gap where several in a row failed alike."""
    failures = (s for c in channels for s in c.planned_segments if s.result is None)
    codes = [segment.error_code for segment in failures]
    spans = [
        (timeline.channel, owner, span)
        for timeline, owner in zip(timelines, owners, strict=True)
        for span in timeline.gaps
    ]
    gaps: list[Gap] = []
    for code, (channel, owner, span) in zip(codes, spans, strict=True):
        gap = Gap(channel, owner, span, code or ErrorCode.ENGINE_FAILED)
        if gaps and replace(gaps[-1], span=span) == gap and gaps[-1].span.end_ms == span.start_ms:
            gaps[-1] = replace(gap, span=Span(gaps[-1].span.start_ms, span.end_ms))
        else:
            gaps.append(gap)
    return tuple(gaps)


def _render_settings(claim: ReduceClaim) -> RenderSettings:
    """Return how this recording is rendered: names of speakers are for channels of their own.

    Where agent and customer share one channel, calling it "agent" would be wrong half of the time.
    """
    render = claim.profile.render
    is_shared = claim.channels < len(render.speakers) or Flag.DUAL_MONO in claim.flags
    return render.model_copy(update={"speakers": ()}) if is_shared else render
