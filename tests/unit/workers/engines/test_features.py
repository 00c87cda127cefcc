"""Log-mel features against Kaldi's own, and how encoders stack and normalise them."""

from __future__ import annotations

import kaldi_native_fbank as kaldi
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.engines.features import FilterBank, Stacking, frame_count, read_normalisation


def kaldi_features(samples):
    options = kaldi.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.window_type = "hamming"
    options.energy_floor = 0
    options.mel_opts.num_bins = 80
    bank = kaldi.OnlineFbank(options)
    bank.accept_waveform(16_000, (samples * 32_768).tolist())
    bank.input_finished()
    return np.stack([bank.get_frame(index) for index in range(bank.num_frames_ready)])


def noise(count, loudness=0.1, seed=5):
    return np.random.default_rng(seed).normal(0, loudness, count).astype(np.float32)


@pytest.mark.parametrize("count", [400, 559, 560, 16_000, 100_123])
def test_features_are_kaldis(count):
    samples = noise(count)
    ours = FilterBank("cpu").compute(samples).numpy()
    expected = kaldi_features(samples)
    assert ours.shape == expected.shape == (frame_count(count), 80)
    assert np.abs(ours - expected).max() < 0.002


@pytest.mark.parametrize("loudness", [0.0, 1e-5, 1.0])
def test_silence_and_full_scale_are_kaldis_as_well(loudness):
    samples = np.clip(noise(16_000, loudness), -1, 1)
    assert (
        np.abs(FilterBank("cpu").compute(samples).numpy() - kaldi_features(samples)).max() < 0.005
    )


@pytest.mark.parametrize("count", [0, 1, 399])
def test_less_than_a_frame_has_no_feature(count):
    assert FilterBank("cpu").compute(noise(count)).shape == (0, 80)


def test_a_stretch_has_the_features_it_would_have_alone():
    samples = noise(48_000)
    whole = FilterBank("cpu").compute(samples)
    part = FilterBank("cpu").compute(np.ascontiguousarray(samples[16_000:40_000]))
    assert torch.equal(whole[100 : 100 + len(part)], part)


def test_a_segments_features_are_cached_until_the_bank_is_cleared():
    bank, samples = FilterBank("cpu"), noise(16_000)
    first = bank.compute(samples)
    assert bank.compute(samples) is first
    assert bank.compute(samples.copy()) is not first
    assert bank.compute(samples) is first
    bank.clear()
    assert bank.compute(samples) is not first


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    stacking=st.sampled_from([Stacking(5, 1), Stacking(7, 6), Stacking(1, 1)]),
    more=st.integers(0, 5),
)
def test_each_stacked_frame_is_its_neighbours_side_by_side(lengths, stacking, more):
    mel = torch.arange(sum(lengths) * 3, dtype=torch.float32).reshape(-1, 3)
    firsts = [sum(lengths[:at]) for at in range(len(lengths))]
    longest = max(map(stacking.count, lengths)) + more
    stacked = stacking.apply(mel, torch.tensor(firsts), torch.tensor(lengths), longest)
    assert stacked.shape == (len(lengths), longest, 3 * stacking.width)
    before = (stacking.width - 1) // 2
    for first, frames, region in zip(firsts, lengths, stacked, strict=True):
        own = region[: stacking.count(frames)].reshape(-1, stacking.width, 3)
        for index, row in enumerate(own):
            begin = index * stacking.step - before
            wanted = [min(max(at, 0), frames - 1) for at in range(begin, begin + stacking.width)]
            assert torch.equal(row, mel[[first + at for at in wanted]])


def test_a_normalisation_is_read_from_kaldis_text(tmp_path):
    path = tmp_path / "am.mvn"
    path.write_text(
        "<Nnet>\n<Splice> 2 2\n[ 0 ]\n<AddShift> 2 2\n<LearnRateCoef> 0 [ -1.5 2 ]\n"
        "<Rescale> 2 2\n<LearnRateCoef> 0 [ 0.5 10 ]\n</Nnet>\n"
    )
    normalised = read_normalisation(path).apply(torch.tensor([[2.5, 0.0]]))
    assert normalised.tolist() == [[0.5, 20.0]]


@pytest.mark.parametrize("text", ["", "<AddShift> 2 2\n<LearnRateCoef> 0 [ 1 2 ]\n"])
def test_a_normalisation_that_is_not_whole_is_refused(tmp_path, text):
    (tmp_path / "am.mvn").write_text(text)
    with pytest.raises(ValueError, match=r"has no <"):
        read_normalisation(tmp_path / "am.mvn")
