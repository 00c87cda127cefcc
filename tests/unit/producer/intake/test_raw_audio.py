import os

import numpy as np
import pytest

from producer.intake.full_decode import read_blocks
from producer.intake.raw_audio import RawFormat, parse_raw_option
from schema.errors import BadRecording, BadRequest, ErrorCode
from schema.records import AudioFormat
from tests.unit.producer import sounds
from tests.unit.producer.intake.test_probe import probed, refusal

SECOND = sounds.voice(1)


def test_raw_g729_has_the_right_duration(tmp_path):
    path = tmp_path / "call.g729"
    path.write_bytes(bytes(1000))  # 10 bytes for each 10 ms

    facts = probed(path)
    frames = sum(map(len, read_blocks(os.fsencode(path), facts, "call")))

    assert (facts.reader.demuxer, facts.format.rate_hz, frames) == ("g729", 8000, 8000)


@pytest.mark.parametrize(
    ("name", "encoding", "rate", "frames"),
    [
        ("a.ulaw", "ULAW", 8000, 8000),
        ("a.AL", "ALAW", 8000, 8000),
        ("a.sln", "PCM_16", 8000, 4000),
        ("a.sln16", "PCM_16", 16000, 4000),
        ("a.vox", "VOX_ADPCM", 8000, 16000),
    ],
)
def test_unambiguous_suffixes_need_no_header(tmp_path, name, encoding, rate, frames):
    path = tmp_path / name
    path.write_bytes(b"\xff" * 8000)  # mu-law silence looks like an MPEG sync

    assert probed(path).format == AudioFormat("RAW", encoding, rate, 1, frames)


def test_an_ambiguous_suffix_is_refused_until_it_is_said_what_it_holds(tmp_path):
    path = tmp_path / "call.pcm"
    path.write_bytes(bytes(32000))

    assert refusal(path) is ErrorCode.AUDIO_RAW_UNKNOWN
    suffix, raw = parse_raw_option(".pcm=s16le:16000:2")
    assert probed(path, {suffix: raw}).format == AudioFormat("RAW", "PCM_16", 16000, 2, 8000)


def test_a_header_prevails_over_a_suffix(tmp_path):
    path = sounds.write(tmp_path / "call.raw", SECOND, format="WAV")

    assert probed(path).format.container == "WAV"


def test_big_endian_samples_are_copied_since_nothing_else_tells_their_order(tmp_path):
    path = tmp_path / "call.pcm"
    path.write_bytes(bytes(16000))
    facts = probed(path, {".pcm": RawFormat("PCM_16", 8000, big_endian=True)})

    assert facts.needs_copy
    assert facts.big_endian


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (".ulaw=mulaw:8000", (".ulaw", RawFormat("ULAW", 8000))),
        (".PCM=s16be:44100:2", (".pcm", RawFormat("PCM_16", 44100, 2, True))),
        (".vox=vox:6000", (".vox", RawFormat("VOX_ADPCM", 6000))),
    ],
)
def test_raw_options_are_understood(text, expected):
    assert parse_raw_option(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "ulaw=mulaw:8000", ".a=mulaw", ".a=mp3:8000", ".a=mulaw:0", ".a=mulaw:8:1:1"),
        *(f".a=mulaw:{'9' * 20}", ".a=mulaw:8000:99", ".u/a=mulaw:8000", ".=mulaw:8000"),
        *(".a.b=mulaw:8000", ".a=mulaw:\u0968", f".a=mulaw:{'1' * 5_000}"),
    ],
)
def test_raw_options_that_cannot_be_understood_are_refused_by_name(text):
    with pytest.raises(BadRequest) as caught:
        parse_raw_option(text)

    assert caught.value.code is ErrorCode.OPTION_INVALID
    assert ".ulaw=mulaw:8000" in caught.value.remedy


def interleaved(left, right):
    both = np.stack([left, right], 1).reshape(-1)
    return (np.clip(both, -1, 1) * 32767).astype("<i2").tobytes()


@pytest.mark.parametrize("kind", ["two voices", "one silent", "one twice", "one quiet"])
def test_two_channels_in_turn_are_named_with_what_reads_them(tmp_path, kind):
    left = sounds.voice(20)
    right = {
        "two voices": sounds.voice(20, seed=1),
        "one silent": np.zeros_like(left),
        "one twice": left,
        "one quiet": sounds.voice(20, seed=1, level_db=-40),
    }[kind]
    path = tmp_path / "call.sln"
    path.write_bytes(interleaved(left, right))

    with pytest.raises(BadRecording) as caught:
        probed(path)

    assert caught.value.code is ErrorCode.AUDIO_RAW_UNKNOWN
    assert "--raw .sln=s16le:8000:2" in caught.value.remedy
    suffix, raw = parse_raw_option(".sln=s16le:8000:2")
    assert probed(path, {suffix: raw}).format.channels == 2
    suffix, raw = parse_raw_option(".sln=s16le:8000")
    assert probed(path, {suffix: raw}).flags == ("two-channels-suspected",)


@pytest.mark.parametrize("sound", ["voice", "noise", "hum", "silence", "beeps"])
def test_one_channel_is_not_taken_for_two(tmp_path, sound):
    time_s = np.arange(160_000) / 8000
    samples = {
        "voice": sounds.voice(20),
        "noise": np.random.default_rng(1).standard_normal(160_000) * 0.1,
        "hum": 0.3 * np.sin(2 * np.pi * 50 * time_s),
        "silence": sounds.mulaw_idle(20),
        "beeps": np.where(time_s % 15 < 0.2, 0.3 * np.sin(2 * np.pi * 2000 * time_s), 0)
        + sounds.voice(20, level_db=-35),
    }[sound]
    path = tmp_path / "call.sln"
    path.write_bytes(sounds.pcm16(np.clip(samples, -1, 1)))

    assert probed(path).flags == ()
