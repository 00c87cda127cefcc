"""Pages made of what libsndfile and FFmpeg encode, cut, joined and renumbered."""

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.chaos.ogg import pages as page_places
from ops.chaos.ogg import with_checksums
from producer.intake.containers import ogg
from tests.unit.producer import sounds


@pytest.fixture(scope="module")
def opus(tmp_path_factory):
    """Five seconds of Opus, a packet a page, as what writes RTP to Ogg does."""
    path = tmp_path_factory.mktemp("ogg") / "call.opus"
    muxer = {"page_duration": "20000"}
    return sounds.encode(path, "libopus", sounds.voice(5, 48000), 48000, muxer=muxer).read_bytes()


@pytest.fixture(scope="module")
def vorbis(tmp_path_factory):
    path = tmp_path_factory.mktemp("ogg") / "call.ogg"
    return sounds.write(path, sounds.voice(5), format="OGG", subtype="VORBIS").read_bytes()


@pytest.fixture(scope="module")
def flac(tmp_path_factory):
    path = tmp_path_factory.mktemp("ogg") / "call.oga"
    return sounds.encode(path, "flac", sounds.voice(5), 8000).read_bytes()


def pages(data):
    return [data[start:end] for start, end in page_places(data)]


def changed(data, change):
    """Return the pages as ``change`` makes them of number and page, with checksums set right."""
    changed_pages = (change(number, bytearray(page)) for number, page in enumerate(pages(data)))
    return with_checksums(b"".join(bytes(page) for page in changed_pages if page is not None))


def granule(page):
    return struct.unpack_from("<q", page, 6)[0]


def parse(data):
    return ogg.parse_ogg(io.BytesIO(data), 0, len(data))


@pytest.mark.parametrize("kind", ["opus", "vorbis", "flac"])
def test_a_stream_lasts_as_long_as_what_was_encoded(request, kind):
    layout = parse(request.getfixturevalue(kind))

    assert layout.account.duration_ms == pytest.approx(5000, abs=20)
    assert (layout.account.breaks, layout.account.unread_bytes) == ((), 0)
    assert [stream.codec for link in layout.links for stream in link] == [kind]


@pytest.mark.parametrize("kind", ["opus", "vorbis", "flac"])
def test_joined_streams_are_links_of_a_chain(request, kind):
    one = request.getfixturevalue(kind)

    layout = parse(one + one + one)

    assert len(layout.links) == 3
    assert layout.account.duration_ms == pytest.approx(15_000, abs=60)


def test_streams_that_begin_together_are_beside_each_other(opus, vorbis):
    mine, other = pages(opus), pages(with_checksums(vorbis, serial=77))
    data = mine[0] + other[0] + b"".join(mine[1:]) + b"".join(other[1:])

    (link,) = parse(data).links

    assert sorted(stream.codec for stream in link) == ["opus", "vorbis"]


def test_time_that_passes_between_two_pages_in_order_was_not_sent(opus):
    def later(number, page):
        if granule(page) > 2 * 48000:
            struct.pack_into("<q", page, 6, granule(page) + 8 * 48000)
        return page

    layout = parse(changed(opus, later))

    assert layout.account.duration_ms == pytest.approx(13_000, abs=20)
    assert layout.account.breaks == ()


def test_a_clock_that_starts_late_is_that_of_a_clip(opus):
    def later(number, page):
        if granule(page) > 0:
            struct.pack_into("<q", page, 6, granule(page) + 100 * 48000)
        return page

    assert parse(changed(opus, later)).account.duration_ms == pytest.approx(5000, abs=20)


def test_pages_that_are_missing_are_a_break(opus):
    layout = parse(changed(opus, lambda number, page: None if 100 <= number < 150 else page))

    (broken,) = layout.account.breaks
    assert broken.at_ms == pytest.approx(98 * 20, abs=40)
    assert broken.cause == "pages with 1.00 s are missing"


@pytest.mark.parametrize("change", ["no mark", "no end", "end of 0"])
def test_a_stream_that_nobody_ended_is_whole(opus, change):
    def unended(number, page):
        last = number == len(pages(opus)) - 1
        if change == "no mark":
            page[5] &= ~4
        elif change == "no end" and last:
            return None
        elif last:
            struct.pack_into("<q", page, 6, 0)
        return page

    layout = parse(changed(opus, unended))

    assert layout.account.duration_ms == pytest.approx(5000, abs=40)
    assert layout.account.breaks == ()


def test_a_page_that_is_cut_is_a_break(vorbis):
    (broken,) = parse(vorbis[:-300]).account.breaks

    assert broken.cause == "a page ends before its stated length"


def test_a_recorder_that_computes_no_checksum_is_believed(opus):
    bare = bytearray(opus)
    for start, _ in page_places(opus):
        bare[start + 22 : start + 26] = bytes(4)

    assert parse(bytes(bare)).account.breaks == ()


def test_one_wrong_checksum_among_right_ones_is_damage(opus):
    damaged = bytearray(opus)
    _, end = list(page_places(opus))[100]
    damaged[end - 5] ^= 0xFF

    (broken,) = parse(bytes(damaged)).account.breaks
    assert broken.cause == "a page's checksum is wrong"


def test_what_is_no_page_is_counted(opus):
    assert parse(opus + b"what is this? " * 10).account.unread_bytes == 140


def test_packets_are_those_behind_the_headers(opus):
    ((stream,),) = parse(opus).links

    packets_read = [p for _, packets in ogg.read_packets(io.BytesIO(opus), stream) for p in packets]

    assert sum(map(ogg.opus_samples, packets_read)) == pytest.approx(5 * 48000 + 312, abs=960)
    assert not any(packet.startswith(b"Opus") for packet in packets_read)


@pytest.mark.parametrize(
    ("packet", "samples"),
    [(b"", 0), (b"\x08", 960), (b"\x09\0", 1920), (b"\xfb\x03", 2880), (b"\x83\x30", 120 * 48)],
)
def test_a_packet_of_opus_says_how_long_it_is(packet, samples):
    assert ogg.opus_samples(packet) == samples


@given(st.binary(max_size=2000), st.integers(0, 60_000))
def test_no_bytes_raise(opus, junk, at):
    layout = parse(opus[:at] + junk + opus[at:])

    assert layout.account.duration_ms >= 0


def test_a_rip_of_vorbis_that_begins_midway_promises_no_more_than_it_holds(vorbis):
    parts = pages(vorbis)
    headers = [page for page in parts if granule(page) <= 0]
    audio = [page for page in parts if granule(page) > 0]
    assert len(audio) > 3

    def later(_number, page):
        if granule(page) > 0:
            struct.pack_into("<q", page, 6, granule(page) + 5 * 3600 * 8000)
        return page

    layout = parse(changed(b"".join(headers + audio[1:]), later))

    held_ms = (granule(parts[-1]) - granule(audio[1])) * 1000 // 8000
    assert layout.account.duration_ms <= held_ms + 1
    assert layout.account.breaks == ()


def test_a_packet_that_never_ends_is_given_up(opus):
    endless = bytearray(pages(opus)[10])
    endless[5] |= 1
    endless[26] = 255
    page = bytes(endless[:27]) + b"\xff" * 255 + bytes(255 * 255)
    data = with_checksums(opus[: len(opus) // 2] + page * 300)

    assert parse(data).account.duration_ms < 5_000
