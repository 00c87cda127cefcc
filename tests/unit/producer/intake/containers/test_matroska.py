import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.intake.containers import matroska
from tests.unit.producer import sounds


@pytest.fixture(scope="module", params=["file", "pipe"])
def webm(request, tmp_path_factory):
    """Five seconds; written to a pipe, no size is known."""
    path = tmp_path_factory.mktemp("webm") / "call.webm"
    muxer = {"live": "1"} if request.param == "pipe" else {}
    return sounds.encode(path, "libopus", sounds.voice(5, 48000), 48000, muxer=muxer).read_bytes()


def parse(data):
    return matroska.parse_matroska(io.BytesIO(data), 0, len(data))


def test_the_last_block_tells_when_it_begins(webm):
    layout = parse(webm)

    assert layout.account.duration_ms == pytest.approx(5000, abs=40)
    assert (layout.account.breaks, layout.account.unread_bytes) == ((), 0)


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_block_that_is_cut_is_a_break(webm, share):
    (broken,) = parse(webm[: int(len(webm) * share)]).account.breaks

    assert broken.at_ms == pytest.approx(5000 * share, abs=700)
    assert "lacks" in broken.cause


def test_joined_files_are_told_apart(webm):
    layout = parse(webm + webm)

    assert layout.files == ((0, len(webm)), (len(webm), 2 * len(webm)))
    assert layout.account.duration_ms == pytest.approx(10_000, abs=80)


def test_what_is_no_element_is_counted(webm):
    assert parse(webm + b"\0what is this?").account.unread_bytes == 14
    assert parse(webm + bytes(900)).account.unread_bytes == 0


@given(st.binary(max_size=400), st.integers(0, 3000))
def test_no_bytes_raise(webm, junk, at):
    assert parse(webm[:at] + junk + webm[at:]).files


def test_zeros_within_what_the_header_counts_are_a_break_and_behind_it_padding(tmp_path):
    path = sounds.encode(tmp_path / "call.mka", "libopus", sounds.voice(5, 48000), 48000)
    data = path.read_bytes()
    half = len(data) // 2

    assert parse(data[:half] + bytes(len(data) - half)).account.breaks
    assert parse(data + bytes(5000)).account.breaks == ()


def test_a_clock_of_days_is_no_late_start(tmp_path):
    path = sounds.encode(
        tmp_path / "call.mka",
        "libopus",
        sounds.voice(2, 48000),
        48000,
        start=lambda frame: frame + 86_400 * 48_000,
    )

    assert parse(path.read_bytes()).account.duration_ms == pytest.approx(2000, abs=50)
