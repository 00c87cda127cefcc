"""Builds a model by FunASR's own loader, from verified files alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from schema.errors import ErrorCode, Misconfigured
from schema.models import ModelFiles
from workers.engines.funasr.isolation import isolate_funasr
from workers.engines.weights import verify_weights

#: Files that FunASR's loader, or a tokenizer, reads from a model's directory.
_SUFFIXES = frozenset({".json", ".yaml", ".yml", ".pt", ".bin", ".txt", ".model", ".mvn", ".py"})


def build_model(files: ModelFiles, models: Path, device: str) -> tuple[Any, dict[str, Any], Path]:
    """Return FunASR's ``AutoModel``, its options, and the directory of its files.

    Raises:
        Misconfigured: the weights are missing or changed, or were not loaded, or the directory
            holds an unverified file that FunASR would read.
    """
    directory = verify_weights(files, models)
    _check_complete(directory, files)
    with isolate_funasr():
        from funasr import AutoModel

        auto_model = AutoModel(
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
    options = {**auto_model.kwargs, "model_name": type(auto_model.model).__name__}
    _check_weights(auto_model.model, directory / "model.pt")
    return auto_model, options, directory


def _check_complete(directory: Path, files: ModelFiles) -> None:
    """Refuse a directory with an unverified file that FunASR would read."""
    unverified_names = sorted(
        path.name
        for path in directory.iterdir()
        if path.name not in files.files and (path.suffix in _SUFFIXES or path.name == "seg_dict")
    )
    if unverified_names:
        raise Misconfigured(
            ErrorCode.WEIGHTS_CHANGED,
            f"model {files.name}",
            f"{', '.join(unverified_names)} would be read, and nobody says what should be in it",
            "Remove it, or name its SHA-256 in the profile, as producer models writes it.",
        )


def _check_weights(module: Any, checkpoint: Path) -> None:
    """Refuse a model with a weight that is not the checkpoint's: FunASR would only print it."""
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    tensors = content.get("state_dict", content)
    weights = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    for name, tensor in module.state_dict().items():
        if name not in weights or not torch.equal(tensor.cpu(), weights[name]):
            raise Misconfigured(
                ErrorCode.WEIGHTS_CHANGED,
                f"model {checkpoint.parent.name}",
                f"{name} was not loaded from {checkpoint.name}",
                "Fetch the model again, and a FunASR that fits it.",
            )
