"""An utterance that is cut out of a recording has its words, when they are heard in it."""

from __future__ import annotations

import numpy as np

from ops.eval.composing import Piece, cut, parse_segments
from schema.span import Span
from schema.words import Word

#: Samples that tell where they come from.
RAMP = np.linspace(0, 0.5, 16_000, dtype=np.float32)

WHOLE = Piece(RAMP, "a b c", (Word("a", 100, 300), Word("b", 300, 400), Word("c", 700, 900)))


def test_a_cut_holds_the_words_whose_middle_it_holds():
    piece = cut(WHOLE, Span(250, 850), "b c")
    assert piece.words == (Word("b", 50, 150), Word("c", 450, 600))
    assert piece.samples[0] == WHOLE.samples[4_000]
    assert piece.duration_ms == 600


def test_times_stay_unknown_in_a_cut():
    assert cut(Piece(RAMP, "d", None), Span(0, 10), "d").words is None


def test_utterances_are_read_from_their_table():
    table = 'start\tend\tutt\ttext\n0.000\t1.250\tx-1\tSAY "NO"\n'
    assert list(parse_segments(table)) == [(Span(0, 1_250), 'SAY "NO"')]
