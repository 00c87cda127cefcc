"""WAV as recorders leave it: sizes that lie, takes that were appended, chunks in any order."""

import io
import struct
from itertools import pairwise

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from producer.intake.containers import riff
from tests.unit.producer import sounds
from tests.unit.producer.intake.containers.test_mpeg import stream

ONE, TWO = sounds.pcm16(sounds.voice(2)), sounds.pcm16(sounds.voice(3, seed=1))
LIST = b"LIST" + struct.pack("<I", 5) + b"INFOx"


def parse(data):
    return riff.parse_riff(io.BytesIO(data), 0, len(data))


def wav(data=ONE, **how):
    return sounds.wav_bytes(data, **how)


def chunk(name, data, *, padded=True):
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2 and padded)


def held(data, layout):
    return [b"".join(data[start:end] for start, end in take.spans) for take in layout.takes]


@pytest.mark.parametrize(
    "size", [0, 0xFFFFFFFF, 0xFFFFFFFF - 36, 0x7FFFF000, 0x7FFFFFFF, len(ONE), len(ONE) + 44]
)
def test_a_size_is_a_hint(size):
    data = wav(data_size=size)

    layout = parse(data)

    assert held(data, layout) == [ONE]
    assert layout.is_plain
    assert layout.account.duration_ms == 2000
    assert layout.account.breaks == ()


@pytest.mark.parametrize("size", [0, 36, 4088, 0xFFFFFFFF])
def test_the_size_of_the_whole_is_nobodys_business(size):
    data = bytearray(wav())
    struct.pack_into("<I", data, 4, size)

    assert held(bytes(data), parse(bytes(data))) == [ONE]


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("before", [b"", chunk(b"JUNK", bytes(28)), chunk(b"FLLR", bytes(3972))])
def test_chunks_of_odd_sizes_may_lack_their_padding(padded, before):
    fmt = wav(b"")[12:36]
    odd = chunk(b"bext", b"x" * 603, padded=padded)
    data = b"RIFF\0\0\0\0WAVE" + before + odd + fmt + chunk(b"data", ONE) + LIST

    layout = parse(data)

    assert held(data, layout) == [ONE]
    assert layout.account.unread_bytes == 0


def test_two_data_chunks_are_two_parts_of_one_take():
    data = wav() + chunk(b"data", TWO)

    layout = parse(data)

    assert held(data, layout) == [ONE + TWO]
    assert not layout.is_plain
    assert layout.account.duration_ms == 5000


@pytest.mark.parametrize("size", [None, 0, 0xFFFFFFFF])
def test_files_that_were_joined_are_takes(size):
    data = wav(data_size=size) + wav(TWO, rate=16000, data_size=size)

    layout = parse(data)

    assert held(data, layout) == [ONE, TWO]
    assert [take.rate_hz for take in layout.takes] == [8000, 16000]


def test_samples_behind_a_header_that_was_never_corrected_are_read():
    data = wav() + TWO

    layout = parse(data)

    assert held(data, layout) == [ONE + TWO]
    assert layout.appended_bytes == len(TWO)


@pytest.mark.parametrize("kind", ["ulaw", "alaw", "float", "u8"])
def test_samples_of_other_encodings_are_known_as_such(kind):
    subtype = {"ulaw": "ULAW", "alaw": "ALAW", "float": "FLOAT", "u8": "PCM_U8"}[kind]
    file = io.BytesIO()
    soundfile.write(file, sounds.voice(2), 8000, subtype, format="WAV")
    data = file.getvalue()
    (take,) = parse(data).takes
    ((start, end),) = take.spans
    data += data[start:end]

    assert parse(data).appended_bytes == end - start


@pytest.mark.parametrize(
    "junk",
    [
        b"agent=ada;customer=bob;" * 200,
        np.random.default_rng(1).bytes(8000),
        '<?xml version="1.0"?>'.encode("utf-16") * 200,
    ],
)
def test_what_is_no_sound_is_counted_and_not_heard(junk):
    data = wav() + junk

    layout = parse(data)

    assert held(data, layout) == [ONE]
    assert layout.account.unread_bytes == len(junk)


def test_an_id3_tag_and_zeros_behind_are_no_data():
    layout = parse(wav() + b"TAG" + bytes(125) + bytes(4000))

    assert (layout.account.unread_bytes, layout.appended_bytes) == (0, 0)


@pytest.mark.parametrize(("missing", "breaks"), [(44, 0), (1600, 0), (1616, 1), (32_000, 1)])
def test_what_is_missing_is_a_break_once_a_word_would_fit(missing, breaks):
    layout = parse(wav(data_size=len(ONE) + missing))

    assert len(layout.account.breaks) == breaks
    for broken in layout.account.breaks:
        assert broken.at_ms == 2000
        assert "and it holds 2.00 s" in broken.cause


def rf64(data, size):
    ds64 = struct.pack("<QQQI", 0, size, 0, 0)
    fmt = wav(b"")[12:36]
    head = b"RF64\xff\xff\xff\xffWAVE" + chunk(b"ds64", ds64) + fmt
    return head + b"data\xff\xff\xff\xff" + data


@pytest.mark.parametrize(("size", "breaks"), [(len(ONE), 0), (0, 0), (2**64 - 1, 0), (10**9, 1)])
def test_the_long_size_of_rf64_is_a_hint_as_well(size, breaks):
    data = rf64(ONE, size)

    layout = parse(data)

    assert held(data, layout) == [ONE]
    assert len(layout.account.breaks) == breaks


def test_a_header_and_nothing_behind_is_empty():
    assert parse(wav(b"")).is_empty
    assert parse(wav(b"") + LIST).is_empty
    assert not parse(wav()).is_empty


def test_a_header_set_right_makes_a_file_of_any_spans():
    data = wav(data_size=0) + TWO
    (take,) = parse(data).takes
    wav_bytes = take.header() + b"".join(data[start:end] for start, end in take.spans)

    samples, rate = soundfile.read(io.BytesIO(wav_bytes), dtype="int16")

    assert (rate, samples.astype("<i2").tobytes()) == (8000, ONE + TWO)


def test_a_wrong_byte_rate_and_block_align_of_pcm_are_not_asked():
    data = bytearray(wav())
    struct.pack_into("<IH", data, 28, 99_999, 7)

    layout = parse(bytes(data))

    assert layout.account.duration_ms == 2000
    assert struct.unpack_from("<IH", layout.takes[0].header(), 28) == (16_000, 2)


@given(st.binary(max_size=300), st.integers(0, 200))
def test_no_bytes_raise_and_no_byte_is_a_sample_twice(junk, at):
    data = wav()[:2000]
    mixed = data[:at] + junk + data[at:]

    spans = [span for take in parse(mixed).takes for span in take.spans]

    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    assert all(0 <= start <= end <= len(mixed) for start, end in spans)


def test_as_many_chunks_as_a_recorder_likes_are_read():
    pieces = [ONE[at : at + 160] for at in range(0, len(ONE), 160)] * 10
    data = wav(b"")[:36] + b"".join(chunk(b"data", piece) for piece in pieces)

    assert held(data, parse(data)) == [b"".join(pieces)]


def test_what_is_described_anew_is_another_take():
    fmt = wav(b"", rate=16000)[12:36]
    data = wav() + fmt + chunk(b"data", TWO)

    layout = parse(data)

    assert held(data, layout) == [ONE, TWO]
    assert [take.rate_hz for take in layout.takes] == [8000, 16000]


@pytest.mark.parametrize(("subtype", "header"), [("IMA_ADPCM", 4), ("MS_ADPCM", 7)])
def test_a_last_block_of_adpcm_may_be_short(subtype, header):
    file = io.BytesIO()
    soundfile.write(file, sounds.voice(2), 8000, subtype, format="WAV")
    data = file.getvalue()
    (take,) = parse(data).takes
    ((start, end),) = take.spans
    whole, align = take.frames_in(take.size), take.align
    block = take.frames_in(align)
    cut = data[: start - 4] + (end - start - align + header + 20).to_bytes(4, "little")
    cut += data[start : end - align + header + 20]

    (short,) = parse(cut).takes

    first = 1 if subtype == "IMA_ADPCM" else 2
    assert short.frames_in(short.size) == whole - block + first + 40


def test_24_bits_may_lie_in_32():
    samples = (sounds.voice(2) * (2**23 - 1)).astype("<i4") << 8
    data = bytearray(wav(samples.tobytes(), bits=24))
    struct.pack_into("<IH", data, 28, 32_000, 4)

    layout = parse(bytes(data))

    assert layout.account.duration_ms == 2000
    wav_bytes = layout.takes[0].header() + samples.tobytes()
    read, _ = soundfile.read(io.BytesIO(wav_bytes), dtype="int32")
    assert np.array_equal(read, samples)


def test_frames_of_mp3_are_known_whatever_the_format_chunk_says():
    data = wav(stream(20))

    assert riff.is_mpeg(io.BytesIO(data), parse(data).takes[0])
    assert not riff.is_mpeg(io.BytesIO(wav()), parse(wav()).takes[0])
