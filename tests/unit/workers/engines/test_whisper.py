"""Subwords become words; windows' times become the segment's; the models hear what they should."""

import logging
import os
import random
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from schema.errors import BadRequest, ErrorCode
from schema.profile import Profile
from schema.settings import Settings
from schema.span import Span
from schema.words import ResultTag, Word
from workers.engines.load import load_detector, load_filter_bank, load_recognizer
from workers.engines.minibatch import SpeechWindow
from workers.engines.subwords import merge_subwords
from workers.engines.whisper import (
    _make_hypothesis,
    language_doubt,
    move_to_segment,
    pad_regions,
    trimmed_input_ms,
)
from workers.segment.speech_regions import find_speech


def subwords(*texts: str) -> list[Word]:
    """A subword each tenth of a second, the first less sure than the others."""
    return [Word(text, 100 * i, 100 * i + 100, min(1.0, 0.5 + i)) for i, text in enumerate(texts)]


def texts(*written: str) -> list[str]:
    return [word.text for word in merge_subwords(subwords(*written))]


def test_what_has_no_space_before_it_is_merged():
    assert texts(" In", " twenty", "-five", ",") == ["In", "twenty-five,"]
    assert texts(" $5", ".50", " or", " 5", "%") == ["$5.50", "or", "5%"]


def test_brackets_and_quotes_go_with_their_words():
    assert texts(' "he', " said", '"', " (", "so", ")") == ['"he', "said" + '"', "(so)"]
    assert texts("他", "说", "「", "好", "」", "。") == ["他", "说", "「好」。"]


def test_each_cjk_character_is_a_word_and_shares_the_time():
    words = merge_subwords([Word("时间", 100, 300, 0.9), Word("。", 300, 800, 0.2)])
    assert words == [Word("时", 100, 200, 0.9), Word("间。", 200, 300, 0.9)]


def test_other_scripts_among_cjk_stay_whole():
    assert texts("L", "oft", "时尚", " iPhone", " ", "好") == ["Loft", "时", "尚", "iPhone", "好"]


def test_scripts_without_spaces_are_words_by_the_subword():
    assert texts("สวัส", "ดี", "คร", "ั", "บ") == ["สวัส", "ดี", "ครั", "บ"]


def test_mere_punctuation_and_blanks_are_no_words():
    assert texts(" ...", " and", " -", " ", "\ufffd") == ["and"]
    assert texts(" AT", " &", " T") == ["AT", "&", "T"]


def test_a_merged_word_lasts_as_long_as_its_letters_and_is_as_sure_as_its_parts():
    assert merge_subwords(subwords(" twenty", "-five", ",")) == [Word("twenty-five,", 0, 200, 0.5)]


def test_regions_are_padded_up_to_the_middle_of_a_pause_and_the_audios_edges():
    regions = [Span(100, 500), Span(600, 900), Span(2_000, 3_000)]
    assert pad_regions(regions, 3_050) == [Span(0, 550), Span(550, 1_000), Span(1_900, 3_050)]


def test_padding_makes_no_region_longer_than_a_window():
    assert pad_regions([Span(1_000, 30_900)], 60_000) == [Span(950, 30_950)]


def test_words_come_back_to_their_region_and_do_not_leave_it():
    window = SpeechWindow((Span(1_000, 2_000), Span(5_000, 6_000)))
    times = [(0, 300), (300, 1_100), (1_300, 1_800), (1_800, 2_400)]
    found = list(move_to_segment([Word("x", *time) for time in times], window))
    assert [(word.start_ms, word.end_ms) for word in found] == [
        (1_060, 1_360),
        (1_360, 2_000),
        (5_360, 5_860),
        (5_860, 6_000),
    ]


def test_a_word_stretched_over_the_region_before_is_put_where_it_ends():
    window = SpeechWindow((Span(1_000, 1_800), Span(15_000, 16_000)))
    found = list(move_to_segment([Word("Of", 0, 1_050), Word("course", 1_050, 1_500)], window))
    assert [(word.start_ms, word.end_ms) for word in found] == [(15_000, 15_310), (15_310, 15_760)]


@pytest.fixture(scope="module")
def settings():
    """Where the small real weights are; without them these tests are skipped, but not in CI."""
    models = os.environ.get("CALLSCRIBE_MODELS")
    if not models or not Path(models).is_dir():
        reason = "CALLSCRIBE_MODELS names no directory of models; ops/test fetches them"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return Settings(
        database_url="postgresql://nowhere/none", redis_url="redis://nowhere", models=models
    )


@pytest.fixture(scope="module")
def detector(settings):
    return load_detector(Profile(), settings, load_filter_bank(settings))


@pytest.fixture(scope="module")
def recognizer(settings):
    return load_recognizer(Profile(), settings, load_filter_bank(settings))


def quiet(ms: int) -> np.ndarray:
    return np.random.default_rng(3).normal(0, 1e-4, ms * 16).astype(np.float32)


def voiced(ms: int) -> np.ndarray:
    """A buzz through moving formants, in syllables: enough like a voice for a detector."""
    t = np.arange(ms * 16) / 16_000
    pitch = 2 * np.pi * np.cumsum(120 + 15 * np.sin(2 * np.pi * 0.7 * t)) / 16_000
    formants = 600 + 200 * np.sin(2 * np.pi * 2.1 * t), 1_500 + 500 * np.sin(2 * np.pi * 1.3 * t)
    harmonics = np.arange(1, 30)[:, None]
    distance = [(120 * harmonics - formant) / 150 for formant in formants]
    loudness = sum(np.exp(-(d**2)) for d in distance)
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * t)
    voice = (loudness * np.sin(harmonics * pitch)).sum(axis=0) * syllables
    return (0.2 * voice / np.abs(voice).max()).astype(np.float32)


@pytest.mark.models
def test_silence_holds_no_speech(detector):
    assert find_speech(detector, quiet(5_000), 30_000) == ()
    assert find_speech(detector, np.zeros(5_000 * 16, np.float32), 30_000) == ()


@pytest.mark.models
def test_a_voice_is_found_where_it_is(detector):
    samples = np.concatenate([quiet(3_000), voiced(4_000), quiet(3_000)])
    [region] = find_speech(detector, samples, 30_000)
    assert region.start_ms == pytest.approx(3_000, abs=400)
    assert region.end_ms == pytest.approx(7_000, abs=700)


@pytest.mark.models
def test_regions_do_not_depend_on_where_the_segment_began(detector):
    turns = [part for ms in range(1_000, 5_000, 500) for part in (quiet(2_000), voiced(ms))]
    samples = np.concatenate(turns)
    whole = find_speech(detector, samples, 30_000)
    later = find_speech(detector, samples[6_000 * 16 :], 30_000)
    assert len(later) >= 5
    assert [region for region in whole if region.start_ms > 8_000] == [
        region.shifted(6_000) for region in later if region.start_ms > 2_000
    ]


@pytest.mark.models
def test_loading_and_detecting_leave_the_process_as_it_was(settings):
    import torch

    def state():
        return (
            random.getstate(),
            tuple(np.random.get_state()[1]),
            torch.get_rng_state().tolist(),
            torch.get_num_threads(),
            logging.getLogger().level,
            logging.getLogger().handlers[:],
        )

    random.seed(99)
    before = state()
    load_detector(Profile(), settings, load_filter_bank(settings)).detect(quiet(1_000))
    assert state() == before


@pytest.mark.parametrize(
    ("audio_ms", "heard"),
    [(14_990, 30_000), (15_000, 20_000), (19_000, 20_000), (19_010, 25_000), (30_000, 30_000)],
)
def test_a_trimmed_window_keeps_a_second_of_silence_and_little_audio_keeps_it_all(audio_ms, heard):
    assert trimmed_input_ms(SpeechWindow((Span(0, audio_ms),))) == heard


@pytest.mark.models
def test_no_regions_have_no_words_and_no_language(recognizer):
    assert recognizer.decode(quiet(1_000), (), language="auto").language is None


@pytest.mark.models
def test_a_window_has_the_same_words_whatever_is_decoded_beside_it(recognizer):
    samples = np.concatenate([voiced(16_000), quiet(2_000), voiced(16_000), quiet(100)])
    first, second = Span(0, 16_000), Span(18_000, 34_000)
    together = recognizer.decode(samples, [first, second], language="en").words
    alone = [
        recognizer.decode(samples, [region], language="en").words for region in (first, second)
    ]
    assert together == alone[0] + alone[1]
    assert all(word.end_ms <= 34_100 for word in together)


@pytest.mark.models
def test_a_region_of_ten_milliseconds_is_survived(recognizer):
    words = recognizer.decode(quiet(100), [Span(0, 10)], language="en").words
    assert all(word.end_ms <= 100 for word in words)


@pytest.mark.models
def test_a_language_that_the_model_lacks_is_refused(recognizer):
    with pytest.raises(BadRequest) as caught:
        recognizer.decode(quiet(1_000), [Span(0, 900)], language="yue")
    assert caught.value.code == ErrorCode.OPTION_INVALID


@pytest.mark.models
def test_noise_is_reported_as_doubtful(recognizer):
    decoding = recognizer.decode(300 * quiet(4_200), [Span(100, 4_100)], language="en")

    [[first_ms, last_ms, no_speech, log_probability]] = decoding.tags[ResultTag.DOUBTS]
    assert (first_ms, last_ms) == (0, 4_200)
    assert no_speech > 0.6
    assert log_probability < -1
    assert decoding.words == ()


@dataclass
class FakeTokenizer:
    eot: int = 100

    def decode(self, tokens: list[int]) -> str:
        return " ".join(str(token) for token in tokens)


def judged(tokens: list[int], score: float, no_speech: float):
    result = SimpleNamespace(sequences_ids=[tokens], scores=[score], no_speech_prob=no_speech)
    return _make_hypothesis(result, FakeTokenizer())


def test_the_log_probability_of_a_text_counts_its_closing_token_like_whispers():
    assert judged([1, 2, 3, 101], -1.2, 0.1).log_probability == pytest.approx(-0.9)


def test_silence_is_unlikely_text_where_no_speech_is_likely():
    assert judged([1], -2.2, 0.61).is_silence(is_retry=False)
    assert not judged([1], -2.2, 0.6).is_silence(is_retry=False)
    assert not judged([1], -1.8, 0.9).is_silence(is_retry=False)


def test_a_loop_that_was_left_for_unlikely_text_is_noise():
    assert judged(list(range(60)), -1.1, 0.1).is_silence(is_retry=True)
    assert judged([7, 8] * 60, -0.1, 0.1).is_repetitive
    assert not judged([], 0.0, 0.1).is_repetitive


@pytest.mark.parametrize(
    ("languages", "doubt"),
    [
        ({"en": 0.9, "de": 0.1}, None),
        ({"en": 0.85, "de": 0.11, "nl": 0.04}, ("de", 0.11, 0.85)),
        ({"de": 0.6}, ("de", 0.6, 0.0)),
        ({}, None),
    ],
)
def test_a_window_may_be_in_another_language_where_its_own_is_unlikely(languages, doubt):
    assert language_doubt(languages, "en") == doubt


@pytest.mark.models
def test_what_does_not_sound_like_the_language_it_is_decoded_as_is_reported(recognizer):
    decoding = recognizer.decode(voiced(16_000), [Span(0, 16_000)], language="de")

    [[first_ms, last_ms, language, other, own]] = decoding.tags[ResultTag.LANGUAGE_DOUBTS]
    assert (first_ms, last_ms) == (0, 16_000)
    assert language != "de"
    assert own < 0.9
    assert other <= 1 - own


@pytest.mark.parametrize(
    ("no_speech", "log_probability", "is_odd"),
    [
        # English, heard as English.
        (0.03, -0.3, False),
        # Half of it German; Spanish; Chinese that was written with some confidence.
        (0.11, -0.23, True),
        (0.40, -0.49, True),
        (0.68, -0.34, True),
        # An unlikely text, whatever no speech is.
        (0.01, -0.9, True),
    ],
)
def test_what_may_be_in_another_language_looks_odd(no_speech, log_probability, is_odd):
    hypothesis = judged([1] * 9, log_probability / 0.9, no_speech)
    assert hypothesis.log_probability == pytest.approx(log_probability)
    assert hypothesis.is_odd is is_odd
