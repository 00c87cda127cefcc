"""Who talked how much: figures of one call, from its utterances. Pure.

A speaker talks from a word to the next but for pauses of a second or more, whether a sentence ends
in between or not. Figures are of what was transcribed; what was not counts as silence. No stretch
of a speaker is longer than all that they talk, and that not longer than the call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby

from schema.span import Span, merge
from schema.text import is_cjk
from schema.transcript import SpeakerTalk, Talk, Utterance

#: A shorter pause between two words of a speaker is talk.
_PAUSE_MS = 1_000

#: So few words within another's utterance ("mm-hm", "I see") take no turn.
_BACKCHANNEL_WORDS_MAX = 2

#: To speak at once for less than this is agreement ("mm-hm") or chance, and interrupts nobody.
_INTERRUPTS_MS = 500


def talk_of(
    utterances: Sequence[Utterance], duration_ms: int, *, hears_overlap: bool = True
) -> Talk:
    """Return the figures of a call that lasts ``duration_ms``; speakers by their first word.

    Where speakers share a channel nobody ``hears_overlap``: words are one's or another's.
    """
    by_speaker: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        by_speaker.setdefault(utterance.speaker, []).append(utterance)
    call = Span(0, duration_ms)
    spans = {speaker: _talk_spans(turns, call) for speaker, turns in by_speaker.items()}
    talked_ms = {speaker: _length_ms(stretches) for speaker, stretches in spans.items()}
    all_ms = sum(talked_ms.values())
    anyone_ms = _length_ms(merge(sorted(chain.from_iterable(spans.values()))))
    longest_ms = _longest_ms(utterances, call)
    interruptions = _interruptions(utterances)
    return Talk(
        silence_ms=max(0, duration_ms - anyone_ms),
        overlap_ms=_overlap_ms(list(spans.values())) if hears_overlap else None,
        speakers=tuple(
            SpeakerTalk(
                speaker=speaker,
                talk_ms=talked_ms[speaker],
                share=round(talked_ms[speaker] / all_ms, 3) if all_ms else 0.0,
                words=(words := sum(map(_word_count, turns))),
                words_per_minute=round(60_000 * words / max(1, talked_ms[speaker])),
                longest_ms=longest_ms[speaker],
                interruptions=interruptions[speaker] if hears_overlap else None,
            )
            for speaker, turns in by_speaker.items()
        ),
    )


def _talk_spans(utterances: Iterable[Utterance], call: Span) -> list[Span]:
    words = (word.span for utterance in utterances for word in utterance.words)
    stretches = merge(sorted(words), _PAUSE_MS - 1)
    return [part for part in map(call.overlap, stretches) if part is not None]


def _length_ms(spans: Iterable[Span]) -> int:
    return sum(span.duration_ms for span in spans)


def _overlap_ms(speakers: Sequence[Sequence[Span]]) -> int:
    """Return how long two or more talk; each speaker's spans are disjoint."""
    edges = sorted(
        edge
        for spans in speakers
        for span in spans
        for edge in ((span.start_ms, 1), (span.end_ms, -1))
    )
    overlap_ms = talking = since_ms = 0
    for at_ms, change in edges:
        if talking > 1:
            overlap_ms += at_ms - since_ms
        talking, since_ms = talking + change, at_ms
    return overlap_ms


def _longest_ms(utterances: Sequence[Utterance], call: Span) -> dict[str, int]:
    """Return the most that each speaker talks before another takes the turn.

    A backchannel takes none.
    """
    ordered = sorted(utterances, key=lambda utterance: utterance.start_ms)
    turns = [
        u
        for u, is_backchannel in zip(ordered, _backchannels(ordered), strict=True)
        if not is_backchannel
    ]
    stretches = [list(run) for _, run in groupby(turns, key=lambda utterance: utterance.speaker)]
    longest_by_speaker: dict[str, int] = {}
    for stretch in (*([utterance] for utterance in ordered), *stretches):
        speaker = stretch[0].speaker
        length_ms = _length_ms(_talk_spans(stretch, call))
        longest_by_speaker[speaker] = max(longest_by_speaker.get(speaker, 0), length_ms)
    return longest_by_speaker


def _backchannels(ordered: Sequence[Utterance]) -> Iterator[bool]:
    """Tell of each utterance, in order of starts, whether it is a word or two within another's."""
    speaking_until_ms: dict[str, int] = {}
    for utterance in ordered:
        others_until_ms = (
            ms for name, ms in speaking_until_ms.items() if name != utterance.speaker
        )
        is_short = _word_count(utterance) <= _BACKCHANNEL_WORDS_MAX
        yield is_short and utterance.end_ms <= max(others_until_ms, default=0)
        until_ms = speaking_until_ms.get(utterance.speaker, 0)
        speaking_until_ms[utterance.speaker] = max(until_ms, utterance.end_ms)


def _interruptions(utterances: Sequence[Utterance]) -> Counter[str]:
    """Return how often each speaker began while another spoke on.

    In one pass over the call: one of hours has ten thousand utterances.
    """
    interruptions: Counter[str] = Counter()
    speaking_until_ms: dict[str, int] = {}
    ordered = sorted(utterances, key=lambda u: u.start_ms)
    for start_ms, group in groupby(ordered, key=lambda u: u.start_ms):
        starting_utterances = list(group)
        for utterance in starting_utterances:
            name = utterance.speaker
            others_until_ms = [ms for other, ms in speaking_until_ms.items() if other != name]
            at_once_ms = min(max(others_until_ms, default=0), utterance.end_ms) - start_ms
            interruptions[name] += at_once_ms >= _INTERRUPTS_MS
        for utterance in starting_utterances:
            until_ms = speaking_until_ms.get(utterance.speaker, 0)
            speaking_until_ms[utterance.speaker] = max(until_ms, utterance.end_ms)
    return interruptions


def _word_count(utterance: Utterance) -> int:
    """Count words as people do: a Chinese character is one, and "twenty five" as "25" is one."""
    texts = [word.text for word in utterance.words]
    return sum(max(1, sum(map(is_cjk, text))) for text in texts)
