"""Stand-ins for the models: what they say follows from the audio alone, and they fail on demand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from schema.errors import CallscribeError
from schema.pcm import SAMPLES_PER_MS, Samples
from schema.span import Span
from schema.words import Word
from workers.engines.base import DecodedSpeech, DecodeOutcome, DecodeRequest, Recognizer

#: What the fakes look at: a tenth of a second, which is speech where it is louder than a whisper.
STEP_MS = 100
LOUD = 0.01


@dataclass
class FakeDetector:
    """Calls loud what is loud, in steps of a tenth of a second."""

    calls: int = 0

    def detect(self, samples: Samples) -> tuple[Span, ...]:
        self.calls += 1
        loud = np.flatnonzero(_levels(samples) > LOUD)
        runs = np.split(loud, np.flatnonzero(np.diff(loud) > 1) + 1)
        return tuple(
            Span(int(run[0]) * STEP_MS, int(run[-1] + 1) * STEP_MS) for run in runs if len(run)
        )


@dataclass
class FakeRecognizer(Recognizer):
    """Writes a word for each half second of a region; its text says how loud that was.

    ``failures`` are raised by the next calls, one a call, before it works again. ``heard`` keeps
    the regions of each call.
    """

    failures: list[Exception] = field(default_factory=list)
    language: str = "en"
    heard: list[tuple[Span, ...]] = field(default_factory=list)

    word_ms = 500

    def decode_all(self, requests: Sequence[DecodeRequest]) -> list[DecodeOutcome]:
        return [self._decode(request) for request in requests]

    def _decode(self, request: DecodeRequest) -> DecodeOutcome:
        try:
            request.check_cancelled()
        except CallscribeError as error:
            return error
        samples, regions, language = request.samples, request.regions, request.language
        self.heard.append(tuple(regions))
        if self.failures:
            raise self.failures.pop(0)
        if not regions:
            return DecodedSpeech((), None)
        words = tuple(word for region in regions for word in self._words(samples, region))
        return DecodedSpeech(words, self.language if language == "auto" else language)

    def _words(self, samples: Samples, region: Span) -> list[Word]:
        starts = range(region.start_ms, region.end_ms, self.word_ms)
        spans = [Span(start, min(start + self.word_ms, region.end_ms)) for start in starts]
        return [Word(_text(samples, span), span.start_ms, span.end_ms, 1.0) for span in spans]


def _levels(samples: Samples) -> Samples:
    step = STEP_MS * SAMPLES_PER_MS
    padded = np.pad(samples, (0, -len(samples) % step))
    levels: Samples = np.sqrt(np.square(padded).reshape(-1, step).mean(axis=1))
    return levels


def _text(samples: Samples, span: Span) -> str:
    own = samples[span.start_ms * SAMPLES_PER_MS : span.end_ms * SAMPLES_PER_MS]
    return f"level{int(100 * np.sqrt(np.square(own).mean()))}"
