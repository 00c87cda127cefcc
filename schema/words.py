"""What a segment's decode yields: words with times, and the speech they were heard in.

Times in a :class:`SegmentResult` count from the start of the segment, not of the recording:
the same audio elsewhere, or in another recording, has the same result.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from schema.span import Span


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


@dataclass(frozen=True, slots=True)
class SegmentResult:
    """What one decode of one segment found; times from the segment's start.

    ``words`` are in order of time. ``speech`` are the regions VAD called speech, in order and
    disjoint. ``language`` is what the words are in, as an ISO 639-1 code, or None without speech.
    ``tags`` holds what a model says beside words (emotion, events), never text.
    """

    words: tuple[Word, ...]
    speech: tuple[Span, ...]
    language: str | None = None
    tags: dict[str, Any] = field(default_factory=dict)

    @property
    def speech_ms(self) -> int:
        """Milliseconds that VAD called speech."""
        return sum(span.duration_ms for span in self.speech)

    def to_json(self) -> dict[str, Any]:
        """Return the form kept in the ledger."""
        return {
            # As each word's own: a call for each of a segment's 800 is half of what a finish costs.
            "words": [[w.text, w.start_ms, w.end_ms, w.confidence] for w in self.words],
            "speech": [[span.start_ms, span.end_ms] for span in self.speech],
            "language": self.language,
            "tags": self.tags,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> SegmentResult:
        """Rebuild a result from :meth:`to_json`."""
        return cls(
            words=tuple(Word.from_json(word) for word in value["words"]),
            speech=tuple(Span(start, end) for start, end in value["speech"]),
            language=value["language"],
            tags=value["tags"],
        )
