"""A call's transcript by the route of a worker and a reducer, and what of its speakers is wrong."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from uuid import UUID, uuid4

import numpy as np
import soundfile
import soxr

from ops.eval.corpus import Case, read_cases
from ops.eval.decode import Decodes, eval_settings
from ops.eval.speakers.calls import CALL_RATE_HZ, MonoCall, louder_track
from ops.eval.sweep import plan_settings
from producer.intake.plan import plan_spans
from schema.pcm import SAMPLE_RATE_HZ
from schema.profile import PlanSettings, Profile
from schema.span import Span, merge
from schema.states import SegmentKind
from schema.store.work.reduces import EndedSegment, ReduceClaim
from schema.transcript import Draft, Utterance
from schema.voices import Voices
from workers.engines.base import SpeechDetector, VoiceEmbedder
from workers.engines.features import FilterBank
from workers.engines.load import load_detector, load_embedder, load_filter_bank
from workers.segment.speech_regions import find_speech
from workers.segment.voices import embed_voices
from workers.transcript.reduce import draft_transcript

#: Whose a word is nobody knows where both sides are as loud.
_CLEAR_DB = 6.0
#: Words closer than this are one stretch of a speaker, as the reference's regions are.
_PAUSE_MS = 500
#: Around each change of the reference nothing is scored.
_COLLAR_S = 0.25

_NOBODY = UUID(int=0)


@dataclass(frozen=True, slots=True)
class SpeakerScore:
    """What of a call's speakers is wrong; counts are of words whose speaker is known.

    ``doubted_*`` are words of utterances that are marked as doubtful. ``error_rate`` is the
    diarization error rate, 0..1, with a collar of 0.25 s.
    """

    name: str
    expected: int
    speaker_count: int
    flags: tuple[str, ...]
    words: int
    wrong_words: int
    ambiguous_words: int
    doubted_words: int
    doubted_wrong_words: int
    error_rate: float | None
    #: Who said each word, in order, by its middle.
    speakers: tuple[tuple[int, str], ...]


class SpeakerBench:
    """What calls are measured with: models, and what was decoded before."""

    def __init__(self, decodes: Decodes, directory: Path) -> None:
        """Keep calls as files in ``directory``, for workers to read."""
        self._decodes = decodes
        self._directory = directory
        settings = eval_settings()
        self._bank: FilterBank = load_filter_bank(settings)
        self._detector: SpeechDetector = load_detector(decodes.profile, settings, self._bank)
        self._embedder: VoiceEmbedder = load_embedder(decodes.profile, settings, self._bank)

    @property
    def profile(self) -> Profile:
        """How calls are decoded and told."""
        return self._decodes.profile

    def score(self, call: MonoCall, segment_s: int) -> SpeakerScore:
        """Return what of a call is wrong, cut into segments of so many seconds."""
        draft = self.transcribe(call, segment_s)
        return _score(call, draft, self._reference(call))

    def transcribe(self, call: MonoCall, segment_s: int) -> Draft:
        """Return a call's transcript, as the fleet would make it but for repairs."""
        case = self._to_case(call)
        settings = plan_settings(segment_s, PlanSettings().overlap_s, fixed=False)
        spans = plan_spans(case.duration_ms, case.signal.envelope_db, settings)
        results = self._decodes.get([(case, span) for span in spans])
        segments = [
            EndedSegment(
                channel=case.channel,
                index=index,
                kind=SegmentKind.PLAN,
                span=span,
                result=results[case.name, span],
                error_code=None,
                error_message=None,
                id=uuid4(),
            )
            for index, span in enumerate(spans)
        ]
        claim = ReduceClaim(
            recording_id=_NOBODY,
            lease_token=_NOBODY,
            name=call.name,
            duration_ms=case.duration_ms,
            channels=1,
            flags=(),
            profile=self.profile,
        )
        return draft_transcript(claim, segments, None, dict(self._voices(call, segments)))

    def _to_case(self, call: MonoCall) -> Case:
        """Write a call as a recorder would, and read it as a producer does."""
        self._directory.mkdir(parents=True, exist_ok=True)
        name = "".join(char if char.isalnum() else "-" for char in call.name)
        path = self._directory / name / f"{name}.wav"
        path.parent.mkdir(exist_ok=True)
        narrow = soxr.resample(call.mix, SAMPLE_RATE_HZ, CALL_RATE_HZ)
        soundfile.write(path, np.clip(narrow, -1, 1), CALL_RATE_HZ, "PCM_16")
        [case] = read_cases(path.parent)
        return case

    def _voices(
        self, call: MonoCall, segments: Sequence[EndedSegment]
    ) -> Iterator[tuple[UUID, Voices]]:
        """Yield the voices of segments, as the ledger would return them."""
        path = self._to_case(call).path
        narrow, _ = soundfile.read(path, dtype="float32")
        samples = np.asarray(soxr.resample(narrow, CALL_RATE_HZ, SAMPLE_RATE_HZ), np.float32)
        for segment in segments:
            span, result = segment.span, segment.result
            if result is None or segment.id is None:
                continue
            part = samples[span.start_ms * 16 : span.end_ms * 16]
            voices = embed_voices(self._embedder, part, result.speech, span.start_ms)
            self._bank.clear()
            yield segment.id, Voices.from_bytes(voices.to_bytes())

    def _reference(self, call: MonoCall) -> list[list[Span]]:
        """Return when each speaker speaks, by the speech of their own track."""
        regions = []
        for track in call.tracks:
            region_ms = self.profile.scene.max_region_ms
            regions.append(list(merge(find_speech(self._detector, track, region_ms))))
            self._bank.clear()
        return regions


def _score(call: MonoCall, draft: Draft, reference: Sequence[Sequence[Span]]) -> SpeakerScore:
    utterances = draft.utterances
    names = list(dict.fromkeys(utterance.speaker for utterance in utterances))
    labels = [
        (word, names.index(utterance.speaker), utterance.is_speaker_doubtful)
        for utterance in utterances
        for word in utterance.words
    ]
    words = wrong = ambiguous = doubted = doubted_wrong = 0
    if call.tracks:
        tell = louder_track(call)
        truths = [tell(word.start_ms, word.end_ms) for word, _, _ in labels]
        clear = [abs(level_db) >= _CLEAR_DB for _, level_db in truths]
        order = _best_order(
            [
                (speaker, truth)
                for (_, speaker, _), (truth, _), ok in zip(labels, truths, clear, strict=True)
                if ok
            ],
            max(len(names), len(call.tracks)),
        )
        for (_, speaker, is_doubtful), (truth, _), is_clear in zip(
            labels, truths, clear, strict=True
        ):
            if not is_clear:
                ambiguous += 1
                continue
            is_wrong = order[speaker] != truth
            words += 1
            wrong += is_wrong
            doubted += is_doubtful
            doubted_wrong += is_doubtful and is_wrong
    return SpeakerScore(
        name=call.name,
        expected=call.speakers,
        speaker_count=len(names),
        flags=tuple(flag for flag in draft.flags if flag.startswith("speakers")),
        words=words,
        wrong_words=wrong,
        ambiguous_words=ambiguous,
        doubted_words=doubted,
        doubted_wrong_words=doubted_wrong,
        error_rate=_error_rate(utterances, reference) if call.tracks else None,
        speakers=tuple((word.middle_ms, names[speaker]) for word, speaker, _ in labels),
    )


def _best_order(pairs: Sequence[tuple[int, int]], count: int) -> tuple[int, ...]:
    """Return which true speaker each speaker of a transcript is, so that most words fit."""
    return max(
        permutations(range(count)),
        key=lambda order: sum(order[speaker] == truth for speaker, truth in pairs),
    )


def _error_rate(utterances: Sequence[Utterance], reference: Sequence[Sequence[Span]]) -> float:
    """Return the diarization error rate, as pyannote.metrics computes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pyannote.core import Annotation, Segment
        from pyannote.metrics.diarization import DiarizationErrorRate

        def annotate(spans_by_name: Mapping[str, Sequence[Span]]) -> Annotation:
            annotation = Annotation()
            for name, spans in spans_by_name.items():
                for track, span in enumerate(spans):
                    segment = Segment(span.start_ms / 1000, span.end_ms / 1000)
                    annotation[segment, f"{name}{track}"] = name
            return annotation

        spoken: dict[str, list[Span]] = {}
        for utterance in utterances:
            spoken.setdefault(utterance.speaker, []).extend(w.span for w in utterance.words)
        written = {name: list(merge(sorted(spans), _PAUSE_MS)) for name, spans in spoken.items()}
        true = {f"track {index}": spans for index, spans in enumerate(reference)}
        metric = DiarizationErrorRate(collar=2 * _COLLAR_S, skip_overlap=False)
        return float(metric(annotate(true), annotate(written)))


def same_speakers(one: SpeakerScore, other: SpeakerScore) -> float:
    """Return the share of one transcript's words that the other gives to the same speaker."""
    theirs = dict(other.speakers)
    shared = [(name, theirs[at]) for at, name in one.speakers if at in theirs]
    if not shared:
        return 1.0
    names = sorted({name for pair in shared for name in pair})
    return max(
        sum(order[names.index(ours)] == names.index(other_name) for ours, other_name in shared)
        for order in permutations(range(len(names)))
    ) / len(shared)
