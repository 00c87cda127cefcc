"""The models that a profile may name, and the profile's part for a model of your own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from schema.errors import BadRequest, ErrorCode
from schema.models import KNOWN_MODELS, ModelFiles
from schema.profile import TIERS


@dataclass(frozen=True, slots=True)
class ModelNeeds:
    """What a worker with a model needs, on one core: resident memory, and time for an hour."""

    memory_bytes: int
    seconds_an_hour: float


#: As ``ops.bench.engine`` and ``ops.bench.vad`` measured (2026-11-21, AMD EPYC, Whisper in int8,
#: FunASR's in float32 with weights made up in full size); with FSMN-VAD beside a recognizer.
NEEDS: Mapping[str, ModelNeeds] = {
    "fsmn-vad": ModelNeeds(398_000_000, 5.5),
    "whisper-tiny.en": ModelNeeds(723_000_000, 132),
    "whisper-base": ModelNeeds(936_000_000, 240),
    "paraformer-large": ModelNeeds(3_331_000_000, 409),
    "sensevoice-small": ModelNeeds(3_315_000_000, 479),
}


#: Parts of a profile that name a model which decodes nothing.
_RENDERING = frozenset({"punctuation", "voices"})


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A model on this host: its size, its state, the tiers that select it, what it needs.

    ``state`` is "ready", "not there", "changed" (not the published files), or "yours" for one
    that is not published: a profile takes its files as they are. ``needs`` is None where nothing
    was measured.
    """

    name: str
    size_bytes: int
    state: str
    tiers: str
    needs: ModelNeeds | None


def list_models(models_dir: Path) -> Iterator[ModelStatus]:
    """Yield every model that a profile may name here; reads all files of published ones."""
    tiers = _tiers_by_model()
    local_names = {path.name for path in models_dir.glob("[!.]*") if path.is_dir()}
    for name in sorted(KNOWN_MODELS.keys() | tiers.keys() | local_names):
        directory = models_dir / name
        model = KNOWN_MODELS.get(name)
        if model is None:
            paths = [path for path in directory.glob("[!.]*") if path.is_file()]
            state = "yours" if paths else "not there"
        else:
            paths = [path for file in model.files if (path := directory / file).is_file()]
            state = _state(model, directory, len(paths))
        size_bytes = sum(path.stat().st_size for path in paths)
        yield ModelStatus(name, size_bytes, state, tiers.get(name, ""), NEEDS.get(name))


def _tiers_by_model() -> dict[str, str]:
    """Return the tiers that select each model, by its name: "whisper: fast, balanced"."""
    tiers_by_model: dict[str, str] = {}
    for engine, tiers in TIERS.items():
        for tier, settings in tiers.items():
            name = settings["model"]
            earlier = tiers_by_model.get(name)
            tiers_by_model[name] = f"{earlier}, {tier}" if earlier else f"{engine}: {tier}"
    return tiers_by_model


def _state(model: ModelFiles, directory: Path, file_count: int) -> str:
    if file_count < len(model.files):
        return "not there"
    is_published = all(_digest(directory / name) == digest for name, digest in model.files.items())
    return "ready" if is_published else "changed"


def digest_files(models_dir: Path, name: str) -> dict[str, str]:
    """Return the SHA-256 of each file of a model on this host; none if it is not there.

    Raises:
        BadRequest: it cannot be read.
    """
    directory = models_dir / name
    return _digests(directory) if directory.is_dir() else {}


def _digests(directory: Path) -> dict[str, str]:
    try:
        paths = [path for path in sorted(directory.iterdir()) if not path.name.startswith(".")]
        return {path.name: _digest(path) for path in paths if path.is_file()}
    except OSError as error:
        raise _not_a_model(directory, error.strerror or "cannot be read") from error


def profile_section(directory: Path, engine: str) -> str:
    """Return the part of a profile, TOML, that names a model of one's own, file by file.

    ``engine`` is what decodes it, "punctuation" for a punctuation model, or "voices" for one that
    tells voices apart.

    Raises:
        BadRequest: the directory holds no file, or cannot be read.
    """
    digests = _digests(directory)
    if not digests:
        raise _not_a_model(directory, "holds no file")
    is_rendering = engine in _RENDERING
    part = f"render.{engine}" if is_rendering else "decode"
    lines = [
        f"[{part}]",
        *([] if is_rendering else [f"engine = {json.dumps(engine)}"]),
        f"model = {json.dumps(directory.resolve().name)}",
        "",
        f"[{part}.files]",
        *(f"{json.dumps(name)} = {json.dumps(digest)}" for name, digest in digests.items()),
    ]
    return "\n".join(lines) + "\n"


def _not_a_model(directory: Path, cause: str) -> BadRequest:
    remedy = "Name the directory of a model, with its config.yaml, model.pt and other files."
    return BadRequest(ErrorCode.OPTION_INVALID, f"model {directory}", cause, remedy)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
