import io

import pytest

from producer.intake.containers.sniff import identify, sniff
from tests.unit.producer import sounds
from tests.unit.producer.intake.containers.test_mpeg import ID3V2, stream

WAV = sounds.wav_bytes(bytes(1000))


def identified(data):
    return identify(io.BytesIO(data), len(data))


@pytest.mark.parametrize(
    ("data", "container", "start"),
    [
        (WAV, "WAV", 0),
        (ID3V2 + WAV, "WAV", len(ID3V2)),
        (ID3V2 + b"fLaC" + bytes(100), "FLAC", len(ID3V2)),
        (ID3V2 + stream(5), "MP3", len(ID3V2)),
        (stream(5), "MP3", 0),
        (stream(20)[70:], "MP3", 0),
        (b"dns." + bytes(30), "AU", 0),
        (b"\xff" * 5000, None, 0),
        (bytes(5000), None, 0),
        (b"hello, this is text\n" * 300, None, 0),
    ],
)
def test_a_file_is_what_its_bytes_say_wherever_they_begin(data, container, start):
    assert identified(data) == (container, start)


@pytest.mark.parametrize(
    ("head", "container"),
    [
        (b"\0\0\0\x20ftypM4A ", "ISO"),
        (b"\0\0\0\x20ftypheic", None),
        (b"\0\0\0\x08wide\0\0\0\0mdat", "ISO"),
        (b"feelfree to call", None),
        (b"FLV\x01\5", "FLV"),
        ((b"\x47" + bytes(187)) * 3, "TS"),
        (b"RIFF\0\0\0\0AVI LIST", "AVI"),
    ],
)
def test_containers_are_known_by_their_first_bytes(head, container):
    assert sniff(head) == container
