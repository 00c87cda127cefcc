"""FunASR's models on a GPU, without the path that keeps it waiting.

    features of the segment -> each region's -> stacked, normalised -> minibatches of like length
        -> network -> tokens with times -> words

FunASR's ``generate`` computes features one region at a time on the CPU, pads batches in the order
that it is given, walks through frames in Python, and empties the device's cache after each call. Of
FunASR there are the networks and the tokenizer here (:mod:`workers.engines.funasr.networks`); a
model of another kind decodes region by region in ``generate``
(:mod:`workers.engines.funasr.generic`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
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
from schema.text import is_cjk
from schema.words import ResultTag, Word
from workers.engines import features
from workers.engines.base import (
    Cancellations,
    DecodedSpeech,
    DecodeOutcome,
    DecodeRequest,
    Recognizer,
)
from workers.engines.budget import CPU_BUDGET_MS, Budget
from workers.engines.features import FRAME_MS, FilterBank, Normalisation, Stacking, inference
from workers.engines.funasr import networks
from workers.engines.funasr.checkpoint import build_model
from workers.engines.funasr.cuda_graphs import GraphRunner
from workers.engines.funasr.generic import GenericRecognizer, guess_language
from workers.engines.funasr.networks import NO_TOKENS, Batch, ModelFamily, RegionTokens
from workers.engines.funasr.sanm import PartRunner, is_supported_model
from workers.engines.minibatch import EXACT_SIZES, ROUNDED_SIZES, SizeBuckets, pack_minibatches
from workers.engines.subwords import merge_subwords

log = structlog.get_logger(__name__)

#: Regions in a minibatch at most: short ones by the thousand gain no more.
_MAX_REGIONS = 256

#: The fixed cost of a minibatch, in ms of speech. A processor reads all weights for each: as long
#: as it takes for a second (ops/bench/engine.py). A GPU waits for a thousand kernels to be
#: launched, in which it could decode minutes (by its arithmetic; not measured).
CPU_OVERHEAD_MS = 1_000
GPU_OVERHEAD_MS = 300_000

#: Tokens of dense speech: what a minibatch is measured by.
_DENSE_TOKENS_PER_S = 8

#: Ends a token that continues in the next one.
_CONTINUATION_SUFFIX = "@@"
#: Begins a word in SentencePiece.
_WORD_START = "\u2581"

#: SenseVoice's languages; and its special tokens for nothing in particular.
_LANGUAGES = frozenset({"zh", "en", "yue", "ja", "ko"})
_NO_SOUNDS = frozenset({"nospeech", "Speech", "EMO_UNKNOWN", "NEUTRAL", "woitn", "withitn"})


@dataclass(frozen=True, slots=True)
class Frontend:
    """Makes a model's input of log-mel features."""

    stacking: Stacking
    normalisation: Normalisation | None

    def apply(self, mel: Tensor, starts: Tensor, lengths: Tensor, count: int) -> Tensor:
        """Return regions' inputs: see :meth:`workers.engines.features.Stacking.apply`."""
        stacked_frames = self.stacking.apply(mel, starts, lengths, count)
        return self.normalisation.apply(stacked_frames) if self.normalisation else stacked_frames


class _Region(NamedTuple):
    """A region, the index of its request, and its first frame in the features of all requests."""

    request: int
    span: Span
    start: int

    @property
    def frames(self) -> int:
        return features.frame_count(self.span.duration_ms * SAMPLES_PER_MS)


class FunasrRecognizer(Recognizer):
    """A loaded model of a family we know. See :class:`workers.engines.base.Recognizer`."""

    def __init__(
        self,
        family: ModelFamily,
        tokenizer: Any,
        frontend: Frontend,
        bank: FilterBank,
        budget: Budget,
        buckets: SizeBuckets,
    ) -> None:
        self._family = family
        self._vocabulary = Vocabulary(tokenizer)
        self._frontend = frontend
        self._bank = bank
        self.budget = budget
        self._buckets = buckets

    def decode_all(self, requests: Sequence[DecodeRequest]) -> list[DecodeOutcome]:
        """Decode: see :meth:`workers.engines.base.Recognizer.decode_all`."""
        outcomes: list[DecodeOutcome] = [DecodedSpeech((), None) for _ in requests]
        groups: dict[tuple[str, tuple[str, ...]], list[int]] = {}
        for index, request in enumerate(requests):
            if request.regions:
                groups.setdefault((request.language, tuple(request.hotwords)), []).append(index)
        for (language, hotwords), indices in groups.items():
            group = [requests[index] for index in indices]
            group_outcomes = self._decode(group, language, hotwords)
            for index, outcome in zip(indices, group_outcomes, strict=True):
                outcomes[index] = outcome
        return outcomes

    def _decode(
        self, requests: Sequence[DecodeRequest], language: str, hotwords: Sequence[str]
    ) -> list[DecodeOutcome]:
        mels = [self._bank.compute(request.samples) for request in requests]
        with inference():
            mel = mels[0] if len(mels) == 1 else torch.cat(mels)
        offsets = accumulate(map(len, mels), initial=0)
        regions = [
            _Region(index, span, offset + span.start_ms // FRAME_MS)
            for index, (request, offset) in enumerate(zip(requests, offsets, strict=False))
            for span in request.regions
        ]
        hotword_ids = [self._vocabulary.encode(hotword) for hotword in hotwords]
        cancellations = Cancellations(requests)
        region_tokens = self._decode_regions(mel, regions, language, hotword_ids, cancellations)
        tokens: list[list[RegionTokens]] = [[] for _ in requests]
        for index, region in enumerate(regions):
            tokens[region.request].append(region_tokens.get(index, NO_TOKENS))
        return [
            cancellations.by_request.get(index)
            or self._make_decoding(request.regions, tokens[index], language)
            for index, request in enumerate(requests)
        ]

    def _decode_regions(
        self,
        mel: Tensor,
        regions: Sequence[_Region],
        language: str,
        hotword_ids: Sequence[Sequence[int]],
        cancellations: Cancellations,
    ) -> dict[int, RegionTokens]:
        """Return the tokens of regions by their indices, but for those of cancelled requests."""
        region_tokens: dict[int, RegionTokens] = {}
        request_of = [region.request for region in regions]
        # A region without a frame never reaches a network.
        remaining = [index for index, region in enumerate(regions) if region.frames]
        while remaining:
            for batch in self._pack_minibatches(regions, remaining):
                members = cancellations.drop_cancelled(batch, request_of)
                if not members:
                    continue
                tokens = self._decode_minibatch(
                    mel, [regions[index] for index in members], language, hotword_ids
                )
                if tokens is None:
                    break  # The budget was halved: what remains is divided anew.
                region_tokens.update(zip(members, tokens, strict=True))
            remaining = [
                index
                for index in remaining
                if index not in region_tokens and request_of[index] not in cancellations.by_request
            ]
        return region_tokens

    def _pack_minibatches(
        self, regions: Sequence[_Region], remaining: Sequence[int]
    ) -> list[list[int]]:
        batches = pack_minibatches(
            [regions[index].span.duration_ms for index in remaining],
            budget=self.budget.ms,
            max_members=_MAX_REGIONS,
            overhead=CPU_OVERHEAD_MS if self._bank.device.type == "cpu" else GPU_OVERHEAD_MS,
            round_members=self._buckets.regions,
        )
        return [[remaining[member] for member in batch] for batch in batches]

    def _decode_minibatch(
        self,
        mel: Tensor,
        regions: Sequence[_Region],
        language: str,
        hotword_ids: Sequence[Sequence[int]],
    ) -> list[RegionTokens] | None:
        """Return the tokens of each region, or None where memory ran out and the budget halved."""
        try:
            with inference(), self._without_onednn_cache():
                starts = [region.start for region in regions]
                batch = self._make_batch(mel, starts, [region.frames for region in regions])
                tokens = self._family.decode_batch(batch, language, hotword_ids)[: len(regions)]
        except torch.OutOfMemoryError:
            # Half of it, unless it was one region: then there is nothing to be halved.
            if len(regions) == 1 or not self.budget.halve():
                raise
        else:
            self.budget.record_success()
            return tokens
        # Out of the handler, where the error keeps its tensors alive.
        if self._bank.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _make_batch(self, mel: Tensor, starts: Sequence[int], frames: Sequence[int]) -> Batch:
        """Return a minibatch of regions, by each region's first frame in ``mel`` and its length.

        The last region is repeated, and frames are padded, up to the sizes of its bucket.
        """
        padding = self._buckets.regions(len(starts)) - len(starts)
        positions = np.array([starts, frames], np.int64)
        positions = np.pad(positions, ((0, 0), (0, padding)), mode="edge")
        lengths = [self._frontend.stacking.count(length) for length in positions[1].tolist()]
        # In one piece, and without waiting: what is not page-locked is copied out at once.
        host_figures = torch.from_numpy(np.stack([*positions, np.array(lengths)]))
        figures = host_figures.to(self._bank.device, non_blocking=True)
        max_frames = self._buckets.frames(max(lengths))
        inputs = self._frontend.apply(mel, figures[0], figures[1], max_frames)
        return Batch(inputs, lengths, figures[2])

    def warm_up_bytes(self, duration_ms: int) -> int:
        """Return the memory that so many ms of dense speech take.

        Every part of the network computes, whatever it hears: of silence a Paraformer writes no
        token, and its decoder and what times tokens would not be measured.
        """
        device = self._bank.device
        torch.cuda.reset_peak_memory_stats(device)
        before_bytes = torch.cuda.memory_allocated(device)
        self._warm_up(duration_ms)
        peak_bytes = torch.cuda.max_memory_allocated(device) - before_bytes
        torch.cuda.empty_cache()
        return int(peak_bytes)

    def _warm_up(self, duration_ms: int) -> None:
        mel = torch.zeros((duration_ms // FRAME_MS, 80), device=self._bank.device)
        with inference(), self._without_onednn_cache():
            batch = self._make_batch(mel, [0], [len(mel)])
            self._family.warm_up(batch, duration_ms * _DENSE_TOKENS_PER_S // 1000)

    @contextmanager
    def _without_onednn_cache(self) -> Iterator[None]:
        """Keep a CPU's memory flat: each shape that oneDNN meets costs it some for good.

        A megabyte in a hundred segments with its caches bounded, none without it, at the same speed
        in float32; in bfloat16 nothing else computes fast.
        """
        library: Any = torch.backends.mkldnn
        was_enabled = library.enabled
        library.enabled = self._family.dtype == torch.bfloat16
        try:
            yield
        finally:
            library.enabled = was_enabled

    def _make_decoding(
        self, regions: Sequence[Span], tokens: Sequence[RegionTokens], language: str
    ) -> DecodedSpeech:
        # Region by region: a token never continues in the next one's first.
        words = tuple(
            word
            for region, region_tokens in zip(regions, tokens, strict=True)
            for word in self._make_words(region, region_tokens)
        )
        likeliest_language, tags = self._read_special_tokens(regions, tokens)
        if not words:
            return DecodedSpeech((), None, tags)
        if language == "auto":
            language = likeliest_language or guess_language(words)
        return DecodedSpeech(words, language, tags)

    def _make_words(self, region: Span, tokens: RegionTokens) -> list[Word]:
        """Return a region's words, on the segment's clock; none leaves its region."""
        if not len(tokens):
            return []
        texts = self._vocabulary.subwords(tokens.ids.tolist())
        times_ms = np.minimum(tokens.times_ms + region.start_ms, region.end_ms).tolist()
        probabilities = np.round(tokens.probabilities.astype(np.float64), 3).tolist()
        subwords = zip(texts, times_ms, probabilities, strict=True)
        return merge_subwords(
            Word(text, start_ms, end_ms, probability)
            for text, (start_ms, end_ms), probability in subwords
            if text
        )

    def _read_special_tokens(
        self, regions: Sequence[Span], tokens: Sequence[RegionTokens]
    ) -> tuple[str | None, dict[str, Any]]:
        """Return the language of most regions, and each region's sounds as a result's tag."""
        languages: Counter[str] = Counter()
        sounds = []
        for region, region_tokens in zip(regions, tokens, strict=True):
            texts = map(self._vocabulary.text, region_tokens.special_tokens)
            names = [text[2:-2] for text in texts if text.startswith("<|")]
            languages.update(name for name in names[:1] if name in _LANGUAGES)
            region_sounds = [name for name in names if name not in _LANGUAGES | _NO_SOUNDS]
            if region_sounds:
                sounds.append([region.start_ms, region.end_ms, *region_sounds])
        language = next((name for name, _ in languages.most_common(1)), None)
        return language, {ResultTag.SOUNDS: sounds} if sounds else {}


class Vocabulary:
    """The texts of a model's tokens, each looked up once."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._is_sentencepiece = hasattr(tokenizer, "bpemodel")
        self._texts: dict[int, str] = {}
        self._subwords: dict[tuple[int, bool], tuple[str, bool]] = {}

    def encode(self, hotword: str) -> list[int]:
        """Return the tokens of a hotword."""
        return list(self._tokenizer.tokens2ids(self._tokenizer.text2tokens(hotword)))

    def text(self, token: int) -> str:
        """Return the text of a token."""
        if token not in self._texts:
            if self._is_sentencepiece:
                self._texts[token] = self._tokenizer.sp.IdToPiece(token)
            else:
                self._texts[token] = self._tokenizer.ids2tokens([token])[0]
        return self._texts[token]

    def subwords(self, tokens: Sequence[int]) -> Iterator[str]:
        """Yield the text of each token, with a space before one that begins a word.

        It is empty where a token is a special one.
        """
        continues = False
        for token in tokens:
            key = token, continues
            if key not in self._subwords:
                self._subwords[key] = self._make_subword(self.text(token), continues)
            text, continues = self._subwords[key]
            yield text

    def _make_subword(self, text: str, continues: bool) -> tuple[str, bool]:
        """Return a token's subword, given whether the last one continues; and whether it does."""
        if text.startswith("<") and text.endswith(">"):
            return "", False
        begins_word = text.startswith(_WORD_START) if self._is_sentencepiece else not continues
        subword = text.removeprefix(_WORD_START).removesuffix(_CONTINUATION_SUFFIX)
        space = " " if subword and begins_word and not is_cjk(subword[0]) else ""
        return space + subword, text.endswith(_CONTINUATION_SUFFIX)


def load_funasr(profile: Profile, settings: Settings, bank: FilterBank) -> Recognizer:
    """Verify and load the profile's model.

    Raises:
        Misconfigured: the weights are missing or changed, or were not loaded.
    """
    model, options, directory = build_model(profile.model_files, settings.models, settings.device)
    family = networks.FAMILIES.get(options["model_name"])
    if family is None or not is_supported_model(model.model):
        return GenericRecognizer(model)
    is_cpu = bank.device.type == "cpu"
    dtype = features.DTYPES[profile.decode.precision]
    if is_cpu and dtype == torch.bfloat16 and not has_bfloat16():
        log.warning("precision_is_slow", precision="bfloat16", reason="this CPU has none")
    buckets = EXACT_SIZES if is_cpu else ROUNDED_SIZES
    runner = _choose_runner(settings, bank.device)
    frontend, path = options["frontend"], directory / "am.mvn"
    normalisation = features.read_normalisation(path).to(bank.device) if path.is_file() else None
    recognizer = FunasrRecognizer(
        family(model.model, dtype, runner, buckets.tokens),
        options["tokenizer"],
        Frontend(Stacking(frontend.lfr_m, frontend.lfr_n), normalisation),
        bank,
        Budget(CPU_BUDGET_MS),
        buckets,
    )
    if not is_cpu:
        free_bytes = torch.cuda.mem_get_info(bank.device)[0]
        recognizer.budget.learn(free_bytes, recognizer.warm_up_bytes)
    return recognizer


def _choose_runner(settings: Settings, device: torch.device) -> PartRunner:
    if not settings.compile:
        return networks.run_directly
    if device.type == "cpu":
        # Compiled by torch they earned a tenth, and took minutes (ops/bench/RESULTS.md).
        log.info("not_compiled", reason="on a CPU it earns next to nothing")
        return networks.run_directly
    return GraphRunner(device)
