"""Chinese words in one script: a recogniser writes either, by turns within one call. Pure.

It comes before segments are joined, so that neighbours who heard the same have the same words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from schema.chinese import ChineseScript, convert_script
from schema.words import SegmentResult, Word
from workers.transcript.dialogue import split_at_pauses


def write_in_script(result: SegmentResult, script: ChineseScript) -> SegmentResult:
    """Return a result whose words, if they are Chinese, are in a script; times stay.

    The characters that Japanese shares with Chinese are left alone.
    """
    if result.language != "zh" or script is ChineseScript.AS_DECODED:
        return result
    phrases = split_at_pauses(result.words)
    words = (word for phrase in phrases for word in _write_phrase(phrase, script))
    return replace(result, words=tuple(words))


def _write_phrase(words: Sequence[Word], script: ChineseScript) -> Iterator[Word]:
    """Yield a phrase's words: its characters are converted together, and shared out again."""
    text = "".join(word.text for word in words)
    converted_text = convert_script(text, script)
    if len(converted_text) != len(text):  # No word would be sure of its own characters.
        yield from (replace(word, text=convert_script(word.text, script)) for word in words)
        return
    start = 0
    for word in words:
        end = start + len(word.text)
        yield replace(word, text=converted_text[start:end])
        start = end
