"""ADTS, AMR, FLV, MPEG transport streams, ASF, AVI, VOC and NIST."""

import io

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from producer.intake.containers import broadcast, elementary, sizes
from tests.unit.producer import sounds

WALKS = {
    "aac": elementary.parse_adts,
    "amr": elementary.parse_amr,
    "flv": broadcast.parse_flv,
    "ts": broadcast.parse_ts,
    "wma": sizes.parse_asf,
    "avi": sizes.parse_avi,
    "voc": sizes.parse_voc,
    "nist": sizes.parse_nist,
}
CODECS = {"aac": "aac", "flv": "aac", "ts": "aac", "wma": "wmav2", "avi": "pcm_s16le"}
#: Frames of AMR at 12.2 kbit/s, and one that says nothing was sent.
AMR = b"#!AMR\n" + (b"\x3c" + bytes(31)) * 50 + b"\x7c" * 50


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Three seconds of each kind."""
    directory = tmp_path_factory.mktemp("others")
    files = {"amr": AMR + AMR[6:] + AMR[6:]}
    for kind, codec in CODECS.items():
        path = directory / f"call.{kind}"
        rate = 44_100 if kind == "flv" else 16_000
        options = {"bit_rate": 32_000} if kind == "wma" else {}
        files[kind] = sounds.encode(
            path, codec, sounds.voice(3, rate), rate, **options
        ).read_bytes()
    for kind, container in (("voc", "VOC"), ("nist", "NIST")):
        file = io.BytesIO()
        soundfile.write(file, sounds.voice(3), 8000, "PCM_16", format=container)
        files[kind] = file.getvalue()
    return files


def parse(kind, data):
    return WALKS[kind](io.BytesIO(data), 0, len(data))


@pytest.mark.parametrize("kind", WALKS)
def test_what_is_whole_has_no_break(whole, kind):
    account = parse(kind, whole[kind]).account

    assert (account.breaks, account.unread_bytes) == ((), 0)
    if account.duration_ms is not None:
        within_ms = {"amr": 3200, "wma": 300}.get(kind, 140)
        assert account.duration_ms == pytest.approx(3000, abs=within_ms)


@pytest.mark.parametrize("kind", WALKS)
@pytest.mark.parametrize("share", [0.4, 0.8])
def test_what_is_cut_has_one(whole, kind, share):
    data = whole[kind]
    cut = int(len(data) * share) // 2 * 2 + 1

    (broken,) = parse(kind, data[:cut]).account.breaks

    if broken.at_ms is not None and kind != "amr":
        assert broken.at_ms == pytest.approx(3000 * share, abs=700)


def test_aac_that_goes_on_in_stereo_has_two_channels(tmp_path, whole):
    with av.open(str(tmp_path / "b.aac"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="stereo")
        for at in range(0, 32_000, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
            frame.sample_rate, frame.pts = 16_000, at
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    stereo = (tmp_path / "b.aac").read_bytes()

    assert parse("aac", whole["aac"]).channels == 1
    assert parse("aac", whole["aac"] + stereo).channels == 2


def test_joined_amr_is_told_apart():
    assert parse("amr", AMR + AMR).files == ((0, len(AMR)), (len(AMR), 2 * len(AMR)))


def test_packets_missing_from_a_transport_stream_are_a_break(whole):
    data = whole["ts"]
    middle = len(data) // 188 // 2 * 188

    (broken,) = parse("ts", data[:middle] + data[middle + 188 * 30 :]).account.breaks

    assert broken.cause == "packets are missing"
    assert 800 < broken.at_ms < 2000


def test_zeros_behind_a_transport_stream_are_left_out(whole):
    assert parse("ts", whole["ts"] + bytes(1000)).files == ((0, len(whole["ts"])),)


@given(st.sampled_from(sorted(WALKS)), st.binary(max_size=300), st.integers(0, 4000))
def test_no_bytes_raise(whole, kind, junk, at):
    data = whole[kind]

    assert parse(kind, data[:at] + junk + data[at:]).files


def test_what_describes_aac_in_flv_is_no_sound(tmp_path):
    path = sounds.encode(
        tmp_path / "call.flv",
        "aac",
        sounds.voice(3, 44_100),
        44_100,
        start=lambda frame: frame + 600 * 44_100,
    )

    assert parse("flv", path.read_bytes()).account.duration_ms == pytest.approx(3000, abs=140)


def test_packets_of_wma_that_are_zeros_are_a_break(whole):
    data = whole["wma"]
    half = len(data) // 2

    breaks = parse("wma", data[:half] + bytes(len(data) - half)).account.breaks

    assert [audio_break.cause for audio_break in breaks] == ["its packets are zeros there"]


def test_joined_wma_is_told_apart(whole):
    data = whole["wma"]

    assert parse("wma", data + data).files == ((0, len(data)), (len(data), 2 * len(data)))


def test_the_header_of_avi_tells_how_long_its_audio_is(whole):
    assert parse("avi", whole["avi"]).account.duration_ms == pytest.approx(3000, abs=30)


def test_what_lies_behind_voc_is_counted(whole):
    assert parse("voc", whole["voc"] + whole["voc"]).account.unread_bytes > 40_000
