"""FunASR's models on a GPU, without the path that keeps it waiting.

    features of the segment -> each region's -> stacked, normalised -> minibatches of like length
        -> network -> tokens with times -> words

FunASR's ``generate`` computes features one region at a time on the CPU, pads batches in the order
that it is given, walks through frames in Python, and empties the device's cache after each call. Of
FunASR there are the networks and the tokenizer here (:mod:`workers.engines.families`); a model of
another kind is asked through ``generate``, region by region (:class:`Generic`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from schema.pcm import Samples
from schema.profile import Profile
from schema.settings import Settings
from schema.span import Span
from schema.transcript import is_cjk
from schema.words import Word
from workers.audio import SAMPLES_PER_MS
from workers.budget import CPU_MS, Budget
from workers.engines.attention import fuse
from workers.engines.base import Decoding, Recognizer
from workers.engines.checkpoint import build
from workers.engines.compiled import compile_layers
from workers.engines.families import FAMILIES, Family, Token, Written
from workers.engines.features import (
    FRAME_MS,
    FilterBank,
    Normalisation,
    Stacking,
    frame_count,
    inference,
    read_normalisation,
)
from workers.engines.guest import guest
from workers.engines.pieces import joined
from workers.minibatch import minibatches

#: Regions in a minibatch at most: short ones by the thousand gain no more.
_MOST = 256

#: What a minibatch costs beside its padded length, in ms of speech. A processor reads all weights
#: for each: as long as it takes for a second (ops/bench/engine.py). A GPU waits for a thousand
#: kernels to be launched, in which it could decode minutes (by its arithmetic; not measured).
CPU_OVERHEAD_MS = 1_000
GPU_OVERHEAD_MS = 300_000

#: What a token ends with that goes on in the next one; what begins a word in SentencePiece.
_GOES_ON = "@@"
_BEGINS = "\u2581"

#: The tag of what SenseVoice says beside words: each region's events and emotion, with its times.
SOUNDS = "sounds"


@dataclass(frozen=True, slots=True)
class Frontend:
    """How a model's input is made of log-mel features."""

    stacking: Stacking
    normalisation: Normalisation | None

    def of(self, mel: Tensor) -> Tensor:
        """Return a region's input, float32 ``(frames, values)``."""
        stacked = self.stacking.of(mel)
        return self.normalisation.of(stacked) if self.normalisation else stacked


class FunasrRecognizer:
    """A loaded model of a family we know. See :class:`workers.engines.base.Recognizer`."""

    def __init__(
        self, family: Family, tokenizer: Any, frontend: Frontend, bank: FilterBank, budget: Budget
    ) -> None:
        self._family = family
        self._tokenizer = tokenizer
        self._frontend = frontend
        self._bank = bank
        self.budget = budget

    def decode(
        self,
        samples: Samples,
        regions: Sequence[Span],
        *,
        language: str,
        hotwords: Sequence[str] = (),
        carry_on: Callable[[], None] = lambda: None,
    ) -> Decoding:
        """Return the words of ``regions``: see :meth:`workers.engines.base.Recognizer.decode`."""
        if not regions:
            return Decoding((), None)
        mel = self._bank.of(samples)
        biases = [self._ids(hotword) for hotword in hotwords]
        written: dict[int, Written] = {}
        # A region without a frame never reaches a network.
        left = [index for index, region in enumerate(regions) if _frames_of(region)]
        while left:
            for chosen in self._minibatches(regions, left):
                carry_on()
                inputs = [self._input(mel, regions[index]) for index in chosen]
                found = self._write(inputs, language, biases)
                if found is None:
                    break  # The budget is another: what is left is divided anew.
                written.update(zip(chosen, found, strict=True))
            left = [index for index in left if index not in written]
        return self._decoding(
            regions, [written.get(i, Written(())) for i in range(len(regions))], language
        )

    def trial_bytes(self, duration_ms: int) -> int:
        """Decode that many ms of silence; return how much of the device's memory it took."""
        device = self._bank.device
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        mel = torch.zeros((duration_ms // FRAME_MS, 80), device=device)
        with inference():
            self._write([self._frontend.of(mel)], "auto", [])
        taken = torch.cuda.max_memory_allocated(device) - before
        torch.cuda.empty_cache()
        return int(taken)

    def _minibatches(self, regions: Sequence[Span], left: Sequence[int]) -> list[list[int]]:
        """Return the regions that are left in minibatches that the budget holds at present."""
        lengths = [regions[index].duration_ms for index in left]
        batches = minibatches(
            lengths,
            budget=self.budget.ms,
            most=_MOST,
            overhead=CPU_OVERHEAD_MS if self._bank.device.type == "cpu" else GPU_OVERHEAD_MS,
        )
        return [[left[at] for at in batch] for batch in batches]

    def _input(self, mel: Tensor, region: Span) -> Tensor:
        """Return a region's input; it has the features that it would have if it were cut out."""
        first = region.start_ms // FRAME_MS
        with inference():
            return self._frontend.of(mel[first : first + _frames_of(region)])

    def _write(
        self, inputs: Sequence[Tensor], language: str, biases: Sequence[Sequence[int]]
    ) -> list[Written] | None:
        """Return what each region says, or None where memory ran out and less was agreed on."""
        try:
            with inference(), self._steadily():
                lengths = torch.tensor([len(own) for own in inputs], device=self._bank.device)
                padded = torch.nn.utils.rnn.pad_sequence(list(inputs), batch_first=True)
                return self._family.write(padded, lengths, language, biases)
        except torch.OutOfMemoryError:
            # Half of it, unless it was one region: then there is nothing to be halved.
            if len(inputs) == 1 or not self.budget.halve():
                raise
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
        library.enabled = self._family.half
        try:
            yield
        finally:
            library.enabled = enabled

    def _decoding(
        self, regions: Sequence[Span], written: Sequence[Written], language: str
    ) -> Decoding:
        # Region by region: a token never goes on in the next one's first.
        words = tuple(
            Word(
                word.text,
                min(region.start_ms + word.start_ms, region.end_ms),
                min(region.start_ms + word.end_ms, region.end_ms),
                word.confidence,
            )
            for region, own in zip(regions, written, strict=True)
            for word in joined(self._pieces(own.tokens))
        )
        heard, sounds = self._marks(regions, written)
        if not words:
            return Decoding((), None, sounds)
        spoken = language if language != "auto" else heard or _script_of(words)
        return Decoding(words, spoken, sounds)

    def _pieces(self, tokens: Sequence[Token]) -> Iterator[Word]:
        """Yield each token as a word in the making: one that begins a word has a space before."""
        texts = self._texts([token.id for token in tokens])
        goes_on = False
        for token, text in zip(tokens, texts, strict=True):
            if text.startswith("<") and text.endswith(">"):
                goes_on = False
                continue
            begins = text.startswith(_BEGINS) if self._is_sentencepiece else not goes_on
            bare = text.removeprefix(_BEGINS).removesuffix(_GOES_ON)
            goes_on = text.endswith(_GOES_ON)
            if bare:
                space = " " if begins and not is_cjk(bare[0]) else ""
                sure = round(token.probability, 3)
                yield Word(space + bare, token.start_ms, token.end_ms, sure)

    def _texts(self, ids: Sequence[int]) -> list[str]:
        """Return the text of each token."""
        if self._is_sentencepiece:
            return [self._tokenizer.sp.IdToPiece(own) for own in ids]
        texts: list[str] = self._tokenizer.ids2tokens(list(ids))
        return texts

    @property
    def _is_sentencepiece(self) -> bool:
        return hasattr(self._tokenizer, "bpemodel")

    def _marks(
        self, regions: Sequence[Span], written: Sequence[Written]
    ) -> tuple[str | None, dict[str, Any]]:
        """Return the language of most regions, and what was heard in each beside words."""
        languages: Counter[str] = Counter()
        sounds = []
        for region, own in zip(regions, written, strict=True):
            names = [text[2:-2] for text in self._texts(own.marks) if text.startswith("<|")]
            languages.update(name for name in names[:1] if name in _LANGUAGES)
            beside = [name for name in names if name not in _LANGUAGES | _NO_SOUNDS]
            if beside:
                sounds.append([region.start_ms, region.end_ms, *beside])
        most = languages.most_common(1)
        return most[0][0] if most else None, {SOUNDS: sounds} if sounds else {}

    def _ids(self, hotword: str) -> list[int]:
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


class Generic:
    """Any other model of FunASR's, region by region through its ``generate``."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def decode(
        self,
        samples: Samples,
        regions: Sequence[Span],
        *,
        language: str,
        hotwords: Sequence[str] = (),
        carry_on: Callable[[], None] = lambda: None,
    ) -> Decoding:
        """Return the words of ``regions``: see :meth:`workers.engines.base.Recognizer.decode`."""
        words: list[Word] = []
        for region in regions:
            carry_on()
            audio = samples[region.start_ms * SAMPLES_PER_MS : region.end_ms * SAMPLES_PER_MS]
            with guest():
                results = self._model.generate(
                    audio, key="region", language=language, hotword=" ".join(hotwords) or None
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
    name = options["model_name"]
    family = FAMILIES.get(name)
    if family is None:
        return Generic(model)
    fuse(model.model)
    if settings.compile:
        compile_layers(model.model)
    half = profile.decode.precision == "bfloat16"
    recognizer = FunasrRecognizer(
        family(model.model, half),
        options["tokenizer"],
        _frontend(directory, options, bank),
        bank,
        Budget(CPU_MS),
    )
    if bank.device.type == "cuda":
        free_bytes = torch.cuda.mem_get_info(bank.device)[0]
        recognizer.budget.learn(free_bytes, recognizer.trial_bytes)
    return recognizer


def _frontend(directory: Path, options: Mapping[str, Any], bank: FilterBank) -> Frontend:
    theirs = options["frontend"]
    normalisation = directory / "am.mvn"
    return Frontend(
        Stacking(theirs.lfr_m, theirs.lfr_n),
        read_normalisation(normalisation).to(bank.device) if normalisation.is_file() else None,
    )
