"""Words of two channels become a dialogue."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.words import Word
from workers.transcript.dialogue import to_dialogue
from workers.transcript.stitch import ChannelTimeline

SPEAKERS = ("agent", "caller")


def timeline(channel: int, *words: tuple[str, int, int]) -> ChannelTimeline:
    return ChannelTimeline(channel, tuple(Word(t, s, e, 0.9) for t, s, e in words), (), ())


def read(*timelines: ChannelTimeline) -> list[tuple[str, str]]:
    return [(u.speaker, u.text) for u in to_dialogue(timelines, SPEAKERS[: len(timelines)])]


def test_speakers_alternate_by_time():
    agent = timeline(0, ("Hello.", 0, 500), ("Bye.", 5_000, 5_400))
    caller = timeline(1, ("Hi.", 1_000, 1_400))

    assert read(agent, caller) == [("agent", "Hello."), ("caller", "Hi."), ("agent", "Bye.")]


def test_speech_at_the_same_time_is_kept_whole():
    agent = timeline(0, ("one", 0, 900), ("two", 1_000, 1_900))
    caller = timeline(1, ("aha", 500, 800))

    assert read(agent, caller) == [("agent", "one two"), ("caller", "aha")]


def test_a_long_pause_ends_an_utterance_and_a_breath_does_not():
    channel_words = timeline(0, ("well", 0, 400), ("yes", 800, 1_000), ("so", 2_100, 2_300))

    assert read(channel_words) == [("agent", "well yes"), ("agent", "so")]


def test_a_full_stop_and_a_breath_end_an_utterance():
    assert read(timeline(0, ("Yes.", 0, 400), ("So", 750, 900))) == [
        ("agent", "Yes."),
        ("agent", "So"),
    ]


@pytest.mark.parametrize(("first", "utterances"), [("w", 2), ("Well.", 1)])
def test_a_monologue_breaks_at_a_breath_and_a_sentence_much_later(first: str, utterances: int):
    words = ((f"w{i}", i * 1_000, i * 1_000 + 600) for i in range(1, 40))

    assert len(read(timeline(0, (first, 800, 900), *words))) == utterances


def test_answers_stand_after_their_questions_though_nobody_paused_for_long():
    agent = timeline(0, ("Is", 0, 200), ("it?", 200, 500), ("Or", 760, 900), ("not?", 900, 1_200))
    caller = timeline(1, ("Yes.", 510, 760), ("No.", 1_250, 1_500))

    assert read(agent, caller) == [
        ("agent", "Is it?"),
        ("caller", "Yes."),
        ("agent", "Or not?"),
        ("caller", "No."),
    ]


@pytest.mark.parametrize("answer_ms", [300, 480, 550])
def test_an_answer_may_begin_with_the_end_of_a_question(answer_ms: int):
    agent = timeline(0, ("Is", 0, 200), ("it?", 200, 500), ("Or", 760, 900))
    caller = timeline(1, ("Yes.", answer_ms, answer_ms + 250))

    assert read(agent, caller)[1] == ("caller", "Yes.")


def test_a_word_of_agreement_within_a_sentence_stays_beside_it():
    agent = timeline(0, ("You", 0, 300), ("then", 900, 1_200), ("pay.", 1_300, 1_600))
    caller = timeline(1, ("Mm-hm.", 400, 800))

    assert read(agent, caller) == [("agent", "You then pay."), ("caller", "Mm-hm.")]


def test_whoever_says_more_within_a_sentence_takes_the_turn():
    agent = timeline(0, ("You", 0, 300), ("then", 1_500, 1_800), ("pay.", 1_900, 2_100))
    caller = timeline(1, ("No", 400, 600), ("I", 700, 800), ("did.", 900, 1_200))

    assert [speaker for speaker, _ in read(agent, caller)] == ["agent", "caller", "agent"]


def test_a_speaker_of_a_model_without_marks_is_answered_in_a_breath():
    agent = timeline(0, ("is", 0, 200), ("it", 200, 500), ("or", 900, 1_100))
    caller = timeline(1, ("yes", 550, 800))

    assert [speaker for speaker, _ in read(agent, caller)] == ["agent", "caller", "agent"]


def test_a_sentence_is_not_cut_at_a_hesitation():
    hesitant = timeline(0, ("I", 0, 300), ("er", 1_900, 2_100), ("pay.", 4_200, 4_500))

    assert read(hesitant) == [("agent", "I er"), ("agent", "pay.")]


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 300), st.integers(1, 60)), max_size=30))
def test_no_word_is_lost_or_moved_however_turns_are_taken(drawn: list[tuple[int, int, int]]):
    sides = [
        [Word(f"{c}.", 50 * s, 50 * s + 10 * n) for c, s, n in sorted(drawn) if c == side]
        for side in (0, 1)
    ]
    timelines = [ChannelTimeline(side, tuple(words), (), ()) for side, words in enumerate(sides)]

    utterances = to_dialogue(timelines, SPEAKERS[: len(timelines)])

    for side, words in enumerate(sides):
        assert [w for u in utterances if u.channel == side for w in u.words] == words
    assert [u.start_ms for u in utterances] == sorted(u.start_ms for u in utterances)


def test_chinese_is_joined_without_spaces():
    channel_words = timeline(
        0, ("你", 0, 100), ("好", 100, 200), ("OK", 200, 400), ("吗", 400, 500)
    )

    assert read(channel_words) == [("agent", "你好OK吗")]
