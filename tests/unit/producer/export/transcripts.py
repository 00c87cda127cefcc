"""A transcript that has everything, and one that has nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

from schema.records import CallInfo
from schema.redaction import Mask, MaskClass, Redaction
from schema.span import Span
from schema.states import RecordingState
from schema.store.read.recordings import RecordingSummary
from schema.store.read.transcripts import StoredTranscript
from schema.transcript import (
    Coverage,
    Flag,
    FlaggedPlace,
    Gap,
    Repair,
    RepairOutcome,
    RepairReason,
    Seam,
    SeamRule,
    Utterance,
)
from schema.words import Word

HELLO = Word("Hello", 500, 900, 0.912)
NI = Word("你", 2_000, 2_200)

#: Every list and every field has something in it: nothing may be lost on the way.
WHOLE = StoredTranscript(
    RecordingSummary(
        id=UUID(int=7),
        name="night/call.wav",
        state=RecordingState.PARTIAL,
        call=CallInfo(
            call_id="ACD-1",
            started_at=datetime(2026, 5, 1, 9, 30, 0, 7, tzinfo=UTC),
            direction="in",
            line="billing",
            agent="ann",
            customer="c-1",
            attributes={"skill": "gold", "queue": 4, "tags": ["é", None]},
        ),
        duration_ms=20_000,
        channels=2,
        flags=("dual-mono",),
        error_code="engine.failed",
        error_message="it fell",
    ),
    version=3,
    language="en",
    flags=("crosstalk:12", "noise-words:3"),
    speech_ms=4_000,
    worded_ms=3_000,
    utterances=(
        Utterance(0, "agent", "Hello", (HELLO,)),
        Utterance(None, "customer", "你", (NI,)),
    ),
    seams=(Seam(0, 0, SeamRule.ANCHOR, 5_000, 0.5, (HELLO,), (NI,)),),
    gaps=(Gap(1, "customer", Span(6_000, 7_000), "engine.failed"),),
    segments=(Coverage(0, 1, Span(0, 9_000), 4_000, 3_000),),
    repairs=(
        Repair(
            1,
            Span(1_000, 2_000),
            RepairReason.SEAM,
            RepairOutcome.REPAIRED,
            (HELLO,),
            (NI,),
            (SeamRule.ANCHOR, SeamRule.GAP),
            "zh",
            "engine.failed",
        ),
    ),
    redaction=Redaction(("card", "expiry"), (Mask(Span(1_000, 2_000), MaskClass.CARD, True),)),
    places=(
        FlaggedPlace(
            Flag.NOISE_WORDS,
            1,
            "customer",
            Span(1_000, 2_000),
            3,
            RepairReason.SPEECH,
            RepairOutcome.UNCHANGED,
            "de",
        ),
        FlaggedPlace(Flag.CROSSTALK, None, "customer", Span(2_000, 3_000), 12),
    ),
    languages=((0, "en"), (None, None)),
    stored_at=datetime(2026, 5, 2, tzinfo=UTC),
)

#: When its words were said is a guess.
UNTIMED = replace(WHOLE, flags=("times-guessed:100",))


def empty(number: int) -> StoredTranscript:
    nobody = replace(
        WHOLE.recording, id=UUID(int=number), call=CallInfo(), error_code=None, duration_ms=None
    )
    return StoredTranscript(nobody, 1, None, (), 0, 0, (), ())
