"""What is composed has the words of its parts, when they are heard in it."""

from __future__ import annotations

import numpy as np
import pytest

from ops.eval.adversarial import parse_segments
from ops.eval.composing import Piece, cut, in_turn, joined, lasting, noisy, silence, without_pauses
from schema.span import Span
from schema.words import Word


def ramp(duration_ms: int) -> np.ndarray:
    """Samples that tell where they come from."""
    return np.linspace(0, 0.5, duration_ms * 16, dtype=np.float32)


WHOLE = Piece(ramp(1_000), "a b c", (Word("a", 100, 300), Word("b", 300, 400), Word("c", 700, 900)))


def test_joined_pieces_keep_their_words_times():
    found = joined([WHOLE, silence(500), WHOLE])
    assert found.duration_ms == 2_500
    assert found.text == "a b c\na b c"
    assert [word.start_ms for word in found.words or ()] == [100, 300, 700, 1_600, 1_800, 2_200]


def test_times_are_unknown_where_any_are():
    assert joined([WHOLE, Piece(ramp(10), "d", None)]).words is None
    assert joined([]).duration_ms == 0


def test_a_cut_holds_the_words_whose_middle_it_holds():
    found = cut(WHOLE, Span(250, 850), "b c")
    assert found.words == (Word("b", 50, 150), Word("c", 450, 600))
    assert found.samples[0] == WHOLE.samples[4_000]


def test_pauses_are_left_out_and_words_stay_in_step_with_the_sound():
    found = without_pauses(WHOLE)
    assert found.words == (Word("a", 0, 200), Word("b", 200, 300), Word("c", 300, 500))
    assert found.duration_ms == 500
    assert found.samples[400 * 16] == WHOLE.samples[800 * 16]


def test_without_times_there_is_no_telling_the_pauses():
    with pytest.raises(ValueError, match="times are needed"):
        without_pauses(Piece(ramp(10), "d", None))


@pytest.mark.parametrize("snr_db", [0.0, 5.0, 20.0])
def test_noise_is_as_far_below_the_speech_as_asked(snr_db: float):
    draw = np.random.default_rng(1)
    speech = Piece(draw.normal(0, 0.01, 16_000).astype(np.float32), "x", ())
    noise = draw.normal(0, 0.3, 5_000).astype(np.float32)
    added = noisy(speech, noise, snr_db).samples - speech.samples
    measured = 10 * np.log10(np.mean(speech.samples**2) / np.mean(added**2))
    assert measured == pytest.approx(snr_db, abs=0.01)


def test_nothing_composed_is_louder_than_full_scale():
    loud = Piece(np.full(1_600, 0.9, np.float32), "x", ())
    assert np.abs(noisy(loud, loud.samples, 0.0).samples).max() <= 1


def test_lines_take_turns_with_what_lies_between_them():
    a, b, c, music = (Piece(ramp(10), text, ()) for text in ("a", "b", "c", "music"))
    found = in_turn([[a, c], [b, b, b]], [music])
    assert [piece.text for piece in found] == [
        "a",
        "music",
        "b",
        "music",
        "c",
        "music",
        "b",
        "music",
    ]
    assert in_turn([[a]], []) == [a]


def test_only_as_much_is_taken_as_was_asked():
    assert len(lasting([WHOLE] * 10, 2_500)) == 3


def test_utterances_are_read_from_their_table():
    table = 'start\tend\tutt\ttext\n0.000\t1.250\tx-1\tSAY "NO"\n'
    assert list(parse_segments(table)) == [(Span(0, 1_250), 'SAY "NO"')]
