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
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from workers.engines.funasr.cif import UPSAMPLED, Times, fired_times, integrate, token_times
from workers.engines.funasr.sanm import Decoder, Encoder, Rows, Run, rows_of

_Floats = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.int64]

#: What one frame of an encoder's output covers.
ENCODER_FRAME_MS = 60


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a network wrote of one region, an entry for each token.

    ``ids`` int64 ``(tokens,)``; ``times_ms`` int64 ``(tokens, 2)``, from the region's start;
    ``probabilities`` float32 ``(tokens,)``; ``marks`` are tokens that are no words, in order.
    """

    ids: _Ids
    times_ms: Times
    probabilities: _Floats
    marks: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


#: Of a region in which nothing is said.
NO_TOKENS = Tokens(
    np.zeros(0, np.int64), np.zeros((0, 2), np.int64), np.zeros(0, np.float32), marks=()
)


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


class Family(Protocol):
    """A kind of network."""

    #: What it computes in.
    dtype: torch.dtype

    def write(self, batch: Batch, language: str, hotwords: Sequence[Sequence[int]]) -> list[Tokens]:
        """Return what each region says.

        Args:
            batch: the regions.
            language: an ISO 639-1 code, or "auto".
            hotwords: the tokens of each, for a family that can be biased.
        """
        ...

    def rehearse(self, batch: Batch, tokens: int) -> None:
        """Compute all that is computed where each region says so many tokens, whatever it says."""
        ...


def run_as_called(
    name: str,  # noqa: ARG001
    function: Any,
    *tensors: Tensor,
) -> tuple[Tensor, ...]:
    """Run a part of a network: see :class:`workers.engines.funasr.sanm.Run`."""
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
    run: Run = run_as_called
    #: What a number of tokens is rounded up to, so that few shapes are computed.
    rounded: Any = int
    _never: _Ids = field(init=False)
    _encoder: Encoder = field(init=False)
    _decoder: Decoder = field(init=False)
    _bias: _Bias | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._never = np.array([self.model.sos, self.model.eos, self.model.blank_id])
        self._encoder = Encoder(self.model.encoder, self.dtype)
        self._decoder = Decoder(self.model.decoder, self.dtype)
        if hasattr(self.model, "seaco_decoder"):
            self._bias = _Bias(self.model, self.dtype)

    def write(
        self,
        batch: Batch,
        language: str,  # noqa: ARG002
        hotwords: Sequence[Sequence[int]],
    ) -> list[Tokens]:
        """Return what each region says: see :meth:`Family.write`."""
        heard = self.run("encoder", self._hear, batch.features, batch.device_lengths)
        counts = heard[3].tolist()
        most = max(counts)
        if most < 1:
            return [NO_TOKENS] * len(counts)
        written = self._write(batch, heard, self.rounded(most), hotwords)
        return self._tokens(written, counts, batch.lengths)

    def rehearse(self, batch: Batch, tokens: int) -> None:
        """Compute what so many tokens in each region take: see :meth:`Family.rehearse`."""
        hidden, convolved, weights, counts = self._hear(batch.features, batch.device_lengths)
        told = torch.full_like(counts, tokens)
        self._write(batch, (hidden, convolved, weights, told), tokens, [])

    def _hear(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Return the encoder's output, its convolution, frames' weights and tokens' numbers."""
        present = rows_of(lengths, features.shape[1], self.dtype)
        mask = present.present.float()
        # The convolution below looks one frame ahead: into padding, which alone would be zero.
        hidden = self._encoder.of(features, present) * mask[..., None]
        convolved = self._convolved(hidden)
        weights, counts = self._weights(convolved, mask, lengths)
        return hidden, convolved, weights, counts

    def _write(
        self,
        batch: Batch,
        heard: Sequence[Tensor],
        tokens: int,
        hotwords: Sequence[Sequence[int]],
    ) -> _Written:
        hidden, convolved, weights, counts = heard
        padded = torch.nn.functional.pad(hidden, (0, 0, 0, weights.shape[1] - hidden.shape[1]))
        embeddings = integrate(padded, weights, tokens)
        if self._bias is not None and hotwords:
            sure, ids = self._biased(self._bias, batch, hidden, embeddings, counts, hotwords)
        else:
            given = hidden, batch.device_lengths, embeddings, counts
            sure, ids = self.run("decoder", self._decode, *given)
        times = self._upsampled(hidden, convolved, batch, counts)
        chosen = weights if times is None else times
        # One copy, so that the device is waited for once; ids are whole numbers below 2 ** 24.
        figures = torch.cat([ids.float(), sure, chosen], dim=1).cpu().numpy()
        return _Written(
            figures[:, :tokens].astype(np.int64),
            figures[:, tokens : 2 * tokens],
            figures[:, 2 * tokens :],
        )

    def _convolved(self, hidden: Tensor) -> Tensor:
        """Return the predictor's convolution over the encoder's output, values before frames."""
        predictor = self.model.predictor
        convolved: Tensor = predictor.cif_conv1d(predictor.pad(hidden.transpose(1, 2))).relu_()
        return convolved

    def _weights(self, convolved: Tensor, mask: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return each frame's weight, one more for the tail, and how many tokens that makes."""
        predictor = self.model.predictor
        chances = predictor.cif_output(convolved.transpose(1, 2)).squeeze(-1).sigmoid_()
        weights = torch.relu(chances * predictor.smooth_factor - predictor.noise_threshold) * mask
        if predictor.tail_threshold > 0:
            # One more frame, behind each region's last, fires what is nearly a token.
            weights = torch.nn.functional.pad(weights, (0, 1))
            weights = weights.scatter(1, lengths[:, None], predictor.tail_threshold)
            return weights, weights.sum(dim=-1).floor().long()
        return weights, weights.sum(dim=-1).round().long()

    def _hidden(
        self, hidden: Tensor, lengths: Tensor, embeddings: Tensor, counts: Tensor
    ) -> Tensor:
        """Return the decoder's output before it is scored, ``(regions * tokens, values)``."""
        visible = rows_of(lengths, hidden.shape[1], self.dtype).visible
        spoken = rows_of(counts, embeddings.shape[1], self.dtype)
        return self._decoder.hidden(hidden, visible, embeddings, spoken)

    def _decode(
        self, hidden: Tensor, lengths: Tensor, embeddings: Tensor, counts: Tensor
    ) -> tuple[Tensor, ...]:
        """Return each token's probability and id, both ``(regions, tokens)``."""
        scores = self._decoder.scores(self._hidden(hidden, lengths, embeddings, counts))
        most, ids = scores.max(dim=-1)
        # The softmax of the likeliest alone: the others' would be written and never read.
        sure = torch.exp(most - scores.logsumexp(dim=-1))
        shape = embeddings.shape[:2]
        return sure.view(shape), ids.view(shape)

    def _biased(
        self,
        bias: _Bias,
        batch: Batch,
        hidden: Tensor,
        embeddings: Tensor,
        counts: Tensor,
        hotwords: Sequence[Sequence[int]],
    ) -> tuple[Tensor, Tensor]:
        """Return the same, biased towards hotwords."""
        decoded = self._hidden(hidden, batch.device_lengths, embeddings, counts)
        plain = self._decoder.scores(decoded).log_softmax(dim=-1).view(*embeddings.shape[:2], -1)
        spoken = rows_of(counts, embeddings.shape[1], self.dtype)
        scores = bias.of(plain, decoded, embeddings, spoken, hotwords)
        sure, ids = scores.max(dim=-1)
        return sure.exp(), ids

    def _upsampled(
        self, hidden: Tensor, convolved: Tensor, batch: Batch, counts: Tensor
    ) -> Tensor | None:
        """Return the weight of each upsampled frame, or None of a predictor without them."""
        predictor = self.model.predictor
        if not hasattr(predictor, "upsample_cnn"):
            return None
        present = rows_of(batch.device_lengths, hidden.shape[1], torch.float32)
        source = convolved if predictor.use_cif1_cnn else hidden.transpose(1, 2)
        output = predictor.upsample_cnn(source).transpose(1, 2)
        times = predictor.upsample_times
        if predictor.upsample_type == "cnn_blstm":
            output = _packed(predictor.blstm, output, [each * times for each in batch.lengths])
        elif predictor.upsample_type == "cnn_attn":
            output, _ = predictor.self_attn(output, present.present[:, None])
        chances = predictor.cif_output2(output).squeeze(-1).sigmoid_()
        weights = torch.relu(chances * predictor.smooth_factor2 - predictor.noise_threshold2)
        weights = weights.view(*present.present.shape, times) * present.present[..., None]
        weights = weights.flatten(1)
        scaled: Tensor = weights * (counts / weights.sum(dim=-1))[:, None]
        return scaled

    def _tokens(
        self, written: _Written, counts: Sequence[int], lengths: Sequence[int]
    ) -> list[Tokens]:
        upsampled = hasattr(self.model.predictor, "upsample_cnn")
        found = []
        for region, (count, length) in enumerate(zip(counts, lengths, strict=True)):
            ids = written.ids[region, :count]
            kept = np.flatnonzero(~np.isin(ids, self._never))
            if upsampled:
                weights = written.weights[region, : length * UPSAMPLED]
                times = token_times(weights, len(kept))
            else:
                weights = written.weights[region, :length]
                times = fired_times(weights, count, ENCODER_FRAME_MS)[kept]
            found.append(Tokens(ids[kept], times, written.sure[region, kept]))
        return found


@dataclass(frozen=True, slots=True)
class _Written:
    """A minibatch's figures on the host: ``(regions, tokens)`` of ids and how sure, and weights."""

    ids: _Ids
    sure: _Floats
    weights: _Floats


class _Bias:
    """What moves a SeacoParaformer towards hotwords."""

    #: Of more hotwords than these, the likeliest are chosen by a first look.
    _MOST = 50

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self._model = model
        self._dtype = dtype
        self._decoder = Decoder(model.seaco_decoder, dtype)
        self._known: tuple[tuple[tuple[int, ...], ...], Tensor] | None = None

    def of(
        self,
        plain: Tensor,
        decoded: Tensor,
        embeddings: Tensor,
        spoken: Rows,
        hotwords: Sequence[Sequence[int]],
    ) -> Tensor:
        """Return the logarithms of the chances of every token, biased: ``(regions, tokens, ids)``.

        Args:
            plain: the same without a bias.
            decoded: the decoder's output, ``(regions * tokens, values)``.
            embeddings: what it was given, float32 ``(regions, tokens, values)``.
            spoken: which tokens there are.
            hotwords: the tokens of each.
        """
        known = self._represented(hotwords)
        hidden = decoded.view(embeddings.shape).float()
        if len(known) > self._MOST:
            known = self._likeliest(known, hidden, spoken)
        if known.dim() == 2:
            known = known.expand(len(embeddings), -1, -1)
        context = known
        everything = context.new_ones((len(context), 1, 1, context.shape[1]), dtype=torch.bool)
        by_meaning, by_context = (
            self._decoder.hidden(context, everything, source, spoken).float()
            for source in (embeddings, hidden)
        )
        merged = by_meaning + by_context
        layer = self._model.hotword_output_layer
        biased = torch.nn.functional.linear(merged, layer.weight.float(), layer.bias.float())
        biased = biased.log_softmax(dim=-1).view(plain.shape)
        is_plain = (biased.argmax(dim=-1) == self._model.NO_BIAS)[..., None]
        return torch.where(is_plain, plain, biased)

    def _represented(self, hotwords: Sequence[Sequence[int]]) -> Tensor:
        """Return each hotword as the network knows it, the last for none: ``(n + 1, values)``."""
        named = tuple(map(tuple, hotwords))
        if self._known is None or self._known[0] != named:
            device = next(self._model.parameters()).device
            padded = [torch.tensor(each) for each in (*named, (self._model.sos,))]
            lengths = torch.tensor([len(each) for each in padded], dtype=torch.int32)
            rows = torch.nn.utils.rnn.pad_sequence(padded, batch_first=True).to(device)
            represented = self._model._hotword_representation(rows, lengths.to(device))
            self._known = named, represented.reshape(len(padded), -1).float()
        return self._known[1]

    def _likeliest(self, known: Tensor, hidden: Tensor, spoken: Rows) -> Tensor:
        """Return those that the decoder attends to most in each region, the one for none last.

        FunASR asks the first region of a minibatch alone; then a region's words would be others'.
        """
        context = known.expand(len(hidden), -1, -1)
        lengths = torch.full((len(hidden),), len(known), device=known.device)
        counts = spoken.present.sum(dim=1, dtype=torch.float32).long()
        half = self._dtype != torch.float32
        with torch.autocast(hidden.device.type, dtype=torch.bfloat16, enabled=half):
            chances = self._model.seaco_decoder.forward_asf6(context, lengths, hidden, counts)
        scores = (chances * spoken.present[:, None, :, None]).sum(dim=(1, 2))
        chosen = scores.topk(min(self._MOST, len(known) - 1))[1]
        nothing = known[-1:].expand(len(hidden), 1, -1)
        return torch.cat([known[chosen], nothing], dim=1)


@dataclass(slots=True)
class SenseVoice:
    """SenseVoiceSmall: an encoder with CTC, asked four questions ahead of the speech.

    The tokens are those of the likeliest path, and their times are where it lies: of all paths
    that write the same tokens it is the likeliest, so that no forced alignment has to find it.
    """

    model: Any
    dtype: torch.dtype = torch.float32
    run: Run = run_as_called
    rounded: Any = int
    _encoder: Encoder = field(init=False)
    _asked: dict[str, Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._encoder = Encoder(self.model.encoder, self.dtype)

    def write(
        self,
        batch: Batch,
        language: str,
        hotwords: Sequence[Sequence[int]],  # noqa: ARG002
    ) -> list[Tokens]:
        """Return what each region says: see :meth:`Family.write`."""
        asked = self._questions(language).expand(len(batch.features), -1, -1)
        ids, sure = self.run("encoder", self._hear, asked, batch.features, batch.device_lengths)
        # One copy; ids are whole numbers below 2 ** 24.
        figures = torch.stack([ids.float(), sure]).cpu().numpy()
        own_ids, own_sure = figures[0].astype(np.int64), figures[1]
        return [
            self._tokens(own_ids[region, : _QUESTIONS + length], own_sure[region])
            for region, length in enumerate(batch.lengths)
        ]

    def rehearse(self, batch: Batch, tokens: int) -> None:  # noqa: ARG002
        """Compute all that is computed, whatever is said: see :meth:`Family.rehearse`."""
        self.write(batch, "auto", [])

    def _hear(self, asked: Tensor, features: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Return the likeliest token of each frame, answers first, and its probability."""
        everything = torch.cat([asked, features], dim=1)
        present = rows_of(lengths + _QUESTIONS, everything.shape[1], self.dtype)
        hidden = self._encoder.of(everything, present)
        scores = self.model.ctc.ctc_lo(hidden)
        most, ids = scores.max(dim=-1)
        return ids, torch.exp(most - scores.logsumexp(dim=-1))

    def _questions(self, language: str) -> Tensor:
        """Return what is asked: language, event, emotion; and that numbers stay in words."""
        model = self.model
        if language not in self._asked:
            asked = [model.lid_dict.get(language, 0), 1, 2, model.textnorm_dict["woitn"]]
            ids = torch.tensor([asked], device=model.embed.weight.device)
            self._asked[language] = model.embed(ids)
        return self._asked[language]

    def _tokens(self, ids: _Ids, sure: _Floats) -> Tokens:
        blank = self.model.blank_id
        marks = tuple(mark for mark in ids[:_QUESTIONS].tolist() if mark != blank)
        spoken = ids[_QUESTIONS:]
        if not len(spoken):
            return Tokens(NO_TOKENS.ids, NO_TOKENS.times_ms, NO_TOKENS.probabilities, marks)
        # Where a run of one token begins, and where the next one does.
        begins = np.flatnonzero(np.diff(spoken, prepend=spoken[0] - 1))
        ends = np.append(begins[1:], len(spoken))
        surest = np.maximum.reduceat(sure[_QUESTIONS : _QUESTIONS + len(spoken)], begins)
        is_token = spoken[begins] != blank
        edges = np.stack([begins, ends], axis=1)[is_token] * ENCODER_FRAME_MS
        times_ms = np.maximum(0, edges - ENCODER_FRAME_MS // 2)
        return Tokens(spoken[begins][is_token], times_ms, surest[is_token], marks)


#: Frames that SenseVoice's questions take, and its answers.
_QUESTIONS = 4

#: By the name that a config.yaml gives its model.
FAMILIES: Mapping[str, type[Paraformer] | type[SenseVoice]] = {
    "Paraformer": Paraformer,
    "BiCifParaformer": Paraformer,
    "SeacoParaformer": Paraformer,
    "SenseVoiceSmall": SenseVoice,
}


def _packed(lstm: Any, output: Tensor, lengths: Sequence[int]) -> Tensor:
    """Run an LSTM over each region's own frames, the longest first: backwards, from its last."""
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        output, torch.tensor(lengths), batch_first=True
    )
    spoken, _ = torch.nn.utils.rnn.pad_packed_sequence(
        lstm(packed)[0], batch_first=True, total_length=output.shape[1]
    )
    return spoken
