import io
import struct

import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from producer.intake.containers import chunked
from tests.unit.producer import sounds

KINDS = ["AIFF", "CAF", "W64", "AU"]


def encoded(container, seconds=2):
    file = io.BytesIO()
    soundfile.write(file, sounds.voice(seconds), 8000, "PCM_16", format=container)
    return file.getvalue()


def parse(container, data):
    return chunked.parse_chunked(io.BytesIO(data), container, len(data))


def opened(container, data):
    """Say what a recorder says that writes to a pipe."""
    changed = bytearray(data)
    if container == "AU":
        struct.pack_into(">I", changed, 8, 0xFFFFFFFF)
    elif container == "AIFF":
        struct.pack_into(">I", changed, data.index(b"SSND") + 4, 0)
    elif container == "W64":
        struct.pack_into("<Q", changed, data.index(b"data") + 16, 0)
    else:
        struct.pack_into(">q", changed, data.index(b"data") + 4, -1)
    return bytes(changed)


@pytest.mark.parametrize("container", KINDS)
def test_a_whole_file_is_one(container):
    data = encoded(container)

    layout = parse(container, data)

    assert layout.files == ((0, len(data)),)
    assert (layout.account.breaks, layout.account.unread_bytes) == ((), 0)
    assert (layout.channels, layout.rate_hz) == (1, 8000)


@pytest.mark.parametrize("container", KINDS)
def test_joined_files_are_told_apart(container):
    data = encoded(container)

    assert parse(container, data + data).files == ((0, len(data)), (len(data), 2 * len(data)))


@pytest.mark.parametrize("container", KINDS)
@pytest.mark.parametrize("share", [0.4, 0.9])
def test_a_cut_file_breaks_where_it_ends(container, share):
    data = encoded(container)
    cut = data[: int(len(data) * share) // 2 * 2]

    (broken,) = parse(container, cut).account.breaks

    assert broken.at_ms == pytest.approx(2000 * share, abs=300)
    assert "promises 2.00 s" in broken.cause


@pytest.mark.parametrize("container", KINDS)
def test_a_length_that_nobody_filled_in_is_that_of_the_file(container):
    data = encoded(container)
    written = opened(container, data)

    layout = parse(container, written)

    start, end = layout.samples
    samples, _ = soundfile.read(io.BytesIO(layout.header + written[start:end]), dtype="int16")
    assert len(samples) == pytest.approx(16_000, abs=2048 if container == "CAF" else 0)
    assert not layout.is_empty


def test_a_little_endian_au_is_read_as_such():
    file = io.BytesIO()
    soundfile.write(file, sounds.voice(2), 8000, "PCM_16", format="AU", endian="LITTLE")
    data = file.getvalue()
    assert data.startswith(b"dns.")

    assert parse("AU", data).rate_hz == 8000
    (broken,) = parse("AU", data[:8000]).account.breaks
    assert "promises 2.00 s" in broken.cause


@given(st.sampled_from(KINDS), st.binary(max_size=200), st.integers(0, 120))
def test_no_bytes_raise(container, junk, at):
    data = encoded(container, 0.1)

    layout = parse(container, data[:at] + junk + data[at:])

    assert all(0 <= start <= end for start, end in layout.files)
