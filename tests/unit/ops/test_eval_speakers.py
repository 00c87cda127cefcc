"""Calls of known speakers, and what of a transcript's is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from ops.eval.speakers.calls import (
    MonoCall,
    Reader,
    add_sound,
    compose,
    insert_pause,
    louder_track,
    over_telephone,
    play_slower,
)
from ops.eval.speakers.measure import SpeakerScore, _best_order, _error_rate, same_speakers
from schema.pcm import SAMPLE_RATE_HZ, SAMPLES_PER_MS, Samples
from schema.span import Span
from schema.transcript import Utterance
from schema.words import Word


def tone(seconds: float, hz: float) -> Samples:
    t = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return (0.2 * np.sin(2 * np.pi * hz * t)).astype(np.float32)


LOW = Reader("low", (tone(3, 400), tone(5, 400)))
HIGH = Reader("high", (tone(4, 900), tone(2, 900)))


def test_a_composed_call_is_the_sum_of_its_tracks_and_the_same_each_time():
    call, again = (compose("a", [LOW, HIGH], 7, minutes=1) for _ in range(2))

    assert call.mix.tobytes() == again.mix.tobytes()
    assert len(call.mix) == 60 * SAMPLE_RATE_HZ
    assert call.mix == pytest.approx(call.tracks[0] + call.tracks[1])
    assert all(np.abs(track).max() > 0.1 for track in call.tracks)


def test_a_moment_is_whose_track_is_louder_and_by_how_much():
    quiet = 0.1 * tone(2, 900)
    call = MonoCall("a", tone(2, 400) + quiet, (tone(2, 400), quiet))

    speaker, level_db = louder_track(call)(500, 900)

    assert (speaker, level_db) == (0, pytest.approx(20, abs=0.5))


def test_a_pause_moves_what_comes_after_it_in_all_tracks():
    call = compose("a", [LOW, HIGH], 7, minutes=0.5)

    longer = insert_pause(call, 10_000, 5_000)

    first, pause = 10_000 * SAMPLES_PER_MS, 5_000 * SAMPLES_PER_MS
    assert not longer.mix[first : first + pause].any()
    for before, after in zip((call.mix, *call.tracks), (longer.mix, *longer.tracks), strict=True):
        assert after[first + pause :].tobytes() == before[first:].tobytes()


def test_a_sound_is_nobody_s():
    call = compose("a", [LOW, HIGH], 7, minutes=0.5)

    noisy = add_sound(call, "b", tone(1, 2_000), 2_000)

    assert noisy.tracks is call.tracks
    assert np.flatnonzero(noisy.mix != call.mix)[0] >= 2_000 * SAMPLES_PER_MS


def test_a_telephone_carries_its_band_alone():
    for hz, passes in ((100, False), (1_000, True), (3_800, False)):
        level = float(np.sqrt(np.mean(np.square(over_telephone(tone(1, hz))))))
        assert (level > 0.1) == passes, hz


def test_played_slower_a_voice_is_longer_and_lower():
    [slow, _] = play_slower(LOW, 1.25).utterances

    assert len(slow) == pytest.approx(1.25 * len(LOW.utterances[0]), abs=2)
    assert np.argmax(np.abs(np.fft.rfft(slow))) / len(slow) * SAMPLE_RATE_HZ == pytest.approx(
        320, abs=5
    )


def test_speakers_are_matched_so_that_most_words_fit():
    assert _best_order([(0, 1), (0, 1), (1, 0), (1, 1)], 2) == (1, 0)
    assert _best_order([(0, 2), (1, 0), (2, 1)], 3) == (2, 0, 1)


def score(*speakers: tuple[int, str]) -> SpeakerScore:
    return SpeakerScore("a", 2, 2, (), 0, 0, 0, 0, 0, None, speakers)


def test_the_same_speakers_by_other_names_are_the_same():
    one = score((0, "a"), (500, "b"), (900, "a"), (1_300, "a"))

    assert same_speakers(one, score((0, "x"), (500, "y"), (900, "x"), (1_300, "x"))) == 1
    assert same_speakers(one, score((0, "x"), (500, "y"), (900, "x"), (1_300, "y"))) == 0.75


def test_an_error_rate_is_the_share_of_speech_that_is_wrong():
    def spoken(speaker: str, start_ms: int, end_ms: int) -> Utterance:
        return Utterance(0, speaker, "x", (Word("x", start_ms, end_ms),))

    reference = [[Span(0, 10_000)], [Span(10_000, 20_000)]]
    right = [spoken("a", 0, 10_000), spoken("b", 10_000, 20_000)]
    half = [spoken("a", 0, 10_000), spoken("a", 10_000, 15_000), spoken("b", 15_000, 20_000)]

    assert _error_rate(right, reference) == 0
    # But for a quarter of a second around each edge.
    assert _error_rate(half, reference) == pytest.approx(4_750 / 19_000, abs=0.001)
