"""From the words of each channel to a dialogue: utterances in order of their starts. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from schema.profile import RenderSettings
from schema.transcript import Utterance, join_words
from schema.words import Word
from workers.transcript.stitch import Track

#: A speaker who pauses this long has ended an utterance.
_PAUSE_MS = 1_000
#: After a full stop, a breath is enough.
_BREATH_MS = 300
#: An utterance this long ends at its next breath, so that a monologue stays readable.
_LONG_MS = 20_000

_SENTENCE_ENDS = tuple(".?!。？！…")  # noqa: RUF001 (Chinese marks are meant)


def to_dialogue(tracks: Sequence[Track], render: RenderSettings) -> tuple[Utterance, ...]:
    """Merge channels by time; where two speak at once, both utterances are kept whole."""
    utterances = [
        Utterance(
            channel=track.channel,
            speaker=render.speaker(track.channel),
            text=join_words([word.text for word in words]),
            words=tuple(words),
        )
        for track in tracks
        for words in _turns(track.words)
    ]
    return tuple(sorted(utterances, key=lambda u: (u.start_ms, u.channel or 0)))


def phrases(words: Sequence[Word]) -> Iterator[list[Word]]:
    """Yield words without a pause between them, as nobody has marked where sentences end."""
    phrase: list[Word] = []
    for word in words:
        if phrase and word.start_ms - phrase[-1].end_ms >= _PAUSE_MS:
            yield phrase
            phrase = []
        phrase.append(word)
    if phrase:
        yield phrase


def _turns(words: Sequence[Word]) -> Iterator[list[Word]]:
    turn: list[Word] = []
    for word in words:
        if turn and _ends(turn, word):
            yield turn
            turn = []
        turn.append(word)
    if turn:
        yield turn


def _ends(turn: Sequence[Word], following: Word) -> bool:
    pause_ms = following.start_ms - turn[-1].end_ms
    if pause_ms < _BREATH_MS:
        return False
    long = turn[-1].end_ms - turn[0].start_ms >= _LONG_MS
    return pause_ms >= _PAUSE_MS or long or turn[-1].text.endswith(_SENTENCE_ENDS)
