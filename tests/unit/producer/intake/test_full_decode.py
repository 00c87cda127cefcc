"""Files decoded to their end, and what their own account says of them."""

import os

import numpy as np
import pytest

from ops.chaos.ogg import pages, with_checksums
from producer.intake.containers.account import Break
from producer.intake.containers.mpeg import parse_header
from producer.intake.full_decode import read_blocks
from producer.intake.probe import ReadOptions, probe
from producer.intake.raw_audio import RAW_DEFAULTS
from schema.errors import BadRecording, ErrorCode
from schema.settings import Limits
from tests.unit.producer import sounds

TAKE = ReadOptions(accept_truncated=True)


def read(path, choices=ReadOptions(), breaks=None):  # noqa: B008
    facts = probe(os.fsencode(path), RAW_DEFAULTS, Limits(), options=choices)
    return np.concatenate(list(read_blocks(os.fsencode(path), facts, "call", breaks)))


def refusal(path):
    with pytest.raises(BadRecording) as caught:
        read(path)
    assert caught.value.code is ErrorCode.AUDIO_TRUNCATED
    return caught.value


def mp3(path, samples, rate=16000, **muxer):
    return sounds.encode(path, "libmp3lame", samples, rate, muxer=muxer)


@pytest.mark.parametrize("muxer", [{}, {"write_xing": "0"}])
def test_joined_mp3s_are_read_one_behind_the_other(tmp_path, muxer):
    one, two = sounds.voice(3, 16000), sounds.voice(4, 16000, seed=1)
    parts = [mp3(tmp_path / f"{n}.mp3", each, **muxer) for n, each in enumerate((one, two))]
    path = tmp_path / "call.mp3"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))

    samples = read(path)[:, 0]

    # Without a tag, nobody knows what the encoder put around each.
    late = 0 if not muxer else 2 * 1152
    assert len(samples) == pytest.approx(7 * 16000, abs=2 * late + 1)
    assert likeness(samples, one, 0, late) > 0.9
    assert likeness(samples, two, 48_000, 2 * late) > 0.9


def likeness(samples, expected, at, late):
    """Return how alike a part is to what is expected there, up to ``late`` frames later."""
    length = 16_000
    return max(
        np.corrcoef(samples[at + by : at + by + length], expected[:length])[0, 1]
        for by in range(0, late + 1)
        if len(samples) >= at + by + length
    )


def test_an_mp3_that_goes_on_at_another_rate_is_read_at_the_higher(tmp_path):
    path = tmp_path / "call.mp3"
    slow = mp3(tmp_path / "a.mp3", sounds.voice(3, 16000))
    fast = mp3(tmp_path / "b.mp3", sounds.voice(3, 44100), 44100)
    path.write_bytes(slow.read_bytes() + fast.read_bytes())

    assert len(read(path)) == pytest.approx(6 * 44100, abs=50)


def test_a_cut_mp3_breaks_where_it_ends_with_both_figures(tmp_path):
    path = mp3(tmp_path / "call.mp3", sounds.voice(20, 16000))
    data, cut = path.read_bytes(), 0
    cut = data.index(b"\xff\xf3")
    while cut < path.stat().st_size // 2:
        cut += parse_header(data[cut : cut + 4]).length
    path.write_bytes(data[:cut])

    error = refusal(path)

    assert "its header promises 20." in error.cause
    assert "it breaks at 9." in error.cause or "it breaks at 10." in error.cause
    assert "--truncated take" in error.remedy


def test_what_a_cut_file_holds_is_taken_where_that_is_asked_for(tmp_path):
    path = mp3(tmp_path / "call.mp3", sounds.voice(20, 16000))
    os.truncate(path, path.stat().st_size // 2)
    breaks: list[Break] = []

    samples = read(path, TAKE, breaks)

    assert 9 * 16000 < len(samples) < 11 * 16000


def test_frames_that_cannot_be_decoded_are_silent_and_a_break(tmp_path):
    path = tmp_path / "call.opus"
    sounds.encode(path, "libopus", sounds.voice(5, 48000), 48000, muxer={"page_duration": "20000"})
    data = bytearray(path.read_bytes())
    for start, end in list(pages(bytes(data)))[100:150]:
        # A packet of code 3 that claims no frame at all.
        data[start + 28] = data[start + 28] | 3
        data[start + 29 : end] = bytes(end - start - 29)
    path.write_bytes(with_checksums(bytes(data)))
    breaks: list[Break] = []

    refusal(path)
    samples = read(path, TAKE, breaks)

    assert len(breaks) == 1
    assert breaks[0].at_ms == pytest.approx(2000, abs=300)
    assert len(samples) == pytest.approx(5 * 48000, abs=2000)


def test_a_stream_that_ends_before_its_own_account_says_is_truncated(tmp_path):
    path = sounds.encode(tmp_path / "call.webm", "libopus", sounds.voice(4, 48000), 48000)
    os.truncate(path, path.stat().st_size // 2)

    assert "lacks" in refusal(path).cause


def test_a_gap_in_time_stamps_becomes_silence(tmp_path):
    path = sounds.encode(
        tmp_path / "call.mka",
        "pcm_s16le",
        sounds.voice(2),
        8000,
        start=lambda frame: frame + (24_000 if frame >= 8000 else 0),
    )

    samples = read(path)

    assert len(samples) == 40_000
    assert not samples[8000:32_000].any()
    assert samples[32_000:].any()


@pytest.mark.parametrize(
    ("suffix", "codec", "rate"), [("mka", "libopus", 48000), ("m4a", "aac", 16000)]
)
def test_audio_that_begins_late_is_silent_until_then(tmp_path, suffix, codec, rate):
    path = sounds.encode(
        tmp_path / f"call.{suffix}",
        codec,
        sounds.voice(2, rate),
        rate,
        start=lambda frame: frame + 3 * rate,
    )
    facts = probe(os.fsencode(path), RAW_DEFAULTS, Limits())

    samples = read(path)

    assert [flag.partition(":")[0] for flag in facts.flags] == ["late-start"]
    assert len(samples) == pytest.approx(5 * rate, abs=0.1 * rate)
    assert not samples[: int(2.8 * rate)].any()


def test_gsm_has_no_block_that_libsndfile_makes_up(tmp_path):
    path = sounds.write(tmp_path / "call.wav", sounds.voice(3), subtype="GSM610")

    assert len(read(path)) == 24_000


def test_joined_wavs_and_two_data_chunks_are_read_whole(tmp_path):
    one, two = sounds.pcm16(sounds.voice(2)), sounds.pcm16(sounds.voice(3, seed=1))
    path = tmp_path / "call.wav"

    for data in (
        sounds.wav_bytes(one) + sounds.wav_bytes(two),
        sounds.wav_bytes(one) + b"data" + len(two).to_bytes(4, "little") + two,
        sounds.wav_bytes(one) + two,
    ):
        path.write_bytes(data)
        whole = np.rint(read(path)[:, 0] * 32768).astype("<i2").tobytes()
        assert whole == one + two


def test_a_file_that_must_not_be_read_on_is_unreadable(tmp_path, monkeypatch):
    path = sounds.write(tmp_path / "call.wav", sounds.voice(1), subtype="GSM610")
    facts = probe(os.fsencode(path), RAW_DEFAULTS, Limits())

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("producer.intake.file_spans.open", refuse, raising=False)

    with pytest.raises(BadRecording) as caught:
        list(read_blocks(os.fsencode(path), facts, "call"))
    assert caught.value.code is ErrorCode.FILE_UNREADABLE


#: A frame of AMR at 12.2 kbit/s with nothing in it, comfort noise, and one that was not sent.
SPEECH, NOISE, NOTHING = b"\x3c" + bytes(31), b"\x44" + bytes(5), b"\x7c"


@pytest.mark.parametrize("head", [SPEECH * 50, NOISE * 10 + NOTHING * 40])
def test_a_caller_who_says_nothing_for_a_while_is_silent_and_no_loss(tmp_path, head):
    path = tmp_path / "call.amr"
    path.write_bytes(b"#!AMR\n" + head + (NOISE + NOTHING * 7) * 20 + SPEECH * 50)

    assert len(read(path)) == pytest.approx(260 * 160, abs=160)


def test_flac_that_is_damaged_is_taken_up_to_the_damage_and_after_it(tmp_path):
    path = sounds.write(tmp_path / "call.flac", sounds.voice(30))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 20_000] = bytes(20_000)
    path.write_bytes(data)
    breaks: list[Break] = []

    samples = read(path, TAKE, breaks)

    assert breaks
    assert 12 < breaks[0].at_ms / 1000 < 16
    assert len(samples) > 12 * 8000


def test_a_clock_that_begins_hours_later_is_another_recordings(tmp_path):
    path = sounds.encode(
        tmp_path / "call.mka",
        "libopus",
        sounds.voice(2, 48000),
        48000,
        start=lambda frame: frame + 18_000 * 48_000,
    )

    assert len(read(path)) == pytest.approx(2 * 48000, abs=1000)
