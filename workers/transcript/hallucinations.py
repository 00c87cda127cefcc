"""Words that nobody said, taken out: what a model writes over music, noise and silence. Pure.

A recognizer that was trained on subtitles writes something for everything: a stray "you" over hold
music, thanks for watching, one line again and again. Its text alone does not give it away, since
people repeat themselves and do say thank you. So words are only taken out of stretches that the
model itself doubted (:attr:`schema.words.ResultTag.DOUBTS`), and where a second witness agrees:
how sure it was of the words, or what they look like. Words that look wrong where the model had no
doubt are counted as doubtful, and stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from schema.redaction import PLACEHOLDERS
from schema.span import Span
from schema.text import is_cjk
from schema.words import ResultTag, SegmentResult, Word
from workers.engines.base import LOW_LOG_PROBABILITY, NO_SPEECH_PROBABILITY
from workers.transcript.alignment import comparison_form
from workers.transcript.stitch import ChannelTimeline

#: No speech is as likely as this in noise, and no word of it sure. Speech is not: over the corpus
#: an unlikely text of people has a lower probability of no speech, and a word or two that are sure.
_PERHAPS_NO_SPEECH = 0.35
_SURE_CONFIDENCE = 0.5

#: So often in a row nobody says the same line, of up to so many words; one word, twice as often.
_REPETITIONS = 4
_LINE_WORDS_MAX = 12

#: Letters a second that no tongue keeps up, over a run of words; fast speech has 25. A character
#: without spaces counts for three: fast Mandarin has 8 of them a second.
_LETTERS_PER_S = 45
_CJK_LETTERS = 3
_RUN_WORDS = 5

#: A word that lasts longer is stretched over something else.
_WORD_MAX_MS = 5_000

#: What subtitles end with, and recognizers write over silence. Compared without case and marks.
#: Not what people on the telephone say by itself, such as "thank you" and "bye".
_SUBTITLE_PHRASES = frozenset(
    {
        "you",
        "thankyouforwatching",
        "thanksforwatching",
        "thankyouverymuchforwatching",
        "pleasesubscribe",
        "subtitlesbytheamaraorgcommunity",
        "请不吝点赞订阅转发打赏支持明镜与点点栏目",
        "字幕由amaraorg社区提供",
        "谢谢观看",
        "感谢观看",
        "謝謝觀看",
        "ご視聴ありがとうございました",
    }
)


@dataclass(frozen=True, slots=True)
class Doubt:
    """A stretch in which the model doubts that anyone spoke, on the recording's clock.

    ``no_speech`` is a probability; ``log_probability`` the mean natural logarithm for a token of
    what it wrote there.
    """

    span: Span
    no_speech: float
    log_probability: float


@dataclass(frozen=True, slots=True)
class HallucinationResult:
    """A channel without the words that nobody said; those that went, and that stay in doubt."""

    timeline: ChannelTimeline
    removed_words: tuple[Word, ...]
    doubtful_words: tuple[Word, ...]


def model_doubts(results: Iterable[tuple[int, SegmentResult]]) -> list[Doubt]:
    """Return what the model doubted, from results with the start of their segments in ms."""
    return [
        Doubt(Span(start_ms + first_ms, start_ms + last_ms), no_speech, log_probability)
        for start_ms, result in results
        for first_ms, last_ms, no_speech, log_probability in result.tags.get(ResultTag.DOUBTS, [])
    ]


def drop_hallucinations(timeline: ChannelTimeline, doubts: Sequence[Doubt]) -> HallucinationResult:
    """Return a channel's words without those that nobody said."""
    odd_runs = [*_repeated_runs(timeline.words), *_too_fast_runs(timeline.words)]
    suspects = {index for run in odd_runs for index in run}
    suspects |= {i for i, word in enumerate(timeline.words) if word.span.duration_ms > _WORD_MAX_MS}
    # What was masked is nobody's invention, however long or often it stands there.
    suspects -= {i for i, word in enumerate(timeline.words) if word.text in PLACEHOLDERS}
    noise: set[int] = set()
    for doubt in doubts:
        start_ms, end_ms = doubt.span.start_ms, doubt.span.end_ms
        doubtful = {i: w for i, w in enumerate(timeline.words) if start_ms <= w.middle_ms < end_ms}
        are_odd = suspects.issuperset(doubtful)
        if doubtful and _is_noise(list(doubtful.values()), doubt, are_odd):
            noise |= doubtful.keys()
    words = tuple(word for i, word in enumerate(timeline.words) if i not in noise)
    return HallucinationResult(
        replace(timeline, words=words),
        removed_words=tuple(timeline.words[i] for i in sorted(noise)),
        doubtful_words=tuple(timeline.words[i] for i in sorted(suspects - noise)),
    )


def _is_noise(words: Sequence[Word], doubt: Doubt, are_odd: bool) -> bool:
    """Tell whether nobody said the words of a doubtful stretch: two witnesses must agree."""
    if doubt.no_speech > NO_SPEECH_PROBABILITY and (
        are_odd or _comparison_form(words) in _SUBTITLE_PHRASES
    ):
        return True
    is_unlikely = (
        doubt.log_probability < LOW_LOG_PROBABILITY and doubt.no_speech > _PERHAPS_NO_SPEECH
    )
    return is_unlikely and all((word.confidence or 1.0) < _SURE_CONFIDENCE for word in words)


def _repeated_runs(words: Sequence[Word]) -> Iterator[range]:
    texts = [_comparison_form([word]) for word in words]
    index = 0
    while index < len(texts):
        lengths = range(1, _LINE_WORDS_MAX + 1)
        run = max((_repetition(texts, index, length) for length in lengths), key=len)
        if run:
            yield run
        index = max(index + 1, run.stop)


def _repetition(texts: Sequence[str], index: int, length: int) -> range:
    """Return the indexes over which a line of ``length`` words comes again; none if not often."""
    end = index + length
    while end < len(texts) and texts[end] == texts[end - length]:
        end += 1
    times = (end - index) // length
    is_odd = times >= (_REPETITIONS if length > 1 else 2 * _REPETITIONS)
    return range(index, index + times * length) if is_odd else range(index, index)


def _too_fast_runs(words: Sequence[Word]) -> Iterator[range]:
    starts = range(len(words) - _RUN_WORDS + 1)
    for is_fast, run in groupby(starts, key=lambda i: _is_too_fast(words[i : i + _RUN_WORDS])):
        if is_fast:
            indexes = list(run)
            yield range(indexes[0], indexes[-1] + _RUN_WORDS)


def _is_too_fast(words: Sequence[Word]) -> bool:
    duration_s = (max(word.end_ms for word in words) - words[0].start_ms) / 1000
    letters = sum(_CJK_LETTERS if is_cjk(char) else 1 for char in _comparison_form(words))
    return letters > _LETTERS_PER_S * duration_s


def _comparison_form(words: Sequence[Word]) -> str:
    return comparison_form("".join(word.text for word in words))
