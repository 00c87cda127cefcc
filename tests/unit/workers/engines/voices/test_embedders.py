"""Networks that tell voices apart, held to those who made them."""

from __future__ import annotations

import os
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch

from schema.models import EMBEDDERS, model_files
from schema.pcm import SAMPLES_PER_MS, Samples
from schema.profile import load_profile
from schema.settings import Settings
from schema.span import Span
from workers.engines.base import VoiceEmbedder
from workers.engines.features import FilterBank
from workers.engines.funasr.isolation import isolate_funasr
from workers.engines.load import load_embedder

pytestmark = pytest.mark.models

MODELS = Path(os.environ.get("CALLSCRIBE_MODELS", "~/.cache/callscribe/models")).expanduser()


def voice(ms: int, pitch_hz: float, seed: int = 0) -> Samples:
    """Return a buzz with two formants that move, and a little noise."""
    t = np.arange(ms * SAMPLES_PER_MS) / 16_000
    pitch = 2 * np.pi * np.cumsum(pitch_hz + 15 * np.sin(2 * np.pi * 0.7 * t)) / 16_000
    harmonics = np.arange(1, 25)[:, None]
    formants = 600 + 200 * np.sin(2 * np.pi * 2.1 * t), 1_500 + 500 * np.sin(2 * np.pi * 1.3 * t)
    loudness = sum(np.exp(-(((pitch_hz * harmonics - f) / 150) ** 2)) for f in formants)
    buzz = (loudness * np.sin(harmonics * pitch)).sum(axis=0)
    noise = np.random.default_rng(seed).normal(0, 0.01, len(t))
    return (0.2 * buzz / np.abs(buzz).max() + noise).astype(np.float32)


def load(name: str, bank: FilterBank) -> VoiceEmbedder:
    settings = Settings(
        database_url="postgresql://none/none", redis_url="redis://none", models=MODELS
    )
    profile = load_profile("call", {"render": {"diarize": "auto", "voices": {"model": name}}})
    return load_embedder(profile, settings, bank)


@pytest.fixture
def bank() -> FilterBank:
    return FilterBank("cpu")


def every(ms: int, count: int) -> list[Span]:
    return [Span(ms * i, ms * i + 1_200) for i in range(count)]


@pytest.mark.parametrize("name", EMBEDDERS)
def test_vectors_are_of_length_one_and_none_for_no_window(name: str, bank: FilterBank):
    embedder = load(name, bank)
    samples = voice(8_000, 120)

    vectors = embedder.embed(samples, every(400, 16))

    assert vectors.shape == (16, embedder.dimension)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-4)
    assert embedder.embed(samples, []).shape == (0, embedder.dimension)


@pytest.mark.parametrize("name", EMBEDDERS)
def test_a_voice_is_more_like_itself_than_like_another(name: str, bank: FilterBank):
    embedder = load(name, bank)
    low, high = (embedder.embed(voice(8_000, hz), every(400, 16)) for hz in (110, 220))

    assert (low @ low.T).mean() > (low @ high.T).mean() + 0.1


@pytest.mark.parametrize("name", EMBEDDERS)
def test_the_last_window_may_reach_past_the_audio(name: str, bank: FilterBank):
    embedder = load(name, bank)

    vectors = embedder.embed(voice(2_000, 120), [Span(400, 1_600), Span(1_200, 2_400)])

    assert np.isfinite(vectors).all()


def test_a_window_alone_has_the_vector_of_funasr_s_network(bank: FilterBank):
    samples = voice(4_000, 130)
    with isolate_funasr():
        from funasr.models.campplus.model import CAMPPlus

        network = CAMPPlus(feat_dim=80, embedding_size=192)
    path = MODELS / "campplus" / next(iter(model_files("campplus").files))
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network.eval()
    mel = FilterBank("cpu").compute(samples)[100:220]
    with torch.inference_mode():
        [theirs] = torch.nn.functional.normalize(network((mel - mel.mean(dim=0))[None])).numpy()

    [ours] = load("campplus", bank).embed(samples, [Span(1_000, 2_200)])

    assert ours == pytest.approx(theirs, abs=1e-5)


def test_runs_that_are_computed_together_are_as_if_each_were_alone(bank: FilterBank):
    embedder = load("campplus", bank)
    samples = voice(20_000, 120)
    windows = [Span(0, 1_200), Span(400, 1_600), Span(4_000, 5_200), Span(9_600, 10_800)]
    apart = embedder.embed(samples, windows)

    embedder.batch_frames = 48_000  # type: ignore[attr-defined]
    together = embedder.embed(samples, windows)

    assert together == pytest.approx(apart, abs=1e-5)


def test_a_long_run_s_pieces_see_as_far_as_their_convolutions_reach(bank: FilterBank):
    embedder = load("campplus", bank)
    samples, windows = voice(30_000, 120), every(400, 70)
    in_pieces = embedder.embed(samples, windows)

    embedder._network._frames = 48_000  # type: ignore[attr-defined]
    at_once = embedder.embed(samples, windows)

    assert in_pieces == pytest.approx(at_once, abs=1e-5)


def test_resemblyzer_s_features_are_librosa_s(bank: FilterBank):
    samples = voice(1_200, 130)
    checkpoint = torch.load(
        MODELS / "resemblyzer" / "pretrained.pt", map_location="cpu", weights_only=True
    )
    weights = checkpoint["model_state"]
    lstm, linear = torch.nn.LSTM(40, 256, 3, batch_first=True), torch.nn.Linear(256, 256)
    for module, prefix in ((lstm, "lstm."), (linear, "linear.")):
        module.load_state_dict(
            {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
        )
    mel = librosa.feature.melspectrogram(
        y=samples, sr=16_000, n_fft=400, hop_length=160, n_mels=40, pad_mode="constant"
    )
    with torch.inference_mode():
        _, (hidden, _) = lstm(torch.from_numpy(mel.T[None, :120].astype(np.float32)))
        theirs = torch.nn.functional.normalize(torch.relu(linear(hidden[-1])))[0].numpy()

    [ours] = load("resemblyzer", bank).embed(samples, [Span(0, 1_200)])

    assert ours == pytest.approx(theirs, abs=1e-4)
