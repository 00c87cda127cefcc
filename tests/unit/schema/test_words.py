"""Words are the same after a stay in the ledger, in this revision's form and in the first one's."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from schema.span import Span
from schema.words import SegmentResult, Word

_MOMENTS = st.integers(0, 600_000)
_CONFIDENCES = st.none() | st.integers(0, 1000).map(lambda thousandths: round(thousandths / 1e3, 3))
#: In any order, so that one may begin before another ends; a result does not judge its model.
_WORDS = st.builds(Word, st.text(min_size=1), _MOMENTS, _MOMENTS, _CONFIDENCES)


@given(st.lists(_WORDS))
def test_words_are_the_same_after_a_stay_in_the_ledger(words: list[Word]):
    result = SegmentResult(tuple(words), (Span(0, 700), Span(900, 1400)), "en", {"event": "music"})

    assert SegmentResult.from_json(json.loads(json.dumps(result.to_json()))) == result


@given(st.lists(_WORDS))
def test_words_of_a_ledger_before_revision_3_are_read(words: list[Word]):
    result = SegmentResult(tuple(words), (), None)
    first_form = {**result.to_json(), "words": [word.to_json() for word in words]}

    assert SegmentResult.from_json(json.loads(json.dumps(first_form))) == result
