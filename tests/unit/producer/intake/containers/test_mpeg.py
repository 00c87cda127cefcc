"""Streams of MPEG frames made here, and by LAME through PyAV."""

import io
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.intake.containers import mpeg
from producer.intake.containers.account import TOLERANCE_MS
from producer.intake.containers.mpeg import FrameRun
from producer.intake.containers.window import Window
from tests.unit.producer import sounds

#: MPEG 2, layer III, 32 kbit/s, 16 kHz, mono: 144 bytes, 576 samples, 36 ms.
HEADER = bytes([0xFF, 0xF3, 0x48, 0xC0])
#: The same at 22.05 kHz and 40 kbit/s.
FASTER = bytes([0xFF, 0xF3, 0x50, 0xC0])
FRAME_MS = 36
ID3V1 = b"TAG" + bytes(125)
ID3V2 = b"ID3\3\0\0\0\0\1\x0a" + b"\xff\xf3\x48\xc0" * 34 + b"xx"
APE = struct.pack("<8sIIII8x", b"APETAGEX", 2000, 36, 0, 1 << 29) + b"item" + bytes(32)


def frame(header=HEADER, fill=0x55):
    length = mpeg.parse_header(header).length
    return header + bytes([fill]) * (length - 4)


def stream(count, header=HEADER):
    return frame(header) * count


def promising(count, *, delay=None, padding=0, mark=b"Xing"):
    """Return a first frame that says how many follow."""
    data = bytearray(frame(fill=0))
    struct.pack_into(">4sII", data, 13, mark, 1, count)
    if delay is not None:
        data[25:29] = b"LAME"
        data[46:49] = bytes([delay >> 4, (delay & 15) << 4 | padding >> 8, padding & 255])
    return bytes(data)


def vbri(count):
    data = bytearray(frame(fill=0))
    struct.pack_into(">4s10xI", data, 36, b"VBRI", count)
    return bytes(data)


def parse(data):
    return mpeg.parse_mpeg(io.BytesIO(data), 0, len(data))


def lengths(layout):
    return [s.frames for s in layout.streams]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (HEADER, (144, 3, 16000, 1, 576)),
        (bytes([0xFF, 0xFB, 0x90, 0x64]), (417, 3, 44100, 2, 1152)),
        (bytes([0xFF, 0xFB, 0x92, 0x64]), (418, 3, 44100, 2, 1152)),
        (bytes([0xFF, 0xE3, 0x18, 0xC4]), (72, 3, 8000, 1, 576)),
        (bytes([0xFF, 0xFD, 0x84, 0x00]), (384, 2, 48000, 2, 1152)),
        (bytes([0xFF, 0xF5, 0x48, 0xC0]), (288, 2, 16000, 1, 1152)),
    ],
)
def test_headers_say_length_layer_rate_channels_and_samples(header, expected):
    header_frame = mpeg.parse_header(header)

    assert (header_frame.length, *header_frame.shape[:4]) == expected


@pytest.mark.parametrize(
    "header", [b"", b"\xff\xff\xff\xff", b"\xff\xf3\xf8\xc0", b"\xff\xf3\x4c\xc0", b"\xff\xf0\0\0"]
)
def test_what_is_no_header_is_none(header):
    assert mpeg.parse_header(header) is None


@pytest.mark.parametrize("before", [b"", ID3V2, ID3V2 * 2, bytes(700)])
@pytest.mark.parametrize("behind", [b"", ID3V1, APE, APE + ID3V1, bytes(5000)])
def test_tags_and_padding_around_frames_are_passed_over(before, behind):
    layout = parse(before + stream(20) + behind)

    assert lengths(layout) == [20]
    assert (layout.account.breaks, layout.account.unread_bytes) == ((), 0)


def test_without_a_promise_all_frames_count_less_what_every_decoder_puts_before():
    layout = parse(stream(100))

    assert layout.account.duration_ms == round((100 * 576 - 529) / 16)
    assert layout.streams[0].kept_samples is None


def test_what_the_encoder_put_around_the_call_is_taken_off():
    layout = parse(promising(100, delay=576, padding=700) + stream(100))

    (only_stream,) = layout.streams
    assert (only_stream.skipped_samples, only_stream.kept_samples) == (
        1105,
        100 * 576 - 576 - 700,
    )
    assert only_stream.samples == 100 * 576 - 1276


@pytest.mark.parametrize("promise", [promising, vbri])
def test_a_first_frame_that_promises_holds_no_audio(promise):
    assert lengths(parse(promise(50) + stream(50))) == [50]


@pytest.mark.parametrize("promise", [promising, vbri])
def test_what_was_promised_and_is_not_there_is_a_break_with_both_figures(promise):
    layout = parse(promise(200) + stream(50))

    (broken,) = layout.account.breaks
    assert broken.at_ms == 50 * FRAME_MS
    assert broken.cause == "its header promises 7.20 s and it holds 1.80 s"


def test_a_promise_of_too_little_is_a_hint_and_no_more():
    layout = parse(promising(10, delay=576, padding=700) + stream(50))

    assert lengths(layout) == [50]
    assert layout.account.breaks == ()
    assert layout.streams[0].kept_samples is None


@pytest.mark.parametrize("between", [b"", ID3V1 + ID3V2, APE, bytes(3000)])
def test_joined_files_are_streams_one_behind_the_other(between):
    one = promising(30, delay=576, padding=700) + stream(30)

    layout = parse(one + between + one + between + one)

    assert lengths(layout) == [30, 30, 30]
    assert (layout.account.breaks, layout.account.unread_bytes) == ((), 0)
    assert layout.account.duration_ms == pytest.approx(3 * (30 * 576 - 1276) / 16, abs=1)


def test_another_rate_midway_begins_another_stream():
    layout = parse(stream(30) + stream(40, FASTER))

    assert [(s.shape.rate_hz, s.frames) for s in layout.streams] == [(16000, 30), (22050, 40)]


def test_a_picture_full_of_frames_is_a_picture():
    picture = b"".join(frame() for _ in range(40))
    size = len(picture)
    tag = b"ID3\3\0\0" + bytes([size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127])

    assert lengths(parse(tag + picture + stream(7))) == [7]


def test_a_file_cut_out_of_a_stream_by_bytes_is_whole():
    layout = parse((stream(50))[100:-60])

    assert lengths(layout) == [48]
    assert (layout.account.breaks, layout.account.unread_bytes) == ((), 0)


def test_a_file_that_ends_within_a_frame_breaks_there():
    layout = parse(stream(50)[:-60])

    (broken,) = layout.account.breaks
    assert broken.at_ms == 49 * FRAME_MS
    assert broken.cause == "its last frame lacks 60 of 144 bytes"


@pytest.mark.parametrize("fill", [0x00, 0x41])
def test_a_hole_within_a_stream_is_a_break_where_it_lies(fill):
    hole = bytes([fill]) * (144 * 10)

    layout = parse(stream(50) + hole + stream(50))

    (broken,) = layout.account.breaks
    assert broken.at_ms == 50 * FRAME_MS
    assert "are no frames" in broken.cause


def test_a_moment_that_is_no_frame_is_counted_and_no_break():
    layout = parse(stream(50) + b"A" * 200 + stream(50))

    assert lengths(layout) == [100]
    assert (layout.account.breaks, layout.account.unread_bytes) == ((), 200)


def test_what_lies_behind_the_last_frame_is_counted():
    layout = parse(stream(50) + b"what is this? " * 100)

    assert (lengths(layout), layout.account.unread_bytes) == ([50], 1400)


def test_frames_of_runs_are_those_that_were_walked():
    data = stream(12) + b"A" * 200 + stream(3)
    (only_stream,) = parse(data).streams

    payloads = [
        payload
        for run in only_stream.runs
        for payload in mpeg.read_frames(Window(io.BytesIO(data), run.start, run.end), run)
    ]

    assert payloads == [frame()] * 15
    assert only_stream.runs[0] == FrameRun(0, 12 * 144)


@given(st.binary(max_size=3000), st.integers(0, 400))
def test_no_bytes_raise_and_no_frame_is_walked_twice(junk, at):
    data = stream(6)
    mixed = data[:at] + junk + data[at:]

    layout = parse(mixed)

    runs = [run for s in layout.streams for run in s.runs]
    assert all(a.end <= b.start for a, b in pairwise(runs))
    assert sum(run.end - run.start for run in runs) <= len(mixed)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("muxer", [{}, {"write_xing": "0"}, {"id3v2_version": "0"}])
def test_what_lame_writes_lasts_as_long_as_what_it_was_given(tmp_path, rate, muxer):
    path = sounds.encode(
        tmp_path / "call.mp3", "libmp3lame", sounds.voice(7, rate), rate, muxer=muxer
    )
    data = path.read_bytes()

    layout = parse(data)

    # Without a tag nobody can tell what LAME put around the call.
    around_ms = 2 * 1152 * 1000 / rate if "write_xing" in muxer else 1
    assert 7000 - 1 <= layout.account.duration_ms <= 7000 + around_ms
    assert not layout.account.breaks
    assert TOLERANCE_MS == 100


def test_a_first_header_may_count_the_frames_of_all_that_was_joined():
    joined = promising(80) + stream(30) + promising(50) + stream(50)

    assert parse(joined).account.breaks == ()
    (broken,) = parse(promising(70) + stream(30) + promising(50) + stream(50)).account.breaks
    assert broken.at_ms == 30 * FRAME_MS
