"""A model that we know nothing of is believed in its words, and in its times if it has some."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from schema.span import Span
from schema.words import ResultTag, Word
from workers.engines.base import DecodedSpeech
from workers.engines.funasr.generic import GenericRecognizer, have_times, read_words

REGIONS = (Span(400, 1_400), Span(4_100, 5_100))
REGION = Span(0, 1_000)
SOUND = np.random.default_rng(1).normal(0, 0.1, 16 * 6_000).astype(np.float32)


class FakeModel:
    """A model of another kind."""

    def __init__(self, *results: dict[str, Any]) -> None:
        self.results = list(results)

    def generate(self, *_: Any, **__: Any) -> list[dict[str, Any]]:
        return self.results


def decode(*results: dict[str, Any], language: str = "en") -> DecodedSpeech:
    return GenericRecognizer(FakeModel(*results)).decode(SOUND, REGIONS, language=language)


def stamps(text: str, starts_s: list[float], length_s: float = 0.06) -> dict[str, Any]:
    return {
        "text": text,
        "timestamps": [
            {"token": token, "start_time": start_s, "end_time": start_s + length_s}
            for token, start_s in zip(text, starts_s, strict=False)
        ],
    }


def test_a_model_of_another_kind_is_asked_region_by_region():
    decoding = decode(
        {"text": "one two", "words": ["one", "two"], "timestamp": [[10, 200], [300, 500]]}
    )

    assert [(w.text, w.start_ms) for w in decoding.words] == [
        ("one", 410),
        ("two", 700),
        ("one", 4_110),
        ("two", 4_400),
    ]
    assert decoding.language == "en"
    assert decoding.tags == {}


def test_a_model_that_answers_for_more_or_fewer_regions_is_not_believed():
    with pytest.raises(RuntimeError, match="0 results"):
        decode()


@pytest.mark.parametrize(
    "result",
    [
        {"text": "we can not"},
        {"text": "we can not", "timestamp": [[0, 100]]},
        {"text": "we can not", "timestamp": [[0, 60], [0, 60], [0, 60]]},
        {"text": "we can not", "timestamp": [[300, 400], [100, 200], [500, 600]]},
        {"text": "we can not", "timestamp": [[0, 100], [200, 300], [9_000, 9_100]]},
        {"text": "we can not", "timestamp": [[0, 100], [None, float("nan")], [500, 600]]},
    ],
)
def test_words_without_times_are_placed_in_their_region_and_said_to_be(result: dict[str, Any]):
    decoding = decode(result)

    assert [word.text for word in decoding.words] == ["we", "can", "not"] * 2
    assert decoding.tags == {ResultTag.GUESSED_TIMES: [[400, 1_400], [4_100, 5_100]]}
    for word, region in zip(decoding.words, [r for r in REGIONS for _ in range(3)], strict=True):
        assert region.start_ms <= word.start_ms < word.end_ms <= region.end_ms


@pytest.mark.parametrize(
    ("starts_s", "are_times"),
    [
        ([0.12, 0.3, 0.54, 0.6, 0.84, 0.9], True),
        # Equal, falling, a frame each from the start on, spread evenly.
        ([0.0] * 6, False),
        ([0.12, 0.3, 0.3, 0.6, 0.84, 0.9], False),
        ([0.12, 0.3, 0.24, 0.6, 0.84, 0.9], False),
        ([0.0, 0.06, 0.12, 0.18, 0.24, 0.3], False),
        ([0.0, 0.1667, 0.3333, 0.5, 0.6667, 0.8333], False),
    ],
)
def test_equal_falling_and_even_times_count_as_none(starts_s: list[float], are_times: bool):
    words = read_words(stamps("\u60a8\u597d\u8bf7\u95ee\u60a8\u8981", starts_s))

    assert "".join(word.text for word in words) == "\u60a8\u597d\u8bf7\u95ee\u60a8\u8981"
    assert have_times(words, REGION) is are_times


def test_a_frame_for_each_token_is_no_time_of_the_words_that_they_make():
    tokens = [" we", " can", "not", " do", " th", "at", " to", "day", "."]
    result = {
        "text": " we cannot do that today.",
        "timestamps": [
            {"token": token, "start_time": 0.06 * i, "end_time": 0.06 * (i + 1)}
            for i, token in enumerate(tokens)
        ],
    }

    words = read_words(result)

    assert [word.text for word in words] == ["we", "cannot", "do", "that", "today."]
    assert not have_times(words, REGION)


@pytest.mark.parametrize("end_ms", [100, 7_000])
def test_a_word_of_no_length_or_of_many_seconds_has_no_time(end_ms: int):
    assert not have_times([Word("hm", 100, end_ms)], Span(0, 30_000))


def test_a_word_that_lacks_a_time_is_not_lost():
    words = read_words(stamps("\u60a8\u597d\u8bf7", [0.1, 0.3]))

    assert [word.text for word in words] == ["\u60a8", "\u597d", "\u8bf7"]
    assert not have_times(words, REGION)


def test_parts_of_a_word_are_merged():
    result = {
        "text": " hello you",
        "timestamps": [
            {"token": " hel", "start_time": 0.1, "end_time": 0.2},
            {"token": "lo", "start_time": 0.2, "end_time": 0.3},
            {"token": " you", "start_time": 0.5, "end_time": 0.6},
            {"token": ".", "start_time": 0.9, "end_time": 0.96},
        ],
    }

    assert read_words(result) == [Word("hello", 100, 300), Word("you.", 500, 600)]


def test_no_text_is_no_word():
    assert decode({"text": ""}) == DecodedSpeech((), None)
    assert decode({"text": None}) == DecodedSpeech((), None)


def test_the_language_is_told_by_the_script():
    assert decode({"text": "\u60a8\u597d"}, language="auto").language == "zh"
    assert decode({"text": "hello"}, language="auto").language == "en"
