import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.intake.containers import iso
from tests.unit.producer import sounds


def encoded(directory, name="call.m4a", codec="aac", seconds=4, **how):
    samples = sounds.voice(seconds, 16000)
    return sounds.encode(directory / name, codec, samples, 16000, **how).read_bytes()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return encoded(tmp_path_factory.mktemp("iso"))


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """With its index in front."""
    return encoded(tmp_path_factory.mktemp("iso"), muxer={"movflags": "+faststart"})


@pytest.fixture(scope="module")
def fragmented(tmp_path_factory):
    muxer = {"movflags": "frag_keyframe+empty_moov", "frag_duration": "500000"}
    return encoded(tmp_path_factory.mktemp("iso"), "call.mp4", muxer=muxer)


def parse(data):
    return iso.parse_iso(io.BytesIO(data), 0, len(data))


@pytest.mark.parametrize("kind", ["plain", "first", "fragmented"])
def test_the_tables_of_samples_tell_the_length(request, kind):
    layout = parse(request.getfixturevalue(kind))

    assert layout.account.duration_ms == pytest.approx(4000, abs=130)
    assert (layout.account.breaks, layout.account.unread_bytes) == ((), 0)


def test_without_an_index_there_is_nothing(plain):
    (broken,) = parse(plain[: plain.index(b"moov") - 4]).account.breaks

    assert broken.at_ms is None
    assert "no index" in broken.cause


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_the_first_sample_behind_the_end_is_where_it_breaks(first, share):
    begin = first.index(b"mdat")
    cut = begin + int((len(first) - begin) * share)

    (broken,) = parse(first[:cut]).account.breaks

    assert broken.at_ms == pytest.approx(4000 * share, abs=400)
    assert broken.cause.startswith("its index promises 4.0")


def test_a_fragment_that_is_cut_is_a_break(fragmented):
    (broken,) = parse(fragmented[: len(fragmented) * 2 // 3]).account.breaks

    assert "lacks" in broken.cause


@pytest.mark.parametrize("kind", ["plain", "first", "fragmented"])
def test_joined_files_are_told_apart(request, kind):
    data = request.getfixturevalue(kind)

    layout = parse(data + data)

    assert layout.files == ((0, len(data)), (len(data), 2 * len(data)))
    assert layout.account.duration_ms == pytest.approx(8000, abs=260)


def test_a_table_that_counts_more_samples_than_there_are_is_not_believed(plain):
    data = bytearray(plain)
    struct.pack_into(">I", data, plain.index(b"stts") + 12, 0x7FFFFFFF)

    assert parse(bytes(data)).account.duration_ms == pytest.approx(4000, abs=130)


def test_what_is_no_box_is_counted(plain):
    assert parse(plain + b"\0\0\0\1what is this?").account.unread_bytes == 17
    assert parse(plain + bytes(500)).account.unread_bytes == 0


@given(st.binary(max_size=400), st.integers(0, 3000))
def test_no_bytes_raise(plain, junk, back):
    at = len(plain) - back

    assert parse(plain[:at] + junk + plain[at:]).files


def test_a_fragment_that_is_missing_is_a_break(fragmented):
    begins = []
    at = 0
    while (at := fragmented.find(b"moof", at)) >= 0:
        begins.append(at - 4)
        at += 4
    lost = fragmented[: begins[2]] + fragmented[begins[4] :]

    (broken,) = parse(lost).account.breaks

    assert "fragments with" in broken.cause
    assert 800 < broken.at_ms < 2000


def test_a_clock_of_days_is_no_late_start(tmp_path):
    day = 86_400 * 16_000
    samples = sounds.voice(2, 16000)
    path = sounds.encode(
        tmp_path / "call.m4a", "aac", samples, 16000, start=lambda frame: frame + day
    )

    assert parse(path.read_bytes()).account.duration_ms == pytest.approx(2000, abs=130)
