"""What is heard of known tones, and how it is held against the truth."""

import re

import numpy as np
import pytest

from ops.chaos.tones import (
    FAMILIES,
    LONGEST_S,
    Heard,
    Run,
    Second,
    Truth,
    compare,
    hertz,
    listen,
    render,
    spoken,
    tone_of,
)

RATE = 8000


def heard(truth, rate=RATE):
    return listen(render(truth, rate), rate)


def problems(truth, samples, rate=RATE):
    return compare(truth, listen(samples, rate)).problems


def silence(milliseconds, rate=RATE):
    return np.zeros((rate * milliseconds // 1000, 1), np.float32)


def test_no_two_seconds_of_any_voices_have_one_tone():
    tones = {tone_of(family, n) for family in range(FAMILIES) for n in range(LONGEST_S)}
    assert len(tones) == FAMILIES * LONGEST_S
    assert min(map(hertz, tones)) >= 300
    assert max(map(hertz, tones)) <= 3000


def test_neighbouring_seconds_are_far_apart():
    pitches = [hertz(tone_of(0, n)) for n in range(LONGEST_S)]
    assert min(np.abs(np.diff(pitches))) > 500


@pytest.mark.parametrize("rate", [6000, 8000, 11025, 16000, 44100, 48000])
def test_what_was_written_is_heard_to_ten_milliseconds(rate):
    truth = spoken(0, 1)
    finding = compare(truth, heard(truth, rate))
    assert finding.problems == ()
    assert abs(finding.first_ms) <= 10
    assert abs(finding.last_ms) <= 10


def test_each_second_is_heard_once_and_alone():
    runs = heard(spoken(0)).channels[0]
    assert sorted(run.tone for run in runs) == sorted(tone_of(0, n) for n in range(12))
    assert all(abs(run.end_ms - run.start_ms - 1000) < 20 for run in runs)


def test_tones_are_heard_through_noise_and_at_any_loudness():
    truth = spoken(0)
    noise = np.random.default_rng(0).normal(0, 0.05, (12 * RATE, 1))
    assert not problems(truth, render(truth, RATE) + noise)
    assert not problems(truth, render(truth, RATE) * 0.1)


def test_silence_holds_no_tone():
    assert listen(silence(2000), RATE) == Heard(((),), 2000)
    assert listen(silence(0), RATE) == Heard(((),), 0)


def test_a_missing_second_shows():
    samples = render(spoken(0), RATE)
    found = problems(spoken(0), np.concatenate([samples[: 3 * RATE], samples[4 * RATE :]]))
    assert "second at 3.00 s missing" in found
    assert any("beside its place" in each for each in found)
    assert any("11.00 s, not 12.00 s" in each for each in found)


def test_a_second_that_is_silent_shows_though_nothing_moved():
    samples = render(spoken(0).without(3000, 4000), RATE)
    assert problems(spoken(0), samples) == ("second at 3.00 s missing",)


def test_a_doubled_second_shows():
    samples = render(spoken(0), RATE)
    found = problems(spoken(0), np.concatenate([samples[: 4 * RATE], samples[3 * RATE :]]))
    assert any("doubled" in each for each in found)


def test_inserted_silence_shows_and_is_right_where_it_is_true():
    samples = render(spoken(0), RATE)
    longer = np.concatenate([samples[: 5 * RATE], silence(300), samples[5 * RATE :]])
    found = problems(spoken(0), longer)
    assert any(re.search(r"\+(29|30)\d ms beside its place", each) for each in found)
    assert not problems(spoken(0).interrupted(5000, 300), longer)


def test_a_shift_within_the_tolerance_is_none():
    truth = spoken(0)
    late = np.concatenate([silence(90), render(truth, RATE)])
    assert not problems(truth, late)
    assert problems(truth, np.concatenate([silence(50), late]))
    assert not problems(truth.delayed(60), np.concatenate([silence(50), late]))


def test_a_rate_that_is_wrong_shows():
    assert problems(spoken(0), render(spoken(0), RATE), rate=2 * RATE)


def test_channels_that_are_swapped_or_missing_show():
    truth, samples = spoken(0, 1), render(spoken(0, 1), RATE)
    assert problems(truth, samples[:, ::-1])
    found = problems(truth, samples[:, :1])
    assert "1 channels, not 2" in found
    assert "second at 0.00 s missing on channel 1" in found


def test_of_the_channels_heard_there_may_be_no_problem():
    truth, samples = spoken(0, 1), render(spoken(0, 1), RATE)
    for channel in (0, 1):
        finding = compare(truth, listen(samples[:, [channel]], RATE))
        assert finding.problems
        assert not finding.of_the_heard
    less = render(spoken(0).without(2000, 3000), RATE)
    assert compare(truth, listen(less, RATE)).of_the_heard


def test_anothers_tone_shows():
    assert any("another's" in each for each in problems(spoken(0), render(spoken(1), RATE)))


def test_joined_recordings_of_one_and_two_channels_may_be_mixed():
    truth = spoken(0).then(spoken(1, 2))
    assert truth.mixed
    one, two = render(spoken(0), RATE), render(spoken(1, 2), RATE)
    assert not problems(truth, np.concatenate([np.repeat(one, 2, axis=1), two]))
    assert not problems(truth, np.concatenate([one, two.mean(axis=1, keepdims=True)]))
    assert problems(truth, np.concatenate([one, two[:, :1]]))


def test_what_is_joined_may_be_as_late_as_what_stands_before_it():
    truth = spoken(0).delayed(100, 200).then(spoken(1).delayed(100, 200))
    assert [second.late_ms for second in truth.channels[0]] == [100] * 12 + [400] * 12
    assert truth.length_ms == 24_000


def test_a_part_is_cut_out_of_the_seconds_at_its_ends():
    assert spoken(0).part(1500, 2250).channels[0] == (
        Second(tone_of(0, 1), 0, 500),
        Second(tone_of(0, 2), 500, 750),
    )


def test_a_file_with_an_open_end_may_end_anywhere_behind_what_it_holds_for_sure():
    truth = spoken(0).at_least(5000)
    samples = render(spoken(0), RATE)
    assert not problems(truth, samples)
    assert not problems(truth, samples[: 5 * RATE + 3000])
    assert problems(truth, samples[: 4 * RATE])


def test_what_is_hazy_may_be_lost():
    truth = spoken(0).hazy(500)
    samples = render(spoken(0), RATE)
    samples[: RATE // 2] = 0
    assert not problems(truth, samples)
    assert problems(spoken(0), samples)


def test_a_stammer_within_a_tone_is_one_run_and_a_click_is_none():
    samples = render(spoken(0), RATE)
    samples[RATE // 2 : RATE // 2 + RATE // 20] = 0
    assert not problems(spoken(0), samples)


def test_speech_has_no_tones_and_is_held_against_its_length():
    talk = np.random.default_rng(1).normal(0, 0.1, (2 * RATE, 1))
    assert not problems(Truth(((),), 2000), talk)
    assert problems(Truth(((),), 1000), talk)


def test_runs_are_compared_as_they_are_given():
    truth = Truth(((Second(5, 0, 1000),),), 1000)
    assert not compare(truth, Heard(((Run(5, 20, 980),),), 1000)).problems
    assert compare(truth, Heard(((Run(5, 20, 500),),), 1000)).problems
