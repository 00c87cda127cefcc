import io

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from producer.intake.containers import flac
from tests.unit.producer import sounds


def encoded(seconds=3, *, channels=1, bits=16, samples=None):
    file = io.BytesIO()
    if samples is None:
        samples = np.stack([sounds.voice(seconds, seed=n) for n in range(channels)], 1)
    soundfile.write(file, samples, 8000, f"PCM_{bits}", format="FLAC")
    return file.getvalue()


ONE = encoded()


def counting(frames, data=ONE):
    """Say in the header that there are so many frames."""
    changed = bytearray(data)
    rest_of_fields = int.from_bytes(data[18:26], "big") >> 36 << 36
    changed[18:26] = (rest_of_fields | frames).to_bytes(8, "big")
    return bytes(changed)


def parse(data):
    return flac.parse_flac(io.BytesIO(data), 0, len(data))


@pytest.mark.parametrize(
    "data",
    [
        ONE,
        encoded(channels=2),
        encoded(bits=24),
        encoded(samples=np.zeros(24_000, np.int16)),
        encoded(samples=(np.random.default_rng(1).integers(-(2**15), 2**15, 24_000, np.int16))),
    ],
)
def test_the_last_frame_tells_the_length(data):
    layout = parse(data)

    assert (layout.frames, layout.is_header_right) == (24_000, True)
    assert layout.account.duration_ms == 3000
    assert layout.files == ((0, len(data)),)


@pytest.mark.parametrize("stated", [0, 8_000, 24_000])
def test_what_the_header_counts_is_a_hint(stated):
    layout = parse(counting(stated))

    assert layout.frames == 24_000
    assert layout.is_header_right is (stated == 24_000)
    assert layout.account.breaks == ()


def test_what_the_header_promises_and_is_not_there_is_a_break():
    (broken,) = parse(counting(80_000)).account.breaks

    assert broken.at_ms == 3000
    assert broken.cause == "its header promises 10.00 s and it holds 3.00 s"


@pytest.mark.parametrize("stated", [0, 24_000])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_a_cut_file_breaks_before_its_last_frame(stated, share):
    data = counting(stated)

    (broken,) = parse(data[: int(len(data) * share)]).account.breaks

    assert broken.at_ms == pytest.approx(3000 * share, abs=2 * 4096 / 8)


def test_files_that_were_joined_are_told_apart():
    layout = parse(ONE + encoded(2))

    assert layout.files == ((0, len(ONE)), (len(ONE), len(ONE + encoded(2))))
    assert layout.frames == 40_000


@pytest.mark.parametrize(
    ("behind", "unread"),
    [(b"TAG" + bytes(125), 0), (b"what is this? ", 14), (b"x", 1)],
)
def test_a_file_ends_with_its_last_frame(behind, unread):
    layout = parse(ONE + behind)

    assert layout.files == ((0, len(ONE)),)
    assert layout.account.unread_bytes == unread


@pytest.mark.parametrize("zeros", [3, 1000])
def test_zeros_behind_hide_where_the_last_frame_ends(zeros):
    layout = parse(ONE + bytes(zeros))

    assert (layout.frames, layout.account.breaks, layout.account.unread_bytes) == (24_000, (), 0)
    assert not layout.is_header_right, "somebody else must read it"


def test_a_checksum_that_ends_in_zeros_is_part_of_its_frame():
    lengths = range(9_000, 9_700)
    files = (encoded(samples=(sounds.voice(2)[:n])) for n in lengths)
    ending_in_zero = next(data for data in files if data.endswith(b"\0"))

    layout = parse(ending_in_zero)

    assert layout.files == ((0, len(ending_in_zero)),)
    assert layout.is_header_right


@given(st.binary(max_size=500), st.integers(0, len(ONE)))
def test_no_bytes_raise(junk, at):
    assert parse(ONE[:at] + junk).frames >= 0
