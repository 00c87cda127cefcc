"""What a segment's decode yields: words with times, and the speech they were heard in.

Times in a :class:`SegmentResult` count from the start of the segment, not of the recording:
the same audio elsewhere, or in another recording, has the same result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from schema.redaction import Mask
from schema.span import Span


def _thousandths(confidence: float | None) -> int | None:
    if confidence is None or math.isnan(confidence):
        return None
    return round(1000 * confidence) if 0 <= confidence <= 1 else 1000 * (confidence > 1)


@dataclass(frozen=True, slots=True)
class Word:
    """One written word, with the punctuation that clings to it; a CJK character is a word.

    ``confidence`` is the model's probability in 0..1, to three places, or None where it gives none.
    """

    text: str
    start_ms: int
    end_ms: int
    confidence: float | None = None

    @property
    def span(self) -> Span:
        """When it was said."""
        return Span(self.start_ms, self.end_ms)

    @property
    def middle_ms(self) -> int:
        """The moment that decides which side of a cut the word is on."""
        return (self.start_ms + self.end_ms) // 2

    def shifted(self, by_ms: int) -> Word:
        """Return the same word, ``by_ms`` later."""
        return replace(self, start_ms=self.start_ms + by_ms, end_ms=self.end_ms + by_ms)

    def to_json(self) -> list[Any]:
        """Return the compact form kept in the ledger: ``[text, start_ms, end_ms, confidence]``."""
        return [self.text, self.start_ms, self.end_ms, self.confidence]

    @classmethod
    def from_json(cls, value: list[Any]) -> Word:
        """Rebuild a word from :meth:`to_json`."""
        text, start_ms, end_ms, confidence = value
        return cls(text, start_ms, end_ms, confidence)


#: How long a stretch each figure of :attr:`ResultTag.LOUDNESS_DB` is about: a short word or two.
LOUDNESS_STEP_MS = 500


class ResultTag(StrEnum):
    """What a segment's result says beside words, by the key in its tags."""

    #: Stretches in which the model doubts that anyone spoke, a list for each: its first and last
    #: ms, the probability of no speech, and the mean natural log probability of a token written.
    DOUBTS = "doubts"
    #: Stretches that may be in another language than their words, a list for each: its first and
    #: last ms, the other's ISO 639-1 code, its probability, and that of the words' own.
    LANGUAGE_DOUBTS = "language_doubts"
    #: Stretches whose words have no times but guessed ones, a list for each: its first and last ms.
    GUESSED_TIMES = "guessed_times"
    #: The level of each half second of each speech region, in dB below full scale.
    LOUDNESS_DB = "loudness_db"
    #: The model of the fallback that wrote the words in place of the profile's.
    SMALLER_MODEL = "smaller_model"
    #: SenseVoice's events and emotion of each region, with its times.
    SOUNDS = "sounds"


@dataclass(frozen=True, slots=True)
class SegmentResult:
    """What one decode of one segment found; times from the segment's start.

    ``words`` are in order of time. ``speech`` are the regions VAD called speech, in order and
    disjoint. ``language`` is what the words are in, as an ISO 639-1 code, or None without speech.
    ``tags`` holds what is known beside words, by :class:`ResultTag`, never text. ``masks`` are what
    a reducer took out of it for good.
    """

    words: tuple[Word, ...]
    speech: tuple[Span, ...]
    language: str | None = None
    tags: dict[str, Any] = field(default_factory=dict)
    masks: tuple[Mask, ...] = ()

    @property
    def speech_ms(self) -> int:
        """Milliseconds that VAD called speech."""
        return sum(span.duration_ms for span in self.speech)

    def to_json(self) -> dict[str, Any]:
        """Return the form kept in the ledger: words by column, times from the word before.

        Half of the bytes of a list for each word, and a fifth once they are compressed.
        """
        ends_ms = [word.end_ms for word in self.words]
        return {
            "words": {
                "texts": [word.text for word in self.words],
                "gaps_ms": [
                    word.start_ms - before_ms
                    for word, before_ms in zip(self.words, (0, *ends_ms), strict=False)
                ],
                "lengths_ms": [word.end_ms - word.start_ms for word in self.words],
                "confidences": [_thousandths(word.confidence) for word in self.words],
            },
            "speech": [[span.start_ms, span.end_ms] for span in self.speech],
            "language": self.language,
            "tags": self.tags,
            **({"masks": [mask.to_json() for mask in self.masks]} if self.masks else {}),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> SegmentResult:
        """Rebuild a result from :meth:`to_json`, also that of ledgers before revision 0003."""
        words = value["words"]
        return cls(
            words=tuple(map(Word.from_json, words) if isinstance(words, list) else _words(words)),
            speech=tuple(Span(start, end) for start, end in value["speech"]),
            language=value["language"],
            tags=value["tags"],
            masks=tuple(map(Mask.from_json, value.get("masks", ()))),
        )


def _words(columns: dict[str, Any]) -> Iterator[Word]:
    end_ms = 0
    names = ("texts", "gaps_ms", "lengths_ms", "confidences")
    rows = zip(*(columns[name] for name in names), strict=True)
    for text, gap_ms, length_ms, confidence in rows:
        start_ms = end_ms + gap_ms
        end_ms = start_ms + length_ms
        yield Word(text, start_ms, end_ms, None if confidence is None else confidence / 1000)
