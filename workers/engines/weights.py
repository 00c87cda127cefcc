"""Verifies weights before a byte of them is loaded.

A model loader that finds no checkpoint, or half of one, may go on with random numbers; what comes
out then looks like words.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from schema.errors import ErrorCode, Misconfigured
from schema.models import ModelFiles


def verify_weights(model: ModelFiles, models_dir: Path) -> Path:
    """Return the absolute directory of ``model``, each of its files present and unchanged.

    Raises:
        Misconfigured: a file is missing, or its SHA-256 is not the one expected.
    """
    directory = (models_dir / model.name).absolute()
    for name, expected_digest in model.files.items():
        _verify_file(directory / name, expected_digest, model.name)
    return directory


def _verify_file(path: Path, expected_digest: str, model: str) -> None:
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Misconfigured(
            ErrorCode.WEIGHTS_MISSING,
            f"model {model}",
            f"{path} cannot be read: {error.strerror}",
            "Put the model's files there, or point CALLSCRIBE_MODELS at where they are.",
        ) from error
    if actual != expected_digest:
        raise Misconfigured(
            ErrorCode.WEIGHTS_CHANGED,
            f"model {model}",
            f"{path} has the SHA-256 {actual}, not {expected_digest}",
            "Fetch the model again.",
        )
