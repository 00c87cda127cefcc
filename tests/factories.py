"""One of each thing the ledger keeps, with what a test does not care about filled in."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from itertools import count
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text

from schema.profile import PROFILES, Profile
from schema.records import (
    AudioFormat,
    CallInfo,
    Location,
    NewRecording,
    PlannedSegment,
    QuarantinedRecording,
)
from schema.span import Span
from schema.store.dispatches import reduce_dispatch
from schema.store.intake import submissions
from schema.store.intake.submissions import AddResult, OpenSubmission
from schema.store.ledger import Ledger
from schema.store.work import reduces
from schema.store.work import segments as work
from schema.transcript import Draft, Talk, Utterance
from schema.wire import SEGMENTS_QUEUE, TRANSCRIBE_SEGMENT, Dispatch, Message
from schema.words import SegmentResult, Word

_numbers = count()

PROFILE: Profile = PROFILES["call"]


def unique(prefix: str) -> str:
    return f"{prefix}-{next(_numbers)}"


def recording(
    *digests: str, channels: int = 1, call: CallInfo | None = None, flags: tuple[str, ...] = ()
) -> NewRecording:
    """Return a recording with one segment of 10 s per digest, all of channel 0."""
    location = Location("calls", f"{unique('call')}.wav".encode())
    segments = tuple(
        PlannedSegment(0, index, Span(index * 8_000, index * 8_000 + 10_000), digest)
        for index, digest in enumerate(digests)
    )
    duration_ms = segments[-1].span.end_ms if segments else 10_000
    return NewRecording(
        source=location,
        audio=location,
        format=AudioFormat("WAV", "PCM_16", 8_000, channels, duration_ms * 8),
        duration_ms=duration_ms,
        size_bytes=duration_ms * 16,
        content_digest=unique("content"),
        call=call or CallInfo(),
        flags=flags,
        segments=segments,
    )


def quarantined(code: str = "audio.empty") -> QuarantinedRecording:
    location = Location("calls", f"{unique('bad')}.wav".encode())
    return QuarantinedRecording(location, code, "it holds 0 bytes", CallInfo())


def submission(ledger: Ledger, *, force: bool = False, key: str | None = None) -> OpenSubmission:
    return ledger.transact(
        lambda c: submissions.open_submission(
            c, key or unique("key"), "calls", PROFILE, force=force
        )
    )


def added(
    ledger: Ledger,
    *items: NewRecording | QuarantinedRecording,
    to: OpenSubmission | None = None,
    room: int = 1_000,
) -> AddResult:
    """Add recordings to a submission, a new one unless given."""
    target = to or submission(ledger)
    return ledger.transact(lambda c: submissions.add_recordings(c, target, items, capacity=room))


def utterance(speaker: str, said: str, start_ms: int = 0) -> Utterance:
    """Return an utterance of half a second, as one word."""
    return Utterance(0, speaker, said, (Word(said, start_ms, start_ms + 500, 0.9),))


def transcribed(
    ledger: Ledger,
    *utterances: Utterance,
    call: CallInfo | None = None,
    to: OpenSubmission | None = None,
    talk: Talk | None = None,
    item: NewRecording | None = None,
    said: Sequence[str] = ("hi",),
) -> UUID:
    """Take a recording of one segment all the way to this transcript; return its id."""
    item = item or recording(unique("pcm"), call=call)
    (dispatch,) = added(ledger, item, to=to).dispatches
    if dispatch.task == TRANSCRIBE_SEGMENT:  # Its words are not known yet.
        held = ledger.run_statement(
            lambda c: work.claim_segment(c, dispatch.message, owner="w", lease_s=60)
        )
        dispatch = ledger.run_statement(
            lambda c: work.finish_segment(c, held, result(*said))
        ).reduce
    return reduced(ledger, dispatch, *utterances, talk=talk)


def reduced(
    ledger: Ledger, dispatch: Dispatch, *utterances: Utterance, talk: Talk | None = None
) -> UUID:
    """Store a transcript of a recording whose segments have ended; return its id."""
    held = ledger.run_statement(
        lambda c: reduces.claim_reduce(c, dispatch.message, owner="r", lease_s=60)
    )
    segments = ledger.transact(lambda c: reduces.read_ended_segments(c, held.recording_id))
    draft = Draft("en", (), 500, 500, utterances, (), talk=talk)
    ledger.transact(lambda c: reduces.store_transcript(c, held, segments, draft))
    return held.recording_id


def reduced_again(ledger: Ledger, recording_id: UUID, *utterances: Utterance) -> None:
    """Give a recording the next version of its transcript."""
    token = uuid4()
    reopen = text(
        "update recordings set state = 'stitching', reduce_dispatch_token = :token where id = :id"
    )
    ledger.transact(lambda c: c.execute(reopen, {"token": token, "id": recording_id}))
    wanted = {"submission_id": recording_id, "recording_id": recording_id, "duration_ms": 1}
    wanted["urgent"] = False
    reduced(ledger, reduce_dispatch({**wanted, "reduce_dispatch_token": token}), *utterances)


def result(*texts: str) -> SegmentResult:
    """Return a word a second, all of it speech."""
    words = tuple(Word(t, i * 1_000, i * 1_000 + 500, 0.9) for i, t in enumerate(texts))
    return SegmentResult(words, tuple(word.span for word in words), "en" if words else None)


def raw_message(body: object = None, **headers: object) -> dict[str, Any]:
    """Return a segment's message as it lies in Redis, with another body or other headers."""
    message = Message(uuid4(), uuid4())
    embedded = dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))
    sound = [[], message.to_kwargs(), embedded]
    return {
        "body": encoded(sound if body is None else body),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"task": TRANSCRIBE_SEGMENT, "id": unique("task"), **headers},
        "properties": {
            "delivery_tag": unique("tag"),
            "delivery_info": {"exchange": "", "routing_key": SEGMENTS_QUEUE},
            "body_encoding": "base64",
            "priority": 0,
        },
    }


def encoded(body: object) -> str:
    """Return a message's body as it lies in Redis: JSON in base64, or base64 of bytes."""
    plain = body if isinstance(body, bytes) else json.dumps(body).encode()
    return base64.b64encode(plain).decode()
