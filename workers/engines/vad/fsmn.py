"""FSMN-VAD: the original weights, in a forward pass of our own.

    features -> five frames side by side, normalised -> encoder -> probability of silence
             -> regions (workers.engines.vad.endpointing)

The encoder (Zhang et al., 2018, "Deep-FSMN for Large Vocabulary Continuous Speech Recognition")
looks back and never ahead, so a segment runs through it in chunks that fit a CPU's cache, each with
the history of the one before; on a GPU it is one chunk. The probabilities are copied from the
device once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import Tensor
from torch.nn import functional

from schema.errors import ErrorCode, Misconfigured
from schema.models import model_files
from schema.pcm import Samples
from schema.profile import Profile, Scene
from schema.settings import Settings
from schema.span import Span
from workers.engines import features
from workers.engines.features import FilterBank, Normalisation, Stacking, inference
from workers.engines.vad.endpointing import find_regions
from workers.engines.weights import verify_weights

#: Frames that go through the encoder together on a CPU.
_CPU_FRAMES = 2_000

#: Layers that are computed in float32 even where the others are not: of the boundaries of the
#: corpus that half precision moves, this saves a quarter.
_FLOAT32_LAYERS = ("in_linear1.", "out_linear")

#: The output that means silence.
_SILENCE_OUTPUT = 0


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """The sizes of an encoder, as its config.yaml has them."""

    stacking: Stacking
    layers: int
    taps: int
    sizes: Mapping[str, tuple[int, ...]]


class FsmnDetector:
    """A loaded FSMN-VAD with one scene's settings; for one thread at a time."""

    def __init__(self, encoder: FsmnEncoder, bank: FilterBank, scene: Scene) -> None:
        self._encoder = encoder
        self._bank = bank
        self._scene = scene

    def detect(self, samples: Samples) -> tuple[Span, ...]:
        """Return the speech of ``samples``: see :class:`workers.engines.base.SpeechDetector`."""
        probabilities = self._encoder.silence_probabilities(self._bank.compute(samples))
        silence = probabilities.numpy().astype("float64")
        is_speech = 1 - silence >= silence + self._scene.speech_noise_threshold
        return tuple(find_regions(is_speech, self._scene.end_silence_ms))


class FsmnEncoder:
    """The network, in inference: weights on one device, in one precision."""

    def __init__(
        self,
        shape: EncoderShape,
        normalisation: Normalisation,
        weights: Mapping[str, Tensor],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._shape = shape
        self._device = device
        self._dtype = dtype
        self._normalisation = normalisation.to(device)
        self._weights = {
            name: value.to(device, torch.float32 if name.startswith(_FLOAT32_LAYERS) else dtype)
            for name, value in weights.items()
        }
        self._chunk_frames = _CPU_FRAMES if device.type == "cpu" else 1 << 30

    def silence_probabilities(self, mel: Tensor) -> Tensor:
        """Return float32 ``(frames,)`` on the CPU, of ``(frames, mels)``."""
        with inference():
            chunks = list(self._forward_chunks(mel))
            return torch.cat(chunks).cpu() if chunks else torch.empty(0)

    def _forward_chunks(self, mel: Tensor) -> Iterator[Tensor]:
        width = self._shape.stacking.width
        lookback = (width - 1) // 2
        # Beyond the edges the first and the last frame are repeated.
        first_frames = mel[:1].expand(lookback, -1)
        last_frames = mel[-1:].expand(width - 1 - lookback, -1)
        padded_mel = torch.cat([first_frames, mel, last_frames])
        histories: list[Tensor | None] = [None] * self._shape.layers
        for first in range(0, len(mel), self._chunk_frames):
            chunk = padded_mel[first : first + self._chunk_frames + width - 1]
            stacked_frames = chunk.unfold(0, width, 1).transpose(1, 2).flatten(1)
            yield self._forward(self._normalisation.apply(stacked_frames), histories)

    def _forward(self, frames: Tensor, histories: list[Tensor | None]) -> Tensor:
        """Return the probabilities of a chunk; replace each layer's history."""
        hidden = self._affine(frames, "in_linear1").to(self._dtype)
        hidden = self._affine(hidden, "in_linear2").relu_()
        for layer in range(self._shape.layers):
            name = f"fsmn.{layer}"
            projected = functional.linear(hidden, self._weights[f"{name}.linear.linear.weight"])
            memory, histories[layer] = self._memory(projected, name, histories[layer])
            hidden = self._affine(projected + memory, f"{name}.affine").relu_()
        scores = self._affine(self._affine(hidden.float(), "out_linear1"), "out_linear2")
        return scores.softmax(dim=-1)[:, _SILENCE_OUTPUT]

    def _memory(self, frames: Tensor, name: str, history: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the weighted sum of each frame and those before it, and the new history."""
        length = self._shape.taps - 1
        if history is None:
            history = frames.new_zeros(length, frames.shape[1])
        all_frames = torch.cat([history, frames])
        weight = self._weights[f"{name}.fsmn_block.conv_left.weight"].squeeze(-1)
        memory = functional.conv1d(all_frames.T[None], weight, groups=frames.shape[1])[0].T
        return memory, all_frames[len(all_frames) - length :]

    def _affine(self, frames: Tensor, name: str) -> Tensor:
        weights = self._weights
        return functional.linear(
            frames, weights[f"{name}.linear.weight"], weights[f"{name}.linear.bias"]
        )


def load_fsmn(profile: Profile, settings: Settings, bank: FilterBank) -> FsmnDetector:
    """Verify and load the profile's FSMN-VAD for its scene.

    Raises:
        Misconfigured: the weights are missing or changed, or are not those of an FSMN-VAD.
    """
    directory = verify_weights(model_files(profile.decode.vad), settings.models)
    encoder = load_encoder(directory, bank.device, features.DTYPES[profile.decode.vad_precision])
    return FsmnDetector(encoder, bank, profile.scene)


def load_encoder(
    directory: Path, device: torch.device, dtype: torch.dtype = torch.float32
) -> FsmnEncoder:
    """Load the encoder of a directory as FunASR publishes it; a missing weight is an error.

    Raises:
        Misconfigured: a weight is missing, or one too many, or of another shape.
    """
    shape = read_shape(yaml.safe_load((directory / "config.yaml").read_text()))
    checkpoint = torch.load(directory / "model.pt", map_location="cpu", weights_only=True)
    weights = {name.removeprefix("encoder."): value for name, value in checkpoint.items()}
    sizes = {name: tuple(value.shape) for name, value in weights.items()}
    if sizes != shape.sizes:
        mismatches = sorted(name for name, _ in sizes.items() ^ shape.sizes.items())
        raise Misconfigured(
            ErrorCode.WEIGHTS_CHANGED,
            f"model {directory.name}",
            f"model.pt does not fit config.yaml: {', '.join(dict.fromkeys(mismatches))}",
            "Fetch the model again.",
        )
    normalisation = features.read_normalisation(directory / "am.mvn")
    return FsmnEncoder(shape, normalisation, weights, device, dtype)


def read_shape(config: Mapping[str, Mapping[str, int]]) -> EncoderShape:
    """Return the sizes in a config.yaml of FunASR's.

    Raises:
        Misconfigured: the network looks ahead, or skips frames.
    """
    frontend, encoder = config["frontend_conf"], config["encoder_conf"]
    if frontend["lfr_n"] != 1 or encoder["rorder"] or encoder["lstride"] != 1:
        raise Misconfigured(
            ErrorCode.ENGINE_FAILED, "model", "only an FSMN that looks at every frame, and back"
        )
    linear_dim, projection_dim = encoder["linear_dim"], encoder["proj_dim"]
    tap_count = encoder["lorder"]
    input_affine_dim, output_affine_dim = encoder["input_affine_dim"], encoder["output_affine_dim"]
    affine_shapes = {
        "in_linear1": (input_affine_dim, encoder["input_dim"]),
        "in_linear2": (linear_dim, input_affine_dim),
        "out_linear1": (output_affine_dim, linear_dim),
        "out_linear2": (encoder["output_dim"], output_affine_dim),
        **{f"fsmn.{i}.affine": (linear_dim, projection_dim) for i in range(encoder["fsmn_layers"])},
    }
    sizes: dict[str, tuple[int, ...]] = {}
    for name, size in affine_shapes.items():
        sizes[f"{name}.linear.weight"] = size
        sizes[f"{name}.linear.bias"] = size[:1]
    for layer in range(encoder["fsmn_layers"]):
        sizes[f"fsmn.{layer}.linear.linear.weight"] = (projection_dim, linear_dim)
        sizes[f"fsmn.{layer}.fsmn_block.conv_left.weight"] = (projection_dim, 1, tap_count, 1)
    stacking = Stacking(frontend["lfr_m"], frontend["lfr_n"])
    return EncoderShape(stacking, encoder["fsmn_layers"], tap_count, sizes)
