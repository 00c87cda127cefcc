"""From the words of each channel to a dialogue: utterances in order of their starts. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from schema.text import join_words
from schema.transcript import Utterance
from schema.words import Word
from workers.transcript.stitch import ChannelTimeline

#: A speaker who pauses this long has ended an utterance.
_PAUSE_MS = 1_000
#: Within a sentence, where marks say so, a longer pause is a hesitation still.
_HESITATION_MS = 2_000
#: After a full stop, a breath is enough.
_BREATH_MS = 300
#: An utterance this long ends at its next breath, so that a monologue stays readable; within a
#: sentence, if it is twice as long.
_LONG_MS = 20_000

#: An answer begins at most this long before the question has ended: to come sooner is to interrupt.
_ANSWER_AHEAD_MS = 200
#: What is said in so few words within another's sentence ("mm-hm", "I see") is no turn.
_BACKCHANNEL_WORDS_MAX = 2

_SENTENCE_ENDS = tuple(".?!。？！…")  # noqa: RUF001 (Chinese marks are meant)


def to_dialogue(
    timelines: Sequence[ChannelTimeline],
    speakers: Sequence[str],
    confidences: Mapping[Word, float] | None = None,
) -> tuple[Utterance, ...]:
    """Merge channels by time, in the order in which turns were taken.

    ``speakers`` has the name of each timeline's; several share a channel where they were told by
    their voices, and ``confidences`` then has how sure each word's speaker is.

    An utterance ends where another speaker answers: where they begin to speak in a pause of it,
    after a sentence, or with more than a word or two. Where two speak at once, both utterances are
    kept whole.
    """
    utterances = [
        Utterance(
            channel=timeline.channel,
            speaker=speaker,
            text=join_words([word.text for word in words]),
            words=tuple(words),
            # As sure as its least sure word.
            speaker_confidence=min((confidences[word] for word in words), default=None)
            if confidences
            else None,
        )
        for index, (timeline, speaker) in enumerate(zip(timelines, speakers, strict=True))
        for words in split_words(
            timeline.words, _TurnEnd(timeline, [*timelines[:index], *timelines[index + 1 :]])
        )
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


class _TurnEnd:
    """Where a channel's utterances end: by its pauses and marks, and by what others say."""

    def __init__(self, timeline: ChannelTimeline, others: Sequence[ChannelTimeline]) -> None:
        self._has_marks = any(map(_ends_sentence, timeline.words))
        #: When each of the others begins to speak after a breath, and the words until the next.
        self._starts = sorted(
            (words[0].start_ms, len(words))
            for other in others
            for words in split_words(
                other.words, lambda w, next_: _pause_ms(w, next_) >= _BREATH_MS
            )
        )

    def __call__(self, turn: Sequence[Word], following: Word) -> bool:
        pause_ms = _pause_ms(turn, following)
        if self._is_answered(turn, following):
            return True
        if pause_ms < _BREATH_MS:
            return False
        is_within_sentence = self._has_marks and not _ends_sentence(turn[-1])
        if is_within_sentence:
            is_long = turn[-1].end_ms - turn[0].start_ms >= 2 * _LONG_MS
            return pause_ms >= _HESITATION_MS or is_long
        is_long = turn[-1].end_ms - turn[0].start_ms >= _LONG_MS
        return pause_ms >= _PAUSE_MS or is_long or _ends_sentence(turn[-1])

    def _is_answered(self, turn: Sequence[Word], following: Word) -> bool:
        """Tell whether another takes the turn before a word that follows."""
        start_ms = max(turn[-1].end_ms - _ANSWER_AHEAD_MS, turn[-1].start_ms)
        first = bisect_left(self._starts, (start_ms, 0))
        last = bisect_left(self._starts, (following.start_ms, 0))
        lengths = [length for _, length in self._starts[first:last]]
        if not lengths:
            return False
        # Without marks a breath is the best sign of a sentence's end.
        is_sentence_end = (
            _ends_sentence(turn[-1])
            if self._has_marks
            else _pause_ms(turn, following) >= _BREATH_MS
        )
        return is_sentence_end or max(lengths) > _BACKCHANNEL_WORDS_MAX


def _ends_sentence(word: Word) -> bool:
    return word.text.endswith(_SENTENCE_ENDS)
