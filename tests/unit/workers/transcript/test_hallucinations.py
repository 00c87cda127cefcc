"""What nobody said is taken out where two witnesses agree; what people say stays."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.span import Span
from schema.words import ResultTag, SegmentResult, Word
from workers.transcript.hallucinations import (
    Doubt,
    drop_hallucinations,
    model_doubts,
)
from workers.transcript.stitch import ChannelTimeline

#: The figures of a window of hold music, as Whisper base gives them.
MUSIC = (0.51, -1.92)
#: Of silence that is written over with confidence.
SILENCE = (0.8, -0.4)


def timeline(*texts: str, confidence: float = 0.9, length_ms: int = 300) -> ChannelTimeline:
    words = [Word(text, i * 400, i * 400 + length_ms, confidence) for i, text in enumerate(texts)]
    return ChannelTimeline(0, tuple(words), (Span(0, 60_000),), ())


def doubt(figures: tuple[float, float], until_ms: int = 60_000) -> Doubt:
    return Doubt(Span(0, until_ms), *figures)


def counts(spoken_timeline: ChannelTimeline, *doubts: Doubt) -> tuple[int, int]:
    """Return how many words go, and how many stay in doubt."""
    result = drop_hallucinations(spoken_timeline, doubts)
    assert len(spoken_timeline.words) - len(result.timeline.words) == len(result.removed_words)
    return len(result.removed_words), len(result.doubtful_words)


def test_unsure_words_over_music_go():
    assert counts(timeline("1.5%", confidence=0.08), doubt(MUSIC)) == (1, 0)


def test_a_sure_word_keeps_its_whole_stretch():
    spoken_timeline = timeline("well", "yes", confidence=0.2)
    sure = ChannelTimeline(
        0, (*spoken_timeline.words, Word("Michelle", 900, 1_200, 0.9)), spoken_timeline.speech, ()
    )

    assert counts(sure, doubt(MUSIC)) == (0, 0)


def test_words_without_confidence_prove_nothing():
    spoken_timeline = ChannelTimeline(0, (Word("you", 0, 300),), (), ())
    assert counts(spoken_timeline, doubt(MUSIC)) == (0, 0)


@pytest.mark.parametrize("figures", [(0.3, -1.9), (0.5, -0.9)])
def test_unsure_words_stay_where_the_model_doubts_less(figures: tuple[float, float]):
    assert counts(timeline("mhm", confidence=0.1), doubt(figures)) == (0, 0)


def test_unsure_words_stay_where_the_model_has_no_doubt():
    assert counts(timeline("mhm", "yes", confidence=0.1)) == (0, 0)


def test_only_the_doubtful_stretch_is_touched():
    spoken_timeline = timeline("you", "you", confidence=0.1)
    assert (
        drop_hallucinations(spoken_timeline, [doubt(MUSIC, until_ms=400)]).timeline.words
        == spoken_timeline.words[1:]
    )


def test_stock_phrases_go_where_the_audio_says_that_nobody_spoke():
    thanks = timeline("Thanks", "for", "watching!")

    assert counts(thanks, doubt(SILENCE)) == (3, 0)
    assert counts(thanks, doubt((0.5, -0.4))) == (0, 0)
    assert counts(thanks) == (0, 0)
    assert counts(timeline("Thank", "you."), doubt(SILENCE)) == (0, 0)
    assert counts(timeline("Thanks", "for", "watching", "Rex"), doubt(SILENCE)) == (0, 0)


def test_a_line_that_comes_again_and_again_goes_with_no_speech_and_else_is_doubtful():
    lines = timeline(*["please", "hold", "on."] * 4)

    assert counts(lines, doubt(SILENCE)) == (12, 0)
    assert counts(lines) == (0, 12)


def test_people_may_repeat_themselves():
    assert counts(timeline(*["no"] * 7)) == (0, 0)
    assert counts(timeline(*["bye", "bye."] * 3)) == (0, 0)
    assert counts(timeline(*["all", "right", "then"] * 3)) == (0, 0)
    assert counts(timeline(*["no"] * 8)) == (0, 8)


def test_a_repetition_is_found_among_other_words():
    spoken_timeline = timeline("so", *["i", "am", "here"] * 5, "bye")
    assert counts(spoken_timeline) == (0, 15)


def test_words_faster_than_anyone_speaks_are_doubtful():
    def within(ms: int, *texts: str) -> ChannelTimeline:
        words = [Word(t, i * ms, i * ms + ms, 0.9) for i, t in enumerate(texts)]
        return ChannelTimeline(0, tuple(words), (), ())

    sentence = ["considering", "everything", "together", "yesterday", "afternoon", "suddenly"]
    assert counts(within(100, *sentence)) == (0, 6)
    assert counts(within(400, *sentence)) == (0, 0)
    assert counts(within(20, *sentence[:4])) == (0, 0)
    assert counts(within(125, *"您好请问有什么可以帮您")) == (0, 0)
    assert counts(within(40, *"您好请问有什么可以帮您")) == (0, 11)


def test_a_word_of_many_seconds_is_doubtful():
    assert counts(timeline("well", length_ms=5_001)) == (0, 1)
    assert counts(timeline("well", length_ms=5_000)) == (0, 0)


def test_doubts_are_put_on_the_recordings_clock():
    result = SegmentResult((), (), None, {ResultTag.DOUBTS: [[100, 900, 0.7, -1.5]]})

    found = model_doubts([(0, SegmentResult((), ())), (30_000, result)])

    assert found == [Doubt(Span(30_100, 30_900), 0.7, -1.5)]


DRAWN = st.lists(
    st.tuples(
        st.sampled_from(["you", "no", "thanks", "for", "watching", "五"]),
        st.integers(0, 2_000),
        st.integers(0, 6_000),
        st.none() | st.floats(0, 1),
    ),
    max_size=30,
)


def timeline_in_time(drawn: Sequence[tuple[str, int, int, float | None]]) -> ChannelTimeline:
    words: list[Word] = []
    for text, pause_ms, length_ms, confidence in drawn:
        at_ms = pause_ms + (words[-1].end_ms if words else 0)
        words.append(Word(text, at_ms, at_ms + length_ms, confidence))
    return ChannelTimeline(0, tuple(words), (), ())


@given(DRAWN)
def test_nothing_goes_where_the_model_had_no_doubt(drawn):
    spoken_timeline = timeline_in_time(drawn)
    assert drop_hallucinations(spoken_timeline, ()).timeline == spoken_timeline


@given(DRAWN, st.integers(0, 20_000), st.integers(0, 20_000), st.floats(0, 1), st.floats(-4, 0))
def test_what_goes_lies_in_the_doubtful_stretch(drawn, start_ms, length_ms, no_speech, log):
    spoken_timeline = timeline_in_time(drawn)
    span = Span(start_ms, start_ms + length_ms)

    result = drop_hallucinations(spoken_timeline, [Doubt(span, no_speech, log)])

    outside = [w for w in spoken_timeline.words if not span.start_ms <= w.middle_ms < span.end_ms]
    assert [w for w in result.timeline.words if w in outside] == outside
    assert not result.removed_words or no_speech > 0.35
