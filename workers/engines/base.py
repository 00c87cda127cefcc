"""What the worker asks of a model.

Times are milliseconds from the first sample; samples are float32, mono, 16 kHz, within -1..1.
Which engine a profile means: :mod:`workers.engines.load`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from schema.errors import CallscribeError
from schema.pcm import Samples
from schema.span import Span
from schema.words import Word


@dataclass(frozen=True, slots=True)
class Decoding:
    """What a recognizer made of one segment.

    ``words`` are in order of time, within the regions they were decoded from. ``language`` is
    what the words are in, an ISO 639-1 code; None where there are none. ``tags`` holds
    what a model says beside words.
    """

    words: tuple[Word, ...]
    language: str | None
    tags: dict[str, Any] = field(default_factory=dict)


class SpeechDetector(Protocol):
    """Says where in a segment someone speaks."""

    def detect(self, samples: Samples) -> tuple[Span, ...]:
        """Return the stretches of speech in order of their starts.

        They may meet, and reach past the audio: :func:`workers.segment.speech_regions.find_speech`
        makes them fit. The same audio has the same stretches wherever the segment around it began,
        but for those at its edges. ``samples`` last at least
        :data:`workers.segment.speech_regions.SHORTEST_MS`.
        """
        ...


def always() -> None:
    """Raise nothing: the words are wanted."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be written down of one segment.

    ``regions`` are in order, disjoint and within the audio. ``language`` is an ISO 639-1 code, or
    "auto" to decide by the speech of this segment. ``carry_on`` is called before each minibatch,
    and raises where these words are wanted no more.
    """

    samples: Samples
    regions: Sequence[Span]
    language: str
    hotwords: Sequence[str] = ()
    carry_on: Callable[[], None] = always


#: What became of a request: its words, or what its ``carry_on`` raised, or why it cannot be met.
Outcome = Decoding | CallscribeError


class Refusals:
    """Which of several requests are wanted no more, asked before each minibatch."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self._requests = requests
        self.by_number: dict[int, CallscribeError] = {}

    def ask(self, numbers: Iterable[int]) -> None:
        """Ask of these whether their words are wanted still."""
        for number in set(numbers) - self.by_number.keys():
            try:
                self._requests[number].carry_on()
            except CallscribeError as error:
                self.by_number[number] = error


class Recognizer(ABC):
    """Writes down what is said in the speech regions of segments.

    How regions are decoded together is the engine's affair, and the words must not depend on it:
    one engine packs them into windows of a fixed length, another pads regions of like length.
    """

    @abstractmethod
    def decode_all(self, requests: Sequence[Request]) -> list[Outcome]:
        """Return what became of each request; what fails one of them alone costs no other.

        Raises:
            Exception: what fails for all of them, or cannot be laid at one's door.
        """

    def decode(
        self,
        samples: Samples,
        regions: Sequence[Span],
        *,
        language: str,
        hotwords: Sequence[str] = (),
        carry_on: Callable[[], None] = always,
    ) -> Decoding:
        """Return the words of one segment: see :class:`Request`.

        Raises:
            BadRequest: the model does not know the language.
            CallscribeError: what ``carry_on`` raised.
        """
        [outcome] = self.decode_all([Request(samples, regions, language, hotwords, carry_on)])
        if isinstance(outcome, CallscribeError):
            raise outcome
        return outcome
