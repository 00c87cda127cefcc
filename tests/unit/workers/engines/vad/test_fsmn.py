"""FSMN-VAD in our own forward pass, against FunASR's, on the real weights."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from schema.errors import Misconfigured
from schema.profile import SCENES
from tests.unit.workers.engines.test_whisper import quiet, voiced
from workers.engines.features import FilterBank
from workers.engines.funasr.isolation import isolate_funasr
from workers.engines.vad import fsmn
from workers.engines.vad.fsmn import FsmnDetector, load_encoder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights() -> Path:
    """Where the real weights are; without them these tests are skipped, but not in CI."""
    models = os.environ.get("CALLSCRIBE_MODELS")
    if not models or not (Path(models) / "fsmn-vad").is_dir():
        reason = "CALLSCRIBE_MODELS names no directory of models; ops/test fetches them"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return Path(models) / "fsmn-vad"


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """A minute and a half of turns and pauses of many lengths, with noise between."""
    rng = np.random.default_rng(11)
    parts = [quiet(300)]
    for ms in range(400, 6_000, 450):
        parts += [voiced(ms), quiet(int(rng.integers(100, 2_500)))]
        parts.append(rng.normal(0, 0.02, 16 * int(rng.integers(0, 700))).astype(np.float32))
    return np.concatenate([*parts, voiced(700)])


def funasr_regions(weights, scene, samples):
    with isolate_funasr():
        from funasr import AutoModel

        model = AutoModel(
            model=str(weights),
            disable_update=True,
            disable_pbar=True,
            log_level="ERROR",
            device="cpu",
            max_end_silence_time=scene.end_silence_ms,
            speech_noise_thres=scene.speech_noise_threshold,
            max_single_segment_time=sys.maxsize,
            dynamic_silence=False,
            frontend_conf={"dither": 0.0},
        )
        [result] = model.generate(samples, key="x")
    return [tuple(region) for region in result["value"]]


def ours(weights, scene, samples, dtype=torch.float32):
    bank = FilterBank("cpu")
    found = FsmnDetector(load_encoder(weights, CPU, dtype), bank, scene).detect(samples)
    return [(region.start_ms, region.end_ms) for region in found]


@pytest.mark.models
@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("cut_ms", [0, 10, 7_777])
def test_regions_are_funasrs_to_the_millisecond(weights, speech, name, cut_ms):
    samples = np.ascontiguousarray(speech[16 * cut_ms :])
    expected = funasr_regions(weights, SCENES[name], samples)
    assert len(expected) >= 4
    assert ours(weights, SCENES[name], samples) == expected


@pytest.mark.models
def test_chunks_give_the_probabilities_of_the_whole(weights, speech, monkeypatch):
    mel = FilterBank("cpu").compute(speech)
    whole = load_encoder(weights, CPU).silence_probabilities(mel)
    monkeypatch.setattr(fsmn, "_CPU_FRAMES", 333)
    chunks = load_encoder(weights, CPU).silence_probabilities(mel)
    assert whole.shape == (len(mel),)
    assert torch.allclose(chunks, whole, atol=1e-5)


@pytest.mark.models
def test_half_precision_hears_nearly_the_same(weights, speech):
    exact = ours(weights, SCENES["call"], speech)
    rough = ours(weights, SCENES["call"], speech, torch.bfloat16)
    assert len(rough) == len(exact)
    assert all(
        abs(a - b) <= 50
        for one, other in zip(exact, rough, strict=True)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.models
def test_digital_silence_and_a_blink_are_no_speech(weights):
    assert ours(weights, SCENES["call"], np.zeros(16_000, np.float32)) == []
    assert ours(weights, SCENES["call"], np.zeros(1_600, np.float32)) == []


@pytest.mark.models
@pytest.mark.parametrize("lacking", ["encoder.fsmn.2.affine.linear.bias", None])
def test_a_checkpoint_that_is_not_the_model_is_refused(weights, tmp_path, lacking):
    """FunASR would go on with random numbers in its place."""
    for name in ("config.yaml", "am.mvn"):
        shutil.copy(weights / name, tmp_path)
    saved = torch.load(weights / "model.pt", weights_only=True)
    if lacking:
        del saved[lacking]
    else:
        saved["encoder.out_linear1.linear.bias"] = torch.zeros(3)
    torch.save(saved, tmp_path / "model.pt")
    with pytest.raises(Misconfigured, match=r"does not fit config\.yaml"):
        load_encoder(tmp_path, CPU)


def test_a_network_that_looks_ahead_is_refused():
    frontend = {"lfr_m": 5, "lfr_n": 1}
    with pytest.raises(Misconfigured):
        fsmn.read_shape({"frontend_conf": frontend, "encoder_conf": {"rorder": 1, "lstride": 1}})
