"""Figures of who talks how much are those of the call as it was composed."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.talk import talk_of
from schema.text import join_words
from schema.transcript import Talk, Utterance
from schema.words import Word


def said(speaker: str, start_ms: int, end_ms: int, words: int = 4, text: str = "word") -> Utterance:
    """Words that share a stretch evenly."""
    each_ms = (end_ms - start_ms) // words
    own = [
        Word(text, start_ms + i * each_ms, start_ms + (i + 1) * each_ms) for i in range(words - 1)
    ]
    own.append(Word(text, start_ms + (words - 1) * each_ms, end_ms))
    return Utterance(0, speaker, join_words([word.text for word in own]), tuple(own))


CALL = [
    said("agent", 1_000, 5_000),
    said("customer", 6_000, 16_000, words=30),
    said("customer", 17_500, 20_000),
    said("agent", 18_000, 26_000, words=20),
]


def test_on_one_channel_nobody_measures_speech_at_once():
    talk = talk_of(CALL, 30_000, hears_overlap=False)

    assert talk.overlap_ms is None
    assert [speaker.interruptions for speaker in talk.speakers] == [None, None]
    assert Talk.from_json(json.loads(json.dumps(talk.to_json()))) == talk
    assert [speaker.talk_ms for speaker in talk.speakers] == [
        speaker.talk_ms for speaker in talk_of(CALL, 30_000).speakers
    ]


def test_a_call_has_the_figures_that_it_was_composed_with():
    talk = talk_of(CALL, 30_000)
    agent, customer = talk.speakers
    assert (agent.speaker, agent.talk_ms, agent.words) == ("agent", 12_000, 24)
    assert (customer.speaker, customer.talk_ms, customer.words) == ("customer", 12_500, 34)
    assert (agent.share, customer.share) == (0.49, 0.51)
    assert (agent.words_per_minute, customer.words_per_minute) == (120, 163)
    assert (agent.interruptions, customer.interruptions) == (1, 0)
    assert (agent.longest_ms, customer.longest_ms) == (8_000, 12_500)
    assert talk.overlap_ms == 2_000
    assert talk.silence_ms == 30_000 - 12_000 - 12_500 + 2_000


def test_a_word_of_agreement_interrupts_nobody():
    talk = talk_of([said("agent", 0, 10_000), said("customer", 4_000, 4_400)], 10_000)
    assert [own.interruptions for own in talk.speakers] == [0, 0]


def test_a_word_of_agreement_takes_no_turn():
    monologue = [said("agent", 0, 10_000), said("agent", 10_400, 20_000)]
    agreement = said("customer", 4_000, 4_400, words=2)
    answer = said("customer", 10_050, 10_350, words=2)

    def longest_ms(*utterances: Utterance) -> list[int]:
        return [side.longest_ms for side in talk_of(utterances, 30_000).speakers]

    assert longest_ms(*monologue, agreement) == [20_000, 400]
    assert longest_ms(*monologue, answer) == [10_000, 300]


def test_nobody_talks_longer_than_the_call_lasts():
    talk = talk_of([said("agent", 0, 10_000)], 6_000)

    assert (talk.speakers[0].talk_ms, talk.speakers[0].longest_ms) == (6_000, 6_000)


def test_whoever_begins_after_the_other_has_ended_interrupts_nobody():
    talk = talk_of([said("agent", 0, 5_000), said("customer", 5_000, 9_000)], 10_000)
    assert [own.interruptions for own in talk.speakers] == [0, 0]


def test_a_chinese_character_is_a_word():
    [own] = talk_of([said("agent", 0, 2_000, words=2, text="你好")], 2_000).speakers
    assert own.words == 4


def test_a_pause_of_less_than_a_second_is_talk_whether_a_sentence_ends_or_not():
    for pause_ms, talk_ms in ((999, 4_999), (1_000, 4_000)):
        pair = [said("agent", 0, 2_000), said("agent", 2_000 + pause_ms, 4_000 + pause_ms)]
        assert talk_of(pair, 9_000).speakers[0].talk_ms == talk_ms


def test_a_call_without_words_is_silent():
    talk = talk_of([], 12_000)
    assert talk.to_json() == {"silence_ms": 12_000, "overlap_ms": 0, "speakers": []}


def test_what_the_ledger_keeps_is_what_was_found():
    talk = talk_of(CALL, 30_000)
    assert Talk.from_json(json.loads(json.dumps(talk.to_json()))) == talk


@st.composite
def calls(draw):
    turns = draw(
        st.lists(
            st.tuples(st.sampled_from("abc"), st.integers(0, 5_000), st.integers(1, 900)),
            max_size=12,
        )
    )
    # In tens of milliseconds: that is how finely the moments below are counted, and a pause that
    # lasts a millisecond less than a second is not to be told from one that lasts a second there.
    return [said(who, 10 * start, 10 * (start + length)) for who, start, length in turns]


@given(calls())
def test_figures_agree_with_a_count_of_every_moment(utterances):
    talk = talk_of(utterances, 60_000)
    talking = [set() for _ in range(6_000)]
    for speaker in {own.speaker for own in utterances}:
        said_at = {
            at
            for own in utterances
            if own.speaker == speaker
            for at in range(own.start_ms // 10, own.end_ms // 10)
        }
        # Between the end of one moment and the next there are (b - a - 1) of them.
        pauses = {at for a, b in pairwise(sorted(said_at)) if b - a - 1 < 100 for at in range(a, b)}
        for at in said_at | pauses:
            talking[at].add(speaker)
    slack_ms = 40 * max(1, len(utterances))
    assert talk.silence_ms == pytest.approx(10 * sum(not who for who in talking), abs=slack_ms)
    assert talk.overlap_ms == pytest.approx(10 * sum(len(who) > 1 for who in talking), abs=slack_ms)
    for own in talk.speakers:
        counted_ms = 10 * sum(own.speaker in who for who in talking)
        assert own.talk_ms == pytest.approx(counted_ms, abs=slack_ms)
        assert 0 < own.longest_ms <= own.talk_ms <= 60_000
    shares = sum(own.share for own in talk.speakers)
    assert shares == pytest.approx(1.0 if utterances else 0.0, abs=0.01)


@given(calls())
def test_whoever_begins_while_another_speaks_on_for_half_a_second_interrupts(utterances):
    interrupted = [
        own.speaker
        for own in utterances
        if any(
            other.speaker != own.speaker
            and other.start_ms < own.start_ms
            and min(other.end_ms, own.end_ms) - own.start_ms >= 500
            for other in utterances
        )
    ]
    for own in talk_of(utterances, 60_000).speakers:
        assert own.interruptions == interrupted.count(own.speaker)
