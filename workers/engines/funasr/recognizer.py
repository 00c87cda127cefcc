"""FunASR's models on a GPU, without the path that keeps it waiting.

    features of the segment -> each region's -> stacked, normalised -> minibatches of like length
        -> network -> tokens with times -> words

FunASR's ``generate`` computes features one region at a time on the CPU, pads batches in the order
that it is given, walks through frames in Python, and empties the device's cache after each call. Of
FunASR there are the networks and the tokenizer here (:mod:`workers.engines.funasr.networks`); a
model of another kind is asked through ``generate``, region by region (:class:`Generic`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import structlog
import torch
from torch import Tensor

from schema.pcm import SAMPLES_PER_MS
from schema.processor import has_bfloat16
from schema.profile import Profile
from schema.settings import Settings
from schema.span import Span
from schema.transcript import is_cjk
from schema.words import ResultTag, Word
from workers.engines.base import Decoding, Outcome, Recognizer, Refusals, Request
from workers.engines.budget import CPU_MS, Budget
from workers.engines.features import (
    FRAME_MS,
    FilterBank,
    Normalisation,
    Stacking,
    frame_count,
    inference,
    read_normalisation,
)
from workers.engines.funasr.checkpoint import build
from workers.engines.funasr.cuda_graphs import Replayed
from workers.engines.funasr.isolation import guest
from workers.engines.funasr.networks import (
    FAMILIES,
    NO_TOKENS,
    Batch,
    Family,
    Tokens,
    run_as_called,
)
from workers.engines.funasr.sanm import Run, is_known
from workers.engines.minibatch import EXACT, ROUNDED, Buckets, minibatches
from workers.engines.subwords import joined

log = structlog.get_logger(__name__)

#: Regions in a minibatch at most: short ones by the thousand gain no more.
_MOST = 256

#: What a minibatch costs beside its padded length, in ms of speech. A processor reads all weights
#: for each: as long as it takes for a second (ops/bench/engine.py). A GPU waits for a thousand
#: kernels to be launched, in which it could decode minutes (by its arithmetic; not measured).
CPU_OVERHEAD_MS = 1_000
GPU_OVERHEAD_MS = 300_000

#: Tokens of dense speech: what a minibatch is measured by.
_DENSE_TOKENS_PER_S = 8

#: What a token ends with that goes on in the next one; what begins a word in SentencePiece.
_GOES_ON = "@@"
_BEGINS = "\u2581"


@dataclass(frozen=True, slots=True)
class Frontend:
    """How a model's input is made of log-mel features."""

    stacking: Stacking
    normalisation: Normalisation | None

    def of(self, mel: Tensor, firsts: Tensor, frames: Tensor, count: int) -> Tensor:
        """Return regions' inputs: see :meth:`workers.engines.features.Stacking.of`."""
        stacked = self.stacking.of(mel, firsts, frames, count)
        return self.normalisation.of(stacked) if self.normalisation else stacked


class _Region(NamedTuple):
    """A region of one of several requests: the index of its request, and where it lies."""

    request: int
    span: Span


class FunasrRecognizer(Recognizer):
    """A loaded model of a family we know. See :class:`workers.engines.base.Recognizer`."""

    def __init__(
        self,
        family: Family,
        tokenizer: Any,
        frontend: Frontend,
        bank: FilterBank,
        budget: Budget,
        buckets: Buckets,
    ) -> None:
        self._family = family
        self._vocabulary = Vocabulary(tokenizer)
        self._frontend = frontend
        self._bank = bank
        self.budget = budget
        self._buckets = buckets

    def decode_all(self, requests: Sequence[Request]) -> list[Outcome]:
        """Decode: see :meth:`workers.engines.base.Recognizer.decode_all`."""
        outcomes: list[Outcome] = [Decoding((), None) for _ in requests]
        alike: dict[tuple[str, tuple[str, ...]], list[int]] = {}
        for index, request in enumerate(requests):
            if request.regions:
                alike.setdefault((request.language, tuple(request.hotwords)), []).append(index)
        for (language, hotwords), indices in alike.items():
            chosen = [requests[index] for index in indices]
            for index, outcome in zip(
                indices, self._decode(chosen, language, hotwords), strict=True
            ):
                outcomes[index] = outcome
        return outcomes

    def _decode(
        self, requests: Sequence[Request], language: str, hotwords: Sequence[str]
    ) -> list[Outcome]:
        """Return the outcomes of requests of one language, with the same hotwords."""
        mels = [self._bank.of(request.samples) for request in requests]
        with inference():
            mel = mels[0] if len(mels) == 1 else torch.cat(mels)
        begins = [0, *accumulate(map(len, mels))]
        regions = [_Region(i, span) for i, own in enumerate(requests) for span in own.regions]
        firsts = [begins[each.request] + each.span.start_ms // FRAME_MS for each in regions]
        biases = [self._vocabulary.ids(hotword) for hotword in hotwords]
        refusals = Refusals(requests)
        refused = refusals.by_number
        written: dict[int, Tokens] = {}
        # A region without a frame never reaches a network.
        left = [index for index, region in enumerate(regions) if _frames_of(region.span)]
        while left:
            for chosen in self._minibatches(regions, left):
                refusals.ask(regions[index].request for index in chosen)
                wanted = [index for index in chosen if regions[index].request not in refused]
                if not wanted:
                    continue
                spans = [regions[index].span for index in wanted]
                found = self._write(
                    mel, [firsts[index] for index in wanted], spans, language, biases
                )
                if found is None:
                    break  # The budget is another: what is left is divided anew.
                written.update(zip(wanted, found, strict=True))
            left = [
                index
                for index in left
                if index not in written and regions[index].request not in refused
            ]
        tokens: list[list[Tokens]] = [[] for _ in requests]
        for index, region in enumerate(regions):
            tokens[region.request].append(written.get(index, NO_TOKENS))
        return [
            refused.get(number) or self._decoding(request.regions, tokens[number], language)
            for number, request in enumerate(requests)
        ]

    def rehearsal_bytes(self, duration_ms: int) -> int:
        """Compute what so many ms of dense speech take; return how much memory that was.

        Every part of the network computes, whatever it hears: of silence a Paraformer writes no
        token, and its decoder and what times tokens would not be measured.
        """
        device = self._bank.device
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        self._rehearse(duration_ms)
        taken = torch.cuda.max_memory_allocated(device) - before
        torch.cuda.empty_cache()
        return int(taken)

    def _rehearse(self, duration_ms: int) -> None:
        mel = torch.zeros((duration_ms // FRAME_MS, 80), device=self._bank.device)
        with inference(), self._steadily():
            batch = self._batch(mel, [0], [len(mel)])
            self._family.rehearse(batch, duration_ms * _DENSE_TOKENS_PER_S // 1000)

    def _minibatches(self, regions: Sequence[_Region], left: Sequence[int]) -> list[list[int]]:
        """Return the regions that are left in minibatches that the budget holds at present."""
        lengths = [regions[index].span.duration_ms for index in left]
        batches = minibatches(
            lengths,
            budget=self.budget.ms,
            most=_MOST,
            overhead=CPU_OVERHEAD_MS if self._bank.device.type == "cpu" else GPU_OVERHEAD_MS,
            rounded=self._buckets.regions,
        )
        return [[left[at] for at in batch] for batch in batches]

    def _batch(self, mel: Tensor, firsts: Sequence[int], frames: Sequence[int]) -> Batch:
        """Return a minibatch of regions, by where in ``mel`` each begins and how long it is.

        It has as many regions, each as often, and as many frames as its bucket has.
        """
        more = self._buckets.regions(len(firsts)) - len(firsts)
        every = np.array([firsts, frames], np.int64)
        every = np.pad(every, ((0, 0), (0, more)), mode="edge")
        lengths = [self._frontend.stacking.count(each) for each in every[1].tolist()]
        # In one piece, and without waiting: what is not page-locked is copied out at once.
        places = torch.from_numpy(np.stack([*every, np.array(lengths)]))
        on_device = places.to(self._bank.device, non_blocking=True)
        longest = self._buckets.frames(max(lengths))
        features = self._frontend.of(mel, on_device[0], on_device[1], longest)
        return Batch(features, lengths, on_device[2])

    def _write(
        self,
        mel: Tensor,
        firsts: Sequence[int],
        spans: Sequence[Span],
        language: str,
        biases: Sequence[Sequence[int]],
    ) -> list[Tokens] | None:
        """Return what each region says, or None where memory ran out and less was agreed on."""
        try:
            with inference(), self._steadily():
                batch = self._batch(mel, firsts, [_frames_of(span) for span in spans])
                found = self._family.write(batch, language, biases)[: len(spans)]
        except torch.OutOfMemoryError:
            # Half of it, unless it was one region: then there is nothing to be halved.
            if len(spans) == 1 or not self.budget.halve():
                raise
        else:
            self.budget.held()
            return found
        # Out of the handler, where the error keeps its tensors alive.
        if self._bank.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    @contextmanager
    def _steadily(self) -> Iterator[None]:
        """Keep a CPU's memory flat: each shape that oneDNN meets costs it some for good.

        A megabyte in a hundred segments with its caches bounded, none without it, at the same speed
        in float32; in bfloat16 nothing else computes fast.
        """
        library: Any = torch.backends.mkldnn
        enabled = library.enabled
        library.enabled = self._family.dtype == torch.bfloat16
        try:
            yield
        finally:
            library.enabled = enabled

    def _decoding(
        self, regions: Sequence[Span], written: Sequence[Tokens], language: str
    ) -> Decoding:
        # Region by region: a token never goes on in the next one's first.
        words = tuple(
            word
            for region, tokens in zip(regions, written, strict=True)
            for word in self._words(region, tokens)
        )
        heard, sounds = self._marks(regions, written)
        if not words:
            return Decoding((), None, sounds)
        spoken = language if language != "auto" else heard or _script_of(words)
        return Decoding(words, spoken, sounds)

    def _words(self, region: Span, tokens: Tokens) -> list[Word]:
        """Return a region's words, on the segment's clock; none leaves its region."""
        if not len(tokens):
            return []
        times_ms = np.minimum(tokens.times_ms + region.start_ms, region.end_ms)
        sure = np.round(tokens.probabilities.astype(np.float64), 3)
        return joined(
            Word(text, start_ms, end_ms, probability)
            for text, (start_ms, end_ms), probability in zip(
                self._vocabulary.pieces(tokens.ids.tolist()),
                times_ms.tolist(),
                sure.tolist(),
                strict=True,
            )
            if text
        )

    def _marks(
        self, regions: Sequence[Span], written: Sequence[Tokens]
    ) -> tuple[str | None, dict[str, Any]]:
        """Return the language of most regions, and what was heard in each beside words."""
        languages: Counter[str] = Counter()
        sounds = []
        for region, own in zip(regions, written, strict=True):
            texts = map(self._vocabulary.text, own.marks)
            names = [text[2:-2] for text in texts if text.startswith("<|")]
            languages.update(name for name in names[:1] if name in _LANGUAGES)
            beside = [name for name in names if name not in _LANGUAGES | _NO_SOUNDS]
            if beside:
                sounds.append([region.start_ms, region.end_ms, *beside])
        most = languages.most_common(1)
        return most[0][0] if most else None, {ResultTag.SOUNDS: sounds} if sounds else {}


class Vocabulary:
    """The texts of a model's tokens, each looked up once."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._is_sentencepiece = hasattr(tokenizer, "bpemodel")
        self._texts: dict[int, str] = {}
        self._pieces: dict[tuple[int, bool], tuple[str, bool]] = {}

    def text(self, token: int) -> str:
        """Return the text of a token."""
        if token not in self._texts:
            if self._is_sentencepiece:
                self._texts[token] = self._tokenizer.sp.IdToPiece(token)
            else:
                self._texts[token] = self._tokenizer.ids2tokens([token])[0]
        return self._texts[token]

    def pieces(self, tokens: Sequence[int]) -> Iterator[str]:
        """Yield the text of each token, with a space before one that begins a word.

        It is empty where a token is a mark.
        """
        goes_on = False
        for token in tokens:
            known = self._pieces.get((token, goes_on))
            if known is None:
                known = self._pieces[token, goes_on] = self._piece(self.text(token), goes_on)
            text, goes_on = known
            yield text

    def _piece(self, text: str, goes_on: bool) -> tuple[str, bool]:
        """Return a token's piece, given whether the last one goes on in it, and whether it does."""
        if text.startswith("<") and text.endswith(">"):
            return "", False
        begins = text.startswith(_BEGINS) if self._is_sentencepiece else not goes_on
        bare = text.removeprefix(_BEGINS).removesuffix(_GOES_ON)
        space = " " if bare and begins and not is_cjk(bare[0]) else ""
        return space + bare, text.endswith(_GOES_ON)

    def ids(self, hotword: str) -> list[int]:
        """Return the tokens of a hotword."""
        ids: list[int] = self._tokenizer.tokens2ids(self._tokenizer.text2tokens(hotword))
        return ids


def _frames_of(region: Span) -> int:
    return frame_count(region.duration_ms * SAMPLES_PER_MS)


#: SenseVoice's languages; and its marks for nothing in particular.
_LANGUAGES = frozenset({"zh", "en", "yue", "ja", "ko"})
_NO_SOUNDS = frozenset({"nospeech", "Speech", "EMO_UNKNOWN", "NEUTRAL", "woitn", "withitn"})


def _script_of(words: Sequence[Word]) -> str:
    """Return the language of words by their script: these models know Chinese and English."""
    chinese = sum(any(map(is_cjk, word.text)) for word in words)
    return "zh" if 2 * chinese >= len(words) else "en"


class Generic(Recognizer):
    """Any other model of FunASR's, region by region through its ``generate``."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def decode_all(self, requests: Sequence[Request]) -> list[Outcome]:
        """Decode: see :meth:`workers.engines.base.Recognizer.decode_all`."""
        refusals = Refusals(requests)
        return [
            self._decode(request, number, refusals) or refusals.by_number[number]
            for number, request in enumerate(requests)
        ]

    def _decode(self, request: Request, number: int, refusals: Refusals) -> Decoding | None:
        """Return a request's words, or None where they are wanted no more."""
        language = request.language
        words: list[Word] = []
        hotwords = " ".join(request.hotwords) or None
        for region in request.regions:
            refusals.ask([number])
            if number in refusals.by_number:
                return None
            first, last = (ms * SAMPLES_PER_MS for ms in (region.start_ms, region.end_ms))
            with guest():
                results = self._model.generate(
                    request.samples[first:last], key="region", language=language, hotword=hotwords
                )
            if len(results) != 1:
                raise RuntimeError(f"{len(results)} results for one region")
            words += (word.shifted(region.start_ms) for word in generic_words(results[0], region))
        spoken = (language if language != "auto" else _script_of(words)) if words else None
        return Decoding(tuple(words), spoken)


def generic_words(result: Mapping[str, Any], region: Span) -> list[Word]:
    """Return a result's words from the start of its region, with times where it has any.

    Models write ``words`` with ``timestamp`` in ms, or ``timestamps`` of tokens in seconds; of one
    that writes only text the words share their region evenly.
    """
    stamps = result.get("timestamps")
    if stamps:
        pieces = [
            Word(
                str(each["token"]),
                _milliseconds(each["start_time"]),
                _milliseconds(each["end_time"]),
            )
            for each in stamps
        ]
        return joined(pieces)
    plain = joined([Word(f" {text}", 0, 0, 1.0) for text in str(result.get("text", "")).split()])
    texts = [str(text) for text in result.get("words") or [word.text for word in plain]]
    times = result.get("timestamp") or []
    if len(times) != len(texts):
        each_ms = region.duration_ms / max(1, len(texts))
        times = [(round(i * each_ms), round((i + 1) * each_ms)) for i in range(len(texts))]
    return [Word(text, int(a), int(b)) for text, (a, b) in zip(texts, times, strict=True)]


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)


def load(profile: Profile, settings: Settings, bank: FilterBank) -> Recognizer:
    """Verify and load the profile's model.

    Raises:
        Misconfigured: the weights are missing or changed, or were not loaded.
    """
    model, options, directory = build(profile.model_files, settings.models, settings.device)
    family = FAMILIES.get(options["model_name"])
    if family is None or not is_known(model.model):
        return Generic(model)
    is_cpu = bank.device.type == "cpu"
    dtype = _DTYPES[profile.decode.precision]
    if is_cpu and dtype == torch.bfloat16 and not has_bfloat16():
        log.warning("precision_is_slow", precision="bfloat16", reason="this CPU has none")
    buckets = EXACT if is_cpu else ROUNDED
    recognizer = FunasrRecognizer(
        family(
            model.model,
            dtype,
            _runner(settings, bank.device),
            buckets.tokens,
        ),
        options["tokenizer"],
        _frontend(directory, options, bank),
        bank,
        Budget(CPU_MS),
        buckets,
    )
    if not is_cpu:
        free_bytes = torch.cuda.mem_get_info(bank.device)[0]
        recognizer.budget.learn(free_bytes, recognizer.rehearsal_bytes)
    return recognizer


_DTYPES: Mapping[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def _runner(settings: Settings, device: torch.device) -> Run:
    """Return how parts of a network are run: as they are called, or replayed."""
    if not settings.compile:
        return run_as_called
    if device.type == "cpu":
        # Compiled by torch they earned a tenth, and took minutes (ops/bench/RESULTS.md).
        log.info("not_compiled", reason="on a CPU it earns next to nothing")
        return run_as_called
    return Replayed(device)


def _frontend(directory: Path, options: Mapping[str, Any], bank: FilterBank) -> Frontend:
    theirs = options["frontend"]
    normalisation = directory / "am.mvn"
    return Frontend(
        Stacking(theirs.lfr_m, theirs.lfr_n),
        read_normalisation(normalisation).to(bank.device) if normalisation.is_file() else None,
    )
