"""Voices as the ledger keeps them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.profile import load_profile
from schema.voices import Voices, voice_key


def made_up(windows: int, dimension: int = 192, directions: int = 8) -> Voices:
    """Return voices in a few directions, as those of one call are, with a little noise."""
    generator = np.random.default_rng(windows)
    points = generator.normal(size=(windows, directions)) * np.geomspace(1, 0.1, directions)
    vectors = points @ generator.normal(size=(directions, dimension))
    vectors += generator.normal(0, 0.01, (windows, dimension))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Voices(400 * np.arange(windows, dtype=np.int64), vectors.astype(np.float32))


@given(st.integers(0, 80))
def test_they_come_back_as_they_were_but_for_a_little(windows: int):
    voices = made_up(windows)

    again = Voices.from_bytes(voices.to_bytes())

    assert again.starts_ms.tolist() == voices.starts_ms.tolist()
    assert again.vectors.shape == voices.vectors.shape
    assert again.vectors.dtype == np.float32
    assert all(np.sum(again.vectors * voices.vectors, axis=1) > 0.99)


def test_an_hour_of_speech_takes_two_hundred_kilobytes():
    segments = [made_up(750) for _ in range(12)]

    assert 150_000 < sum(len(segment.to_bytes()) for segment in segments) < 250_000


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x02" + bytes(40), made_up(20).to_bytes()[:-1]])
def test_what_is_broken_or_of_another_version_is_refused(data: bytes):
    with pytest.raises(ValueError, match="it "):
        Voices.from_bytes(data)


def test_their_key_is_of_samples_speech_and_weights_alone():
    def key(digest: str = "digest", **changes: dict[str, object]) -> str:
        return voice_key(load_profile("call", changes), digest, 8_000)

    plain = key()
    assert key(render={"diarize": 2, "itn": True}, decode={"language": "en"}) == plain
    others = (
        key("other"),
        key(render={"voices": {"model": "resemblyzer"}}),
        key(decode={"scene": "meeting"}),
    )
    assert len({plain, *others}) == 4
