"""From the words of each channel to a dialogue: utterances in order of their starts. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from schema.profile import RenderSettings
from schema.text import join_words
from schema.transcript import Utterance
from schema.words import Word
from workers.transcript.stitch import ChannelTimeline

#: A speaker who pauses this long has ended an utterance.
_PAUSE_MS = 1_000
#: After a full stop, a breath is enough.
_BREATH_MS = 300
#: An utterance this long ends at its next breath, so that a monologue stays readable.
_LONG_MS = 20_000

_SENTENCE_ENDS = tuple(".?!。？！…")  # noqa: RUF001 (Chinese marks are meant)


def to_dialogue(
    timelines: Sequence[ChannelTimeline], render: RenderSettings
) -> tuple[Utterance, ...]:
    """Merge channels by time; where two speak at once, both utterances are kept whole."""
    utterances = [
        Utterance(
            channel=timeline.channel,
            speaker=render.speaker(timeline.channel),
            text=join_words([word.text for word in words]),
            words=tuple(words),
        )
        for timeline in timelines
        for words in split_words(timeline.words, _ends_turn)
    ]
    return tuple(sorted(utterances, key=lambda u: (u.start_ms, u.channel or 0)))


def split_at_pauses(words: Sequence[Word]) -> Iterator[list[Word]]:
    """Yield the phrases between pauses; for words without marks of where a sentence ends."""
    return split_words(words, lambda phrase, word: _pause_ms(phrase, word) >= _PAUSE_MS)


def split_words(
    words: Iterable[Word], is_end: Callable[[Sequence[Word], Word], bool]
) -> Iterator[list[Word]]:
    """Yield words in groups; ``is_end`` tells whether a group ends before the following word."""
    group: list[Word] = []
    for word in words:
        if group and is_end(group, word):
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def _pause_ms(words: Sequence[Word], following: Word) -> int:
    return following.start_ms - words[-1].end_ms


def _ends_turn(turn: Sequence[Word], following: Word) -> bool:
    pause_ms = _pause_ms(turn, following)
    if pause_ms < _BREATH_MS:
        return False
    is_long = turn[-1].end_ms - turn[0].start_ms >= _LONG_MS
    return pause_ms >= _PAUSE_MS or is_long or turn[-1].text.endswith(_SENTENCE_ENDS)
