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

from schema.span import Span
from schema.transcript import Flag, is_cjk
from schema.words import ResultTag, SegmentResult, Word
from workers.transcript.alignment import normal
from workers.transcript.stitch import Track

#: Whisper's own thresholds (its paper, section 4.5): above the one no speech is likely, below the
#: other a text is unlikely. The engine drops what is both.
_NO_SPEECH = 0.6
_UNLIKELY = -1.0

#: No speech is as likely as this in noise, and no word of it sure. Speech is not: over the corpus
#: an unlikely text of people has a lower probability of no speech, and a word or two that are sure.
_PERHAPS_NO_SPEECH = 0.35
_SURE = 0.5

#: So often in a row nobody says the same line, of up to so many words; one word, twice as often.
_TIMES = 4
_LINE_WORDS = 12

#: Letters a second that no tongue keeps up, over a run of words; fast speech has 25. A character
#: without spaces counts for three: fast Mandarin has 8 of them a second.
_LETTERS_PER_S = 45
_CJK_LETTERS = 3
_RUN_WORDS = 5

#: A word that lasts longer is stretched over something else.
_WORD_MAX_MS = 5_000

#: What subtitles end with, and recognizers write over silence. Compared without case and marks.
#: Not what people on the telephone say by itself, such as "thank you" and "bye".
_STOCK = frozenset(
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
class Guarded:
    """A channel without the words that nobody said; how many went, and how many stay in doubt."""

    track: Track
    removed: int
    doubtful: int


def flags(guarded: Sequence[Guarded]) -> tuple[str, ...]:
    """Return what a reader of the recording should know, with the number of words."""
    counts = {
        Flag.NOISE_WORDS: sum(own.removed for own in guarded),
        Flag.DOUBTFUL_WORDS: sum(own.doubtful for own in guarded),
    }
    return tuple(flag.counted(count) for flag, count in counts.items() if count)


def doubts(results: Iterable[tuple[int, SegmentResult]]) -> list[Doubt]:
    """Return what the model doubted, from results with the start of their segments in ms."""
    return [
        Doubt(Span(start_ms + first_ms, start_ms + last_ms), no_speech, log_probability)
        for start_ms, result in results
        for first_ms, last_ms, no_speech, log_probability in result.tags.get(ResultTag.DOUBTS, [])
    ]


def guard(track: Track, doubted: Sequence[Doubt]) -> Guarded:
    """Return a channel's words without those that nobody said."""
    odd = [*_repeated(track.words), *_too_fast(track.words)]
    suspects = {index for run in odd for index in run} | set(_stretched(track.words))
    gone: set[int] = set()
    for doubt in doubted:
        own = [i for i, word in enumerate(track.words) if _within(word, doubt.span)]
        if own and _is_noise([track.words[i] for i in own], doubt, suspects.issuperset(own)):
            gone |= set(own)
    kept = tuple(word for i, word in enumerate(track.words) if i not in gone)
    return Guarded(replace(track, words=kept), len(gone), len(suspects - gone))


def _within(word: Word, span: Span) -> bool:
    return span.start_ms <= word.middle_ms < span.end_ms


def _is_noise(words: Sequence[Word], doubt: Doubt, are_odd: bool) -> bool:
    """Tell whether nobody said the words of a doubtful stretch: two witnesses must agree."""
    if doubt.no_speech > _NO_SPEECH and (are_odd or _normal(words) in _STOCK):
        return True
    unlikely = doubt.log_probability < _UNLIKELY and doubt.no_speech > _PERHAPS_NO_SPEECH
    return unlikely and all((word.confidence or 1.0) < _SURE for word in words)


def _repeated(words: Sequence[Word]) -> Iterator[range]:
    """Yield the indexes of lines that come too often in a row to have been said."""
    texts = [_normal([word]) for word in words]
    at = 0
    while at < len(texts):
        run = max((_run(texts, at, length) for length in range(1, _LINE_WORDS + 1)), key=len)
        if run:
            yield run
        at = max(at + 1, run.stop)


def _run(texts: Sequence[str], at: int, length: int) -> range:
    """Return the indexes over which a line of ``length`` words comes again; none if not often."""
    end = at + length
    while end < len(texts) and texts[end] == texts[end - length]:
        end += 1
    times = (end - at) // length
    often = times >= (_TIMES if length > 1 else 2 * _TIMES)
    return range(at, at + times * length) if often else range(at, at)


def _too_fast(words: Sequence[Word]) -> Iterator[range]:
    """Yield the indexes of runs that no tongue keeps up with."""
    fast = [
        _letters(words[i : i + _RUN_WORDS]) > _LETTERS_PER_S * _seconds(words[i : i + _RUN_WORDS])
        for i in range(len(words) - _RUN_WORDS + 1)
    ]
    for is_fast, run in groupby(range(len(fast)), key=lambda i: fast[i]):
        if is_fast:
            indexes = list(run)
            yield range(indexes[0], indexes[-1] + _RUN_WORDS)


def _seconds(words: Sequence[Word]) -> float:
    return (max(word.end_ms for word in words) - words[0].start_ms) / 1000


def _letters(words: Sequence[Word]) -> int:
    return sum(_CJK_LETTERS if is_cjk(char) else 1 for char in _normal(words))


def _stretched(words: Sequence[Word]) -> Iterator[int]:
    for index, word in enumerate(words):
        if word.end_ms - word.start_ms > _WORD_MAX_MS:
            yield index


def _normal(words: Sequence[Word]) -> str:
    return normal("".join(word.text for word in words))
