"""Chinese words are written in one script, and nothing else of them changes."""

from __future__ import annotations

from schema.chinese import ChineseScript
from schema.words import SegmentResult, Word
from workers.transcript.script import write_in_script


def heard(text: str, language: str = "zh") -> SegmentResult:
    words = tuple(Word(char, 100 * i, 100 * i + 90, 0.5) for i, char in enumerate(text))
    return SegmentResult(words, (), language)


def text_of(result: SegmentResult) -> str:
    return "".join(word.text for word in result.words)


def test_words_of_either_script_are_written_in_one():
    result = write_in_script(heard("請问您的訂单"), ChineseScript.SIMPLIFIED)

    assert text_of(result) == "请问您的订单"
    times = [(word.start_ms, word.end_ms, word.confidence) for word in result.words]
    assert times == [(100 * i, 100 * i + 90, 0.5) for i in range(6)]


def test_a_character_is_chosen_by_the_words_around():
    assert text_of(write_in_script(heard("头发发展"), ChineseScript.TRADITIONAL)) == "頭髮發展"


def test_japanese_keeps_its_characters_and_what_was_asked_for_stays():
    for result, script in (
        (heard("電話番号", "ja"), ChineseScript.SIMPLIFIED),
        (heard("請问"), ChineseScript.AS_DECODED),
    ):
        assert write_in_script(result, script) == result
