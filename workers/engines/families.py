"""FunASR's networks, called with our own batches: from features to tokens with their times.

Each family takes padded features of several regions and returns, for each, the ids of its tokens,
when they are said, and how sure they are: copied from the device once. The encoder and the decoder
may run in bfloat16; what counts tokens, what times them, and the softmax stay in float32, since a
sum of a thousand weights in half precision loses whole tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from workers.engines.cif import UPSAMPLED, integrate, token_times

#: What one frame of an encoder's output covers.
ENCODER_FRAME_MS = 60


class Token(NamedTuple):
    """A token by its id, from ``start_ms`` to ``end_ms`` of its region, and its probability."""

    id: int
    start_ms: int
    end_ms: int
    probability: float


@dataclass(frozen=True, slots=True)
class Written:
    """What a network wrote of one region; ``marks`` are tokens that are no words, in order."""

    tokens: tuple[Token, ...]
    marks: tuple[int, ...] = ()


class Family(Protocol):
    """A kind of network; ``half`` where it computes in bfloat16."""

    half: bool

    def write(
        self, features: Tensor, lengths: Tensor, language: str, hotwords: Sequence[Sequence[int]]
    ) -> list[Written]:
        """Return what each region says.

        Args:
            features: float32 ``(regions, frames, values)``, stacked and normalised.
            lengths: int ``(regions,)``, how many frames of each are not padding.
            language: an ISO 639-1 code, or "auto".
            hotwords: the tokens of each, for a family that can be biased.
        """
        ...


@dataclass(slots=True)
class Paraformer:
    """Paraformer, BiCifParaformer and SeacoParaformer: all tokens of a region in one step.

    Gao et al. (2022), "Paraformer: Fast and Accurate Parallel Transformer for Non-autoregressive
    End-to-End Speech Recognition". A predictor that upsamples ("CifPredictorV3") also tells when
    tokens are said, on a grid of 20 ms; of one that does not, tokens take the time of the frames
    that they were made of.
    """

    model: Any
    half: bool = False
    _never: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        self._never = frozenset({self.model.sos, self.model.eos, self.model.blank_id})

    def write(
        self,
        features: Tensor,
        lengths: Tensor,
        language: str,  # noqa: ARG002
        hotwords: Sequence[Sequence[int]],
    ) -> list[Written]:
        """Return what each region says: see :meth:`Family.write`."""
        with self._half(features):
            hidden, lengths = self.model.encode(features, lengths)
        mask = _mask(lengths, hidden.shape[1])
        # The convolution below looks one frame ahead: into padding, which alone would be zero.
        hidden = hidden.float() * mask[..., None]
        convolved = self._convolved(hidden)
        weights, counts = self._weights(convolved, mask)
        most = int(counts.max())
        if most < 1:
            return [Written(())] * len(features)
        padded = torch.nn.functional.pad(hidden, (0, 0, 0, weights.shape[1] - hidden.shape[1]))
        embeddings = integrate(padded, weights, most)
        scores = self._decode(hidden, lengths, embeddings, counts, hotwords)
        sure, ids = scores.max(dim=-1)
        times = self._upsampled(hidden, convolved, mask, counts)
        return list(
            self._written(ids, sure.exp(), counts, lengths, weights if times is None else times)
        )

    def _half(self, features: Tensor) -> AbstractContextManager[Any]:
        return _autocast(features, self.half)

    def _convolved(self, hidden: Tensor) -> Tensor:
        """Return the predictor's convolution over the encoder's output, values before frames."""
        predictor = self.model.predictor
        return torch.relu(predictor.cif_conv1d(predictor.pad(hidden.transpose(1, 2))))

    def _weights(self, convolved: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return each frame's weight, one more for the tail, and how many tokens that makes."""
        predictor = self.model.predictor
        chances = torch.sigmoid(predictor.cif_output(convolved.transpose(1, 2))).squeeze(-1)
        weights = torch.relu(chances * predictor.smooth_factor - predictor.noise_threshold) * mask
        if predictor.tail_threshold > 0:
            # One more frame, behind each region's last, fires what is nearly a token.
            weights = torch.nn.functional.pad(weights, (0, 1))
            last = mask.sum(dim=1, keepdim=True).long()
            weights = weights.scatter(1, last, predictor.tail_threshold)
            return weights, weights.sum(dim=-1).floor().long()
        return weights, weights.sum(dim=-1).round().long()

    def _decode(
        self,
        hidden: Tensor,
        lengths: Tensor,
        embeddings: Tensor,
        counts: Tensor,
        hotwords: Sequence[Sequence[int]],
    ) -> Tensor:
        """Return the logarithms of the chances of every token, ``(regions, tokens, ids)``."""
        with self._half(hidden):
            if hasattr(self.model, "_seaco_decode_with_ASF"):
                biased = [*map(list, hotwords), [self.model.sos]] if hotwords else None
                scores: Tensor = self.model._seaco_decode_with_ASF(
                    hidden, lengths, embeddings, counts, hw_list=biased
                )
                return scores.float()
            scores = self.model.decoder(hidden, lengths, embeddings, counts)[0]
        return scores.float().log_softmax(dim=-1)

    def _upsampled(
        self, hidden: Tensor, convolved: Tensor, mask: Tensor, counts: Tensor
    ) -> Tensor | None:
        """Return the weight of each upsampled frame, or None of a predictor without them."""
        predictor = self.model.predictor
        if not hasattr(predictor, "upsample_cnn"):
            return None
        source = convolved if predictor.use_cif1_cnn else hidden.transpose(1, 2)
        output = predictor.upsample_cnn(source).transpose(1, 2)
        if predictor.upsample_type == "cnn_blstm":
            output = _packed(predictor.blstm, output, mask.sum(dim=1) * predictor.upsample_times)
        elif predictor.upsample_type == "cnn_attn":
            output, _ = predictor.self_attn(output, mask[:, None])
        chances = torch.sigmoid(predictor.cif_output2(output)).squeeze(-1)
        weights = torch.relu(chances * predictor.smooth_factor2 - predictor.noise_threshold2)
        weights = weights * mask.repeat_interleave(predictor.upsample_times, dim=1)
        scaled: Tensor = weights * (counts / weights.sum(dim=-1))[:, None]
        return scaled

    def _written(
        self, ids: Tensor, sure: Tensor, counts: Tensor, lengths: Tensor, weights: Tensor
    ) -> Iterator[Written]:
        upsampled = hasattr(self.model.predictor, "upsample_cnn")
        own_ids, own_sure, own_weights = ids.tolist(), sure.tolist(), weights.tolist()
        for region, (count, length) in enumerate(
            zip(counts.tolist(), lengths.tolist(), strict=True)
        ):
            kept = [i for i in range(count) if own_ids[region][i] not in self._never]
            if upsampled:
                times = token_times(own_weights[region][: length * UPSAMPLED], len(kept))
            else:
                every = _fired_times(own_weights[region][:length], count)
                times = [every[i] for i in kept]
            yield Written(
                tuple(
                    Token(own_ids[region][i], *when, own_sure[region][i])
                    for i, when in zip(kept, times, strict=True)
                )
            )


@dataclass(slots=True)
class SenseVoice:
    """SenseVoiceSmall: an encoder with CTC, asked four questions ahead of the speech.

    The tokens are those of the likeliest path, and their times are where it lies: of all paths
    that write the same tokens it is the likeliest, so that no forced alignment has to find it.
    """

    model: Any
    half: bool = False

    def write(
        self,
        features: Tensor,
        lengths: Tensor,
        language: str,
        hotwords: Sequence[Sequence[int]],  # noqa: ARG002
    ) -> list[Written]:
        """Return what each region says: see :meth:`Family.write`."""
        asked = torch.cat(
            [self._questions(language).expand(len(features), -1, -1), features], dim=1
        )
        with _autocast(features, self.half):
            hidden, lengths = self.model.encoder(asked, lengths + _QUESTIONS)[:2]
        if isinstance(hidden, tuple):
            hidden = hidden[0]
        sure, ids = self.model.ctc.log_softmax(hidden.float()).max(dim=-1)
        own_ids, own_sure = ids.tolist(), sure.exp().tolist()
        return [
            self._written(own_ids[region][:length], own_sure[region][:length])
            for region, length in enumerate(lengths.tolist())
        ]

    def _questions(self, language: str) -> Tensor:
        """Return what is asked: language, event, emotion; and that numbers stay in words."""
        model = self.model
        asked = [model.lid_dict.get(language, 0), 1, 2, model.textnorm_dict["woitn"]]
        ids = torch.tensor([asked], device=model.embed.weight.device)
        embedded: Tensor = model.embed(ids)
        return embedded

    def _written(self, ids: Sequence[int], sure: Sequence[float]) -> Written:
        blank = self.model.blank_id
        marks = tuple(own for own in ids[:_QUESTIONS] if own != blank)
        tokens, at = [], 0
        for own, run in groupby(ids[_QUESTIONS:]):
            frames = len(list(run))
            if own != blank:
                spoken = sure[_QUESTIONS + at : _QUESTIONS + at + frames]
                begin_ms, end_ms = (
                    max(0, (at + n) * ENCODER_FRAME_MS - ENCODER_FRAME_MS // 2) for n in (0, frames)
                )
                tokens.append(Token(own, begin_ms, end_ms, max(spoken)))
            at += frames
        return Written(tuple(tokens), marks)


#: Frames that SenseVoice's questions take, and its answers.
_QUESTIONS = 4

#: By the name that a config.yaml gives its model.
FAMILIES: Mapping[str, type[Paraformer] | type[SenseVoice]] = {
    "Paraformer": Paraformer,
    "BiCifParaformer": Paraformer,
    "SeacoParaformer": Paraformer,
    "SenseVoiceSmall": SenseVoice,
}


def _autocast(tensor: Tensor, half: bool) -> AbstractContextManager[Any]:
    if not half:
        return nullcontext()
    return torch.autocast(tensor.device.type, dtype=torch.bfloat16)


def _mask(lengths: Tensor, frames: int) -> Tensor:
    """Return float32 ``(regions, frames)``: 1 where a frame is not padding."""
    return (torch.arange(frames, device=lengths.device) < lengths[:, None]).float()


def _packed(lstm: Any, output: Tensor, lengths: Tensor) -> Tensor:
    """Run an LSTM over each region's own frames: backwards, it begins at its last."""
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        output, lengths.long().cpu(), batch_first=True, enforce_sorted=False
    )
    spoken, _ = torch.nn.utils.rnn.pad_packed_sequence(
        lstm(packed)[0], batch_first=True, total_length=output.shape[1]
    )
    return spoken


def _fired_times(weights: Sequence[float], tokens: int) -> list[tuple[int, int]]:
    """Return when each token is said, by the frames whose weights it is made of."""
    edges, held = [0.0], 0.0
    for frame, weight in enumerate(weights):
        while weight > 0 and held + weight >= len(edges):
            edges.append(frame + (len(edges) - held) / weight)
            if len(edges) > tokens:
                break
        held += weight
    edges += [float(len(weights))] * (tokens + 1 - len(edges))
    milliseconds = [round(edge * ENCODER_FRAME_MS) for edge in edges]
    return list(pairwise(milliseconds[: tokens + 1]))
