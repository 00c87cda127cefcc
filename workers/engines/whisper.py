"""Whisper, run by faster-whisper on CTranslate2, on the speech alone.

    speech regions -> padded -> windows of at most 30 s -> minibatches -> tokens -> words with times

Greedy, at temperature 0, each window by itself: neither what was said before it nor what is
decoded beside it is told to the model. The same segment has the same words and times, always; the
same speech in another segment has the same words but where two are as likely as each other, since
sums over several windows differ in their last bits from those over one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from schema.errors import BadRequest, ErrorCode, Misconfigured
from schema.pcm import SAMPLES_PER_MS, Samples
from schema.profile import Profile
from schema.settings import Settings
from schema.span import Span
from schema.words import ResultTag, Word
from workers.engines import base
from workers.engines.base import (
    Cancellations,
    DecodedSpeech,
    DecodeOutcome,
    DecodeRequest,
    Recognizer,
)
from workers.engines.device import is_gpu, load_cublas
from workers.engines.minibatch import SpeechWindow, pack_cheapest, pack_windows
from workers.engines.subwords import merge_subwords
from workers.engines.weights import verify_weights
from workers.engines.word_times import extend_to_pause, measure_levels, trim_leading_pause

Features = npt.NDArray[np.float32]

#: What Whisper was trained to hear at once: audio, and the silence after it.
_WINDOW_MS = 30_000

#: Of that silence so much is left where windows are trimmed, so that lengths are multiples of some
#: seconds: windows of one length are decoded together. The encoder takes less than in proportion
#: for a shorter window, and the decoder reads less at each token.
_TRAILING_SILENCE_MS = 1_000
_LENGTH_STEP_MS = 5_000

#: A window with less audio than this is heard with all its silence, as in training: with less, four
#: words were written over a crying child and others who say none.
_MIN_TRIMMED_MS = 15_000

#: Audio kept on both sides of a region. FSMN-VAD leaves margins of its own: 0 to 400 ms made no
#: difference to word errors, and each added millisecond is one less of speech in a window.
_PAD_MS = 100

#: The fixed cost of a window, in ms of its length: the decoder writes its text.
_WINDOW_COST_MS = 2_000

#: A pause at which a window may restart, as it appears between padded regions: a second.
_RESTART_PAUSE_MS = 1_000 - 2 * _PAD_MS

#: Whisper's own, too: a text that zlib shortens by more than this ratio repeats itself.
_REPETITIVE_RATIO = 2.4

#: A word's end is at most this far beyond the start of the region after its own: the padding, and
#: what VAD leaves before speech.
_WORD_END_MS = 180

#: Whisper attends to a word this long before it is said: the median error of starts and ends
#: against a forced alignment of one chapter of LibriSpeech (4088-158079: 55 and 65 ms). On two
#: others both are within 20 ms of the truth with it (ops/eval/RESULTS.md).
_ATTENTION_AHEAD_MS = 60

#: A frame of the log-mel spectrogram.
_FRAME_MS = 10

#: Windows that are reported as doubtful: half as likely no speech as what is dropped, or unlikely.
_DOUBTFUL_NO_SPEECH = 0.3

#: Windows that are reported as perhaps in another language: their own is less likely than this.
_SURE_LANGUAGE = 0.9

#: Only windows that look odd are asked what language they are in, which takes as long as writing a
#: dozen tokens. Of windows in another language, or half in one, no speech was at least as likely as
#: 0.11; of a third of those in their own it is likelier than this (ops/eval/RESULTS.md).
_ODD_NO_SPEECH = 0.05
_ODD_LOG_PROBABILITY = -0.5

#: A second attempt at a window may not write the same run of so many tokens twice.
_RETRY_NGRAM_SIZE = 3


@dataclass(frozen=True, slots=True)
class _PreparedRequest:
    """A request's index and audio, its regions, padded, in windows, and the language to write."""

    index: int
    samples: Samples
    regions: Sequence[Span]
    windows: Sequence[SpeechWindow]
    language: str


@dataclass(frozen=True, slots=True)
class _Prompt:
    """The tokenizer, set to a language, and the tokens that a text begins with or may not have."""

    tokenizer: Any
    tokens: list[int]
    suppress_tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Hypothesis:
    """The tokens of one window, with the figures that Whisper judges them by.

    ``log_probability`` is the mean natural logarithm per token, the closing one included.
    """

    tokens: list[int]
    no_speech: float
    log_probability: float
    compression_ratio: float

    @property
    def is_repetitive(self) -> bool:
        return self.compression_ratio > _REPETITIVE_RATIO

    @property
    def is_unlikely(self) -> bool:
        return self.log_probability < base.LOW_LOG_PROBABILITY

    def is_silence(self, *, is_retry: bool) -> bool:
        """Tell whether nobody spoke; a loop that was left for something unlikely is noise, too."""
        return self.is_unlikely and (is_retry or self.no_speech > base.NO_SPEECH_PROBABILITY)

    @property
    def is_odd(self) -> bool:
        """Whether the window may be in another language."""
        return self.no_speech > _ODD_NO_SPEECH or self.log_probability < _ODD_LOG_PROBABILITY

    @property
    def is_doubtful(self) -> bool:
        return self.is_unlikely or self.no_speech > _DOUBTFUL_NO_SPEECH


#: The probability of each language that a window may be in, the likeliest first, by ISO 639-1 code.
_LanguageRanking = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _DecodedWindow:
    """A window's subwords, with times in its own audio, and the hypothesis that they are from.

    ``languages`` is empty of a model that knows one, and of a window that does not look odd.
    """

    window: SpeechWindow
    subwords: list[Word]
    hypothesis: _Hypothesis
    languages: _LanguageRanking


class WhisperRecognizer(Recognizer):
    """A loaded Whisper; for one thread at a time. See :class:`workers.engines.base.Recognizer`."""

    def __init__(
        self,
        model: Any,
        name: str,
        minibatch_size: int,
        *,
        batch_encoder: bool,
        trims_windows: bool,
    ) -> None:
        self._model = model
        self._name = name
        self._minibatch_size = minibatch_size
        self._batch_encoder = batch_encoder
        self._trims_windows = trims_windows

    def decode_all(self, requests: Sequence[DecodeRequest]) -> list[DecodeOutcome]:
        """Decode: see :meth:`workers.engines.base.Recognizer.decode_all`."""
        outcomes: list[DecodeOutcome] = [DecodedSpeech((), None) for _ in requests]
        cancellations = Cancellations(requests)
        groups: dict[tuple[str, tuple[str, ...]], list[_PreparedRequest]] = {}
        for index, request in enumerate(requests):
            if not request.regions or cancellations.is_cancelled(index):
                continue
            try:
                prepared_request = self._prepare(index, request)
            except BadRequest as error:
                outcomes[index] = error
                continue
            key = prepared_request.language, tuple(request.hotwords)
            groups.setdefault(key, []).append(prepared_request)
        for (language, hotwords), group in groups.items():
            prompt = self._make_prompt(language, hotwords)
            for prepared_request, decoded_windows in self._decode(group, prompt, cancellations):
                outcomes[prepared_request.index] = _make_decoding(prepared_request, decoded_windows)
        for index, cancellation in cancellations.by_request.items():
            outcomes[index] = cancellation
        return outcomes

    def _prepare(self, index: int, request: DecodeRequest) -> _PreparedRequest:
        """Pack a request's regions into windows, and decide its language."""
        regions = pad_regions(request.regions, len(request.samples) // SAMPLES_PER_MS)
        if self._trims_windows:
            windows = pack_cheapest(regions, max_window_ms=_WINDOW_MS, cost_ms=_cost_ms)
        else:
            windows = pack_windows(
                regions, max_window_ms=_WINDOW_MS, restart_pause_ms=_RESTART_PAUSE_MS
            )
        language = request.language
        if language == "auto":
            fullest = max(windows, key=lambda window: window.duration_ms)
            language = self._detect_language(request.samples, fullest)
        if not self._supports_language(language):
            raise BadRequest(
                ErrorCode.OPTION_INVALID,
                f"language {language}",
                f"{self._name} does not know it",
                "Choose another model, or auto.",
            )
        return _PreparedRequest(index, request.samples, regions, windows, language)

    def _detect_language(self, samples: Samples, window: SpeechWindow) -> str:
        if not self._model.model.is_multilingual:
            return "en"
        encoding = self._model.encode(self._compute_features([(samples, window)]))
        [ranking] = self._rank_languages(encoding, 1)
        return next(iter(ranking))

    def _rank_languages(self, encoding: Any, windows: int) -> list[_LanguageRanking]:
        """Return the languages of each window: one step of the decoder."""
        if not self._model.model.is_multilingual:
            return [{}] * windows
        rankings = self._model.model.detect_language(encoding)
        return [
            {str(token).strip("<|>"): float(probability) for token, probability in ranking}
            for ranking in rankings
        ]

    def _rank_odd_languages(
        self, parts: Sequence[tuple[slice, Any]], hypotheses: Sequence[_Hypothesis]
    ) -> Iterator[_LanguageRanking]:
        """Yield the languages of each window that is encoded beside an odd one, none of others."""
        for part, encoding in parts:
            members = hypotheses[part]
            if any(hypothesis.is_odd for hypothesis in members):
                yield from self._rank_languages(encoding, len(members))
            else:
                yield from ({} for _ in members)

    def _supports_language(self, language: str) -> bool:
        if not self._model.model.is_multilingual:
            return language == "en"
        # The library lists languages of newer models, which this one's vocabulary may lack.
        return (
            language in self._model.supported_languages
            and self._model.hf_tokenizer.token_to_id(f"<|{language}|>") is not None
        )

    def _make_prompt(self, language: str, hotwords: Sequence[str]) -> _Prompt:
        from faster_whisper.tokenizer import Tokenizer
        from faster_whisper.transcribe import get_suppressed_tokens

        model = self._model
        tokenizer = Tokenizer(
            model.hf_tokenizer, model.model.is_multilingual, task="transcribe", language=language
        )
        tokens = model.get_prompt(
            tokenizer, [], without_timestamps=True, hotwords=", ".join(hotwords) or None
        )
        return _Prompt(tokenizer, tokens, get_suppressed_tokens(tokenizer, [-1]))

    def _decode(
        self, group: Sequence[_PreparedRequest], prompt: _Prompt, cancellations: Cancellations
    ) -> Iterator[tuple[_PreparedRequest, list[_DecodedWindow]]]:
        """Yield each request that was not cancelled, with its windows in order."""
        inputs = [(request.samples, window) for request in group for window in request.windows]
        requests = [request.index for request in group for _ in request.windows]
        decoded_windows: dict[int, _DecodedWindow] = {}
        for batch in self._pack_minibatches([window for _, window in inputs]):
            members = cancellations.drop_cancelled(batch, requests)
            if members:
                features = self._compute_features([inputs[member] for member in members])
                windows = [inputs[member][1] for member in members]
                results = self._decode_windows(features, windows, prompt)
                decoded_windows.update(zip(members, results, strict=True))
        for request in group:
            if request.index not in cancellations.by_request:
                members = [i for i, index in enumerate(requests) if index == request.index]
                yield request, [decoded_windows[member] for member in members]

    def _pack_minibatches(self, windows: Sequence[SpeechWindow]) -> Iterator[list[int]]:
        fullest_first = sorted(range(len(windows)), key=lambda i: (-windows[i].duration_ms, i))
        by_length: dict[int, list[int]] = {}
        for index in fullest_first:
            by_length.setdefault(self._input_ms(windows[index]), []).append(index)
        for _, indices in sorted(by_length.items(), reverse=True):
            for first in range(0, len(indices), self._minibatch_size):
                yield indices[first : first + self._minibatch_size]

    def _input_ms(self, window: SpeechWindow) -> int:
        return trimmed_input_ms(window) if self._trims_windows else _WINDOW_MS

    def _compute_features(self, inputs: Sequence[tuple[Samples, SpeechWindow]]) -> Features:
        """Return log-mel spectrograms, float32 ``(windows, mels, frames)``, silence at their ends.

        The longest window says how many frames.
        """
        frames = max(self._input_ms(window) for _, window in inputs) // _FRAME_MS
        features = np.zeros((len(inputs), self._model.model.n_mels, frames), np.float32)
        for spectrogram, (samples, window) in zip(features, inputs, strict=True):
            mels = self._model.feature_extractor(_join_regions(samples, window))[:, :frames]
            spectrogram[:, : mels.shape[1]] = mels
        return features

    def _decode_windows(
        self,
        features: Features,
        windows: Sequence[SpeechWindow],
        prompt: _Prompt,
        no_repeat_ngram_size: int = 0,
    ) -> list[_DecodedWindow]:
        """Return each window with its text.

        A window whose text repeats itself is decoded once more, by itself, and so that no run of
        ``no_repeat_ngram_size`` tokens can come again: the loop ends, and what follows it is heard.
        """
        encoding, alignment_parts = self._encode(features)
        hypotheses = self._generate(encoding, len(windows), prompt, no_repeat_ngram_size)
        subwords = self._align(alignment_parts, hypotheses, windows, prompt)
        languages = self._rank_odd_languages(alignment_parts, hypotheses)
        parts = zip(windows, subwords, hypotheses, languages, strict=True)
        decoded_windows = [_DecodedWindow(*part) for part in parts]
        for index, hypothesis in enumerate(hypotheses):
            if hypothesis.tokens and hypothesis.is_repetitive and not no_repeat_ngram_size:
                one = slice(index, index + 1)
                decoded_windows[one] = self._decode_windows(
                    features[one], windows[one], prompt, _RETRY_NGRAM_SIZE
                )
        return decoded_windows

    def _encode(self, features: Features) -> tuple[Any, list[tuple[slice, Any]]]:
        """Return the encoder's output for windows, and its parts that are aligned by themselves.

        A CPU's cache holds one window's: eight of them take it a third longer together than one
        after the other, and aligning twice as long. Writing is the other way round: it reads all
        the decoder's weights for each token, and takes half of the time for eight together.
        """
        if self._batch_encoder:
            encoding = self._model.encode(features)
            return encoding, [(slice(None), encoding)]
        from ctranslate2 import StorageView

        encodings = [np.asarray(self._model.encode(window[np.newaxis])) for window in features]
        array = np.concatenate(encodings)
        windows = [slice(index, index + 1) for index in range(len(array))]
        parts = [(window, StorageView.from_array(array[window])) for window in windows]
        return StorageView.from_array(array), parts

    def _generate(
        self, encoding: Any, windows: int, prompt: _Prompt, no_repeat_ngram_size: int
    ) -> list[_Hypothesis]:
        """Return each window's hypothesis, without tokens where it is silence."""
        results = self._model.model.generate(
            encoding,
            [prompt.tokens] * windows,
            beam_size=1,
            max_length=self._model.max_length,
            no_repeat_ngram_size=no_repeat_ngram_size,
            suppress_tokens=prompt.suppress_tokens,
            return_scores=True,
            return_no_speech_prob=True,
        )
        hypotheses = [_make_hypothesis(result, prompt.tokenizer) for result in results]
        is_retry = no_repeat_ngram_size > 0
        return [
            replace(hypothesis, tokens=[])
            if hypothesis.is_silence(is_retry=is_retry)
            else hypothesis
            for hypothesis in hypotheses
        ]

    def _align(
        self,
        parts: Sequence[tuple[slice, Any]],
        hypotheses: Sequence[_Hypothesis],
        windows: Sequence[SpeechWindow],
        prompt: _Prompt,
    ) -> Iterator[list[Word]]:
        """Yield each hypothesis' subwords with times, from where the decoder paid attention."""
        frames = [-(-window.duration_ms // _FRAME_MS) for window in windows]
        tokens = [hypothesis.tokens for hypothesis in hypotheses]
        for part, encoding in parts:
            alignments = self._model.find_alignment(
                prompt.tokenizer, tokens[part], encoding, frames[part]
            )
            yield from ([_make_subword(entry) for entry in alignment] for alignment in alignments)


def pad_regions(regions: Sequence[Span], duration_ms: int) -> list[Span]:
    """Return ``regions`` with audio around them.

    Up to ``_PAD_MS`` on each side, but no more than half of a pause, nor than a window holds.
    """
    pauses = [2 * _PAD_MS, *(b.start_ms - a.end_ms for a, b in pairwise(regions)), 2 * _PAD_MS]
    pads = [min(_PAD_MS, pause_ms // 2) for pause_ms in pauses]
    padded_regions = []
    for region, (before_ms, after_ms) in zip(regions, pairwise(pads), strict=True):
        spare_ms = max(0, _WINDOW_MS - region.duration_ms) // 2
        start_ms = region.start_ms - min(before_ms, spare_ms)
        end_ms = region.end_ms + min(after_ms, spare_ms)
        padded_regions.append(Span(max(0, start_ms), min(duration_ms, end_ms)))
    return padded_regions


def trimmed_input_ms(window: SpeechWindow) -> int:
    """Return how much Whisper hears of a trimmed window, in ms: its audio and a little silence."""
    if window.duration_ms < _MIN_TRIMMED_MS:
        return _WINDOW_MS
    steps = -(-(window.duration_ms + _TRAILING_SILENCE_MS) // _LENGTH_STEP_MS)
    return min(_WINDOW_MS, steps * _LENGTH_STEP_MS)


def _cost_ms(window: SpeechWindow) -> int:
    return trimmed_input_ms(window) + _WINDOW_COST_MS


def _join_regions(samples: Samples, window: SpeechWindow) -> Samples:
    bounds = [(region.start_ms, region.end_ms) for region in window.regions]
    return np.concatenate(
        [samples[start * SAMPLES_PER_MS : end * SAMPLES_PER_MS] for start, end in bounds]
    )


def _make_hypothesis(result: Any, tokenizer: Any) -> _Hypothesis:
    from faster_whisper.transcribe import get_compression_ratio

    tokens = [token for token in result.sequences_ids[0] if token < tokenizer.eot]
    # The score is the mean over the tokens; Whisper's threshold counts the closing one as well.
    log_probability = result.scores[0] * len(tokens) / (len(tokens) + 1)
    ratio = get_compression_ratio(tokenizer.decode(tokens)) if tokens else 0.0
    return _Hypothesis(tokens, result.no_speech_prob, log_probability, ratio)


def _make_subword(entry: dict[str, Any]) -> Word:
    return Word(
        entry["word"],
        round(entry["start"] * 1000),
        round(entry["end"] * 1000),
        round(float(entry["probability"]), 3),
    )


def _make_decoding(
    request: _PreparedRequest, decoded_windows: Sequence[_DecodedWindow]
) -> DecodedSpeech:
    """Return the words of a request, on its segment's clock."""
    levels = measure_levels(request.samples)
    words: list[Word] = []
    for decoded_window in decoded_windows:
        subwords = move_to_segment(decoded_window.subwords, decoded_window.window)
        words += merge_subwords(trim_leading_pause(subwords, levels))
    words = list(extend_to_pause(words, request.regions, levels))
    doubts = [
        _make_doubt(decoded_window.window, decoded_window.hypothesis)
        for decoded_window in decoded_windows
        if decoded_window.hypothesis.is_doubtful
    ]
    language_doubts = [
        [*_window_ends(decoded_window.window), *doubt]
        for decoded_window in decoded_windows
        if (doubt := language_doubt(decoded_window.languages, request.language)) is not None
    ]
    tags = {ResultTag.DOUBTS: doubts, ResultTag.LANGUAGE_DOUBTS: language_doubts}
    # The language of music is a guess that nobody should act on.
    language = request.language if words else None
    return DecodedSpeech(tuple(words), language, {name: tag for name, tag in tags.items() if tag})


def move_to_segment(subwords: Iterable[Word], window: SpeechWindow) -> Iterator[Word]:
    """Move subwords from the clock of a window's audio to that of the segment.

    A subword belongs to one region and does not leave it: what it seems to last beyond is a pause
    that was left out. It is the region that its middle lies in, or its end, if that is later: a
    word is stretched backwards, over an unwritten "mm" before it. Subwords stay in order. How far
    the model's attention is ahead is taken off, but for where that would leave the region.
    """
    regions = iter(window.regions)
    region, region_at_ms = next(regions), 0
    for subword in subwords:
        moment_ms = max(subword.middle_ms, subword.end_ms - _WORD_END_MS)
        while moment_ms >= region_at_ms + region.duration_ms:
            next_region = next(regions, None)
            if next_region is None:
                break
            region_at_ms += region.duration_ms
            region = next_region
        shift_ms = region.start_ms - region_at_ms + _ATTENTION_AHEAD_MS
        start_ms = min(max(subword.start_ms + shift_ms, region.start_ms), region.end_ms)
        end_ms = min(max(subword.end_ms + shift_ms, start_ms), region.end_ms)
        yield replace(subword, start_ms=start_ms, end_ms=end_ms)


def _make_doubt(window: SpeechWindow, hypothesis: _Hypothesis) -> list[float]:
    """Return a doubtful window as a result's tags have it: for the reducer (``hallucinations``)."""
    figures = hypothesis.no_speech, hypothesis.log_probability
    return [*_window_ends(window), *(round(figure, 3) for figure in figures)]


def language_doubt(
    languages: Mapping[str, float], language: str
) -> tuple[str, float, float] | None:
    """Return the other language that a window may be in, its probability, and that of its own.

    None where it sounds like its own. ``languages`` are probabilities by ISO 639-1 code.
    """
    others = {code: p for code, p in languages.items() if code != language}
    probability = languages.get(language, 0.0)
    if not others or probability >= _SURE_LANGUAGE:
        return None
    other = max(others, key=lambda code: others[code])
    return other, round(others[other], 3), round(probability, 3)


def _window_ends(window: SpeechWindow) -> tuple[int, int]:
    return window.regions[0].start_ms, window.regions[-1].end_ms


def load_whisper(profile: Profile, settings: Settings) -> WhisperRecognizer:
    """Verify and load the profile's Whisper.

    Raises:
        Misconfigured: the weights are missing or changed, or the device cannot decode them.
    """
    directory = verify_weights(profile.model_files, settings.models)
    from faster_whisper import WhisperModel

    device, _, index = settings.device.partition(":")
    if is_gpu(device):
        load_cublas()
    try:
        model = WhisperModel(
            str(directory),
            device=device,
            device_index=int(index or 0),
            compute_type=profile.decode.precision,
            # One process per core: two single threads did 41x real time, two threads in one 28x.
            cpu_threads=1,
            local_files_only=True,
        )
    except (ValueError, RuntimeError) as error:
        raise Misconfigured(
            ErrorCode.ENGINE_FAILED, f"{profile.decode.model} on {settings.device}", str(error)
        ) from error
    return WhisperRecognizer(
        model,
        profile.decode.model,
        settings.minibatch,
        batch_encoder=device != "cpu",
        trims_windows=profile.decode.windows == "trimmed",
    )
