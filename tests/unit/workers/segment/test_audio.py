"""Only the planned samples are read, from inside the roots, and neighbours agree."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from schema.errors import BadRecording, CallscribeError, ErrorCode, Misconfigured, Transient
from schema.pcm import PlannedSlice, downmix, excerpt_digest, samples_digest
from schema.records import AudioFormat, Location, SegmentSource
from schema.settings import Settings
from schema.span import Span, duration_of, frame_at
from workers.segment import audio
from workers.segment.audio import read_segment


@pytest.fixture
def root(tmp_path):
    path = tmp_path / "calls"
    path.mkdir()
    return path


@pytest.fixture
def settings(root):
    return Settings(
        database_url="postgresql://nowhere/none", redis_url="redis://nowhere", roots=f"calls={root}"
    )


def noise(frames: int, channels: int = 1) -> np.ndarray:
    """Steps of 16 bits between -0.5 and 0.5, so that WAV and FLAC keep them exactly."""
    steps = np.random.default_rng(7).integers(-16_384, 16_384, (frames, channels))
    return (steps / 32_768).astype(np.float32)


def plan_source(
    path: Path, samples: np.ndarray, rate_hz: int, span: Span, channel=0, encoding="PCM_16"
) -> SegmentSource:
    """What a producer would have planned for a file with these samples."""
    mono = downmix(samples) if channel is None else samples[:, channel]
    span_samples = mono[frame_at(span.start_ms, rate_hz) : frame_at(span.end_ms, rate_hz)]
    return SegmentSource(
        Location("calls", os.fsencode(path.name)),
        AudioFormat(path.suffix[1:].upper(), encoding, rate_hz, samples.shape[1], len(samples)),
        channel,
        span,
        samples_digest(span_samples, rate_hz, span.start_ms),
    )


def write_audio(path: Path, samples: np.ndarray, rate_hz: int) -> Path:
    soundfile.write(path, samples, rate_hz)
    return path


def test_at_16_khz_a_segment_is_the_files_own_samples(root, settings):
    samples = noise(48_000)
    path = write_audio(root / "a.wav", samples, 16_000)
    read = read_segment(plan_source(path, samples, 16_000, Span(500, 2_000)), settings)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, samples[8_000:32_000, 0])


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_neighbours_agree_on_their_overlap_at_any_rate(root, settings, rate_hz):
    samples = noise(4 * rate_hz)
    path = write_audio(root / "a.wav", samples, rate_hz)
    left = read_segment(plan_source(path, samples, rate_hz, Span(0, 2_700)), settings)
    right = read_segment(plan_source(path, samples, rate_hz, Span(1_300, 4_000)), settings)
    assert len(left) == 2_700 * 16
    np.testing.assert_allclose(left[1_300 * 16 :], right[: 1_400 * 16], atol=1e-4)


@pytest.mark.parametrize("channel", [0, 1])
def test_one_channel_is_read(root, settings, channel):
    samples = noise(16_000, channels=2)
    path = write_audio(root / "a.flac", samples, 16_000)
    read = read_segment(plan_source(path, samples, 16_000, Span(0, 1_000), channel), settings)
    np.testing.assert_array_equal(read, samples[:, channel])


def test_no_channel_means_the_mean_of_all(root, settings):
    samples = noise(16_000, channels=2)
    path = write_audio(root / "a.wav", samples, 16_000)
    read = read_segment(plan_source(path, samples, 16_000, Span(0, 1_000), None), settings)
    np.testing.assert_allclose(read, samples.mean(axis=1), atol=1e-7)


def test_the_last_segment_ends_with_the_recording(root, settings):
    samples = noise(16_003)
    path = write_audio(root / "a.wav", samples, 16_000)
    span = Span(500, duration_of(len(samples), 16_000))
    read = read_segment(plan_source(path, samples, 16_000, span), settings)
    assert len(read) == 8_003


def test_a_long_span_is_read_across_blocks(root, settings, monkeypatch):
    monkeypatch.setattr(audio, "_BLOCK_FRAMES", 1_000)
    samples = noise(32_000, channels=2)
    path = write_audio(root / "a.wav", samples, 16_000)
    read = read_segment(plan_source(path, samples, 16_000, Span(0, 2_000), 1), settings)
    np.testing.assert_array_equal(read, samples[:, 1])


def excerpt(
    path: Path, samples: np.ndarray, rate_hz: int, span: Span, parts: list[Span], channel=0
) -> SegmentSource:
    """A repair of a span, as the ledger orders it of planned segments."""
    whole = [plan_source(path, samples, rate_hz, part, channel) for part in parts]
    planned_parts = tuple(PlannedSlice(source.span, source.pcm_digest) for source in whole)
    return replace(
        whole[0], span=span, pcm_digest=excerpt_digest(planned_parts, span), slices=planned_parts
    )


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000])
@pytest.mark.parametrize("channel", [1, None])
def test_a_repair_hears_what_its_segments_hold(root, settings, monkeypatch, rate_hz, channel):
    monkeypatch.setattr(audio, "_BLOCK_FRAMES", 1_000)
    samples = noise(4 * rate_hz, channels=2)
    path = write_audio(root / "a.wav", samples, rate_hz)
    parts = [Span(0, 2_500), Span(1_700, 4_000)]

    repair = excerpt(path, samples, rate_hz, Span(1_100, 3_000), parts, channel)

    alone = plan_source(path, samples, rate_hz, Span(1_100, 3_000), channel)
    np.testing.assert_array_equal(read_segment(repair, settings), read_segment(alone, settings))


def test_a_repair_may_end_with_the_recording(root, settings):
    samples = noise(16_003)
    path = write_audio(root / "a.wav", samples, 16_000)
    end_ms = duration_of(len(samples), 16_000)

    repair = excerpt(path, samples, 16_000, Span(500, end_ms), [Span(0, end_ms)])

    assert len(read_segment(repair, settings)) == 8_003


@pytest.mark.parametrize("at_ms", [100, 1_500, 3_900])
def test_a_repair_of_a_file_that_changed_anywhere_in_its_segments_is_refused(root, settings, at_ms):
    samples = noise(64_000)
    parts = [Span(0, 2_500), Span(1_700, 4_000)]
    repair = excerpt(root / "a.wav", samples, 16_000, Span(1_100, 3_000), parts)
    samples[at_ms * 16] += 0.25
    write_audio(root / "a.wav", samples, 16_000)

    assert refusal(repair, settings, BadRecording).code == ErrorCode.AUDIO_CHANGED


def test_a_repair_under_anothers_digest_is_refused(root, settings):
    samples = noise(64_000)
    path = write_audio(root / "a.wav", samples, 16_000)
    repair = excerpt(path, samples, 16_000, Span(1_100, 3_000), [Span(0, 4_000)])

    moved_source = replace(repair, span=Span(1_200, 3_100))

    assert refusal(moved_source, settings, BadRecording).code == ErrorCode.AUDIO_CHANGED


def test_a_file_without_header_is_read_as_planned(root, settings):
    samples = noise(8_000)
    path = root / "a.ulaw"
    soundfile.write(path, samples, 8_000, format="RAW", subtype="ULAW")
    file_samples, _ = soundfile.read(
        path, samplerate=8_000, channels=1, format="RAW", subtype="ULAW", dtype="float32"
    )
    span = Span(0, 1_000)
    source = SegmentSource(
        Location("calls", b"a.ulaw"),
        AudioFormat("RAW", "ULAW", 8_000, 1, 8_000),
        0,
        span,
        samples_digest(file_samples, 8_000, 0),
    )
    assert len(read_segment(source, settings)) == 16_000


def test_what_is_no_sound_becomes_sound(root, settings):
    samples = noise(16_000)
    samples[100], samples[200], samples[300] = np.nan, np.inf, 3.0
    path = root / "a.wav"
    soundfile.write(path, samples, 16_000, subtype="FLOAT")
    source = plan_source(path, samples, 16_000, Span(0, 1_000), encoding="FLOAT")
    read = read_segment(source, settings)
    assert list(read[[100, 200, 300]]) == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("rate_hz", [8_000, 16_000])
def test_numbers_too_large_to_add_up_stay_sound(root, settings, rate_hz):
    samples = np.full((rate_hz, 1), 3e38, np.float32)
    path = root / "a.wav"
    soundfile.write(path, samples, rate_hz, subtype="FLOAT")
    source = plan_source(path, samples, rate_hz, Span(0, 1_000), encoding="FLOAT")
    read = read_segment(source, settings)
    assert np.all(np.abs(read) <= 1)


def test_other_samples_than_planned_are_refused(root, settings):
    samples = noise(16_000)
    source = plan_source(root / "a.wav", samples, 16_000, Span(0, 1_000))
    write_audio(root / "a.wav", samples[::-1], 16_000)
    error = refusal(source, settings, BadRecording)
    assert error.code == ErrorCode.AUDIO_CHANGED
    assert "ubmit it again" in error.remedy


@pytest.mark.parametrize("frames_kept", [0, 1_000, 15_999])
def test_a_file_that_lost_its_end_is_refused(root, settings, frames_kept):
    samples = noise(16_000)
    source = plan_source(root / "a.wav", samples, 16_000, Span(500, 1_000))
    write_audio(root / "a.wav", samples[:frames_kept], 16_000)
    assert refusal(source, settings, BadRecording).code == ErrorCode.AUDIO_CHANGED


def test_another_rate_than_planned_is_refused(root, settings):
    samples = noise(16_000)
    source = plan_source(root / "a.wav", samples, 16_000, Span(0, 1_000))
    write_audio(root / "a.wav", samples, 8_000)
    assert refusal(source, settings, BadRecording).code == ErrorCode.AUDIO_CHANGED


def test_another_encoding_than_planned_is_refused_before_anything_is_sought(
    root, settings, monkeypatch
):
    samples = noise(16_000)
    source = plan_source(root / "a.wav", samples, 16_000, Span(500, 1_000))
    soundfile.write(root / "a.wav", samples, 16_000, format="OGG")
    # Given a file so damaged that libsndfile crashes when it seeks.
    monkeypatch.setattr(soundfile.SoundFile, "seek", lambda *_: pytest.fail("it was sought in"))
    assert refusal(source, settings, BadRecording).code == ErrorCode.AUDIO_CHANGED


def test_what_is_no_longer_audio_is_refused(root, settings):
    samples = noise(16_000)
    source = plan_source(root / "a.wav", samples, 16_000, Span(0, 1_000))
    (root / "a.wav").write_bytes(b"<html>moved</html>" * 100)
    assert refusal(source, settings, BadRecording).code == ErrorCode.FILE_UNREADABLE


def test_a_link_out_of_the_root_is_refused(root, settings, tmp_path):
    samples = noise(16_000)
    outside = write_audio(tmp_path / "outside.wav", samples, 16_000)
    (root / "a.wav").symlink_to(outside)
    source = plan_source(root / "a.wav", samples, 16_000, Span(0, 1_000))
    assert refusal(source, settings, BadRecording).code == ErrorCode.PATH_OUTSIDE_ROOTS


@pytest.mark.parametrize(
    "path",
    [
        "../outside.wav",
        "x/../../outside.wav",
        "{outside}",
        "linked/outside.wav",
        "../../../../../../../../etc/passwd",
        "/etc/passwd",
        "",
        ".",
        "../calls",
    ],
)
def test_a_path_that_leads_out_of_the_root_is_refused(root, settings, tmp_path, path):
    samples = noise(16_000)
    outside = write_audio(tmp_path / "outside.wav", samples, 16_000)
    (root / "linked").symlink_to(tmp_path)
    source = plan_source(outside, samples, 16_000, Span(0, 1_000))
    location = Location("calls", path.format(outside=outside).encode())

    error = refusal(replace(source, location=location), settings, BadRecording)

    assert error.code == ErrorCode.PATH_OUTSIDE_ROOTS


def test_a_root_whose_name_begins_like_another_is_no_part_of_it(root, settings, tmp_path):
    samples = noise(16_000)
    (tmp_path / "calls-of-others").mkdir()
    path = write_audio(tmp_path / "calls-of-others" / "a.wav", samples, 16_000)
    source = plan_source(path, samples, 16_000, Span(0, 1_000))
    location = Location("calls", b"../calls-of-others/a.wav")

    error = refusal(replace(source, location=location), settings, BadRecording)

    assert error.code == ErrorCode.PATH_OUTSIDE_ROOTS


@pytest.mark.parametrize("name", ["others", "spool", "", "../calls", "/etc"])
def test_a_root_that_this_host_does_not_have_is_not_read(root, settings, name):
    samples = noise(16_000)
    source = plan_source(
        write_audio(root / "a.wav", samples, 16_000), samples, 16_000, Span(0, 1_000)
    )
    unknown = replace(source, location=Location(name, b"a.wav"))

    assert refusal(unknown, settings, Misconfigured).code == ErrorCode.SETTING_MISSING


def test_a_named_pipe_does_not_hold_the_worker(root, settings):
    os.mkfifo(root / "a.wav")
    source = plan_source(root / "a.wav", noise(16_000), 16_000, Span(0, 1_000))
    assert refusal(source, settings, BadRecording).code == ErrorCode.FILE_UNREADABLE


def test_a_file_that_is_gone_from_a_root_that_is_there_has_vanished(root, settings):
    (root / "another.wav").touch()
    source = plan_source(root / "a.wav", noise(16_000), 16_000, Span(0, 1_000))
    assert refusal(source, settings, BadRecording).code == ErrorCode.FILE_VANISHED


@pytest.mark.parametrize("mount_point_left", [True, False])
def test_a_root_that_is_not_mounted_is_waited_for(root, settings, mount_point_left):
    if not mount_point_left:
        root.rmdir()
    source = plan_source(root / "a.wav", noise(16_000), 16_000, Span(0, 1_000))
    assert refusal(source, settings, Transient).code == ErrorCode.STORAGE_UNREACHABLE


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_storage_that_does_not_answer_is_waited_for(root, settings, number, monkeypatch):
    samples = noise(16_000)
    source = plan_source(root / "a.wav", samples, 16_000, Span(0, 1_000))
    # Given a read that stopped short, as libsndfile shows a failing disk.
    write_audio(root / "a.wav", samples[:100], 16_000)

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pread", fail)
    assert refusal(source, settings, Transient).code == ErrorCode.STORAGE_UNREACHABLE


def refusal(source: SegmentSource, settings: Settings, kind: type[CallscribeError]):
    with pytest.raises(kind) as caught:
        read_segment(source, settings)
    return caught.value
