"""The models known by name, and the SHA-256 of every file of theirs that a worker loads.

A worker verifies these before it loads a byte; a producer needs them, and no model, to compute a
decode key. A model of your own is named in a profile together with the digests of its files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from schema.errors import BadRequest, ErrorCode


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model's directory name, and the hex SHA-256 of each file in it that is loaded."""

    name: str
    files: Mapping[str, str]

    @property
    def digest(self) -> str:
        """One digest of all files, as hex: it changes when any of them does."""
        listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(self.files.items()))
        return hashlib.sha256(listing.encode()).hexdigest()


KNOWN_MODELS: Mapping[str, ModelFiles] = {
    name: ModelFiles(name, files)
    for name, files in {
        "campplus": {
            "campplus_cn_en_common.pt": "92f29b94e6948786a26778c9e302525d185bb08c8b9f5252ed98776902840199",
        },
        "resemblyzer": {
            "pretrained.pt": "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
        },
        "fsmn-vad": {
            "am.mvn": "6820fef9687708c4fc3fab2530179c8fcea6262daa25514380056cd8f6eb1754",
            "config.yaml": "486861ca26ddb79081663b6179cb204c6bfae71c52f04aafc48a9e9d8dde1e93",
            "model.pt": "b3be75be477f0780277f3bae0fe489f48718f585f3a6e45d7dd1fbb1a4255fc5",
        },
        "whisper-base": {
            "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
            "model.bin": "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
            "tokenizer.json": "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
            "vocabulary.txt": "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
        },
        "whisper-tiny.en": {
            "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
            "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
            "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
            "vocabulary.txt": "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
        },
    }.items()
}

#: Those of them that write words, by the engine that runs them.
RECOGNIZERS: Mapping[str, tuple[str, ...]] = {
    "whisper": ("whisper-base", "whisper-tiny.en"),
    "funasr": (),
}

#: Those that tell voices apart; a model that is not known by its name is a CAM++.
EMBEDDERS = ("campplus", "resemblyzer")


def check_embedder(name: str) -> None:
    """Check that a model which is known by its name tells voices apart.

    Raises:
        BadRequest: it does not.
    """
    if name in KNOWN_MODELS and name not in EMBEDDERS:
        raise BadRequest(
            ErrorCode.OPTION_INVALID,
            f"model {name}",
            "it does not tell voices apart",
            f"Known are {', '.join(EMBEDDERS)}; one of your own is a CAM++.",
        )


def check_recognizer(name: str, engine: str) -> None:
    """Check that a model which is known by its name writes words, by this engine.

    Raises:
        BadRequest: it does not; a worker would only find out when it loads it.
    """
    recognizers = RECOGNIZERS[engine]
    if name in KNOWN_MODELS and name not in recognizers:
        names = f"Known are {', '.join(recognizers)}" if recognizers else "None has a known name"
        raise BadRequest(
            ErrorCode.OPTION_INVALID,
            f"model {name}",
            f"the engine {engine} does not write words with it",
            f"{names}; one of your own: producer models DIR",
        )


def model_files(name: str) -> ModelFiles:
    """Return the known model called ``name``.

    Raises:
        BadRequest: no such model is known.
    """
    try:
        return KNOWN_MODELS[name]
    except KeyError:
        raise BadRequest(
            ErrorCode.OPTION_INVALID,
            f"model {name}",
            "no model of this name is known",
            f"Known are {', '.join(sorted(KNOWN_MODELS))}; another's files lie in a directory of its name"
            " under CALLSCRIBE_MODELS.",
        ) from None
