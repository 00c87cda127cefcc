"""Which models a profile may name, and how one of your own is described to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from schema.errors import BadRequest, ErrorCode
from schema.models import KNOWN, ModelFiles


@dataclass(frozen=True, slots=True)
class Present:
    """A known model, its size here, and whether its files are what they should be."""

    name: str
    size_bytes: int
    state: str


def known_models(models_dir: Path) -> Iterator[Present]:
    """Yield each model known by name: "ready", "not there" or "changed", after reading it all."""
    for name, model in sorted(KNOWN.items()):
        directory = models_dir / name
        paths = [directory / file for file in model.files]
        found = [path for path in paths if path.is_file()]
        size_bytes = sum(path.stat().st_size for path in found)
        yield Present(name, size_bytes, _state(model, directory, len(found)))


def _state(model: ModelFiles, directory: Path, found: int) -> str:
    if found < len(model.files):
        return "not there"
    sound = all(_digest(directory / name) == expected for name, expected in model.files.items())
    return "ready" if sound else "changed"


def profile_section(directory: Path, engine: str) -> str:
    """Return the part of a profile, TOML, that names a model of one's own, file by file.

    ``engine`` is what decodes it, or "punctuation" for one that writes marks.

    Raises:
        BadRequest: the directory holds no file, or cannot be read.
    """
    try:
        files = sorted(
            path for path in directory.iterdir() if path.is_file() and not path.name.startswith(".")
        )
        digests = {path.name: _digest(path) for path in files}
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
