import errno
import hashlib
import os

import numpy as np
import pytest
import soundfile
from pydantic import SecretStr

from producer.intake import spool as spool_module
from producer.intake.probe import probe
from producer.intake.raw_audio import RAW_DEFAULTS, RawFormat
from producer.intake.spool import copy_to_spool, remove_copy
from schema.errors import BadRecording, BadRequest, ErrorCode, Misconfigured
from schema.settings import Limits, Settings
from tests.unit.producer import sounds


@pytest.fixture
def spool(tmp_path):
    path = tmp_path / "spool"
    path.mkdir()
    return path


@pytest.fixture
def configured(spool):
    def settings(**changes):
        values = {"spool": spool, "spool_reserve_bytes": 0, "node": "test"} | changes
        return Settings(
            database_url=SecretStr("postgresql://"), redis_url=SecretStr("redis://"), **values
        )

    return settings


def copied(path, settings, raw=RAW_DEFAULTS):
    source = os.fsencode(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return copy_to_spool(source, probe(source, raw, Limits()), digest, settings, "call")


def samples_of(copy, spool):
    return soundfile.read(copy.location.absolute_path(str(spool)), dtype="float32", always_2d=True)[
        0
    ]


def files_in(directory):
    return [path for path in directory.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("container", "encoding", "channels"),
    [("WAV", "GSM610", 1), ("WAV", "G721_32", 1), ("MP3", "MPEG_LAYER_III", 2), ("OGG", "OPUS", 2)],
)
def test_a_copy_holds_every_sample_at_the_same_rate_on_the_same_channels(
    tmp_path, spool, configured, container, encoding, channels
):
    samples = np.stack([sounds.voice(3, seed=seed) for seed in range(channels)], 1)
    path = sounds.write(tmp_path / "call", samples, format=container, subtype=encoding)
    decoded = soundfile.read(path, frames=10**6, dtype="float32", always_2d=True)[0]

    copy = copied(path, configured())

    assert copy.format.container == "FLAC"
    assert (copy.format.rate_hz, copy.format.channels) == (8000, channels)
    assert copy.format.frames == 24_000
    # Two decoders of one lossy format agree on what can be heard, and on when.
    decoded_samples = samples_of(copy, spool)
    for channel in range(channels):
        assert np.corrcoef(decoded_samples[:, channel], decoded[:24_000, channel])[0, 1] > 0.98


def test_sixteen_bits_are_copied_bit_for_bit(tmp_path, spool, configured):
    path = sounds.write(tmp_path / "call.wav", sounds.voice(3), subtype="GSM610")
    decoded = soundfile.read(path, frames=10**6, dtype="int16")[0]

    copy = copied(path, configured())

    assert copy.format.encoding == "PCM_16"
    # libsndfile makes up a last block, of what was in memory.
    assert np.array_equal(
        soundfile.read(copy.location.absolute_path(str(spool)), dtype="int16")[0], decoded[:24_000]
    )


def test_more_bits_than_sixteen_are_kept_and_loud_floats_are_clipped(tmp_path, spool, configured):
    samples = np.array([0.0, 2**-20, -0.5, 1.5, -1.5] * 400, np.float32)
    path = tmp_path / "call.mka"
    path.write_bytes(sounds.encode(tmp_path / "x.mka", "pcm_f32le", samples, 8000).read_bytes())

    copy = copied(path, configured())

    assert copy.format.encoding == "PCM_24"
    expected = [0.0, 2**-20, -0.5, 1 - 2**-23, -1.0]
    assert samples_of(copy, spool)[:5, 0].tolist() == expected


def test_byte_order_is_heeded(tmp_path, spool, configured):
    samples = sounds.voice(1)
    path = tmp_path / "call.pcm"
    path.write_bytes((samples * 32767).astype(">i2").tobytes())

    copy = copied(path, configured(), {".pcm": RawFormat("PCM_16", 8000, big_endian=True)})

    assert np.abs(samples_of(copy, spool)[:, 0] - samples).max() < 1e-4


def test_a_copy_is_made_once(tmp_path, spool, configured):
    path = sounds.write(tmp_path / "call.wav", sounds.voice(1), subtype="GSM610")
    first = copied(path, configured())
    (copy,) = files_in(spool)
    before = copy.stat()
    os.utime(copy, (0, 0))

    assert copied(path, configured()) == first
    after = copy.stat()
    assert (after.st_ino, after.st_ctime_ns > before.st_ctime_ns) == (before.st_ino, True)
    assert after.st_mtime_ns >= before.st_mtime_ns, "one in use again is young again"


def test_the_same_bytes_read_differently_are_another_copy(tmp_path, spool, configured):
    path = tmp_path / "call.vox"
    path.write_bytes(bytes(8000))

    first = copied(path, configured())
    second = copied(path, configured(), {".vox": RawFormat("VOX_ADPCM", 6000)})

    assert (first.format.rate_hz, second.format.rate_hz) == (8000, 6000)
    assert first.location != second.location


def test_a_flac_written_to_a_pipe_is_copied_to_learn_its_length(tmp_path, spool, configured):
    path = sounds.write(tmp_path / "call.flac", sounds.voice(2))
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)  # the number of samples: 36 bits of STREAMINFO
    path.write_bytes(data)

    assert copied(path, configured()).format.frames == 16000


def test_too_little_space_is_the_hosts_fault_and_leaves_nothing(tmp_path, spool, configured):
    path = sounds.write(tmp_path / "call.wav", sounds.voice(1), subtype="GSM610")

    with pytest.raises(Misconfigured) as caught:
        copied(path, configured(spool_reserve_bytes=10**18))

    assert caught.value.code is ErrorCode.SPOOL_FULL
    assert caught.value.subject == "call"
    assert caught.value.remedy
    assert files_in(spool) == []


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, ErrorCode.SPOOL_FULL),
        (errno.EDQUOT, ErrorCode.SPOOL_FULL),
        (errno.EIO, ErrorCode.STORAGE_UNREACHABLE),
    ],
)
def test_a_disk_that_fails_midway_is_the_hosts_fault(
    tmp_path, spool, configured, monkeypatch, number, code
):
    path = sounds.write(tmp_path / "call.wav", sounds.voice(30), subtype="GSM610")

    class Disk:
        """Fails once 20,000 bytes are on it."""

        def __init__(self, file):
            self._file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._file.close()

        def __getattr__(self, name):
            return getattr(self._file, name)

        def write(self, data):
            if self._file.tell() > 20_000:
                raise OSError(number, os.strerror(number))
            return self._file.write(data)

    fdopen = os.fdopen
    monkeypatch.setattr(os, "fdopen", lambda *args, **options: Disk(fdopen(*args, **options)))

    with pytest.raises(Misconfigured) as caught:
        copied(path, configured())

    assert caught.value.code is code
    assert files_in(spool) == []


def test_a_bad_source_leaves_nothing_behind(tmp_path, spool, configured):
    path = sounds.encode(tmp_path / "call.aac", "aac", sounds.voice(5, 16000), 16000)
    os.truncate(path, path.stat().st_size // 2)

    with pytest.raises(BadRecording) as caught:
        copied(path, configured())

    assert caught.value.code is ErrorCode.AUDIO_TRUNCATED
    assert files_in(spool) == []


def test_a_source_that_turns_out_too_long_is_given_up(tmp_path, spool, configured):
    path = sounds.encode(tmp_path / "call.aac", "aac", sounds.voice(5, 16000), 16000)

    with pytest.raises(BadRecording) as caught:
        copied(path, configured(limits=Limits(duration_s=2)))

    assert caught.value.code is ErrorCode.AUDIO_TOO_LONG


@pytest.mark.parametrize("missing", ["unset", "gone"])
def test_without_a_spool_the_setting_to_make_is_named(tmp_path, configured, missing):
    path = sounds.write(tmp_path / "call.wav", sounds.voice(1), subtype="GSM610")
    spool = None if missing == "unset" else tmp_path / "gone"

    with pytest.raises(Misconfigured, match="CALLSCRIBE_SPOOL") as caught:
        copied(path, configured(spool=spool))

    assert caught.value.code is ErrorCode.SETTING_MISSING


def linked_out(spool, outside, copy):
    """Put a link out of the spool in the place of the directory of a copy."""
    outside.mkdir()
    directory = spool / os.fsdecode(copy.location.path[:2])
    directory.rename(outside / directory.name)
    directory.symlink_to(outside / directory.name)
    return outside / directory.name


def test_nothing_is_written_or_removed_where_a_link_leads_out_of_the_spool(
    tmp_path, spool, configured
):
    path = sounds.write(tmp_path / "call.wav", sounds.voice(1), subtype="GSM610")
    copy = copied(path, configured())
    outside = linked_out(spool, tmp_path / "outside", copy)

    with pytest.raises(BadRequest) as refused:
        remove_copy(configured(), copy.location.path)
    assert [path_outside.name for path_outside in outside.iterdir()] == [
        os.path.basename(copy.location.path).decode()
    ]
    (left,) = outside.iterdir()
    left.unlink()
    with pytest.raises(Misconfigured, match="leads out of it") as caught:
        copied(path, configured())

    assert refused.value.code is ErrorCode.PATH_OUTSIDE_ROOTS
    assert caught.value.code is ErrorCode.STORAGE_UNREACHABLE
    assert list(outside.iterdir()) == []


def test_a_link_swapped_in_while_a_copy_is_made_moves_it_nowhere(
    tmp_path, spool, configured, monkeypatch
):
    path = sounds.write(tmp_path / "call.wav", sounds.voice(1), subtype="GSM610")
    (tmp_path / "outside").mkdir()
    write = spool_module._write_samples

    def swapping(*args):
        (directory,) = spool.iterdir()
        directory.rename(tmp_path / "was")
        directory.symlink_to(tmp_path / "outside")
        write(*args)

    monkeypatch.setattr(spool_module, "_write_samples", swapping)

    with pytest.raises(Misconfigured):
        copied(path, configured())
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_copy_is_removed_by_its_path_below_the_spool(tmp_path, spool, configured):
    path = sounds.write(tmp_path / "call.wav", sounds.voice(1), subtype="GSM610")
    copy = copied(path, configured())

    for _ in range(2):
        remove_copy(configured(), copy.location.path)

    assert files_in(spool) == []
