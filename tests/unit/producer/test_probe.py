import os
import stat

import av
import numpy as np
import pytest
import soundfile

from producer.probe import (
    RAW_DEFAULTS,
    Choices,
    RawFormat,
    parse_raw_option,
    probe,
)
from producer.reading import read_blocks
from schema.errors import BadRecording, BadRequest, ErrorCode
from schema.records import AudioFormat
from schema.settings import Limits
from tests.unit.producer import sounds

SECOND = sounds.voice(1)


def probed(path, raw=RAW_DEFAULTS, choices=Choices(), **limits):  # noqa: B008
    return probe(os.fsencode(path), raw, Limits(**limits), choices=choices)


def refusal(path, raw=RAW_DEFAULTS, **limits):
    with pytest.raises(BadRecording) as caught:
        probed(path, raw, **limits)
    error = caught.value
    assert error.subject == str(path)
    assert error.cause
    assert error.remedy
    return error.code


@pytest.mark.parametrize(
    ("container", "encoding", "copied"),
    [
        ("WAV", "PCM_16", False),
        ("WAV", "PCM_24", False),
        ("WAV", "FLOAT", False),
        ("WAV", "ULAW", False),
        ("WAV", "ALAW", False),
        ("WAV", "IMA_ADPCM", False),
        ("WAV", "MS_ADPCM", False),
        ("WAV", "GSM610", True),
        ("WAV", "G721_32", True),
        ("FLAC", "PCM_16", False),
        ("OGG", "VORBIS", True),
        ("OGG", "OPUS", True),
        ("MP3", "MPEG_LAYER_III", True),
        ("AU", "ULAW", False),
        ("AIFF", "PCM_16", False),
        ("CAF", "PCM_16", False),
        ("CAF", "ALAC_16", True),
        ("W64", "PCM_16", False),
        ("RF64", "PCM_16", False),
    ],
)
def test_what_libsndfile_reads_is_described_and_copied_only_where_seeking_is_not_exact(
    tmp_path, container, encoding, copied
):
    path = sounds.write(tmp_path / "call", SECOND, format=container, subtype=encoding)

    facts = probed(path)

    assert (facts.format.container, facts.format.encoding) == (container, encoding)
    assert (facts.format.rate_hz, facts.format.channels) == (8000, 1)
    assert 7900 <= facts.format.frames <= 8600
    assert facts.copied is copied


@pytest.mark.parametrize(
    ("suffix", "codec", "rate"),
    [("m4a", "aac", 16000), ("mp4", "aac", 8000), ("webm", "libopus", 48000)],
)
def test_other_containers_are_copied(tmp_path, suffix, codec, rate):
    path = sounds.encode(tmp_path / f"call.{suffix}", codec, sounds.voice(2, rate), rate)

    facts = probed(path)

    assert facts.copied
    assert facts.format.rate_hz == rate
    assert facts.format.frames == pytest.approx(2 * rate, rel=0.02)


def test_tags_in_another_code_page_do_no_harm(tmp_path):
    path = sounds.encode(tmp_path / "call.m4a", "aac", sounds.voice(1, 16000), 16000)
    data = path.read_bytes()
    assert b"Lavf" in data, "the encoder's tag"
    path.write_bytes(data.replace(b"Lavf", b"L\xe4vf"))

    assert probed(path).format.rate_hz == 16000


def test_the_length_of_amr_is_that_of_its_frames(tmp_path):
    if "libopencore_amrnb" not in av.codecs_available:
        pytest.skip("this PyAV has no AMR encoder")
    path = sounds.encode(
        tmp_path / "call.amr", "libopencore_amrnb", sounds.voice(2), 8000, bit_rate=12200
    )

    facts = probed(path)

    assert facts.format == AudioFormat("AMR", "AMRNB", 8000, 1, 16_160)


def test_tracks_of_one_clock_are_channels(tmp_path):
    path = sounds.encode(tmp_path / "call.m4a", "aac", sounds.voice(1, 16000), 16000, streams=3)

    facts = probed(path)

    assert facts.flags == ("tracks-as-channels:3",)
    assert (facts.format.channels, facts.speakers) == (3, True)


def test_of_tracks_in_other_languages_the_first_is_taken_and_that_is_said(tmp_path):
    path = sounds.encode(
        tmp_path / "call.mka", "aac", sounds.voice(1, 16000), 16000, languages=("eng", "deu")
    )

    assert probed(path).flags == ("other-tracks:1",)
    assert probed(path).format.channels == 1
    every = probed(path, choices=Choices(tracks="speakers"))
    assert (every.flags, every.format.channels) == (("tracks-as-channels:2",), 2)


def test_the_first_track_alone_is_taken_where_that_is_asked_for(tmp_path):
    path = sounds.encode(tmp_path / "call.m4a", "aac", sounds.voice(1, 16000), 16000, streams=2)

    first = probed(path, choices=Choices(tracks="first"))

    assert (first.flags, first.format.channels) == (("other-tracks:1",), 1)


def test_headless_g729_has_the_right_duration(tmp_path):
    path = tmp_path / "call.g729"
    path.write_bytes(bytes(1000))  # 10 bytes for each 10 ms

    facts = probed(path)
    frames = sum(map(len, read_blocks(os.fsencode(path), facts, "call")))

    assert (facts.reader.demuxer, facts.format.rate_hz, frames) == ("g729", 8000, 8000)


def test_an_encoding_that_no_decoder_knows_is_never_called_no_audio(tmp_path):
    path = tmp_path / "call.wav"
    path.write_bytes(sounds.wav_bytes(bytes(1000), tag=0x0133))

    assert refusal(path) is ErrorCode.AUDIO_BAD_HEADER


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

    assert facts.copied
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
    "text", ["", "ulaw=mulaw:8000", ".a=mulaw", ".a=mp3:8000", ".a=mulaw:0", ".a=mulaw:8:1:1"]
)
def test_raw_options_that_cannot_be_understood_are_refused_by_name(text):
    with pytest.raises(BadRequest) as caught:
        parse_raw_option(text)

    assert caught.value.code is ErrorCode.OPTION_INVALID
    assert ".ulaw=mulaw:8000" in caught.value.remedy


def test_an_empty_file_and_one_without_samples_are_empty(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"")
    (tmp_path / "b.wav").write_bytes(sounds.wav_bytes())

    assert refusal(tmp_path / "a.wav") is ErrorCode.AUDIO_EMPTY
    assert refusal(tmp_path / "b.wav") is ErrorCode.AUDIO_EMPTY


@pytest.mark.parametrize("data", [b"hello, this is text\n" * 500, bytes(9000), b"<html>404</html>"])
def test_what_is_no_audio_is_said_to_be_none(tmp_path, data):
    path = tmp_path / "call.wav"
    path.write_bytes(data)

    assert refusal(path) is ErrorCode.AUDIO_NOT_AUDIO


@pytest.mark.parametrize(
    ("container", "encoding"),
    [
        ("WAV", "PCM_16"),
        ("WAV", "ULAW"),
        ("WAV", "GSM610"),
        ("RF64", "PCM_16"),
        ("AIFF", "PCM_16"),
        ("AU", "PCM_16"),
        ("CAF", "PCM_16"),
        ("CAF", "ALAC_16"),
        ("W64", "PCM_16"),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", "MPEG_LAYER_III"),
    ],
)
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_file_that_ends_before_its_audio_is_truncated(tmp_path, container, encoding, share):
    path = sounds.write(tmp_path / "call", sounds.voice(5), format=container, subtype=encoding)
    os.truncate(path, int(path.stat().st_size * share) // 2 * 2 - 1)

    assert refusal(path) is ErrorCode.AUDIO_TRUNCATED


def test_a_truncated_m4a_is_truncated(tmp_path):
    path = sounds.encode(tmp_path / "call.m4a", "aac", sounds.voice(3, 16000), 16000)
    os.truncate(path, path.stat().st_size // 2)

    assert refusal(path) is ErrorCode.AUDIO_TRUNCATED


def test_a_header_that_claims_ten_hours_is_not_believed(tmp_path):
    path = tmp_path / "call.wav"
    path.write_bytes(sounds.wav_bytes(bytes(20_000), data_size=10 * 3600 * 16_000))

    assert refusal(path) is ErrorCode.AUDIO_TRUNCATED


@pytest.mark.parametrize("tag", [b"\0" * 500, b"TAG" + bytes(125)])
@pytest.mark.parametrize("container", ["WAV", "MP3", "FLAC", "OGG", "AIFF", "CAF", "AU"])
def test_tags_and_padding_behind_the_audio_do_no_harm(tmp_path, container, tag):
    path = sounds.write(tmp_path / "call", SECOND, format=container)
    with path.open("ab") as file:
        file.write(tag)

    facts = probed(path)

    assert (facts.format.frames, facts.flags) == (8000, ())


@pytest.mark.parametrize("container", ["WAV", "MP3", "FLAC", "OGG", "AIFF", "AU", "W64"])
def test_what_nobody_reads_is_counted(tmp_path, container):
    path = sounds.write(tmp_path / "call", SECOND, format=container)
    with path.open("ab") as file:
        file.write(b"what is this?" * 70)

    facts = probed(path)

    assert (facts.format.frames, facts.flags) == (8000, ("unread-data:910",))


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0xFFFFFFFF - 36, 0x7FFFF000, 0x7FFFFFFF])
def test_a_wav_written_to_a_pipe_lasts_until_the_end_of_the_file(tmp_path, size):
    path = tmp_path / "call.wav"
    path.write_bytes(sounds.wav_bytes(sounds.pcm16(SECOND), data_size=size))

    facts = probed(path)

    assert facts.format.frames == 8000
    assert facts.copied is (size == 0)  # libsndfile believes in 0 bytes


@pytest.mark.parametrize("surplus", [1, 8, 36, 44, 1600])
def test_a_size_that_counts_padding_or_the_header_or_a_moment_is_no_truncation(tmp_path, surplus):
    path = tmp_path / "call.wav"
    path.write_bytes(sounds.wav_bytes(bytes(16000), data_size=16000 + surplus))

    assert probed(path).format.frames == 8000


def test_a_fifth_of_a_second_is_never_forgiven_however_long_the_call(tmp_path):
    path = tmp_path / "call.wav"
    path.write_bytes(sounds.wav_bytes(bytes(16_000 * 600), data_size=16_000 * 600 + 3200))

    assert refusal(path) is ErrorCode.AUDIO_TRUNCATED
    taken = probed(path, choices=Choices(take=True))
    assert [found.at_ms for found in taken.breaks] == [600_000]
    assert taken.copied


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"channels": 0}, ErrorCode.AUDIO_NO_CHANNELS),
        ({"rate": 0}, ErrorCode.AUDIO_BAD_RATE),
        ({"rate": 1_000_000}, ErrorCode.AUDIO_BAD_RATE),
        ({"rate": 1000}, ErrorCode.AUDIO_BAD_RATE),
    ],
)
def test_absurd_headers_are_refused(tmp_path, changes, code):
    path = tmp_path / "call.wav"
    path.write_bytes(sounds.wav_bytes(bytes(16000), **changes))

    assert refusal(path) is code


def test_limits_are_kept(tmp_path):
    path = sounds.write(tmp_path / "call.wav", sounds.voice(3))

    assert refusal(path, duration_s=2) is ErrorCode.AUDIO_TOO_LONG
    assert refusal(path, bytes=1000) is ErrorCode.AUDIO_TOO_BIG
    assert refusal(sounds.write(path, sounds.voice(0.05))) is ErrorCode.AUDIO_TOO_SHORT


def test_a_file_that_is_gone_has_vanished(tmp_path):
    assert refusal(tmp_path / "gone.wav") is ErrorCode.FILE_VANISHED


def test_a_file_that_must_not_be_read_is_unreadable(tmp_path, monkeypatch):
    path = sounds.write(tmp_path / "call.wav", SECOND)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("producer.probe.open", refuse, raising=False)

    assert refusal(path) is ErrorCode.FILE_UNREADABLE


def test_pipes_and_directories_are_refused_without_being_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "directory.wav").mkdir()

    # Opening the pipe would block for ever: nobody writes to it.
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe.wav").st_mode)
    assert refusal(tmp_path / "pipe.wav") is ErrorCode.AUDIO_NOT_AUDIO
    assert refusal(tmp_path / "directory.wav") is ErrorCode.AUDIO_NOT_AUDIO


def test_a_playlist_opens_no_other_file(tmp_path):
    target = sounds.write(tmp_path / "secret.wav", SECOND)
    path = tmp_path / "call.m3u8"
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n")

    assert refusal(path) is ErrorCode.AUDIO_NOT_AUDIO


def test_a_stranger_among_bytes_never_raises_anything_else(tmp_path):
    seeds = np.random.default_rng(7)
    whole = sounds.wav_bytes(sounds.pcm16(sounds.voice(0.5)))
    flac = tmp_path / "a.flac"
    soundfile.write(flac, SECOND, 8000)
    path = tmp_path / "call.wav"
    outcomes = set()
    for original in (whole, flac.read_bytes()):
        for _ in range(60):
            data = bytearray(original)
            for at in seeds.integers(0, 60, 4):
                data[at] = seeds.integers(256)
            path.write_bytes(data)
            try:
                outcomes.add(probed(path).format.container)
            except BadRecording as error:
                outcomes.add(error.code)
    assert {"WAV", ErrorCode.AUDIO_BAD_HEADER} <= outcomes


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
