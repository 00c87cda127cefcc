"""Made-up checkpoints of true architectures, with random weights: FunASR's and Whisper's.

They are laid out as their own makers do. Tiny for the tests, where what counts is that our path and
FunASR's give the same; and full-size, where what counts is how fast and how large they are.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from schema.profile import Profile, load_profile
from workers.engines.funasr.isolation import isolate_funasr


@dataclass(frozen=True, slots=True)
class Size:
    """How large a model is: layers, values a frame, and the vocabulary."""

    values: int
    heads: int
    wide: int
    layers: int
    more_layers: int
    decoder_layers: int
    taps: int
    vocabulary: int


TINY = Size(32, 2, 48, 3, 2, 2, 5, 64)
#: As many layers as the real ones have, and next to nothing to compute.
NARROW = Size(32, 2, 48, 50, 20, 16, 11, 64)
#: Paraformer-large and SenseVoiceSmall.
FULL = Size(512, 4, 2048, 50, 20, 16, 11, 8404)


@dataclass(frozen=True, slots=True)
class WhisperSize:
    """How large a Whisper is, and which of its decoder's heads say when a token is said."""

    values: int
    heads: int
    layers: int
    decoder_layers: int
    mels: int
    #: Layer and head of each; the last two of the decoder's, where none are given.
    timing: Sequence[tuple[int, int]] = ()


WHISPER_TINY = WhisperSize(64, 2, 2, 2, 80)
#: Whisper large-v3-turbo.
WHISPER_TURBO = WhisperSize(
    *(1280, 20, 32, 4, 128), timing=((2, 4), (2, 11), (3, 3), (3, 6), (3, 11), (3, 14))
)

_FRONTEND = {
    "fs": 16000,
    "window": "hamming",
    "n_mels": 80,
    "frame_length": 25,
    "frame_shift": 10,
    "lfr_m": 7,
    "lfr_n": 6,
}
_DROPOUT = {
    "dropout_rate": 0.1,
    "positional_dropout_rate": 0.1,
}
_CIF = {"threshold": 1.0, "l_order": 1, "r_order": 1, "tail_threshold": 0.45}
_PARAFORMER = {
    "ctc_weight": 0.0,
    "lsm_weight": 0.1,
    "length_normalized_loss": True,
    "predictor_weight": 1.0,
    "predictor_bias": 1,
    "sampling_ratio": 0.75,
}
_SEACO = {
    "bias_encoder_type": "lstm",
    "bias_encoder_bid": False,
    "seaco_lsm_weight": 0.1,
    "seaco_length_normal": True,
    "train_decoder": False,
}
_UPSAMPLED = {
    "smooth_factor2": 0.25,
    "noise_threshold2": 0.01,
    "upsample_times": 3,
}

#: Of each kind that is made up: FunASR's model, its predictor, and how that upsamples.
KINDS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "paraformer": ("Paraformer", "CifPredictorV2", {}),
    "bicif": (
        "BiCifParaformer",
        "CifPredictorV3",
        {**_UPSAMPLED, "upsample_type": "cnn_blstm", "use_cif1_cnn": False},
    ),
    "bicif-cnn": (
        "BiCifParaformer",
        "CifPredictorV3",
        {**_UPSAMPLED, "upsample_type": "cnn", "use_cif1_cnn": True},
    ),
    "seaco": (
        "SeacoParaformer",
        "CifPredictorV3",
        {**_UPSAMPLED, "upsample_type": "cnn_blstm", "use_cif1_cnn": False},
    ),
    "sensevoice": ("SenseVoiceSmall", "", {}),
}


def characters(size: Size = TINY) -> Sequence[str]:
    """Return the words of a made-up vocabulary: characters, so that ids can be read off a text."""
    return [chr(0x4E00 + index) for index in range(size.vocabulary - 4)]


def _config(kind: str, size: Size) -> dict[str, Any]:
    """Return what a config.yaml of this kind says."""
    name, predictor, upsampling = KINDS[kind]
    config: dict[str, Any] = {
        "frontend": "WavFrontend",
        "frontend_conf": _FRONTEND,
        "model": name,
        "encoder_conf": _encoder(size),
        "tokenizer_conf": {"unk_symbol": "<unk>", "split_with_space": True},
    }
    if kind == "sensevoice":
        config["encoder_conf"]["tp_blocks"] = size.more_layers
        return config | {
            "model_conf": {"length_normalized_loss": True, "sos": 1, "eos": 2, "ignore_id": -1},
            "encoder": "SenseVoiceEncoderSmall",
            "tokenizer": "SentencepiecesTokenizer",
        }
    config |= {
        "model_conf": dict(_PARAFORMER),
        "encoder": "SANMEncoder",
        "decoder": "ParaformerSANMDecoder",
        "decoder_conf": _decoder(size),
        "predictor": predictor,
        "predictor_conf": {**_CIF, "idim": size.values, **upsampling},
        "tokenizer": "CharTokenizer",
    }
    if kind == "seaco":
        config["model_conf"] |= {
            **_SEACO,
            "inner_dim": size.values,
            "NO_BIAS": size.vocabulary - 1,
        }
        config["seaco_decoder"] = "ParaformerSANMDecoder"
        config["seaco_decoder_conf"] = {
            **_decoder(size),
            "wo_input_layer": True,
            "use_output_layer": False,
        }
    return config


def _encoder(size: Size) -> dict[str, Any]:
    return {
        "output_size": size.values,
        "attention_heads": size.heads,
        "linear_units": size.wide,
        "num_blocks": size.layers,
        **_DROPOUT,
        "attention_dropout_rate": 0.1,
        "input_layer": "pe",
        "normalize_before": True,
        "kernel_size": size.taps,
        "sanm_shfit": 0,
        "selfattention_layer_type": "sanm",
    }


def _decoder(size: Size) -> dict[str, Any]:
    return {
        "attention_heads": size.heads,
        "linear_units": size.wide,
        "num_blocks": size.decoder_layers,
        **_DROPOUT,
        "self_attention_dropout_rate": 0.1,
        "src_attention_dropout_rate": 0.1,
        "att_layer_num": size.decoder_layers,
        "kernel_size": size.taps,
        "sanm_shfit": 0,
    }


def build(kind: str, directory: Path, size: Size = TINY) -> Path:
    """Write a model's config, vocabulary, normalisation and random weights; return where."""
    directory.mkdir(parents=True)
    _write_normalisation(directory / "am.mvn")
    tokens: Sequence[str] = ()
    if kind == "sensevoice":
        _write_pieces(directory, size)
    else:
        tokens = ["<blank>", "<s>", "</s>", *characters(size), "<unk>"]
    return _write(kind, directory, _config(kind, size), tokens)


def _write(kind: str, directory: Path, config: Mapping[str, Any], tokens: Sequence[str]) -> Path:
    """Write a config, the vocabulary that it has, and weights for the model that it describes."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.yaml").write_text(yaml.safe_dump(dict(config)))
    if tokens:
        (directory / "tokens.json").write_text(json.dumps(tokens, ensure_ascii=False))
    # FunASR builds a model only where there are weights to load, be there none in them.
    torch.save({}, directory / "model.pt")
    with isolate_funasr():
        from funasr import AutoModel

        model, _ = AutoModel.build_model(model=str(directory), device="cpu", disable_update=True)
    weights = _lively(model, np.random.default_rng(len(kind)))
    torch.save(weights, directory / "model.pt")
    return directory


def build_punctuation(directory: Path, size: Size = TINY) -> Path:
    """Write a CT-Punc with random weights, which knows letters and :func:`characters`."""
    encoder = {**_encoder(size), "input_size": size.values}
    config = {
        "model": "CTTransformer",
        "model_conf": {
            "embed_unit": size.values,
            "att_unit": size.values,
            "punc_list": ["<unk>", "_", "\uff0c", "\u3002", "\uff1f", "\u3001"],
            "sentence_end_id": 3,
        },
        "encoder": "SANMEncoder",
        "encoder_conf": encoder,
        "tokenizer": "CharTokenizer",
        "tokenizer_conf": {"unk_symbol": "<unk>", "split_with_space": True},
    }
    return _write(
        "punctuation", directory, config, ["<blank>", "<s>", "</s>", *characters(size), "<unk>"]
    )


def profile_of(directory: Path, **decode: Any) -> Profile:
    """Return a profile that decodes with a model of one's own."""
    files = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()
    }
    own = {"engine": "funasr", "model": directory.name, "files": files, **decode}
    return load_profile("call", {"decode": own})


def _lively(model: Any, draw: np.random.Generator) -> dict[str, torch.Tensor]:
    """Return random weights under which tokens differ, and several of them fire each second."""
    weights = {}
    for name, value in model.state_dict().items():
        if not value.is_floating_point() or value.dim() < 2:
            weights[name] = value
            continue
        spread = 1.6 / np.sqrt(np.prod(value.shape[1:]))
        drawn = draw.normal(0, spread, tuple(value.shape))
        weights[name] = torch.from_numpy(drawn.astype(np.float32))
    for name, value in _FIRING.items():
        if name in weights:
            weights[name] = torch.full_like(weights[name], value)
    return weights


#: Biases under which a Paraformer writes four or five tokens a second.
_FIRING = {"predictor.cif_output.bias": -1.0, "predictor.cif_output2.bias": 0.5}


def _write_normalisation(path: Path) -> None:
    size = 80 * 7
    shift, scale = " ".join(["-8.0"] * size), " ".join(["0.25"] * size)
    path.write_text(
        f"<Nnet>\n<Splice> {size} {size}\n[ 0 ]\n"
        f"<AddShift> {size} {size}\n<LearnRateCoef> 0 [ {shift} ]\n"
        f"<Rescale> {size} {size}\n<LearnRateCoef> 0 [ {scale} ]\n</Nnet>\n"
    )


def _write_pieces(directory: Path, size: Size) -> None:
    """Train SentencePiece on made-up words, with some of SenseVoice's marks as symbols."""
    import sentencepiece

    draw = np.random.default_rng(2)
    letters = np.array(list("abdegiklmnorstu"))
    marks = ["<|zh|>", "<|en|>", "<|NEUTRAL|>", "<|HAPPY|>", "<|Speech|>"]
    # A large vocabulary is one of whole words: parts would take minutes to find.
    options: dict[str, Any] = {"model_type": "bpe", "vocab_size": 120}
    words = 3_200
    if size.vocabulary > words:
        options = {"model_type": "word", "vocab_size": size.vocabulary}
        words = 4 * size.vocabulary
    spelt = ["".join(draw.choice(letters, 4)) for _ in range(words)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(spelt[i : i + 8]) for i in range(0, words, 8)]),
        model_prefix=str(directory / "bpe"),
        user_defined_symbols=marks,
        minloglevel=2,
        **options,
    )
    (directory / "bpe.vocab").unlink()


def build_whisper(directory: Path, real: Path, size: WhisperSize = WHISPER_TINY) -> Path:
    """Write a Whisper of CTranslate2's with random weights in float16; return where.

    ``real`` is the directory of one with true weights: the tokens are its own. The place alone
    decides what is written there, so that no text repeats itself and no window is decoded twice.
    It never ends by itself: whoever decodes bounds it (``max_length``).
    """
    from ctranslate2.specs import WhisperSpec

    directory.mkdir(parents=True)
    shutil.copy(real / "tokenizer.json", directory)
    preprocessor = {"feature_size": size.mels, "sampling_rate": 16_000, "hop_length": 160}
    (directory / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    vocabulary = (real / "vocabulary.txt").read_text().splitlines()
    spec = WhisperSpec(size.layers, size.heads, size.decoder_layers, size.heads)
    _Weights(size, len(vocabulary)).fill(spec)
    spec.register_vocabulary(vocabulary)
    last = size.decoder_layers - 1
    config = json.loads((real / "config.json").read_text())
    config["alignment_heads"] = [list(each) for each in size.timing or [(last, 0), (last, 1)]]
    for name, value in config.items():
        setattr(spec.config, name, value)
    spec.validate()
    # The output layer's weights are the tokens', once.
    spec.decoder.projection.weight = "decoder/embeddings/weight"
    spec.save(str(directory))
    return directory


#: A prime number of random values, which all weights repeat: no two rows are alike, and eight
#: hundred million are not drawn.
_POOL = 4_194_301
#: Places that Whisper knows, of what is heard and of what is written.
_HEARD, _WRITTEN = 1_500, 448


class _Weights:
    """Fills a specification of a Whisper with random weights of one size."""

    def __init__(self, size: WhisperSize, vocabulary: int) -> None:
        self._size = size
        self._vocabulary = vocabulary
        self._pool = np.random.default_rng(3).standard_normal(_POOL, np.float32)

    def fill(self, spec: Any) -> None:
        """Set every variable of a ``WhisperSpec``."""
        values, encoder, decoder = self._size.values, spec.encoder, spec.decoder
        self._product(encoder.conv1, values, self._size.mels, 3)
        self._product(encoder.conv2, values, values, 3)
        encoder.position_encodings.encodings = self._random((_HEARD, values), 0.1)
        # Louder than the tokens: what comes next depends on the place, and never on the last one.
        decoder.position_encodings.encodings = self._random((_WRITTEN, values), 4.0)
        decoder.embeddings.weight = self._random((self._vocabulary, values), 0.02)
        decoder.projection.weight = decoder.embeddings.weight
        for part in (encoder, decoder):
            self._norm(part.layer_norm)
            for layer in part.layer:
                self._layer(layer)

    def _layer(self, layer: Any) -> None:
        values = self._size.values
        self._norm(layer.self_attention.layer_norm)
        for linear, times in zip(layer.self_attention.linear, (3, 1), strict=True):
            self._product(linear, times * values, values)
        if hasattr(layer, "attention"):
            self._norm(layer.attention.layer_norm)
            for linear, times in zip(layer.attention.linear, (1, 2, 1), strict=True):
                self._product(linear, times * values, values)
        self._norm(layer.ffn.layer_norm)
        self._product(layer.ffn.linear_0, 4 * values, values)
        self._product(layer.ffn.linear_1, values, 4 * values)

    def _product(self, layer: Any, *shape: int) -> None:
        layer.weight = self._random(shape, float(np.prod(shape[1:])) ** -0.5)
        layer.bias = np.zeros(shape[0], np.float16)

    def _norm(self, layer: Any) -> None:
        layer.gamma = np.ones(self._size.values, np.float16)
        layer.beta = np.zeros(self._size.values, np.float16)

    def _random(self, shape: tuple[int, ...], spread: float) -> Any:
        return np.resize((spread * self._pool).astype(np.float16), shape)
