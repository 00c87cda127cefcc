"""Checkpoints of FunASR's true architectures: tiny, with random weights, laid out as its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from schema.profile import Profile, load_profile
from workers.engines.guest import guest

#: A vocabulary of characters, each of which is a word, so that ids can be read off a text.
CHARACTERS = [chr(0x4E00 + 7 * index) for index in range(60)]
_TOKENS = ["<blank>", "<s>", "</s>", *CHARACTERS, "<unk>"]
_PIECES = 120

_FRONTEND = {
    "fs": 16000,
    "window": "hamming",
    "n_mels": 80,
    "frame_length": 25,
    "frame_shift": 10,
    "lfr_m": 7,
    "lfr_n": 6,
}
_ENCODER = {
    "output_size": 32,
    "attention_heads": 2,
    "linear_units": 48,
    "num_blocks": 3,
    "dropout_rate": 0.1,
    "positional_dropout_rate": 0.1,
    "attention_dropout_rate": 0.1,
    "input_layer": "pe",
    "normalize_before": True,
    "kernel_size": 5,
    "sanm_shfit": 0,
}
_DECODER = {
    "attention_heads": 2,
    "linear_units": 48,
    "num_blocks": 2,
    "dropout_rate": 0.1,
    "positional_dropout_rate": 0.1,
    "self_attention_dropout_rate": 0.1,
    "src_attention_dropout_rate": 0.1,
    "att_layer_num": 2,
    "kernel_size": 5,
    "sanm_shfit": 0,
}
_CIF = {"idim": 32, "threshold": 1.0, "l_order": 1, "r_order": 1, "tail_threshold": 0.45}
_UPSAMPLED = {
    **_CIF,
    "smooth_factor2": 0.25,
    "noise_threshold2": 0.01,
    "upsample_times": 3,
    "use_cif1_cnn": False,
}


def _paraformer(name: str, predictor: str, conf: Mapping[str, Any], **model: Any) -> dict[str, Any]:
    return {
        "model": name,
        "model_conf": {
            "ctc_weight": 0.0,
            "lsm_weight": 0.1,
            "length_normalized_loss": True,
            "predictor_weight": 1.0,
            "predictor_bias": 1,
            "sampling_ratio": 0.75,
            **model,
        },
        "encoder": "SANMEncoder",
        "encoder_conf": {**_ENCODER, "selfattention_layer_type": "sanm"},
        "decoder": "ParaformerSANMDecoder",
        "decoder_conf": _DECODER,
        "predictor": predictor,
        "predictor_conf": dict(conf),
        "tokenizer": "CharTokenizer",
        "tokenizer_conf": {"unk_symbol": "<unk>", "split_with_space": True},
    }


_SEACO = {
    "inner_dim": 32,
    "bias_encoder_type": "lstm",
    "bias_encoder_bid": False,
    "seaco_lsm_weight": 0.1,
    "seaco_length_normal": True,
    "train_decoder": False,
    "NO_BIAS": len(_TOKENS) - 1,
}

CONFIGS: Mapping[str, dict[str, Any]] = {
    "paraformer": _paraformer("Paraformer", "CifPredictorV2", _CIF),
    "bicif": _paraformer(
        "BiCifParaformer", "CifPredictorV3", {**_UPSAMPLED, "upsample_type": "cnn_blstm"}
    ),
    "bicif-cnn": _paraformer(
        "BiCifParaformer",
        "CifPredictorV3",
        {**_UPSAMPLED, "upsample_type": "cnn", "use_cif1_cnn": True},
    ),
    "seaco": {
        **_paraformer(
            "SeacoParaformer",
            "CifPredictorV3",
            {**_UPSAMPLED, "upsample_type": "cnn_blstm"},
            **_SEACO,
        ),
        "seaco_decoder": "ParaformerSANMDecoder",
        "seaco_decoder_conf": {**_DECODER, "wo_input_layer": True, "use_output_layer": False},
    },
    "sensevoice": {
        "model": "SenseVoiceSmall",
        "model_conf": {"length_normalized_loss": True, "sos": 1, "eos": 2, "ignore_id": -1},
        "encoder": "SenseVoiceEncoderSmall",
        "encoder_conf": {**_ENCODER, "tp_blocks": 2, "selfattention_layer_type": "sanm"},
        "tokenizer": "SentencepiecesTokenizer",
        "tokenizer_conf": {"unk_symbol": "<unk>", "split_with_space": True},
    },
}


def build(kind: str, directory: Path) -> Path:
    """Write a model's config, vocabulary, normalisation and random weights; return where."""
    directory.mkdir(parents=True)
    config = {**CONFIGS[kind], "frontend": "WavFrontend", "frontend_conf": _FRONTEND}
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    _write_normalisation(directory / "am.mvn")
    if kind == "sensevoice":
        _write_pieces(directory)
    else:
        (directory / "tokens.json").write_text(json.dumps(_TOKENS, ensure_ascii=False))
    # FunASR builds a model only where there are weights to load, be there none in them.
    torch.save({}, directory / "model.pt")
    with guest():
        from funasr import AutoModel

        model, _ = AutoModel.build_model(model=str(directory), device="cpu", disable_update=True)
    weights = _lively(model, np.random.default_rng(len(kind)))
    torch.save(weights, directory / "model.pt")
    return directory


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
    size = _FRONTEND["n_mels"] * _FRONTEND["lfr_m"]
    shift, scale = " ".join(["-8.0"] * size), " ".join(["0.25"] * size)
    path.write_text(
        f"<Nnet>\n<Splice> {size} {size}\n[ 0 ]\n"
        f"<AddShift> {size} {size}\n<LearnRateCoef> 0 [ {shift} ]\n"
        f"<Rescale> {size} {size}\n<LearnRateCoef> 0 [ {scale} ]\n</Nnet>\n"
    )


def _write_pieces(directory: Path) -> None:
    """Train SentencePiece on words made of few letters, with SenseVoice's marks as symbols."""
    import sentencepiece

    draw = np.random.default_rng(2)
    lines = [
        " ".join("".join(draw.choice(list("abdegiklmnorstu"), 4)) for _ in range(8))
        for _ in range(400)
    ]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(directory / "bpe"),
        vocab_size=_PIECES,
        model_type="bpe",
        user_defined_symbols=["<|zh|>", "<|en|>", "<|NEUTRAL|>", "<|HAPPY|>", "<|Speech|>"],
        minloglevel=2,
    )
    (directory / "bpe.vocab").unlink()
