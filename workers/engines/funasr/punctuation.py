"""CT-Punc: punctuation for words that a recognizer wrote without any.

Chen et al. (2020), "Controllable Time-Delay Transformer for Real-Time Punctuation Prediction and
Disfluency Detection". FunASR's own ``generate`` does it, a text at a time, in windows of twenty
tokens that begin at the last sentence's end: little of a reducer's time, and nothing to batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from schema.errors import ErrorCode, Misconfigured
from schema.models import ModelFiles
from workers.engines.funasr.checkpoint import build_model
from workers.engines.funasr.isolation import isolate_funasr

#: FunASR's names of networks that punctuate.
_PUNCTUATION_NETWORKS = frozenset({"CTTransformer"})

#: The first of its punctuation marks stands for none of them; FunASR writes it out.
_UNKNOWN_MARK = "<unk>"


class Punctuator:
    """A loaded punctuation model."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, text: str) -> str:
        """Return ``text``, which is not empty and has no punctuation, with punctuation."""
        with isolate_funasr():
            [result] = self._model.generate(text, key="text")
        return str(result["text"]).replace(_UNKNOWN_MARK, "")


def load_punctuator(files: ModelFiles, models: Path) -> Punctuator:
    """Verify and load a model; on the CPU, since a reducer has no other device.

    Raises:
        Misconfigured: its weights are missing or changed, or it is a model of another kind.
    """
    model, options, _ = build_model(files, models, "cpu")
    if options["model_name"] not in _PUNCTUATION_NETWORKS:
        raise Misconfigured(
            ErrorCode.OPTION_INVALID,
            f"model {files.name}",
            f"{options['model_name']} is not a punctuation model",
            "Name a CT-Punc model under [render.punctuation].",
        )
    return Punctuator(model)
