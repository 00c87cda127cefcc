"""FunASR's networks, called with our own batches: from features to tokens with their times.

Each family takes padded features of several regions and returns, for each, the ids of its tokens,
when they are said, and how sure they are. A device is asked for figures twice for each minibatch:
how many tokens there are, which is how much is to be written, and what was written; SenseVoice
writes a token for each frame, and is asked once. Encoder and decoder compute in the precision that
is asked for (:mod:`workers.engines.funasr.sanm`); what counts tokens, what times them, and the
softmax stay in float32, since a sum of a thousand weights in half precision loses whole tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import rnn

from workers.engines.funasr import cif
from workers.engines.funasr.sanm import PartRunner, RowMask, SanmDecoder, SanmEncoder, mask_rows

_Floats = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.int64]

#: What one frame of an encoder's output covers.
ENCODER_FRAME_MS = 60


@dataclass(frozen=True, slots=True)
class RegionTokens:
    """The tokens of one region.

    ``ids`` int64 ``(tokens,)``; ``times_ms`` int64 ``(tokens, 2)``, from the region's start;
    ``probabilities`` float32 ``(tokens,)``; ``special_tokens`` are no words, and in order.
    """

    ids: _Ids
    times_ms: cif.Times
    probabilities: _Floats
    special_tokens: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


#: Of a region in which nothing is said.
NO_TOKENS = RegionTokens(np.zeros(0, np.int64), np.zeros((0, 2), np.int64), np.zeros(0, np.float32))


@dataclass(frozen=True, slots=True)
class Batch:
    """Regions that are decoded together.

    ``features`` are float32 ``(regions, frames, values)``, stacked and normalised; what lies behind
    a region's last frame is of no matter. ``lengths`` says how many frames each has, on the host,
    and ``device_lengths`` the same on the device, int64 ``(regions,)``.
    """

    features: Tensor
    lengths: Sequence[int]
    device_lengths: Tensor


class ModelFamily(Protocol):
    """A kind of network."""

    #: What it computes in.
    dtype: torch.dtype

    def decode_batch(
        self, batch: Batch, language: str, hotwords: Sequence[Sequence[int]], /
    ) -> list[RegionTokens]:
        """Return the tokens of each region.

        ``language`` is an ISO 639-1 code, or "auto"; ``hotwords`` are the tokens of each, for a
        family that can be biased.
        """

    def warm_up(self, batch: Batch, tokens: int) -> None:
        """Compute what so many tokens in each region take, whatever is said."""


def run_directly(_: str, function: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Run a part of a network: see :class:`workers.engines.funasr.sanm.PartRunner`."""
    result: tuple[Tensor, ...] = function(*tensors)
    return result


@dataclass(slots=True)
class Paraformer:
    """Paraformer, BiCifParaformer and SeacoParaformer: all tokens of a region in one step.

    Gao et al. (2022), "Paraformer: Fast and Accurate Parallel Transformer for Non-autoregressive
    End-to-End Speech Recognition". A predictor that upsamples ("CifPredictorV3") also tells when
    tokens are said, on a grid of 20 ms; of one that does not, tokens take the time of the frames
    that they were made of. Hotwords: Shi et al. (2023), "SeACo-Paraformer: A Non-Autoregressive ASR
    System with Flexible and Effective Hotword Customization Ability".
    """

    model: Any
    dtype: torch.dtype = torch.float32
    run: PartRunner = run_directly
    #: What a number of tokens is rounded up to, so that few shapes are computed.
    round_tokens: Any = int
    _special_ids: _Ids = field(init=False)
    _encoder: SanmEncoder = field(init=False)
    _decoder: SanmDecoder = field(init=False)
    _hotword_bias: _HotwordBias | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._special_ids = np.array([self.model.sos, self.model.eos, self.model.blank_id])
        self._encoder = SanmEncoder(self.model.encoder, self.dtype)
        self._decoder = SanmDecoder(self.model.decoder, self.dtype)
        if hasattr(self.model, "seaco_decoder"):
            self._hotword_bias = _HotwordBias(self.model, self.dtype)

    def decode_batch(
        self, batch: Batch, _: str, hotwords: Sequence[Sequence[int]], /
    ) -> list[RegionTokens]:
        """Return the tokens of each region: see :meth:`ModelFamily.decode_batch`."""
        encoding = self.run("encoder", self._encode, batch.features, batch.device_lengths)
        counts = encoding[3].tolist()
        max_tokens = max(counts)
        if max_tokens < 1:
            return [NO_TOKENS] * len(counts)
        tokens = self._decode(batch, encoding, self.round_tokens(max_tokens), hotwords)
        return self._split_regions(tokens, counts, batch.lengths)

    def warm_up(self, batch: Batch, tokens: int) -> None:
        """Compute what so many tokens in each region take: see :meth:`ModelFamily.warm_up`."""
        hidden, convolution, weights, counts = self._encode(batch.features, batch.device_lengths)
        counts = torch.full_like(counts, tokens)
        self._decode(batch, (hidden, convolution, weights, counts), tokens, [])

    def _encode(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Return the encoder's output, its convolution, frames' weights and tokens' numbers."""
        mask = mask_rows(lengths, features.shape[1], self.dtype)
        factors = mask.factors.float()
        # The convolution below looks one frame ahead: into padding, which alone would be zero.
        hidden = self._encoder.apply(features, mask) * factors[..., None]
        convolution = self._convolve(hidden)
        weights, counts = self._weigh_frames(convolution, factors, lengths)
        return hidden, convolution, weights, counts

    def _convolve(self, hidden: Tensor) -> Tensor:
        """Return the predictor's convolution over the encoder's output, values before frames."""
        predictor = self.model.predictor
        convolution: Tensor = predictor.cif_conv1d(predictor.pad(hidden.transpose(1, 2))).relu_()
        return convolution

    def _weigh_frames(
        self, convolution: Tensor, factors: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return each frame's weight, one more for the tail, and how many tokens that makes."""
        predictor = self.model.predictor
        chances = predictor.cif_output(convolution.transpose(1, 2)).squeeze(-1).sigmoid_()
        weights = torch.relu(chances * predictor.smooth_factor - predictor.noise_threshold)
        weights = weights * factors
        if predictor.tail_threshold > 0:
            # One more frame, behind each region's last, fires what is nearly a token.
            weights = functional.pad(weights, (0, 1))
            weights = weights.scatter(1, lengths[:, None], predictor.tail_threshold)
            return weights, weights.sum(dim=-1).floor().long()
        return weights, weights.sum(dim=-1).round().long()

    def _decode(
        self,
        batch: Batch,
        encoding: Sequence[Tensor],
        tokens: int,
        hotwords: Sequence[Sequence[int]],
    ) -> _BatchTokens:
        hidden, convolution, weights, counts = encoding
        padding = 0, 0, 0, weights.shape[1] - hidden.shape[1]
        embeddings = cif.integrate(functional.pad(hidden, padding), weights, tokens)
        inputs = hidden, batch.device_lengths, embeddings, counts
        if self._hotword_bias is not None and hotwords:
            probabilities, ids = self._pick_biased_tokens(self._hotword_bias, *inputs, hotwords)
        else:
            probabilities, ids = self.run("decoder", self._pick_tokens, *inputs)
        upsampled_weights = self._upsample_weights(hidden, convolution, batch, counts)
        timing = weights if upsampled_weights is None else upsampled_weights
        # One copy, so that the device is waited for once; ids are whole numbers below 2 ** 24.
        figures = torch.cat([ids.float(), probabilities, timing], dim=1).cpu().numpy()
        return _BatchTokens(
            figures[:, :tokens].astype(np.int64),
            figures[:, tokens : 2 * tokens],
            figures[:, 2 * tokens :],
        )

    def _pick_tokens(
        self, hidden: Tensor, lengths: Tensor, embeddings: Tensor, counts: Tensor
    ) -> tuple[Tensor, ...]:
        """Return each token's probability and id, both ``(regions, tokens)``."""
        scores = self._decoder.score(self._run_decoder(hidden, lengths, embeddings, counts))
        max_scores, ids = scores.max(dim=-1)
        # The softmax of the likeliest alone: the others' would be written and never read.
        probabilities = torch.exp(max_scores - scores.logsumexp(dim=-1))
        shape = embeddings.shape[:2]
        return probabilities.view(shape), ids.view(shape)

    def _pick_biased_tokens(
        self,
        bias: _HotwordBias,
        hidden: Tensor,
        lengths: Tensor,
        embeddings: Tensor,
        counts: Tensor,
        hotwords: Sequence[Sequence[int]],
    ) -> tuple[Tensor, Tensor]:
        output = self._run_decoder(hidden, lengths, embeddings, counts)
        shape = embeddings.shape[:2]
        plain_scores = self._decoder.score(output).log_softmax(dim=-1).view(*shape, -1)
        mask = mask_rows(counts, embeddings.shape[1], self.dtype)
        scores = bias.apply(plain_scores, output, embeddings, mask, hotwords)
        max_scores, ids = scores.max(dim=-1)
        return max_scores.exp(), ids

    def _run_decoder(
        self, hidden: Tensor, lengths: Tensor, embeddings: Tensor, counts: Tensor
    ) -> Tensor:
        """Return the decoder's output before it is scored, ``(regions * tokens, values)``."""
        source_mask = mask_rows(lengths, hidden.shape[1], self.dtype).attention
        mask = mask_rows(counts, embeddings.shape[1], self.dtype)
        return self._decoder.apply(hidden, source_mask, embeddings, mask)

    def _upsample_weights(
        self, hidden: Tensor, convolution: Tensor, batch: Batch, counts: Tensor
    ) -> Tensor | None:
        predictor = self.model.predictor
        if not hasattr(predictor, "upsample_cnn"):
            return None
        factors = mask_rows(batch.device_lengths, hidden.shape[1], torch.float32).factors
        source = convolution if predictor.use_cif1_cnn else hidden.transpose(1, 2)
        output = predictor.upsample_cnn(source).transpose(1, 2)
        times = predictor.upsample_times
        if predictor.upsample_type == "cnn_blstm":
            lengths = [length * times for length in batch.lengths]
            output = _run_lstm(predictor.blstm, output, lengths)
        elif predictor.upsample_type == "cnn_attn":
            output, _ = predictor.self_attn(output, factors[:, None])
        chances = predictor.cif_output2(output).squeeze(-1).sigmoid_()
        weights = torch.relu(chances * predictor.smooth_factor2 - predictor.noise_threshold2)
        weights = weights.view(*factors.shape, times) * factors[..., None]
        weights = weights.flatten(1)
        scaled_weights: Tensor = weights * (counts / weights.sum(dim=-1))[:, None]
        return scaled_weights

    def _split_regions(
        self, tokens: _BatchTokens, counts: Sequence[int], lengths: Sequence[int]
    ) -> list[RegionTokens]:
        is_upsampled = hasattr(self.model.predictor, "upsample_cnn")
        regions = []
        for region, (count, length) in enumerate(zip(counts, lengths, strict=True)):
            ids = tokens.ids[region, :count]
            words = np.flatnonzero(~np.isin(ids, self._special_ids))
            if is_upsampled:
                weights = tokens.weights[region, : length * cif.UPSAMPLING_FACTOR]
                times_ms = cif.upsampled_token_times(weights, len(words))
            else:
                weights = tokens.weights[region, :length]
                times_ms = cif.plain_token_times(weights, count, ENCODER_FRAME_MS)[words]
            probabilities = tokens.probabilities[region, words]
            regions.append(RegionTokens(ids[words], times_ms, probabilities))
        return regions


@dataclass(frozen=True, slots=True)
class _BatchTokens:
    """A minibatch's figures on the host: both ``(regions, tokens)``, and the frames' weights."""

    ids: _Ids
    probabilities: _Floats
    weights: _Floats


class _HotwordBias:
    #: Of more hotwords than these, the likeliest are chosen by a first look.
    _MAX_HOTWORDS = 50

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self._model = model
        self._dtype = dtype
        self._decoder = SanmDecoder(model.seaco_decoder, dtype)
        self._cache: tuple[tuple[tuple[int, ...], ...], Tensor] | None = None

    def apply(
        self,
        plain_scores: Tensor,
        output: Tensor,
        embeddings: Tensor,
        mask: RowMask,
        hotwords: Sequence[Sequence[int]],
    ) -> Tensor:
        """Return the logarithms of the probabilities of every token, ``(regions, tokens, ids)``.

        ``plain_scores`` are the same without a bias; ``output`` is the decoder's, ``(regions *
        tokens, values)``, and ``embeddings`` its input, float32 ``(regions, tokens, values)``.
        """
        hidden = output.view(embeddings.shape).float()
        context = self._embed(hotwords)
        if len(context) > self._MAX_HOTWORDS:
            context = self._select_likeliest(context, hidden, mask)
        if context.dim() == 2:
            context = context.expand(len(embeddings), -1, -1)
        context_mask = context.new_ones((len(context), 1, 1, context.shape[1]), dtype=torch.bool)
        by_meaning, by_context = (
            self._decoder.apply(context, context_mask, source, mask).float()
            for source in (embeddings, hidden)
        )
        layer = self._model.hotword_output_layer
        scores = functional.linear(
            by_meaning + by_context, layer.weight.float(), layer.bias.float()
        )
        scores = scores.log_softmax(dim=-1).view(plain_scores.shape)
        is_plain = (scores.argmax(dim=-1) == self._model.NO_BIAS)[..., None]
        return torch.where(is_plain, plain_scores, scores)

    def _embed(self, hotwords: Sequence[Sequence[int]]) -> Tensor:
        """Return each hotword's embedding, the last for no hotword: ``(n + 1, values)``."""
        key = tuple(map(tuple, hotwords))
        if self._cache is None or self._cache[0] != key:
            device = next(self._model.parameters()).device
            tokens = [torch.tensor(hotword) for hotword in (*key, (self._model.sos,))]
            lengths = torch.tensor([len(hotword) for hotword in tokens], dtype=torch.int32)
            rows = rnn.pad_sequence(tokens, batch_first=True).to(device)
            embeddings = self._model._hotword_representation(rows, lengths.to(device))
            self._cache = key, embeddings.reshape(len(tokens), -1).float()
        return self._cache[1]

    def _select_likeliest(self, embeddings: Tensor, hidden: Tensor, mask: RowMask) -> Tensor:
        """Return those that the decoder attends to most in each region, no hotword last.

        FunASR asks the first region of a minibatch alone; then a region's words would be others'.
        """
        context = embeddings.expand(len(hidden), -1, -1)
        lengths = torch.full((len(hidden),), len(embeddings), device=embeddings.device)
        counts = mask.factors.sum(dim=1, dtype=torch.float32).long()
        is_half = self._dtype != torch.float32
        with torch.autocast(hidden.device.type, dtype=torch.bfloat16, enabled=is_half):
            chances = self._model.seaco_decoder.forward_asf6(context, lengths, hidden, counts)
        scores = (chances * mask.factors[:, None, :, None]).sum(dim=(1, 2))
        likeliest = scores.topk(min(self._MAX_HOTWORDS, len(embeddings) - 1))[1]
        no_hotword = embeddings[-1:].expand(len(hidden), 1, -1)
        return torch.cat([embeddings[likeliest], no_hotword], dim=1)


@dataclass(slots=True)
class SenseVoice:
    """SenseVoiceSmall: an encoder with CTC, with four prompt tokens ahead of the speech.

    The tokens are those of the likeliest path, and their times are where it lies: of all paths
    that write the same tokens it is the likeliest, so that no forced alignment has to find it.
    """

    model: Any
    dtype: torch.dtype = torch.float32
    run: PartRunner = run_directly
    round_tokens: Any = int
    _encoder: SanmEncoder = field(init=False)
    _prompt_embeddings: dict[str, Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._encoder = SanmEncoder(self.model.encoder, self.dtype)

    def decode_batch(
        self, batch: Batch, language: str, _: Sequence[Sequence[int]], /
    ) -> list[RegionTokens]:
        """Return the tokens of each region: see :meth:`ModelFamily.decode_batch`."""
        prompt = self._embed_prompt(language).expand(len(batch.features), -1, -1)
        inputs = prompt, batch.features, batch.device_lengths
        device_ids, device_probabilities = self.run("encoder", self._pick_tokens, *inputs)
        # One copy; ids are whole numbers below 2 ** 24.
        figures = torch.stack([device_ids.float(), device_probabilities]).cpu().numpy()
        ids, probabilities = figures[0].astype(np.int64), figures[1]
        return [
            self._collapse_ctc_path(ids[region, : _PROMPT_TOKENS + length], probabilities[region])
            for region, length in enumerate(batch.lengths)
        ]

    def warm_up(self, batch: Batch, tokens: int) -> None:  # noqa: ARG002
        """Compute all that is computed, whatever is said: see :meth:`ModelFamily.warm_up`."""
        self.decode_batch(batch, "auto", [])

    def _embed_prompt(self, language: str) -> Tensor:
        """Return the embedded prompt: language, event, emotion; and that numbers stay in words."""
        model = self.model
        if language not in self._prompt_embeddings:
            language_id, form_id = model.lid_dict.get(language, 0), model.textnorm_dict["woitn"]
            prompt_ids = [language_id, _EVENT_ID, _EMOTION_ID, form_id]
            ids = torch.tensor([prompt_ids], device=model.embed.weight.device)
            self._prompt_embeddings[language] = model.embed(ids)
        return self._prompt_embeddings[language]

    def _pick_tokens(self, prompt: Tensor, features: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Return the likeliest token of each frame, the prompt's first, and its probability."""
        inputs = torch.cat([prompt, features], dim=1)
        mask = mask_rows(lengths + _PROMPT_TOKENS, inputs.shape[1], self.dtype)
        scores = self.model.ctc.ctc_lo(self._encoder.apply(inputs, mask))
        max_scores, ids = scores.max(dim=-1)
        return ids, torch.exp(max_scores - scores.logsumexp(dim=-1))

    def _collapse_ctc_path(self, ids: _Ids, probabilities: _Floats) -> RegionTokens:
        """Return a region's tokens: runs of one token are one, and blanks are none."""
        blank = self.model.blank_id
        special_tokens = tuple(i for i in ids[:_PROMPT_TOKENS].tolist() if i != blank)
        path = ids[_PROMPT_TOKENS:]
        if not len(path):
            return replace(NO_TOKENS, special_tokens=special_tokens)
        # Where a run of one token starts, and where the next one does.
        starts = np.flatnonzero(np.diff(path, prepend=path[0] - 1))
        ends = np.append(starts[1:], len(path))
        path_probabilities = probabilities[_PROMPT_TOKENS : _PROMPT_TOKENS + len(path)]
        max_probabilities = np.maximum.reduceat(path_probabilities, starts)
        is_token = path[starts] != blank
        edges_ms = np.stack([starts, ends], axis=1)[is_token] * ENCODER_FRAME_MS
        times_ms = np.maximum(0, edges_ms - ENCODER_FRAME_MS // 2)
        return RegionTokens(
            path[starts][is_token], times_ms, max_probabilities[is_token], special_tokens
        )


#: Frames that SenseVoice's prompt takes, and what it answers to it.
_PROMPT_TOKENS = 4
#: The prompt tokens that ask for the event and the emotion.
_EVENT_ID, _EMOTION_ID = 1, 2

#: By the name that a config.yaml gives its model.
FAMILIES: Mapping[str, type[Paraformer] | type[SenseVoice]] = {
    "Paraformer": Paraformer,
    "BiCifParaformer": Paraformer,
    "SeacoParaformer": Paraformer,
    "SenseVoiceSmall": SenseVoice,
}


def _run_lstm(lstm: Any, frames: Tensor, lengths: Sequence[int]) -> Tensor:
    """Run an LSTM over each region's own frames, the longest first: backwards, from its last."""
    sequences = rnn.pack_padded_sequence(frames, torch.tensor(lengths), batch_first=True)
    output, _ = rnn.pad_packed_sequence(
        lstm(sequences)[0], batch_first=True, total_length=frames.shape[1]
    )
    return output
