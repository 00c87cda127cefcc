"""The route of a segment: from a claim to its words.

    read_segment -> find_speech -> recognizer.decode, measure_loudness -> SegmentResult

Each step is a function of its inputs; the models are found by what a profile asks for, and stay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import structlog

from schema.errors import CallscribeError
from schema.pcm import Samples
from schema.profile import DecodeSettings, Profile
from schema.settings import Settings
from schema.span import Span
from schema.store.work.segments import Claim
from schema.words import ResultTag, SegmentResult
from workers.engines.base import Decoding, Recognizer, Request, SpeechDetector
from workers.engines.device import is_gpu, try_out, working
from workers.engines.load import load_bank, load_detector, load_recognizer
from workers.engines.model_memory import fitting
from workers.process.memory import device_memory, settle
from workers.process.metrics import StageSeconds
from workers.segment.audio import read_segment
from workers.segment.loudness import measure_loudness
from workers.segment.speech_regions import find_speech

if TYPE_CHECKING:
    from workers.engines.features import FilterBank

log = structlog.get_logger(__name__)


#: A claim, and what raises where its words are wanted no more.
Wanted = tuple[Claim, Callable[[], None]]
#: A segment's words and where its time went, or what was raised of it alone.
Outcome = tuple[SegmentResult, StageSeconds] | CallscribeError


class Models(NamedTuple):
    """What is loaded: features for both networks, and the networks."""

    bank: FilterBank
    detector: SpeechDetector
    recognizer: Recognizer


class _Heard(NamedTuple):
    """A segment that is about to be decoded, and how long it took to be read and heard."""

    request: Request
    speech: tuple[Span, ...]
    read_s: float
    vad_s: float

    @property
    def speech_ms(self) -> int:
        return sum(region.duration_ms for region in self.speech)

    def ended(self, decoding: Decoding, asr_s: float) -> tuple[SegmentResult, StageSeconds]:
        tags = {
            **decoding.tags,
            ResultTag.LOUDNESS_DB: measure_loudness(self.request.samples, self.speech),
        }
        result = SegmentResult(decoding.words, self.speech, decoding.language, tags)
        return result, StageSeconds(*(round(s, 3) for s in (self.read_s, self.vad_s, asr_s)))


class Route:
    """Decodes segments on one host, with one set of models at a time.

    A fleet runs one profile for hours; when its models change, the old models are let go first,
    since two of them may not fit a GPU.
    """

    def __init__(self, settings: Settings, read: Callable[[Claim], Samples] | None = None) -> None:
        """Decode as the settings say; ``read`` yields a claim's samples, by default from its file.

        ``read`` raises what :func:`workers.segment.audio.read_segment` does.
        """
        self._settings = settings
        self._read = read or (lambda claim: read_segment(claim.source, settings))
        #: Of what was asked for so far: whether a smaller model stands in for it.
        self._stands_in: list[tuple[DecodeSettings, bool]] = []
        self._loaded_for: DecodeSettings | None = None
        self._bank: FilterBank | None = None
        self._models: Models | None = None

    def decode(
        self, claim: Claim, carry_on: Callable[[], None]
    ) -> tuple[SegmentResult, StageSeconds]:
        """Return the words of a claimed segment.

        ``carry_on`` is called between the steps, and raises where the work is wanted no more.

        Raises:
            CallscribeError: by its fate: the recording, this host or the moment is at fault.
        """
        [outcome] = self.decode_all([(claim, carry_on)])
        if isinstance(outcome, CallscribeError):
            raise outcome
        return outcome

    def decode_all(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        """Return the words of claimed segments of one profile's models, decoded together.

        What is raised of one of them, by its fate, stands in its place.

        Raises:
            Misconfigured: the models cannot be loaded here.
            Exception: what fails for all of them, or cannot be laid at one's door.
        """
        models = self._load(wanted[0][0].profile)
        try:
            return self._decode(wanted, models)
        finally:
            models.bank.forget()

    def _decode(self, wanted: Sequence[Wanted], models: Models) -> list[Outcome]:
        heard: list[_Heard | CallscribeError] = []
        for claim, carry_on in wanted:
            try:
                carry_on()
                heard.append(self._hear(claim, carry_on, models))
            except CallscribeError as error:
                heard.append(error)
        sound = [each for each in heard if isinstance(each, _Heard)]
        begun_s = time.monotonic()
        decoded = models.recognizer.decode_all([each.request for each in sound]) if sound else []
        asr_s = time.monotonic() - begun_s
        speech_ms = sum(each.speech_ms for each in sound) or 1
        ended = iter(
            outcome
            if isinstance(outcome, CallscribeError)
            else each.ended(outcome, asr_s * each.speech_ms / speech_ms)
            for each, outcome in zip(sound, decoded, strict=True)
        )
        return [each if isinstance(each, CallscribeError) else next(ended) for each in heard]

    def _hear(self, claim: Claim, carry_on: Callable[[], None], models: Models) -> _Heard:
        """Read a segment, and find where in it someone speaks."""
        times = [time.monotonic()]
        samples = self._read(claim)
        times.append(time.monotonic())
        speech = find_speech(models.detector, samples, claim.profile.scene.max_region_ms)
        times.append(time.monotonic())
        decode = claim.profile.decode
        request = Request(samples, speech, decode.language, decode.hotwords, carry_on)
        read_s, vad_s = (b - a for a, b in pairwise(times))
        return _Heard(request, speech, read_s, vad_s)

    def fitting(self, profile: Profile) -> Profile:
        """Return a profile as this host decodes it: itself, or where memory is short its fallback.

        Decided once for each in a process: a host does not go back and forth between models.

        Raises:
            Misconfigured: neither fits.
        """
        wanted = profile.models
        for known, stands_in in self._stands_in:
            if known == wanted:
                return profile.smaller or profile if stands_in else profile
        # Others' models are let go of before new ones are loaded, and a device is opened before it
        # is asked what it has free: one that does not work says so in words of its own.
        if self._loaded_for != wanted:
            self.unload()
        self._open_bank()
        chosen = fitting(profile, self._settings)
        if chosen is not profile:
            log.warning("smaller_model", wanted=profile.decode.model, model=chosen.decode.model)
        self._stands_in.append((wanted, chosen is not profile))
        return chosen

    def is_spoilt_by(self, error: Exception) -> bool:  # noqa: ARG002 - as far as anyone can tell
        """Tell whether this process can decode nothing more after an error that was not caught.

        After most errors of CUDA every later call fails as well, and fast.
        """
        return self._settings.device.startswith("cuda")

    def unload(self) -> None:
        """Let go of the models; the next segment loads them again."""
        self._loaded_for = None
        if self._models is not None:
            self._models = None
            settle()
            # What they held is asked for next: it must be free, and not in an allocator's cache.
            with working(self._settings.device):
                device_memory(self._settings.device).release()

    def _open_bank(self) -> FilterBank:
        if self._bank is None:
            with working(self._settings.device):
                self._bank = load_bank(self._settings)
        return self._bank

    def _load(self, profile: Profile) -> Models:
        wanted = profile.models
        if self._loaded_for == wanted and self._models is not None:
            return self._models
        self.unload()
        bank = self._open_bank()
        with working(self._settings.device):
            detector = load_detector(profile, self._settings, bank)
            recognizer = load_recognizer(profile, self._settings, bank)
            if is_gpu(self._settings.device):
                try_out(detector, recognizer)
                bank.forget()
        self._models = Models(bank, detector, recognizer)
        self._loaded_for = wanted
        settle()
        return self._models
