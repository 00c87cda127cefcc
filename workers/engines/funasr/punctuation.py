"""CT-Punc: marks for words that a recognizer wrote without any.

Chen et al. (2020), "Controllable Time-Delay Transformer for Real-Time Punctuation Prediction and
Disfluency Detection". FunASR's own ``generate`` does it, a text at a time, in windows of twenty
tokens that begin at the last sentence's end: little of a reducer's time, and nothing to batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from schema.errors import ErrorCode, Misconfigured
from schema.models import ModelFiles
from workers.engines.funasr.checkpoint import build
from workers.engines.funasr.isolation import guest

#: FunASR's names of networks that write marks.
_WRITES_MARKS = frozenset({"CTTransformer"})

#: The first of its marks stands for none of them; FunASR writes it out.
_UNDECIDED = "<unk>"


class Punctuator:
    """A loaded model that writes marks."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, text: str) -> str:
        """Return ``text``, words without marks and not empty, with marks."""
        with guest():
            [result] = self._model.generate(text, key="text")
        return str(result["text"]).replace(_UNDECIDED, "")


def load(files: ModelFiles, models: Path) -> Punctuator:
    """Verify and load a model; on the CPU, since a reducer has no other device.

    Raises:
        Misconfigured: its weights are missing or changed, or it is a model of another kind.
    """
    model, options, _ = build(files, models, "cpu")
    if options["model_name"] not in _WRITES_MARKS:
        raise Misconfigured(
            ErrorCode.OPTION_INVALID,
            f"model {files.name}",
            f"{options['model_name']} writes no marks",
            "Name a CT-Punc model under [render.punctuation].",
        )
    return Punctuator(model)
