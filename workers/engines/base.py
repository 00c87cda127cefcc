"""What the worker asks of a model.

Times are milliseconds from the first sample; samples are float32, mono, 16 kHz, within -1..1.
Which engine a profile means: :mod:`workers.engines.load`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from schema.errors import CallscribeError
from schema.pcm import Samples
from schema.span import Span
from schema.words import Word

#: Whisper's own thresholds (its paper, section 4.5): above the one no speech is likely; below the
#: other, a mean natural logarithm per token, a text is unlikely. What is both is silence.
NO_SPEECH_PROBABILITY = 0.6
LOW_LOG_PROBABILITY = -1.0


@dataclass(frozen=True, slots=True)
class DecodedSpeech:
    """What a recognizer made of one segment.

    ``words`` are in order of time, within the regions they were decoded from. ``language`` is the
    words' ISO 639-1 code, or None where there are no words. ``tags``:
    :class:`schema.words.ResultTag`.
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


class VoiceEmbedder(Protocol):
    """Says whose voice it is, as a vector: those of one speaker point the same way."""

    @property
    def dimension(self) -> int:
        """The length of a vector."""
        ...

    def embed(self, samples: Samples, windows: Sequence[Span]) -> npt.NDArray[np.float32]:
        """Return ``(windows, dimension)``, each vector of length 1.

        ``windows`` are in order, of one length, and begin on multiples of 20 ms; the last may reach
        past the audio. Samples are silent in none of them.
        """
        ...


def never_cancelled() -> None:
    """Raise nothing."""


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """The speech of one segment, to be decoded.

    ``regions`` are in order, disjoint and within the audio. ``language`` is an ISO 639-1 code, or
    "auto" to decide by the speech of this segment. ``check_cancelled`` is called before each
    minibatch, and raises where these words are no longer needed.
    """

    samples: Samples
    regions: Sequence[Span]
    language: str
    hotwords: Sequence[str] = ()
    check_cancelled: Callable[[], None] = never_cancelled


#: The outcome of a request: words, what ``check_cancelled`` raised, or why it cannot be met.
DecodeOutcome = DecodedSpeech | CallscribeError


class Cancellations:
    """Which of several requests were cancelled, checked before each minibatch."""

    def __init__(self, requests: Sequence[DecodeRequest]) -> None:
        self._requests = requests
        #: What was raised, by the index of its request.
        self.by_request: dict[int, CallscribeError] = {}

    def is_cancelled(self, request: int) -> bool:
        """Check a request, by its index."""
        if request not in self.by_request:
            try:
                self._requests[request].check_cancelled()
            except CallscribeError as error:
                self.by_request[request] = error
        return request in self.by_request

    def drop_cancelled(self, batch: Sequence[int], requests: Sequence[int]) -> list[int]:
        """Check the requests of a minibatch's members; return the members that are still needed.

        ``requests`` holds, for each member, the index of its request.
        """
        cancelled_requests = set(filter(self.is_cancelled, {requests[member] for member in batch}))
        return [member for member in batch if requests[member] not in cancelled_requests]


class Recognizer(ABC):
    """Writes down what is said in the speech regions of segments.

    How regions are decoded together is the engine's affair, and the words must not depend on it:
    one engine packs them into windows of a fixed length, another pads regions of like length.
    """

    @abstractmethod
    def decode_all(self, requests: Sequence[DecodeRequest]) -> list[DecodeOutcome]:
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
        check_cancelled: Callable[[], None] = never_cancelled,
    ) -> DecodedSpeech:
        """Return the words of one segment: see :class:`DecodeRequest`.

        Raises:
            BadRequest: the model does not know the language.
            CallscribeError: what ``check_cancelled`` raised.
        """
        request = DecodeRequest(samples, regions, language, hotwords, check_cancelled)
        [outcome] = self.decode_all([request])
        if isinstance(outcome, CallscribeError):
            raise outcome
        return outcome
