"""Segments read by a process beside: the same samples, its errors told, nothing left behind."""

from __future__ import annotations

import gc
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from schema.pcm import samples_digest
from schema.records import AudioFormat, Location, SegmentSource
from schema.settings import Settings
from schema.span import Span
from workers.segment.audio import read_segment
from workers.segment.reader_process import Reader, ReaderError

RATE_HZ = 8_000


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Settings:
    values = {
        "CALLSCRIBE_DATABASE_URL": "postgresql://nowhere/none",
        "CALLSCRIBE_REDIS_URL": "redis://nowhere",
        "CALLSCRIBE_ROOTS": f"calls={tmp_path}",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return Settings(
        database_url="postgresql://nowhere/none",
        redis_url="redis://nowhere",
        roots=values["CALLSCRIBE_ROOTS"],
    )


@pytest.fixture
def reader():
    reader = Reader()
    yield reader
    reader.close()


def write_audio(directory: Path, name: bytes, seconds: int) -> SegmentSource:
    samples = np.random.default_rng(seconds).normal(0, 0.1, seconds * RATE_HZ).astype(np.float32)
    path = Path(os.fsdecode(os.fsencode(directory) + b"/" + name))
    with path.open("wb") as file:
        soundfile.write(file, samples, RATE_HZ, "PCM_16", format="WAV")
    with path.open("rb") as file:
        read = soundfile.read(file, dtype="float32")[0]
    return SegmentSource(
        Location("calls", name),
        AudioFormat("WAV", "PCM_16", RATE_HZ, 1, len(read)),
        0,
        Span(0, seconds * 1_000),
        samples_digest(read, RATE_HZ, 0),
    )


@pytest.mark.parametrize("name", [b"call.wav", b"caf\xe9 \xff.wav"])
def test_samples_are_those_that_are_read_here(reader, settings, tmp_path, name):
    source = write_audio(tmp_path, name, 3)
    samples_read = reader.read(source)
    assert samples_read.dtype == np.float32
    assert np.array_equal(samples_read, read_segment(source, settings))


def test_what_was_read_stays_while_the_next_is_read(reader, settings, tmp_path):
    sources = [write_audio(tmp_path, f"{n}.wav".encode(), n) for n in (1, 2, 3)]
    samples_read = [reader.read(source) for source in sources]
    for samples, source in zip(samples_read, sources, strict=True):
        assert np.array_equal(samples, read_segment(source, settings))


def test_what_cannot_be_read_is_told_by_its_kind_and_the_next_is_read(reader, settings, tmp_path):
    source = write_audio(tmp_path, b"call.wav", 1)
    with pytest.raises(ReaderError, match=r"^BadRecording$"):
        reader.read(replace(source, pcm_digest="0" * 64))
    assert len(reader.read(source)) == 16_000


def test_a_reader_that_was_killed_is_begun_anew(reader, settings, tmp_path):
    source = write_audio(tmp_path, b"call.wav", 1)
    reader.read(source)
    os.kill(reader._process.pid, signal.SIGKILL)
    reader._process.wait()
    with pytest.raises(ReaderError, match="ended"):
        reader.read(source)
    assert len(reader.read(source)) == 16_000


def test_a_reader_whose_worker_is_gone_ends(reader, settings, tmp_path):
    reader.read(write_audio(tmp_path, b"call.wav", 1))
    reader._socket.close()
    assert reader._process.wait(timeout=30) == 0


def test_memory_is_given_back_when_nobody_refers_to_it(reader, settings, tmp_path):
    source = write_audio(tmp_path, b"call.wav", 10)

    def count_mappings() -> int:
        maps = psutil.Process().memory_maps(grouped=False)
        return sum("memfd:segment" in each.path for each in maps)

    samples = reader.read(source)
    part = samples[100:200]
    del samples
    gc.collect()
    assert count_mappings() == 1
    del part
    gc.collect()
    assert count_mappings() == 0
    handles = {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
    assert not any("memfd" in handle for handle in handles)
