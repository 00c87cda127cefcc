"""Which models a profile may name, and how one of your own is described to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from schema.errors import BadRequest, ErrorCode
from schema.models import KNOWN, ModelFiles
from schema.profile import TIERS


@dataclass(frozen=True, slots=True)
class Needs:
    """What a worker with a model takes, on one core: resident memory, and time for an hour."""

    memory_bytes: int
    seconds_an_hour: float


#: As ``ops.bench.engine`` and ``ops.bench.vad`` measured (2026-11-21, AMD EPYC, Whisper in int8,
#: FunASR's in float32 with weights made up in full size); with FSMN-VAD beside a recognizer.
NEEDS: Mapping[str, Needs] = {
    "fsmn-vad": Needs(398_000_000, 5.5),
    "whisper-tiny.en": Needs(723_000_000, 132),
    "whisper-base": Needs(936_000_000, 240),
    "paraformer-large": Needs(3_331_000_000, 409),
    "sensevoice-small": Needs(3_315_000_000, 479),
}


@dataclass(frozen=True, slots=True)
class Present:
    """A model that has a name: its size here, how it is here, what chooses it, what it needs.

    ``state`` is "ready", "not there", "changed" (not the published files), or "yours" for one
    whose files are described as they are when it is named. ``needs`` is None where nothing was
    measured.
    """

    name: str
    size_bytes: int
    state: str
    tiers: str
    needs: Needs | None


def named_models(models_dir: Path) -> Iterator[Present]:
    """Yield every model that a profile may name here, after reading those that are known."""
    tiers = _tiers()
    here = {path.name for path in models_dir.glob("[!.]*") if path.is_dir()}
    for name in sorted(KNOWN.keys() | tiers.keys() | here):
        directory = models_dir / name
        model = KNOWN.get(name)
        if model is None:
            paths = [path for path in directory.glob("[!.]*") if path.is_file()]
            state = "yours" if paths else "not there"
        else:
            paths = [path for file in model.files if (path := directory / file).is_file()]
            state = _state(model, directory, len(paths))
        size_bytes = sum(path.stat().st_size for path in paths)
        yield Present(name, size_bytes, state, tiers.get(name, ""), NEEDS.get(name))


def _tiers() -> dict[str, str]:
    """Return the tiers that choose each model, by its name: "whisper: fast, balanced"."""
    chosen: dict[str, str] = {}
    for engine, tiers in TIERS.items():
        for tier, settings in tiers.items():
            name = settings["model"]
            chosen[name] = f"{chosen[name]}, {tier}" if name in chosen else f"{engine}: {tier}"
    return chosen


def _state(model: ModelFiles, directory: Path, found: int) -> str:
    if found < len(model.files):
        return "not there"
    sound = all(_digest(directory / name) == expected for name, expected in model.files.items())
    return "ready" if sound else "changed"


def own_files(models_dir: Path, name: str) -> dict[str, str]:
    """Return the SHA-256 of each file of a model that lies here; none where it does not.

    Raises:
        BadRequest: it cannot be read.
    """
    directory = models_dir / name
    try:
        return _digests(directory) if directory.is_dir() else {}
    except OSError as error:
        raise _not_a_model(directory, error.strerror or "cannot be read") from error


def _digests(directory: Path) -> dict[str, str]:
    files = sorted(
        path for path in directory.iterdir() if path.is_file() and not path.name.startswith(".")
    )
    return {path.name: _digest(path) for path in files}


def profile_section(directory: Path, engine: str) -> str:
    """Return the part of a profile, TOML, that names a model of one's own, file by file.

    ``engine`` is what decodes it, or "punctuation" for one that writes marks.

    Raises:
        BadRequest: the directory holds no file, or cannot be read.
    """
    try:
        digests = _digests(directory)
    except OSError as error:
        raise _not_a_model(directory, error.strerror or "cannot be read") from error
    if not digests:
        raise _not_a_model(directory, "holds no file")
    is_punctuation = engine == "punctuation"
    part = "render.punctuation" if is_punctuation else "decode"
    lines = [
        f"[{part}]",
        *([] if is_punctuation else [f"engine = {json.dumps(engine)}"]),
        f"model = {json.dumps(directory.resolve().name)}",
        "",
        f"[{part}.files]",
        *(f"{json.dumps(name)} = {json.dumps(digest)}" for name, digest in digests.items()),
    ]
    return "\n".join(lines) + "\n"


def _not_a_model(directory: Path, cause: str) -> BadRequest:
    remedy = "Name the directory of a model: config.yaml, model.pt and what else is beside them."
    return BadRequest(ErrorCode.OPTION_INVALID, f"model {directory}", cause, remedy)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
