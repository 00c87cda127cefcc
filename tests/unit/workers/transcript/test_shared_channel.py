"""Who speaks on a channel that several share."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID, uuid4

import numpy as np
import pytest

from schema.profile import FirstSpeaker, RenderSettings
from schema.span import Span
from schema.store.work.reduces import EndedSegment
from schema.transcript import Flag, SpeakersFrom
from schema.voices import HOP_MS, WINDOW_MS, Voices
from schema.words import SegmentResult, Word
from tests.factories import PROFILE
from tests.unit.workers.transcript.test_reduce import reduce_claim
from workers.transcript.reduce import draft_transcript
from workers.transcript.shared_channel import SharedChannel, collect_voices, tell_apart
from workers.transcript.stitch import ChannelTimeline

TURN_MS = 4_000
TELLS = RenderSettings(diarize="auto")


def vectors_of(speakers: np.ndarray, seed: int = 1) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(0, 0.05, (len(speakers), 32))
    vectors[np.arange(len(speakers)), speakers] += 1
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def voices_of(span: Span, turn_ms: int = TURN_MS) -> Voices:
    """Return the voices of a stretch in which two take turns, from its start."""
    starts_ms = np.arange(-span.start_ms % HOP_MS, span.duration_ms - WINDOW_MS, HOP_MS)
    speakers = (starts_ms + span.start_ms + WINDOW_MS // 2) // turn_ms % 2
    return Voices(starts_ms.astype(np.int64), vectors_of(speakers))


def words_of(span: Span, first_ms: int = 0) -> tuple[Word, ...]:
    """Return words, three a second, named by whose turn they are in."""
    return tuple(
        Word(f"{at_ms // TURN_MS % 2}", at_ms, at_ms + 300)
        for at_ms in range(max(first_ms, span.start_ms), span.end_ms, 333)
        if at_ms % TURN_MS < TURN_MS - 800
    )


def timeline(duration_ms: int = 80_000, first_ms: int = 0) -> ChannelTimeline:
    words = words_of(Span(0, duration_ms), first_ms)
    return ChannelTimeline(0, words, (Span(0, duration_ms),), ())


def told(render: RenderSettings = TELLS, direction: str | None = None, **of: int) -> SharedChannel:
    return tell_apart(timeline(**of), voices_of(Span(0, 80_000)), render, direction)


def ended(span: Span, *, failed: bool = False) -> EndedSegment:
    result = (
        None
        if failed
        else SegmentResult(
            tuple(w.shifted(-span.start_ms) for w in words_of(span) if w.end_ms <= span.end_ms),
            (Span(0, span.duration_ms),),
            "en",
        )
    )
    return EndedSegment(0, 0, "plan", span, result, None, None, id=uuid4())


def test_two_take_turns_and_each_has_their_words():
    shared = told()

    assert shared.names == ("speaker 1", "speaker 2")
    assert [{word.text for word in own.words} for own in shared.timelines] == [{"0"}, {"1"}]
    assert not shared.is_doubtful
    assert set(shared.confidences) == set(timeline().words)


def test_no_word_is_lost_or_told_twice():
    shared = told()

    spoken = [word for own in shared.timelines for word in own.words]
    assert sorted(spoken, key=lambda word: word.span) == list(timeline().words)


@pytest.mark.parametrize(
    ("first", "direction", "names"),
    [
        ("agent", None, ("agent", "customer")),
        ("customer", "inbound", ("customer", "agent")),
        ("direction", "Inbound", ("agent", "customer")),
        ("direction", "outgoing", ("customer", "agent")),
        ("direction", "sideways", ("speaker 1", "speaker 2")),
        ("direction", None, ("speaker 1", "speaker 2")),
    ],
)
def test_names_are_given_by_who_speaks_first(
    first: FirstSpeaker, direction: str | None, names: tuple[str, str]
):
    assert told(replace_render(first=first), direction).names == names


def replace_render(**changes: object) -> RenderSettings:
    return RenderSettings(diarize="auto", **changes)


def test_names_are_doubtful_where_it_may_have_rung_before():
    assert told(replace_render(first="agent"), first_ms=12_000).is_doubtful
    assert not told(first_ms=12_000).is_doubtful, "numbers are right whoever was first"


def test_a_tune_is_nobody():
    voices = voices_of(Span(0, 80_000))
    tune = np.arange(80_000, 120_000, HOP_MS, dtype=np.int64)
    vectors = vectors_of(np.full(len(tune), 5))
    heard = Voices(
        np.concatenate([voices.starts_ms, tune]), np.concatenate([voices.vectors, vectors])
    )

    assert len(tell_apart(timeline(), heard, TELLS, None).names) == 2


def test_a_window_in_an_overlap_is_taken_once():
    spans = [Span(0, 40_000), Span(32_000, 80_000)]
    segments = [ended(span) for span in spans]
    voices = {s.id: voices_of(s.span) for s in segments if s.id is not None}

    heard = collect_voices(segments, voices)

    assert heard is not None
    assert heard.starts_ms.tolist() == sorted(set(heard.starts_ms.tolist()))
    assert np.diff(heard.starts_ms).max() == HOP_MS


def test_voices_that_are_missing_leave_all_untold():
    segments = [ended(Span(0, 40_000)), ended(Span(32_000, 80_000))]
    [first, _] = [s.id for s in segments if s.id is not None]

    assert collect_voices(segments, {first: voices_of(Span(0, 40_000))}) is None
    assert collect_voices([], {}) is None


def test_a_failed_segment_needs_no_voices():
    segments = [ended(Span(0, 40_000)), ended(Span(32_000, 80_000), failed=True)]
    [first, _] = [s.id for s in segments if s.id is not None]

    assert collect_voices(segments, {first: voices_of(Span(0, 40_000))}) is not None


def draft_of(voices: dict[UUID, Voices], segment: EndedSegment, channels: int = 1):
    profile = PROFILE.model_copy(update={"render": TELLS})
    claim = replace(reduce_claim((), profile, channels), duration_ms=80_000)
    return draft_transcript(claim, [segment], None, voices)


def test_nobody_on_a_shared_channel_has_a_channel_s_name():
    segment = ended(Span(0, 80_000))
    assert segment.id is not None
    one_voice = Voices(voices_of(segment.span).starts_ms, vectors_of(np.zeros(197, int)))
    named = replace_render(speakers=("agent", "customer"))
    profile = PROFILE.model_copy(update={"render": named})
    claim = replace(reduce_claim((), profile, 1), duration_ms=80_000)

    for voices in ({}, {segment.id: one_voice}):
        draft = draft_transcript(claim, [segment], None, voices)
        assert {u.speaker for u in draft.utterances} == {"speaker 1"}


def test_a_transcript_says_how_its_speakers_were_told():
    segment = ended(Span(0, 80_000))
    assert segment.id is not None
    voices = {segment.id: voices_of(segment.span)}

    guessed, unknown = draft_of(voices, segment), draft_of({}, segment)
    stereo = draft_of(voices, segment, channels=2)

    assert guessed.speakers_from == SpeakersFrom.GUESSED
    assert guessed.talk is not None
    assert guessed.talk.overlap_ms is None
    assert (unknown.speakers_from, Flag.SPEAKERS_UNKNOWN in unknown.flags) == ("channel", True)
    assert {u.speaker for u in unknown.utterances} == {"speaker 1"}
    assert stereo.speakers_from == SpeakersFrom.CHANNEL
    assert {u.speaker_confidence for u in stereo.utterances} == {None}
    assert not any(flag.startswith("speakers") for flag in stereo.flags)
