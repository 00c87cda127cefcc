"""The route of a segment: from a claim to its words.

    read_segment -> find_speech -> recognizer.decode, measure_loudness -> SegmentResult
                                -> embed_voices, where speakers share a channel -> Voices

Each step is a function of its inputs; the models are found by what a profile asks for, and stay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import structlog
from celery.exceptions import SoftTimeLimitExceeded

from schema.errors import CallscribeError
from schema.pcm import Samples
from schema.profile import DecodeSettings, Profile
from schema.settings import Settings
from schema.span import Span
from schema.store.work.segments import Claim
from schema.voices import Voices
from schema.words import ResultTag, SegmentResult
from workers.engines.base import (
    DecodedSpeech,
    DecodeRequest,
    Recognizer,
    SpeechDetector,
    VoiceEmbedder,
)
from workers.engines.device import is_gpu, report_device_errors, run_trial
from workers.engines.load import (
    load_detector,
    load_embedder,
    load_filter_bank,
    load_recognizer,
)
from workers.engines.model_memory import choose_profile
from workers.process.lease import LeasedClaim
from workers.process.memory import device_memory, freeze_gc
from workers.process.metrics import StageSeconds
from workers.segment.audio import read_segment
from workers.segment.loudness import measure_loudness
from workers.segment.speech_regions import find_speech
from workers.segment.voices import embed_voices

if TYPE_CHECKING:
    from workers.engines.features import FilterBank

log = structlog.get_logger(__name__)


class DecodeOutput(NamedTuple):
    """A segment's words, where its time went, and its voices, where they are wanted."""

    result: SegmentResult
    seconds: StageSeconds
    voices: Voices | None = None


#: What became of a segment, or what was raised of it alone.
DecodedOrError = DecodeOutput | CallscribeError


class LoadedModels(NamedTuple):
    """What is loaded: the settings asked for, features for both networks, and the networks."""

    settings: DecodeSettings
    bank: FilterBank
    detector: SpeechDetector
    recognizer: Recognizer


class _ReadSegment(NamedTuple):
    request: DecodeRequest
    speech: tuple[Span, ...]
    read_s: float
    vad_s: float

    @property
    def speech_ms(self) -> int:
        return sum(region.duration_ms for region in self.speech)

    def to_result(self, decoding: DecodedSpeech, asr_s: float) -> DecodeOutput:
        loudness = measure_loudness(self.request.samples, self.speech)
        tags = {**decoding.tags, ResultTag.LOUDNESS_DB: loudness}
        result = SegmentResult(decoding.words, self.speech, decoding.language, tags)
        seconds = StageSeconds(*(round(s, 3) for s in (self.read_s, self.vad_s, asr_s)))
        return DecodeOutput(result, seconds)


class SegmentDecoder:
    """Decodes segments on one host, with one set of models at a time.

    A fleet runs one profile for hours; when its models change, the old models are unloaded first,
    since two of them may not fit a GPU.
    """

    def __init__(self, settings: Settings, read: Callable[[Claim], Samples] | None = None) -> None:
        """Decode as the settings say; ``read`` yields a claim's samples, by default from its file.

        ``read`` raises what :func:`workers.segment.audio.read_segment` does.
        """
        self._settings = settings
        self._read = read or (lambda claim: read_segment(claim.source, settings))
        #: The settings of the models that were asked for: whether a smaller one stands in.
        self._uses_fallback: list[tuple[DecodeSettings, bool]] = []
        self._filter_bank: FilterBank | None = None
        self._models: LoadedModels | None = None
        #: Its weights' digest, and the embedder.
        self._embedder: tuple[str, VoiceEmbedder] | None = None

    def decode(self, claim: Claim, check_cancelled: Callable[[], None]) -> DecodeOutput:
        """Return the words of a claimed segment.

        ``check_cancelled`` is called between the steps, and raises once the work was cancelled.

        Raises:
            CallscribeError: by its fate: the recording, this host or the moment is at fault.
        """
        [outcome] = self.decode_all([LeasedClaim(claim, check_cancelled)])
        if isinstance(outcome, CallscribeError):
            raise outcome
        return outcome

    def decode_all(self, claims: Sequence[LeasedClaim]) -> list[DecodedOrError]:
        """Return the words of claimed segments of one profile's models, decoded together.

        What is raised of one of them, by its fate, stands in its place.

        Raises:
            Misconfigured: the models cannot be loaded here.
            Exception: what fails for all of them, or cannot be laid at one's door.
        """
        models = self._load(claims[0].claim.profile)
        for claim, _ in claims:
            if claim.wants_voices:
                self._load_embedder(claim.profile)
        try:
            return self._decode_with(models, claims)
        finally:
            models.bank.clear()

    def find_voices(self, claim: Claim) -> Voices:
        """Return the voices of a claimed segment whose words are known.

        Raises:
            CallscribeError: by its fate, as :meth:`decode` does.
        """
        # As it would decode: where memory is short the profile's own model does not fit.
        models = self._load(self.profile_for_host(claim.profile))
        self._load_embedder(claim.profile)
        try:
            segment = self._read_speech(claim, lambda: None, models)
            return self._embed(claim, segment)
        finally:
            models.bank.clear()

    def _decode_with(
        self, models: LoadedModels, claims: Sequence[LeasedClaim]
    ) -> list[DecodedOrError]:
        segments_or_errors: list[_ReadSegment | CallscribeError] = []
        for claim, check_cancelled in claims:
            try:
                check_cancelled()
                segments_or_errors.append(self._read_speech(claim, check_cancelled, models))
            except CallscribeError as error:
                segments_or_errors.append(error)
        decodable = [s for s in segments_or_errors if isinstance(s, _ReadSegment)]
        requests = [segment.request for segment in decodable]
        start_s = time.monotonic()
        decodings = models.recognizer.decode_all(requests) if requests else []
        asr_s = time.monotonic() - start_s
        speech_ms = sum(segment.speech_ms for segment in decodable) or 1
        outcomes = iter(
            decoding
            if isinstance(decoding, CallscribeError)
            else segment.to_result(decoding, asr_s * segment.speech_ms / speech_ms)
            for segment, decoding in zip(decodable, decodings, strict=True)
        )
        results: list[DecodedOrError] = []
        for (claim, _), segment in zip(claims, segments_or_errors, strict=True):
            outcome = segment if isinstance(segment, CallscribeError) else next(outcomes)
            if isinstance(segment, _ReadSegment) and isinstance(outcome, DecodeOutput):
                outcome = self._with_voices(claim, segment, outcome)
            results.append(outcome)
        return results

    def _with_voices(
        self, claim: Claim, segment: _ReadSegment, outcome: DecodeOutput
    ) -> DecodeOutput:
        """Add a segment's voices, where they are wanted; what fails there costs no word."""
        if not claim.wants_voices:
            return outcome
        start_s = time.monotonic()
        try:
            voices = self._embed(claim, segment)
        except SoftTimeLimitExceeded:
            raise
        except Exception as error:
            if self.is_spoilt_by(error):
                raise
            log.exception("voices_failed")
            return outcome
        seconds = outcome.seconds._replace(voices=round(time.monotonic() - start_s, 3))
        return outcome._replace(seconds=seconds, voices=voices)

    def _embed(self, claim: Claim, segment: _ReadSegment) -> Voices:
        embedder = self._load_embedder(claim.profile)
        samples, speech = segment.request.samples, segment.speech
        return embed_voices(embedder, samples, speech, claim.span.start_ms)

    def _read_speech(
        self, claim: Claim, check_cancelled: Callable[[], None], models: LoadedModels
    ) -> _ReadSegment:
        step_times_s = [time.monotonic()]
        samples = self._read(claim)
        step_times_s.append(time.monotonic())
        speech = find_speech(models.detector, samples, claim.profile.scene.max_region_ms)
        step_times_s.append(time.monotonic())
        decode = claim.profile.decode
        request = DecodeRequest(samples, speech, decode.language, decode.hotwords, check_cancelled)
        read_s, vad_s = (b - a for a, b in pairwise(step_times_s))
        return _ReadSegment(request, speech, read_s, vad_s)

    def profile_for_host(self, profile: Profile) -> Profile:
        """Return a profile as this host decodes it: itself, or where memory is short its fallback.

        Decided once for each in a process: a host does not go back and forth between models.

        Raises:
            Misconfigured: neither fits.
        """
        model_settings = profile.model_settings
        for known_settings, uses_fallback in self._uses_fallback:
            if known_settings == model_settings:
                return profile.fallback_profile or profile if uses_fallback else profile
        # Other models are unloaded before new ones are loaded, and a device is opened before it
        # is asked what it has free: one that does not work says so in words of its own.
        if self._models is not None and self._models.settings != model_settings:
            self.unload()
        self._open_filter_bank()
        host_profile = choose_profile(profile, self._settings)
        if host_profile is not profile:
            log.warning(
                "smaller_model", wanted=profile.decode.model, model=host_profile.decode.model
            )
        self._uses_fallback.append((model_settings, host_profile is not profile))
        return host_profile

    def is_spoilt_by(self, error: Exception) -> bool:  # noqa: ARG002 - as far as anyone can tell
        """Tell whether this process can decode nothing more after an error that was not caught.

        After most errors of CUDA every later call fails as well, and fast.
        """
        return is_gpu(self._settings.device)

    def unload(self) -> None:
        """Let go of the models; the next segment loads them again."""
        if self._models is not None:
            self._models = self._embedder = None
            freeze_gc()
            # What they held is asked for next: it must be free, and not in an allocator's cache.
            with report_device_errors(self._settings.device):
                device_memory(self._settings.device).release()

    def _open_filter_bank(self) -> FilterBank:
        if self._filter_bank is None:
            with report_device_errors(self._settings.device):
                self._filter_bank = load_filter_bank(self._settings)
        return self._filter_bank

    def _load(self, profile: Profile) -> LoadedModels:
        model_settings = profile.model_settings
        if self._models is not None and self._models.settings == model_settings:
            return self._models
        self.unload()
        bank = self._open_filter_bank()
        with report_device_errors(self._settings.device):
            detector = load_detector(profile, self._settings, bank)
            recognizer = load_recognizer(profile, self._settings, bank)
            if is_gpu(self._settings.device):
                run_trial(detector, recognizer)
                bank.clear()
        self._models = LoadedModels(model_settings, bank, detector, recognizer)
        freeze_gc()
        return self._models

    def _load_embedder(self, profile: Profile) -> VoiceEmbedder:
        digest = profile.render.voice_model.model_files.digest
        if self._embedder is None or self._embedder[0] != digest:
            with report_device_errors(self._settings.device):
                embedder = load_embedder(profile, self._settings, self._open_filter_bank())
            self._embedder = digest, embedder
            freeze_gc()
        return self._embedder[1]
