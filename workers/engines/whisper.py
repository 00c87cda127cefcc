"""Whisper, run by faster-whisper on CTranslate2, on the speech alone.

    speech regions -> padded -> windows of at most 30 s -> minibatches -> tokens -> words with times

Greedy, at temperature 0, each window by itself: neither what was said before it nor what is
decoded beside it is told to the model. The same segment has the same words and times, always; the
same speech in another segment has the same words but where two are as likely as each other, since
sums over several windows differ in their last bits from those over one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
from workers.engines.base import Decoding, Outcome, Recognizer, Refusals, Request
from workers.engines.device import is_gpu, load_cublas
from workers.engines.minibatch import Window, pack_cheapest, pack_windows
from workers.engines.subwords import joined
from workers.engines.weights import verify
from workers.engines.word_times import after_pauses, levels_of, until_pauses

Features = npt.NDArray[np.float32]

#: What Whisper was trained to hear at once: audio, and the silence after it.
_WINDOW_MS = 30_000

#: Of that silence so much is left where windows are trimmed, so that lengths are multiples of some
#: seconds: windows of one length are written together. The encoder takes less than in proportion
#: for a shorter window, and the decoder reads less at each token.
_SILENCE_MS = 1_000
_LENGTH_STEP_MS = 5_000

#: A window with less audio than this is heard with all its silence, as in training: with less, four
#: words were written over a crying child and others who say none.
_LITTLE_MS = 15_000

#: Audio kept on both sides of a region. FSMN-VAD leaves margins of its own: 0 to 400 ms made no
#: difference to word errors, and each added millisecond is one less of speech in a window.
_PAD_MS = 100

#: What a window costs beside its length, in ms of it: writing what it says.
_WINDOW_COST_MS = 2_000

#: A pause at which a window may restart, as it appears between padded regions: a second.
_RESTART_PAUSE_MS = 1_000 - 2 * _PAD_MS

#: Whisper's own thresholds. A window that is likelier no speech than this, and whose text is less
#: likely than that (mean natural logarithm per token), is silence; a text that zlib shortens by
#: more than the ratio repeats itself.
_NO_SPEECH_PROBABILITY = 0.6
_LOW_LOG_PROBABILITY = -1.0
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

#: Tokens that a second attempt at a window may not write twice in this order.
_NEVER_TWICE = 3


@dataclass(frozen=True, slots=True)
class _Asking:
    """How windows are to be decoded: the tokenizer set to a language, the prompt."""

    tokenizer: Any
    prompt: list[int]
    suppressed: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Hypothesis:
    """What the model wrote for one window, and what it makes of it.

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
        return self.log_probability < _LOW_LOG_PROBABILITY

    def is_silence(self, *, is_retry: bool) -> bool:
        """Tell whether nobody spoke; a loop that was left for something unlikely is noise, too."""
        return self.is_unlikely and (is_retry or self.no_speech > _NO_SPEECH_PROBABILITY)

    @property
    def is_doubtful(self) -> bool:
        return self.is_unlikely or self.no_speech > _DOUBTFUL_NO_SPEECH


@dataclass(frozen=True, slots=True)
class _Writing:
    """One window's tokens with their times in its audio, untrimmed, and where they come from."""

    pieces: list[Word]
    hypothesis: _Hypothesis


@dataclass(frozen=True, slots=True)
class _Hearing:
    """What is heard of a request: its number, its audio, and its regions, padded, in windows."""

    number: int
    samples: Samples
    regions: Sequence[Span]
    windows: Sequence[Window]
    language: str


@dataclass(frozen=True, slots=True)
class _Excerpt:
    """A window, and of whose speech it is."""

    hearing: _Hearing
    window: Window


class WhisperRecognizer(Recognizer):
    """A loaded Whisper; for one thread at a time. See :class:`workers.engines.base.Recognizer`."""

    def __init__(
        self,
        model: Any,
        name: str,
        minibatch: int,
        *,
        together: bool,
        trims: bool = False,
        drops_silence: bool = True,
    ) -> None:
        self._model = model
        self._name = name
        self._minibatch = minibatch
        self._together = together
        self._trims = trims
        self._drops_silence = drops_silence

    def unguarded(self) -> WhisperRecognizer:
        """Return the same model without its threshold of silence, to measure what that earns."""
        return WhisperRecognizer(
            self._model,
            self._name,
            self._minibatch,
            together=self._together,
            trims=self._trims,
            drops_silence=False,
        )

    def decode_all(self, requests: Sequence[Request]) -> list[Outcome]:
        """Decode: see :meth:`workers.engines.base.Recognizer.decode_all`."""
        outcomes: list[Outcome] = [Decoding((), None) for _ in requests]
        refusals = Refusals(requests)
        alike: dict[tuple[str, tuple[str, ...]], list[_Hearing]] = {}
        for number, request in enumerate(requests):
            if not request.regions:
                continue
            refusals.ask([number])
            if number in refusals.by_number:
                continue
            try:
                hearing = self._hearing(number, request)
            except BadRequest as error:
                outcomes[number] = error
                continue
            asked = hearing.language, tuple(request.hotwords)
            alike.setdefault(asked, []).append(hearing)
        for (language, hotwords), hearings in alike.items():
            how = self._asking(language, hotwords)
            for hearing, writings in self._decode(hearings, how, refusals):
                outcomes[hearing.number] = _decoding(hearing, writings)
        for number, refusal in refusals.by_number.items():
            outcomes[number] = refusal
        return outcomes

    def _hearing(self, number: int, request: Request) -> _Hearing:
        """Return what is heard of a request, and in which language it is written.

        Raises:
            BadRequest: the model does not know the language.
        """
        heard = padded(request.regions, len(request.samples) // SAMPLES_PER_MS)
        windows = self._packed(heard)
        language = request.language
        if language == "auto":
            language = self._detect_language(request.samples, windows)
        if not self._knows(language):
            raise BadRequest(
                ErrorCode.OPTION_INVALID,
                f"language {language}",
                f"{self._name} does not know it",
                "Choose another model, or auto.",
            )
        return _Hearing(number, request.samples, heard, windows, language)

    def _decode(
        self, hearings: Sequence[_Hearing], asking: _Asking, refusals: Refusals
    ) -> Iterator[tuple[_Hearing, list[_Writing]]]:
        """Yield what is written of each request that is wanted still, window by window."""
        excerpts = [_Excerpt(own, window) for own in hearings for window in own.windows]
        written: dict[int, _Writing] = {}
        for chosen in self._minibatches([excerpt.window for excerpt in excerpts]):
            refusals.ask(excerpts[index].hearing.number for index in chosen)
            wanted = [i for i in chosen if excerpts[i].hearing.number not in refusals.by_number]
            if not wanted:
                continue
            own = [excerpts[index] for index in wanted]
            writings = self._write(self._features(own), [each.window for each in own], asking)
            written.update(zip(wanted, writings, strict=True))
        for hearing in hearings:
            if hearing.number not in refusals.by_number:
                numbers = [i for i, each in enumerate(excerpts) if each.hearing is hearing]
                yield hearing, [written[index] for index in numbers]

    def _packed(self, regions: Sequence[Span]) -> list[Window]:
        if self._trims:
            return pack_cheapest(regions, max_window_ms=_WINDOW_MS, cost_ms=_cost_ms)
        return pack_windows(regions, max_window_ms=_WINDOW_MS, restart_pause_ms=_RESTART_PAUSE_MS)

    def _heard_ms(self, window: Window) -> int:
        return heard_ms(window) if self._trims else _WINDOW_MS

    def _minibatches(self, windows: Sequence[Window]) -> Iterator[list[int]]:
        """Yield the indices of windows that are heard as long as each other, the longest first."""
        fullest_first = sorted(range(len(windows)), key=lambda i: (-windows[i].duration_ms, i))
        by_length: dict[int, list[int]] = {}
        for index in fullest_first:
            by_length.setdefault(self._heard_ms(windows[index]), []).append(index)
        for _, chosen in sorted(by_length.items(), reverse=True):
            for first in range(0, len(chosen), self._minibatch):
                yield chosen[first : first + self._minibatch]

    def _encode(self, features: Features) -> Any:
        """Return what the encoder makes of windows.

        A CPU's cache holds one window's: eight of them take it a third longer together than one
        after the other, and aligning twice as long. Writing is the other way round: it reads all
        the decoder's weights for each token, and takes half of the time for eight together.
        """
        if self._together:
            return self._model.encode(features)
        from ctranslate2 import StorageView

        alone = [np.asarray(self._model.encode(own[np.newaxis])) for own in features]
        return StorageView.from_array(np.concatenate(alone))

    def _write(
        self, features: Features, windows: Sequence[Window], asking: _Asking, never_twice: int = 0
    ) -> list[_Writing]:
        """Return what the model writes for each window.

        A window whose text repeats itself is decoded once more, by itself, and so that no run of
        ``never_twice`` tokens can come again: the loop is left, and what follows it is heard.
        """
        encoded = self._encode(features)
        hypotheses = self._generate(encoded, len(windows), asking, never_twice)
        pieces = list(self._align(encoded, hypotheses, windows, asking))
        writings = [_Writing(*both) for both in zip(pieces, hypotheses, strict=True)]
        for index, hypothesis in enumerate(hypotheses):
            if hypothesis.tokens and hypothesis.is_repetitive and not never_twice:
                alone = slice(index, index + 1)
                writings[alone] = self._write(features[alone], windows[alone], asking, _NEVER_TWICE)
        return writings

    def _generate(
        self, encoded: Any, windows: int, asking: _Asking, never_twice: int
    ) -> list[_Hypothesis]:
        results = self._model.model.generate(
            encoded,
            [asking.prompt] * windows,
            beam_size=1,
            max_length=self._model.max_length,
            no_repeat_ngram_size=never_twice,
            suppress_tokens=asking.suppressed,
            return_scores=True,
            return_no_speech_prob=True,
        )
        found = [_hypothesis(result, asking.tokenizer) for result in results]
        if not self._drops_silence:
            return found
        return [
            replace(own, tokens=[]) if own.is_silence(is_retry=never_twice > 0) else own
            for own in found
        ]

    def _align(
        self,
        encoded: Any,
        hypotheses: Sequence[_Hypothesis],
        windows: Sequence[Window],
        asking: _Asking,
    ) -> Iterator[list[Word]]:
        """Yield each hypothesis' tokens with times, from where the decoder paid attention."""
        frames = [-(-window.duration_ms // _FRAME_MS) for window in windows]
        tokens = [hypothesis.tokens for hypothesis in hypotheses]
        for chosen, own in self._parts(encoded, len(windows)):
            alignments = self._model.find_alignment(
                asking.tokenizer, tokens[chosen], own, frames[chosen]
            )
            yield from ([_piece(entry) for entry in alignment] for alignment in alignments)

    def _parts(self, encoded: Any, windows: int) -> Iterator[tuple[slice, Any]]:
        """Yield which windows are computed together, all tokens of each at once."""
        if self._together:
            yield slice(0, windows), encoded
            return
        from ctranslate2 import StorageView

        array = np.asarray(encoded)
        for index in range(windows):
            alone = slice(index, index + 1)
            yield alone, StorageView.from_array(array[alone])

    def _features(self, excerpts: Sequence[_Excerpt]) -> Features:
        """Return log-mel spectrograms, float32 ``(windows, mels, frames)``, silence at their ends.

        The longest window says how many frames.
        """
        extract = self._model.feature_extractor
        frames = max(self._heard_ms(excerpt.window) for excerpt in excerpts) // _FRAME_MS
        features = np.zeros((len(excerpts), self._model.model.n_mels, frames), np.float32)
        for own, excerpt in zip(features, excerpts, strict=True):
            mels = extract(_audio(excerpt.hearing.samples, excerpt.window))[:, :frames]
            own[:, : mels.shape[1]] = mels
        return features

    def _detect_language(self, samples: Samples, windows: Sequence[Window]) -> str:
        """Return the likeliest language of the fullest window."""
        if not self._model.model.is_multilingual:
            return "en"
        fullest = max(windows, key=lambda window: window.duration_ms)
        hearing = _Hearing(0, samples, (), windows, "auto")
        encoded = self._model.encode(self._features([_Excerpt(hearing, fullest)]))
        [ranking] = self._model.model.detect_language(encoded)
        token: str = ranking[0][0]
        return token.strip("<|>")

    def _asking(self, language: str, hotwords: Sequence[str]) -> _Asking:
        from faster_whisper.tokenizer import Tokenizer
        from faster_whisper.transcribe import get_suppressed_tokens

        model = self._model
        tokenizer = Tokenizer(
            model.hf_tokenizer, model.model.is_multilingual, task="transcribe", language=language
        )
        prompt = model.get_prompt(
            tokenizer, [], without_timestamps=True, hotwords=", ".join(hotwords) or None
        )
        return _Asking(tokenizer, prompt, get_suppressed_tokens(tokenizer, [-1]))

    def _knows(self, language: str) -> bool:
        if not self._model.model.is_multilingual:
            return language == "en"
        # The library lists languages of newer models, which this one's vocabulary may lack.
        return (
            language in self._model.supported_languages
            and self._model.hf_tokenizer.token_to_id(f"<|{language}|>") is not None
        )


def load(profile: Profile, settings: Settings) -> WhisperRecognizer:
    """Verify and load the profile's Whisper.

    Raises:
        Misconfigured: the weights are missing or changed, or the device cannot decode them.
    """
    directory = verify(profile.model_files, settings.models)
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
        together=device != "cpu",
        trims=profile.decode.windows == "trimmed",
    )


def _decoding(hearing: _Hearing, writings: Sequence[_Writing]) -> Decoding:
    """Return the words of a request, on its segment's clock."""
    in_order = list(zip(hearing.windows, writings, strict=True))
    levels = levels_of(hearing.samples)
    words = [
        word
        for window, writing in in_order
        for word in joined(after_pauses(placed(writing.pieces, window), levels))
    ]
    timed = tuple(until_pauses(words, hearing.regions, levels))
    doubts = [
        _doubt(window, writing.hypothesis)
        for window, writing in in_order
        if writing.hypothesis.is_doubtful
    ]
    # The language of music is a guess that nobody should act on.
    language = hearing.language if timed else None
    return Decoding(timed, language, {ResultTag.DOUBTS: doubts} if doubts else {})


def _hypothesis(result: Any, tokenizer: Any) -> _Hypothesis:
    """Return CTranslate2's result for a window, with the figures that Whisper judges it by."""
    from faster_whisper.transcribe import get_compression_ratio

    tokens = [token for token in result.sequences_ids[0] if token < tokenizer.eot]
    # The score is the mean over the tokens; Whisper's threshold counts the closing one as well.
    log_probability = result.scores[0] * len(tokens) / (len(tokens) + 1)
    ratio = get_compression_ratio(tokenizer.decode(tokens)) if tokens else 0.0
    return _Hypothesis(tokens, result.no_speech_prob, log_probability, ratio)


def _doubt(window: Window, hypothesis: _Hypothesis) -> list[float]:
    """Return a doubtful window as a result's tags have it: for the reducer (``hallucinations``)."""
    span = window.regions[0].start_ms, window.regions[-1].end_ms
    figures = hypothesis.no_speech, hypothesis.log_probability
    return [*span, *(round(figure, 3) for figure in figures)]


def _piece(entry: dict[str, Any]) -> Word:
    return Word(
        entry["word"],
        round(entry["start"] * 1000),
        round(entry["end"] * 1000),
        round(float(entry["probability"]), 3),
    )


def heard_ms(window: Window) -> int:
    """Return how much Whisper hears of a trimmed window, in ms: its audio and a little silence."""
    if window.duration_ms < _LITTLE_MS:
        return _WINDOW_MS
    steps = -(-(window.duration_ms + _SILENCE_MS) // _LENGTH_STEP_MS)
    return min(_WINDOW_MS, steps * _LENGTH_STEP_MS)


def _cost_ms(window: Window) -> int:
    return heard_ms(window) + _WINDOW_COST_MS


def padded(regions: Sequence[Span], duration_ms: int) -> list[Span]:
    """Return ``regions`` with audio around them.

    Up to ``_PAD_MS`` on each side, but no more than half of a pause, nor than a window holds.
    """
    pauses = [2 * _PAD_MS, *(b.start_ms - a.end_ms for a, b in pairwise(regions)), 2 * _PAD_MS]
    pads = [min(_PAD_MS, pause_ms // 2) for pause_ms in pauses]
    return [
        _widened(region, min(before_ms, room_ms), min(after_ms, room_ms), duration_ms)
        for region, (before_ms, after_ms) in zip(regions, pairwise(pads), strict=True)
        for room_ms in [max(0, _WINDOW_MS - region.duration_ms) // 2]
    ]


def _widened(region: Span, before_ms: int, after_ms: int, duration_ms: int) -> Span:
    return Span(max(0, region.start_ms - before_ms), min(duration_ms, region.end_ms + after_ms))


def _audio(samples: Samples, window: Window) -> Samples:
    """Return a window's regions, one after the other."""
    return np.concatenate(
        [
            samples[region.start_ms * SAMPLES_PER_MS : region.end_ms * SAMPLES_PER_MS]
            for region in window.regions
        ]
    )


def placed(pieces: Iterable[Word], window: Window) -> Iterator[Word]:
    """Move pieces from the clock of a window's audio to that of the segment.

    A piece belongs to one region and does not leave it: what it seems to last beyond is a pause
    that was left out. It is the region that its middle lies in, or its end, if that is later: a
    word is stretched backwards, over an unwritten "mm" before it. Pieces stay in order. How far
    the model's attention is ahead is taken off, but for where that would leave the region.
    """
    regions = iter(window.regions)
    region, begins_ms = next(regions), 0
    for piece in pieces:
        moment_ms = max(piece.middle_ms, piece.end_ms - _WORD_END_MS)
        while moment_ms >= begins_ms + region.duration_ms:
            following = next(regions, None)
            if following is None:
                break
            begins_ms += region.duration_ms
            region = following
        moved_ms = region.start_ms - begins_ms + _ATTENTION_AHEAD_MS
        start_ms = min(max(piece.start_ms + moved_ms, region.start_ms), region.end_ms)
        end_ms = min(max(piece.end_ms + moved_ms, start_ms), region.end_ms)
        yield replace(piece, start_ms=start_ms, end_ms=end_ms)
