"""Our pass through FunASR's encoders and decoders, against its own; and what it takes a host."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.bench.launches import counted, narrow_model
from ops.bench.madeup import KINDS
from workers.engines.funasr.sanm import SanmDecoder, SanmEncoder, is_supported_model, mask_rows

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("narrow")
    return {kind: narrow_model(kind, root) for kind in ("paraformer", "sensevoice", "seaco")}


def drawn(lengths: list[int], width: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(lengths), max(lengths), width, generator=generator)


@settings(deadline=None, max_examples=15)
@given(lengths=LENGTHS)
@pytest.mark.parametrize("kind", ["paraformer", "sensevoice"])
def test_an_encoders_output_is_theirs_wherever_there_is_speech(models, kind, lengths):
    model = models[kind]._family.model
    features, counts = drawn(lengths, 560), torch.tensor(lengths)
    with torch.inference_mode():
        theirs = model.encoder(features.clone(), counts)[0]
        mask = mask_rows(counts, max(lengths), torch.float32)
        ours = SanmEncoder(model.encoder, torch.float32).apply(features, mask)
    for region, length in enumerate(lengths):
        # Seventy layers of sums in another order.
        torch.testing.assert_close(
            ours[region, :length], theirs[region, :length], atol=1e-4, rtol=1e-3
        )


@settings(deadline=None, max_examples=15)
@given(lengths=LENGTHS, data=st.data())
def test_a_decoders_scores_are_theirs_wherever_there_is_a_token(models, lengths, data):
    module = models["paraformer"]._family.model.decoder
    tokens = [data.draw(st.integers(1, 12)) for _ in lengths]
    hidden, embeddings = drawn(lengths, 32), drawn(tokens, 32, seed=2)
    frames, spoken = torch.tensor(lengths), torch.tensor(tokens)
    with torch.inference_mode():
        theirs = module(hidden, frames, embeddings, spoken)[0]
        decoder = SanmDecoder(module, torch.float32)
        source_mask = mask_rows(frames, max(lengths), torch.float32).attention
        mask = mask_rows(spoken, max(tokens), torch.float32)
        rows = decoder.score(decoder.apply(hidden, source_mask, embeddings, mask))
    ours = rows.view(theirs.shape)
    for region, count in enumerate(tokens):
        torch.testing.assert_close(
            ours[region, :count], theirs[region, :count], atol=1e-4, rtol=1e-3
        )


def test_what_is_padding_is_of_no_matter(models):
    encoder = SanmEncoder(models["paraformer"]._family.model.encoder, torch.float32)
    features, counts = drawn([30, 12], 560), torch.tensor([30, 12])
    noisy = features.clone()
    noisy[1, 12:] = 1e4
    with torch.inference_mode():
        one, other = (
            encoder.apply(each, mask_rows(counts, 30, torch.float32)) for each in (features, noisy)
        )
    torch.testing.assert_close(one[1, :12], other[1, :12], atol=1e-4, rtol=1e-3)


def test_weights_are_held_in_the_precision_that_is_asked_for(tmp_path):
    recognizer = narrow_model("bicif", tmp_path, precision="bfloat16")
    model = recognizer._family.model
    for part in (model.encoder, model.decoder):
        matrices = [
            module.weight
            for module in part.modules()
            if isinstance(module, torch.nn.Linear | torch.nn.Conv1d)
        ]
        assert {weight.dtype for weight in matrices} == {torch.bfloat16}
    # What counts and times tokens is not.
    assert {weight.dtype for weight in model.predictor.parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_minibatch_takes_few_launches_and_two_waits(kind, precision, tmp_path):
    found = counted(narrow_model(kind, tmp_path, precision=precision))
    assert found.words > 0
    assert found.operators <= 1_200
    assert found.waits == (1 if kind == "sensevoice" else 2)


def test_networks_of_another_kind_are_not_computed_here(models):
    model = models["paraformer"]._family.model
    assert is_supported_model(model)
    layer = model.encoder.encoders[0]
    layer.normalize_before = False
    try:
        assert not is_supported_model(model)
    finally:
        layer.normalize_before = True
    layer.feed_forward.activation = torch.nn.GELU()
    try:
        assert not is_supported_model(model)
    finally:
        layer.feed_forward.activation = torch.nn.ReLU()
