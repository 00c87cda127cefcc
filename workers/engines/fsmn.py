"""FSMN-VAD, run by FunASR, kept from touching anything but its own model."""

from __future__ import annotations

import io
import logging
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from schema.errors import ErrorCode, Misconfigured
from schema.models import model_files
from schema.pcm import Samples
from schema.profile import Profile, Scene
from schema.settings import Settings
from schema.span import Span
from workers.weights import verify

#: One process per core or GPU is the unit of scaling; a second thread would only be in its way.
_THREADS = 1


class FsmnDetector:
    """A loaded FSMN-VAD with one scene's settings; for one thread at a time."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def detect(self, samples: Samples) -> tuple[Span, ...]:
        """Return the speech of ``samples``: see :class:`workers.engines.base.SpeechDetector`."""
        # A key, since FunASR would draw a random one.
        with _guest():
            [result] = self._model.generate(samples, key="segment")
        return tuple(Span(start_ms, end_ms) for start_ms, end_ms in result["value"])


def load(profile: Profile, settings: Settings) -> FsmnDetector:
    """Verify and load the profile's FSMN-VAD for its scene.

    Raises:
        Misconfigured: the weights are missing or changed, or were not loaded; or the device is
            not there.
    """
    directory = verify(model_files(profile.decode.vad), settings.models)
    with _guest(), redirect_stdout(io.StringIO()):
        from funasr import AutoModel

        model = AutoModel(**_options(directory, profile.scene, settings.device))
    _check_device(model.kwargs["device"], settings.device)
    _check_loaded(model.model, directory / "model.pt")
    return FsmnDetector(model)


def _options(directory: Path, scene: Scene, device: str) -> dict[str, Any]:
    return {
        # An absolute path: a bare name might be an alias of a model to be downloaded.
        "model": os.fspath(directory),
        "disable_update": True,
        "disable_pbar": True,
        "log_level": "ERROR",
        "device": device,
        "ncpu": _THREADS,
        "max_end_silence_time": scene.end_silence_ms,
        "speech_noise_thres": scene.speech_noise_threshold,
        # Its own limit cuts in mid-word, counted from the region's start; ours is workers.vad.
        "max_single_segment_time": sys.maxsize,
        # Its threshold would otherwise depend on how long the audio has run, and the neighbours
        # of an overlap would hear different regions in it.
        "dynamic_silence": False,
        # Noise added to the audio: two runs would differ.
        "frontend_conf": {"dither": 0.0},
    }


@contextmanager
def _guest() -> Iterator[None]:
    """Undo what FunASR does to the process: all random states, torch's threads, the root logger.

    It seeds every generator with 0, so that all workers would draw the same jitter; it sets the
    number of threads on each call; and it configures logging as if it were the program, then
    chats on the root logger.
    """
    import torch

    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    threads = torch.get_num_threads()
    python, legacy = random.getstate(), np.random.get_state()
    root.addFilter(_is_worth_hearing)
    # Only the CPU's generator: nothing of ours draws on a GPU.
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            root.removeFilter(_is_worth_hearing)
            random.setstate(python)
            np.random.set_state(legacy)
            torch.set_num_threads(threads)
            root.setLevel(level)
            root.handlers[:] = handlers


def _is_worth_hearing(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or "funasr" not in record.pathname


def _check_device(actual: str, wanted: str) -> None:
    if actual != wanted:
        raise Misconfigured(
            ErrorCode.ENGINE_FAILED,
            f"device {wanted}",
            f"FunASR fell back to {actual}",
            "Set CALLSCRIBE_DEVICE to a device that this host has.",
        )


def _check_loaded(module: Any, checkpoint: Path) -> None:
    """Hold that every number of the model came from the checkpoint: FunASR only prints if not."""
    import torch

    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    for name, tensor in module.state_dict().items():
        if name not in saved or not torch.equal(tensor.cpu(), saved[name]):
            raise Misconfigured(
                ErrorCode.WEIGHTS_CHANGED,
                f"model {checkpoint.parent.name}",
                f"{name} was not loaded from {checkpoint.name}",
                "Fetch the model again, and a FunASR that fits it.",
            )
