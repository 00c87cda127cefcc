import os

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.intake.probe import probe
from producer.intake.raw_audio import RAW_DEFAULTS
from producer.intake.scan import FLOOR_DB, scan
from schema.errors import BadRecording, ErrorCode
from schema.pcm import downmix, samples_digest, span_digest
from schema.records import AudioFormat
from schema.settings import Limits
from schema.span import Span, frame_at
from tests.unit.producer import sounds


def scanned(path, **options):
    audio = probe(os.fsencode(path), RAW_DEFAULTS, Limits()).format
    return scan(os.fsencode(path), audio, "call", **options)


def stereo(tmp_path, left, right, **how):
    return scanned(sounds.write(tmp_path / "call.wav", np.stack([left, right], 1), **how))


@pytest.mark.parametrize("rate", [8000, 11025, 44100])
def test_digests_are_those_of_the_samples_that_a_worker_will_read(tmp_path, rate):
    samples = np.stack([sounds.voice(25.03, rate), sounds.voice(25.03, rate, seed=1)], 1)
    path = sounds.write(tmp_path / "call.wav", samples, rate)
    result = scanned(path)
    span = Span(9_900, 20_300)
    first, last = frame_at(span.start_ms, rate), frame_at(span.end_ms, rate)

    with soundfile.SoundFile(path) as file:
        file.seek(first)
        read = file.read(last - first, dtype="float32", always_2d=True)

    for channel in (0, 1):
        digest = span_digest(result.signals[channel].digests, span)
        assert digest == samples_digest(read[:, channel], rate, span.start_ms)
    assert result.duration_ms == 25_030


def test_a_mix_is_digested_as_the_mean_that_a_worker_will_compute(tmp_path):
    samples = np.stack([sounds.voice(1, seed=seed) for seed in range(3)], 1)
    path = sounds.write(tmp_path / "call.wav", samples, subtype="FLOAT")

    signal = scanned(path, mix=True).signals[None]

    assert span_digest(signal.digests, Span(0, 1000)) == samples_digest(downmix(samples), 8000, 0)


@given(st.integers(1, 8), st.integers(0, 50))
@settings(deadline=None)
def test_a_downmix_is_the_mean_whatever_the_layout_in_memory(channels, frames):
    samples = np.random.default_rng(frames).standard_normal((frames, channels), np.float32)

    mixed = downmix(samples)

    assert mixed.dtype == np.float32
    assert np.allclose(mixed, samples.mean(axis=1), atol=1e-6)
    assert np.array_equal(mixed, downmix(np.asfortranarray(samples)))


def test_levels_are_of_each_100_ms_and_leave_out_a_constant_offset(tmp_path):
    tone = 0.5 * np.sin(2 * np.pi * 100 * np.arange(800) / 8000)
    samples = np.concatenate([tone, np.zeros(800), np.full(800, 0.25)]).astype(np.float32)
    path = sounds.write(tmp_path / "call.wav", samples, subtype="FLOAT")

    levels = scanned(path).signals[0].envelope_db

    assert levels == pytest.approx([-9.03, FLOOR_DB, FLOOR_DB], abs=0.01)


@pytest.mark.parametrize("subtype", ["PCM_16", "ULAW", "ALAW"])
def test_an_idle_line_is_silent_and_a_quiet_caller_is_not(tmp_path, subtype):
    quiet = sounds.mulaw_idle(12)
    quiet[80_000:88_000] += sounds.voice(1, level_db=-48)

    result = stereo(tmp_path, sounds.mulaw_idle(12), quiet, subtype=subtype)

    assert [result.signals[channel].is_silent for channel in (0, 1)] == [True, False]
    assert not result.dual_mono


def test_float_files_may_hold_what_is_no_number(tmp_path):
    samples = sounds.voice(1)
    samples[:900] = np.nan
    samples[1000] = np.inf
    path = sounds.write(tmp_path / "call.wav", samples, subtype="FLOAT")

    signal = scanned(path).signals[0]

    assert np.isfinite(signal.envelope_db).all()
    assert not signal.is_silent


@pytest.mark.parametrize("gain", [1.0, 0.3, -1.0])
@pytest.mark.parametrize("lag", [0, 7, 40])
def test_one_signal_on_two_channels_is_dual_mono(tmp_path, gain, lag):
    left = sounds.voice(12)
    left[20_000:40_000] = 0
    right = gain * np.roll(left, lag)

    assert stereo(tmp_path, left, right, subtype="ULAW").dual_mono
    assert stereo(tmp_path, right, left, subtype="ULAW").dual_mono


def test_noise_of_its_own_in_each_channel_leaves_dual_mono(tmp_path):
    voice = sounds.voice(12)
    noise = [sounds.voice(12, seed=seed, level_db=-65) for seed in (3, 4)]

    assert stereo(tmp_path, voice + noise[0], voice + noise[1]).dual_mono


def test_dual_mono_survives_a_lossy_codec(tmp_path):
    voice = sounds.voice(11.03)

    assert stereo(tmp_path, voice, 0.9 * voice, subtype="IMA_ADPCM").dual_mono


def test_two_voices_are_no_dual_mono(tmp_path):
    assert not stereo(tmp_path, sounds.voice(5), sounds.voice(5, seed=1)).dual_mono


def test_one_second_of_another_voice_is_enough(tmp_path):
    left = sounds.voice(30)
    right = left.copy()
    right[200_000:208_000] = sounds.voice(1, seed=9)

    assert not stereo(tmp_path, left, right).dual_mono


def test_crosstalk_is_no_dual_mono(tmp_path):
    agent, caller = sounds.voice(12), sounds.voice(12, seed=1)
    agent[:40_000], caller[40_000:] = 0, 0

    assert not stereo(tmp_path, agent + 0.05 * caller, caller + 0.05 * agent).dual_mono


def test_a_quiet_caller_over_loud_crosstalk_is_no_dual_mono(tmp_path):
    agent = sounds.voice(12)
    caller = 0.5 * agent
    caller[40_000:48_000] += sounds.voice(1, seed=1, level_db=-32)

    assert not stereo(tmp_path, agent, caller).dual_mono


@pytest.mark.parametrize("frames", [1, 100, 799, 8001, 80_001])
def test_any_length_can_be_scanned(tmp_path, frames):
    path = sounds.write(tmp_path / "call.wav", np.full((frames, 2), 0.5, np.float32))

    result = scan(os.fsencode(path), AudioFormat("WAV", "PCM_16", 8000, 2, frames), "call")

    for signal in result.signals.values():
        assert len(signal.digests) == len(signal.envelope_db) == -(-frames // 800)


def test_a_file_that_holds_less_than_was_planned_is_truncated(tmp_path):
    path = sounds.write(tmp_path / "call.wav", sounds.voice(2))

    with pytest.raises(BadRecording) as caught:
        scan(os.fsencode(path), AudioFormat("WAV", "PCM_16", 8000, 1, 20_000), "call")

    assert caught.value.code is ErrorCode.AUDIO_TRUNCATED


def test_damage_within_a_file_is_said_where_it_is(tmp_path):
    path = sounds.write(tmp_path / "call.flac", sounds.voice(30))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 20_000] = bytes(20_000)
    path.write_bytes(data)

    with pytest.raises(BadRecording) as caught:
        scanned(path)

    assert caught.value.code is ErrorCode.AUDIO_TRUNCATED
    assert "it breaks at 14." in caught.value.cause
    assert "promises 30.00 s" in caught.value.cause
