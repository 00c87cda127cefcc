"""How many voices windows have, and whose each of them is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from schema.voices import HOP_MS
from workers.transcript.voice_split import WINDOWS_MIN, split_voices

DIMENSION = 64


def call(speakers: Sequence[int], spread: float = 0.08, seed: int = 0) -> np.ndarray:
    """Return a vector for each window, of the speaker that is named; voices are unlike."""
    generator = np.random.default_rng(seed)
    voices = np.linalg.qr(generator.normal(size=(DIMENSION, 6)))[0].T
    vectors = voices[list(speakers)] + generator.normal(0, spread, (len(speakers), DIMENSION))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def starts(count: int) -> np.ndarray:
    return HOP_MS * np.arange(count, dtype=np.int64)


def turns(*lengths: int, speakers: int = 2) -> list[int]:
    return [turn % speakers for turn, length in enumerate(lengths) for _ in range(length)]


@pytest.mark.parametrize("seed", range(5))
def test_one_voice_is_one_speaker(seed: int):
    split = split_voices(call([0] * 200, seed=seed), starts(200), None)

    assert (split.speakers, split.is_close) == (1, False)
    assert split.scores.shape == (200, 1)


@pytest.mark.parametrize("seed", range(5))
def test_two_voices_are_two_speakers_each_with_their_windows(seed: int):
    speakers = turns(10, 6, 20, 4, 15, 9, 12, 8, 14, 10)

    split = split_voices(call(speakers, seed=seed), starts(len(speakers)), None)

    assert split.speakers == 2
    labels = split.scores.argmax(axis=1)
    agree = np.mean(labels == np.array(speakers))
    assert max(agree, 1 - agree) > 0.98


def test_a_voice_of_few_words_is_found():
    speakers = turns(60, 6, 80, 5, 50, 7, 70)

    split = split_voices(call(speakers), starts(len(speakers)), None)

    assert split.speakers == 2
    labels = split.scores.argmax(axis=1)
    assert min(np.bincount(labels)) == pytest.approx(18, abs=3)


def test_with_too_little_speech_nobody_is_told_from_another():
    speakers = turns(4, 4, WINDOWS_MIN - 9)

    assert split_voices(call(speakers), starts(len(speakers)), None).speakers == 1
    assert split_voices(call([]), starts(0), None).speakers == 1


def test_auto_tells_no_third_voice():
    speakers = turns(*[12] * 15, speakers=3)

    split = split_voices(call(speakers), starts(len(speakers)), None)

    assert (split.speakers, split.is_close) == (2, True)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_as_many_are_told_as_are_asked_for(count: int):
    speakers = turns(*[12] * 16, speakers=count)

    split = split_voices(call(speakers), starts(len(speakers)), count)

    assert split.speakers == count
    labels = split.scores.argmax(axis=1)
    for speaker in range(count):
        own = labels[np.array(speakers) == speaker]
        assert np.bincount(own).max() / len(own) > 0.95


def test_the_same_windows_are_split_the_same_way_each_time():
    speakers = turns(*[9, 14] * 40)
    vectors = call(speakers, spread=0.12)

    first, second = (split_voices(vectors, starts(len(speakers)), None) for _ in range(2))

    assert first.scores.tobytes() == second.scores.tobytes()
