"""Utterances are read with digits; rules that fail cost no words."""

from __future__ import annotations

import pytest

from schema.profile import RenderSettings
from schema.text import join_words
from schema.transcript import Utterance
from schema.words import Word
from workers.transcript.text_normalisation import normalise_numbers, rewrite_utterance, write_digits

ITN = RenderSettings(itn=True)


def make_utterance(*texts: str) -> Utterance:
    words = tuple(Word(text, 400 * i, 400 * i + 300, 0.9) for i, text in enumerate(texts))
    return Utterance(0, "agent", join_words(list(texts)), words)


def read(*texts: str, language: str | None = "en") -> str:
    (utterance,) = normalise_numbers([make_utterance(*texts)], language, ITN)
    assert utterance.text == join_words([word.text for word in utterance.words])
    return utterance.text


def test_english_numbers_are_digits():
    assert read("It's", "twenty", "five", "dollars,", "please.") == "It's $25, please."
    assert read("March", "third", "twenty", "twenty", "one") == "March 3 2021"


def test_chinese_numbers_are_digits():
    assert read(*"我有二十五块钱", language="zh") == "我有25块钱"
    assert read(*"二零二一年三月三号下午三点半", language="zh") == "2021/03/03 3:30p.m."


def test_each_language_is_met_by_its_own_rules():
    assert read(*"这是", "iPhone", *"十三", "twenty", "five", language="zh") == "这是iPhone 13 25"
    assert read("twenty", "five", *"二十五块", language="en") == "25 25块"


def test_rules_that_go_too_far_are_not_followed():
    assert read("The", "doctor", "is", "in.") == "The doctor is in."
    assert read("just", "a", "second") == "just a second"
    text = "my email is a b c at gmail dot com thanks"
    assert read(*text.split()) == text


def test_other_languages_and_profiles_are_left_alone():
    utterance = make_utterance("twenty", "five")
    assert normalise_numbers([utterance], "de", ITN) == (utterance,)
    assert normalise_numbers([utterance], None, ITN) == (utterance,)
    assert normalise_numbers([utterance], "en", RenderSettings()) == (utterance,)


@pytest.mark.parametrize("failure", [AssertionError(), ImportError("wetext"), MemoryError()])
def test_rules_that_fail_leave_the_spoken_words(failure: Exception):
    def fail(text: str) -> str:
        raise failure

    utterance = make_utterance("twenty", "five")
    assert rewrite_utterance(utterance, fail) == utterance


def test_what_the_rules_cannot_read_is_left_as_it_is():
    assert read("back", "\\", "twenty", "five") == "back \\ 25"
    assert read('a"b', "twenty", "five") == 'a"b twenty five'


def test_the_rules_of_a_language_are_loaded_once():
    from workers.transcript import text_normalisation as module

    write_digits("twenty five")
    loads = module._load_rules.cache_info().misses
    write_digits("thirty five")
    assert module._load_rules.cache_info().misses == loads
