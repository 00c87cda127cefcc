"""A model of FunASR's, built by its own loader and held to the files that were verified."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from schema.errors import ErrorCode, Misconfigured
from schema.models import ModelFiles
from workers.engines.funasr.isolation import guest
from workers.engines.weights import verify

#: Endings of what FunASR's loader, or a tokenizer, takes from a model's directory.
_READ = frozenset({".json", ".yaml", ".yml", ".pt", ".bin", ".txt", ".model", ".mvn", ".py"})


def build(files: ModelFiles, models: Path, device: str) -> tuple[Any, dict[str, Any], Path]:
    """Return FunASR's ``AutoModel``, what it was built with, and the directory it came from.

    Raises:
        Misconfigured: the weights are missing or changed, or were not loaded, or a file is there
            that FunASR would read and that nobody verified.
    """
    directory = verify(files, models)
    _check_complete(directory, files)
    with guest():
        from funasr import AutoModel

        built = AutoModel(
            # An absolute path: a bare name might be an alias of a model to be downloaded.
            model=os.fspath(directory),
            disable_update=True,
            disable_pbar=True,
            log_level="ERROR",
            device=device,
            ncpu=1,
            # Noise added to the audio: two runs would differ.
            frontend_conf={"dither": 0.0},
        )
    options = dict(built.kwargs)
    options["model_name"] = type(built.model).__name__
    _check_loaded(built.model, directory / "model.pt")
    return built, options, directory


def _check_complete(directory: Path, files: ModelFiles) -> None:
    """Hold that no file is there that FunASR would read, and that nobody verified."""
    unknown = sorted(
        path.name
        for path in directory.iterdir()
        if path.name not in files.files and (path.suffix in _READ or path.name == "seg_dict")
    )
    if unknown:
        raise Misconfigured(
            ErrorCode.WEIGHTS_CHANGED,
            f"model {files.name}",
            f"{', '.join(unknown)} would be read, and nobody says what should be in it",
            "Remove it, or name its SHA-256 in the profile, as producer models writes it.",
        )


def _check_loaded(module: Any, checkpoint: Path) -> None:
    """Hold that every number of the model came from the checkpoint: FunASR only prints if not."""
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    saved = {name.removeprefix("module."): v for name, v in saved.get("state_dict", saved).items()}
    for name, tensor in module.state_dict().items():
        if name not in saved or not torch.equal(tensor.cpu(), saved[name]):
            raise Misconfigured(
                ErrorCode.WEIGHTS_CHANGED,
                f"model {checkpoint.parent.name}",
                f"{name} was not loaded from {checkpoint.name}",
                "Fetch the model again, and a FunASR that fits it.",
            )
