import csv

import numpy as np
import pytest
import soundfile

from ops.local import samples
from ops.local.models import ModelError


@pytest.fixture
def clips(monkeypatch):
    """Tones in the place of speech."""
    time_s = np.arange(16_000) / 16_000
    tone = (0.3 * np.sin(2 * np.pi * 440 * time_s)).astype(np.float32)
    monkeypatch.setattr(
        samples, "_load_clips", lambda directory: dict.fromkeys(samples._CLIPS, tone)
    )


def test_the_same_calls_come_out_every_time(tmp_path, clips):
    contents = []
    for _ in range(2):
        calls = samples.compose(tmp_path).directory
        contents.append({path.name: path.read_bytes() for path in calls.iterdir()})

    assert contents[0] == contents[1]
    assert len(contents[0]) == len(samples.CALLS)


def test_two_speakers_are_on_two_channels_as_telephone_systems_record_them(tmp_path, clips):
    path = samples.compose(tmp_path).directory / "call-1001.wav"

    info = soundfile.info(path)
    assert (info.samplerate, info.channels, info.subtype) == (8_000, 2, "ULAW")
    audio, _ = soundfile.read(path)
    first_turn = slice(8_000, 8_000 + 4_000)
    assert np.abs(audio[first_turn, samples.AGENT]).max() > 0.2
    assert np.abs(audio[first_turn, samples.CUSTOMER]).max() < 0.01


def test_a_call_in_which_nobody_speaks_is_silent(tmp_path, clips):
    audio, _ = soundfile.read(samples.compose(tmp_path).directory / "call-1004.wav")

    assert not audio.any()


def test_the_manifest_has_a_row_for_every_call(tmp_path, clips):
    calls = samples.compose(tmp_path)

    with calls.manifest.open() as file:
        rows = list(csv.DictReader(file))
    named = {str((calls.manifest.parent / row["file"]).resolve()) for row in rows}
    assert named == {str(path.resolve()) for path in calls.directory.iterdir()}
    assert [row["call_id"] for row in rows] == [call.call_id for call in samples.CALLS]


def test_clips_that_are_not_the_published_ones_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "_CLIPS", {"en/hello_world": "0" * 64})
    monkeypatch.setattr(samples, "download", lambda requirements, target: [wheel(tmp_path)])

    with pytest.raises(ModelError, match="en/hello_world"):
        samples.compose(tmp_path)


def wheel(directory):
    import zipfile

    path = directory / "clips.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{samples._FOLDER}/en/hello_world.wav", b"other")
    return path
