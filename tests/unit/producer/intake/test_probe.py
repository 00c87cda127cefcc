import os
import stat

import av
import numpy as np
import pytest
import soundfile

from producer.intake.probe import ReadOptions, probe
from producer.intake.raw_audio import RAW_DEFAULTS
from schema.errors import BadRecording, ErrorCode
from schema.records import AudioFormat
from schema.settings import Limits
from tests.unit.producer import sounds

SECOND = sounds.voice(1)


def probed(path, raw=RAW_DEFAULTS, choices=ReadOptions(), **limits):  # noqa: B008
    return probe(os.fsencode(path), raw, Limits(**limits), options=choices)


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
    assert facts.needs_copy is copied


@pytest.mark.parametrize(
    ("suffix", "codec", "rate"),
    [("m4a", "aac", 16000), ("mp4", "aac", 8000), ("webm", "libopus", 48000)],
)
def test_other_containers_are_copied(tmp_path, suffix, codec, rate):
    path = sounds.encode(tmp_path / f"call.{suffix}", codec, sounds.voice(2, rate), rate)

    facts = probed(path)

    assert facts.needs_copy
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
    assert (facts.format.channels, facts.tracks_are_speakers) == (3, True)


def test_of_tracks_in_other_languages_the_first_is_taken_and_that_is_said(tmp_path):
    path = sounds.encode(
        tmp_path / "call.mka", "aac", sounds.voice(1, 16000), 16000, languages=("eng", "deu")
    )

    assert probed(path).flags == ("other-tracks:1",)
    assert probed(path).format.channels == 1
    every = probed(path, choices=ReadOptions(tracks="speakers"))
    assert (every.flags, every.format.channels) == (("tracks-as-channels:2",), 2)


def test_the_first_track_alone_is_taken_where_that_is_asked_for(tmp_path):
    path = sounds.encode(tmp_path / "call.m4a", "aac", sounds.voice(1, 16000), 16000, streams=2)

    first = probed(path, choices=ReadOptions(tracks="first"))

    assert (first.flags, first.format.channels) == (("other-tracks:1",), 1)


def test_an_encoding_that_no_decoder_knows_is_never_called_no_audio(tmp_path):
    path = tmp_path / "call.wav"
    path.write_bytes(sounds.wav_bytes(bytes(1000), tag=0x0133))

    assert refusal(path) is ErrorCode.AUDIO_BAD_HEADER


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
    assert facts.needs_copy is (size == 0)  # libsndfile believes in 0 bytes


@pytest.mark.parametrize("surplus", [1, 8, 36, 44, 1600])
def test_a_size_that_counts_padding_or_the_header_or_a_moment_is_no_truncation(tmp_path, surplus):
    path = tmp_path / "call.wav"
    path.write_bytes(sounds.wav_bytes(bytes(16000), data_size=16000 + surplus))

    assert probed(path).format.frames == 8000


def test_a_fifth_of_a_second_is_never_forgiven_however_long_the_call(tmp_path):
    path = tmp_path / "call.wav"
    path.write_bytes(sounds.wav_bytes(bytes(16_000 * 600), data_size=16_000 * 600 + 3200))

    assert refusal(path) is ErrorCode.AUDIO_TRUNCATED
    info = probed(path, choices=ReadOptions(accept_truncated=True))
    assert [audio_break.at_ms for audio_break in info.account.breaks] == [600_000]
    assert info.needs_copy


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

    monkeypatch.setattr("producer.intake.probe.open", refuse, raising=False)

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
