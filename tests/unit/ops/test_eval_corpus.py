"""References are read as they lie beside the audio; results are kept whole."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from ops.eval.corpus import format_words, joined_spans, parse_turns, parse_words, read_cases
from ops.eval.decode import eval_settings, kept_at, load_result, store_result
from ops.eval.detection import Detection, judge
from schema.span import Span
from schema.words import SegmentResult, Word

RTTM = """SPEAKER x 1 1.440 2.000 <NA> <NA> A <NA> <NA>
SPKR-INFO x 1 <NA> <NA> <NA> unknown A <NA>
SPEAKER x 1 3.000 1.000 <NA> <NA> B <NA> <NA>
SPEAKER y 1 0.000 0.500 <NA> <NA> B <NA> <NA>
"""


def test_words_are_written_as_they_are_read():
    words = (Word("it's", 0, 250), Word('"no"', 1_005, 1_500))
    assert tuple(parse_words(format_words(words))) == words


def test_turns_belong_to_the_recording_that_they_name():
    found = list(parse_turns(RTTM))
    assert found[0] == ("x", Span(1_440, 3_440))
    assert [name for name, _ in found] == ["x", "x", "y"]


def test_a_directory_is_read_with_what_lies_beside_each_file(tmp_path: Path):
    for name in ("x", "y"):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros((16_000, 2)), 16_000)
    (tmp_path / "x.ref.txt").write_text("hello")
    (tmp_path / "x.words.tsv").write_text(format_words((Word("hello", 100, 400),)))
    (tmp_path / "all.rttm").write_text(RTTM)
    x, y = read_cases(tmp_path)
    assert (x.name, x.reference, x.truth) == ("x", "hello", (Word("hello", 100, 400),))
    assert x.turns == (Span(1_440, 4_000),)
    assert (x.channel, x.duration_ms) == (None, 1_000)
    assert (y.reference, y.truth, y.turns) == (None, (), (Span(0, 500),))
    assert eval_settings({}).root_path(x.location.root) == "/"


def test_a_result_is_kept_and_found_again(tmp_path: Path):
    result = SegmentResult((Word("hé", 0, 250, 0.5),), (Span(0, 300),), "fr")
    store_result(tmp_path, "abcd", result)
    assert load_result(tmp_path, "abcd") == result
    assert [path.name for path in kept_at(tmp_path, "abcd").parent.iterdir()] == ["abcd.json"]


def test_misses_and_false_alarms_are_counted_to_the_millisecond():
    turns, detected = [Span(1_000, 2_000), Span(3_000, 4_000)], [Span(1_100, 2_300)]
    assert judge(turns, detected, 5_000, 0) == Detection(2_000, 3_000, 1_100, 300)


def test_what_is_near_an_edge_of_a_turn_is_not_counted():
    found = judge([Span(1_000, 2_000)], [Span(1_100, 2_200)], 5_000, 250)
    assert found == Detection(500, 3_500, 0, 0)


spans = st.lists(
    st.tuples(st.integers(0, 900), st.integers(0, 100)).map(lambda p: Span(p[0], p[0] + p[1])),
    max_size=8,
)


@given(spans, spans)
def test_errors_are_within_what_was_counted(turns: list[Span], detected: list[Span]):
    found = judge(joined_spans(turns), detected, 1_000, 20)
    assert found.missed_ms <= found.speech_ms
    assert found.false_ms <= found.other_ms
    assert found.speech_ms + found.other_ms <= 1_000


@given(spans)
def test_joined_spans_are_apart_and_cover_the_same(own: list[Span]):
    found = joined_spans(own)
    assert all(a.end_ms < b.start_ms for a, b in pairwise(found))
    covered = {ms for span in own for ms in range(span.start_ms, span.end_ms)}
    assert covered == {ms for span in found for ms in range(span.start_ms, span.end_ms)}
