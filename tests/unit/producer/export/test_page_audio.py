"""The audio beside a page is the call's own, sample by sample, and its peaks are its peaks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from producer.export.page_audio import POINTS, copy_audio, thin_peaks
from schema.errors import BadRecording, Misconfigured
from schema.records import Location
from schema.settings import Settings
from tests.unit.producer import sounds

RATE_HZ = 8_000


def settings(root: Path) -> Settings:
    return Settings(database_url="postgresql://", redis_url="redis://", roots={"calls": root})


def location(name: str, root: str = "calls") -> Location:
    return Location(root, os.fsencode(name))


@pytest.mark.parametrize("subtype", ["PCM_16", "ULAW"])
def test_a_copy_has_every_sample_of_every_channel(tmp_path, subtype):
    draw = np.random.default_rng(1)
    samples = draw.uniform(-0.5, 0.5, (25 * RATE_HZ + 17, 2))
    soundfile.write(tmp_path / "a.wav", samples, RATE_HZ, subtype=subtype)
    peaks = copy_audio(location("a.wav"), settings(tmp_path), tmp_path / "a.page.flac")
    expected, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    found, rate_hz = soundfile.read(tmp_path / "a.page.flac", dtype="int16")
    assert rate_hz == RATE_HZ
    assert np.array_equal(found, expected)
    assert peaks.shape == (2, -(-len(samples) // (RATE_HZ // 20)))
    first = np.abs(expected[: RATE_HZ // 20] / 32768).max(axis=0)
    np.testing.assert_allclose(peaks[:, 0], first, atol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.page.flac", "a.wav"]


def test_a_long_call_is_drawn_in_no_more_points_and_loses_no_peak():
    peaks = np.zeros((1, 72_345), np.float32)
    peaks[0, 50_000] = 0.9
    drawn = thin_peaks(peaks, POINTS)
    assert drawn.shape == (1, POINTS)
    assert float(drawn.max()) == np.float32(0.9)


def test_what_was_chosen_of_a_file_is_what_is_heard(tmp_path):
    path = tmp_path / "a.mka"
    samples = sounds.voice(2)
    sounds.encode(path, "pcm_s16le", samples, RATE_HZ, languages=("eng", "deu"))

    def heard(*flags):
        copy_audio(location("a.mka"), settings(tmp_path), tmp_path / "a.page.flac", None, flags)
        return soundfile.info(tmp_path / "a.page.flac")

    assert heard("other-tracks:1").channels == 1
    assert heard("tracks-as-channels:2").channels == 2
    os.truncate(path, path.stat().st_size * 2 // 3)
    with pytest.raises(BadRecording):
        heard("other-tracks:1")
    assert 1 < heard("other-tracks:1", "truncated:1333").duration < 2


def test_what_is_gone_or_no_audio_is_named(tmp_path):
    (tmp_path / "b.wav").write_bytes(b"no audio at all, but long enough to be looked at" * 40)
    for name in ("b.wav", "gone.wav"):
        with pytest.raises(BadRecording):
            copy_audio(location(name), settings(tmp_path), tmp_path / "b.page.flac")
    assert [path.name for path in tmp_path.iterdir()] == ["b.wav"]


def test_a_root_that_this_host_lacks_is_named(tmp_path):
    with pytest.raises(Misconfigured):
        copy_audio(location("a.wav", "elsewhere"), settings(tmp_path), tmp_path / "x.page.flac")


def test_a_copy_that_cannot_be_written_is_no_fault_of_the_recording(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE_HZ), RATE_HZ)
    with pytest.raises(OSError, match="cannot be written"):
        copy_audio(location("a.wav"), settings(tmp_path), tmp_path / "missing" / "a.page.flac")
