"""FSMN-VAD: the original weights, in a forward pass of our own.

    features -> five frames side by side, normalised -> encoder -> chance of silence, a frame
             -> regions (workers.engines.vad.endpointing)

The encoder (Zhang et al., 2018, "Deep-FSMN for Large Vocabulary Continuous Speech Recognition")
looks back and never ahead, so a segment runs through it in pieces that fit a CPU's cache, each
told what the one before it left; on a GPU it is one piece. The chances are copied from the device
once.
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
from workers.engines.features import (
    FilterBank,
    Normalisation,
    Stacking,
    inference,
    read_normalisation,
)
from workers.engines.vad.endpointing import Flags, regions
from workers.engines.weights import verify

#: Frames that go through the encoder together on a CPU.
_CPU_FRAMES = 2_000

#: Layers that are computed in float32 even where the others are not: of the boundaries of the
#: corpus that half precision moves, this saves a quarter.
_EXACT = ("in_linear1.", "out_linear")

#: The output that means silence.
_SILENCE = 0


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of an encoder, as its config.yaml has them."""

    stacking: Stacking
    layers: int
    taps: int
    sizes: Mapping[str, tuple[int, ...]]


class FsmnDetector:
    """A loaded FSMN-VAD with one scene's settings; for one thread at a time."""

    def __init__(self, encoder: Encoder, bank: FilterBank, scene: Scene) -> None:
        self._encoder = encoder
        self._bank = bank
        self._scene = scene

    def detect(self, samples: Samples) -> tuple[Span, ...]:
        """Return the speech of ``samples``: see :class:`workers.engines.base.SpeechDetector`."""
        return tuple(regions(self._is_speech(samples), self._scene.end_silence_ms))

    def _is_speech(self, samples: Samples) -> Flags:
        """Return for each frame whether speech is likelier than silence, by the scene's margin."""
        silence = self._encoder.silence(self._bank.of(samples)).numpy().astype("float64")
        speech: Flags = 1 - silence >= silence + self._scene.speech_noise_threshold
        return speech


class Encoder:
    """The network, in inference: weights on one device, in one precision."""

    def __init__(
        self,
        shape: Shape,
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
            name: value.to(device, torch.float32 if name.startswith(_EXACT) else dtype)
            for name, value in weights.items()
        }
        self._together = _CPU_FRAMES if device.type == "cpu" else 1 << 30

    def silence(self, mel: Tensor) -> Tensor:
        """Return the chance of silence, float32 ``(frames,)`` on the CPU, of ``(frames, mels)``."""
        with inference():
            chances = list(self._pieces(mel))
            return torch.cat(chances).cpu() if chances else torch.empty(0)

    def _pieces(self, mel: Tensor) -> Iterator[Tensor]:
        width = self._shape.stacking.width
        before = (width - 1) // 2
        # Beyond the edges the first and the last frame are repeated.
        padded = torch.cat(
            [mel[:1].expand(before, -1), mel, mel[-1:].expand(width - 1 - before, -1)]
        )
        left: list[Tensor | None] = [None] * self._shape.layers
        for first in range(0, len(mel), self._together):
            piece = padded[first : first + self._together + width - 1]
            stacked = piece.unfold(0, width, 1).transpose(1, 2).flatten(1)
            yield self._forward(self._normalisation.of(stacked), left)

    def _forward(self, frames: Tensor, left: list[Tensor | None]) -> Tensor:
        """Return the chances of a piece; ``left`` is what each layer remembers, replaced here."""
        hidden = self._affine(frames, "in_linear1").to(self._dtype)
        hidden = self._affine(hidden, "in_linear2").relu_()
        for layer in range(self._shape.layers):
            name = f"fsmn.{layer}"
            narrow = functional.linear(hidden, self._weights[f"{name}.linear.linear.weight"])
            memory, left[layer] = self._remember(narrow, name, left[layer])
            hidden = self._affine(narrow + memory, f"{name}.affine").relu_()
        scores = self._affine(self._affine(hidden.float(), "out_linear1"), "out_linear2")
        return scores.softmax(dim=-1)[:, _SILENCE]

    def _remember(self, frames: Tensor, name: str, left: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the weighted sum of each frame and those before it, and what is to be kept."""
        back = self._shape.taps - 1
        before = frames.new_zeros(back, frames.shape[1]) if left is None else left
        longer = torch.cat([before, frames])
        weight = self._weights[f"{name}.fsmn_block.conv_left.weight"].squeeze(-1)
        summed = functional.conv1d(longer.T[None], weight, groups=frames.shape[1])[0].T
        return summed, longer[len(longer) - back :]

    def _affine(self, frames: Tensor, name: str) -> Tensor:
        weights = self._weights
        return functional.linear(
            frames, weights[f"{name}.linear.weight"], weights[f"{name}.linear.bias"]
        )


def load(profile: Profile, settings: Settings, bank: FilterBank) -> FsmnDetector:
    """Verify and load the profile's FSMN-VAD for its scene.

    Raises:
        Misconfigured: the weights are missing or changed, or are not those of an FSMN-VAD.
    """
    directory = verify(model_files(profile.decode.vad), settings.models)
    encoder = load_encoder(directory, bank.device, _DTYPES[profile.decode.vad_precision])
    return FsmnDetector(encoder, bank, profile.scene)


_DTYPES: Mapping[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_encoder(
    directory: Path, device: torch.device, dtype: torch.dtype = torch.float32
) -> Encoder:
    """Load the encoder of a directory as FunASR publishes it; a missing weight is an error.

    Raises:
        Misconfigured: a weight is missing, or one too many, or of another shape.
    """
    shape = read_shape(yaml.safe_load((directory / "config.yaml").read_text()))
    saved = torch.load(directory / "model.pt", map_location="cpu", weights_only=True)
    weights = {name.removeprefix("encoder."): value for name, value in saved.items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if found != shape.sizes:
        wrong = sorted(name for name, _ in found.items() ^ shape.sizes.items())
        raise Misconfigured(
            ErrorCode.WEIGHTS_CHANGED,
            f"model {directory.name}",
            f"model.pt does not fit config.yaml: {', '.join(dict.fromkeys(wrong))}",
            "Fetch the model again.",
        )
    return Encoder(shape, read_normalisation(directory / "am.mvn"), weights, device, dtype)


def read_shape(config: Mapping[str, Mapping[str, int]]) -> Shape:
    """Return the sizes that a config.yaml of FunASR's asks for.

    Raises:
        Misconfigured: it is of a network that looks ahead, or skips frames.
    """
    frontend, encoder = config["frontend_conf"], config["encoder_conf"]
    if frontend["lfr_n"] != 1 or encoder["rorder"] or encoder["lstride"] != 1:
        raise Misconfigured(
            ErrorCode.ENGINE_FAILED, "model", "only an FSMN that looks at every frame, and back"
        )
    wide, narrow, taps = encoder["linear_dim"], encoder["proj_dim"], encoder["lorder"]
    first, last = encoder["input_affine_dim"], encoder["output_affine_dim"]
    affine = {
        "in_linear1": (first, encoder["input_dim"]),
        "in_linear2": (wide, first),
        "out_linear1": (last, wide),
        "out_linear2": (encoder["output_dim"], last),
        **{f"fsmn.{i}.affine": (wide, narrow) for i in range(encoder["fsmn_layers"])},
    }
    sizes: dict[str, tuple[int, ...]] = {}
    for name, size in affine.items():
        sizes[f"{name}.linear.weight"] = size
        sizes[f"{name}.linear.bias"] = size[:1]
    for layer in range(encoder["fsmn_layers"]):
        sizes[f"fsmn.{layer}.linear.linear.weight"] = (narrow, wide)
        sizes[f"fsmn.{layer}.fsmn_block.conv_left.weight"] = (narrow, 1, taps, 1)
    stacking = Stacking(frontend["lfr_m"], frontend["lfr_n"])
    return Shape(stacking, encoder["fsmn_layers"], taps, sizes)
