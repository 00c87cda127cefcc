"""Which stretches of a call are masked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.redaction import Mask, MaskClass
from schema.span import Span, merge
from schema.words import Word
from workers.transcript.redact.find_masks import Line, find_masks

ALL = ("card", "security-code", "expiry", "bank-account")
CARD = "4 5 3 9 1 4 8 8 0 3 4 3 6 4 6 7"


def line(*turns: tuple[int, str], confidence: float = 0.9) -> Line:
    """Return what one speaker says: each turn begins at a second, a word each 400 ms."""
    words = [
        Word(text, 1_000 * at_s + 400 * index, 1_000 * at_s + 400 * index + 300, confidence)
        for at_s, turn in turns
        for index, text in enumerate(turn.split())
    ]
    return Line(tuple(words), tuple(word.span for word in words))


def hidden(lines: Sequence[Line], classes: Sequence[str] = ALL) -> dict[str, str]:
    """Return the words whose middles are masked, by their class."""
    masks = find_masks(lines, classes)
    texts: dict[str, list[str]] = {}
    words = sorted((w for each in lines for w in each.words), key=lambda word: word.start_ms)
    for word in words:
        found = [m for m in masks if m.span.start_ms <= word.middle_ms < m.span.end_ms]
        if found:
            texts.setdefault(found[0].mask_class, []).append(word.text)
    return {mask_class: " ".join(words) for mask_class, words in texts.items()}


def test_a_card_is_masked_whole_and_nothing_around_it():
    said = line((0, f"my card number is {CARD} thank you"))
    assert hidden([said]) == {"card": CARD}


def test_a_card_runs_over_turns_pauses_and_corrections():
    customer = line((0, "it is 4 5 3 9"), (6, "1 4 8 8"), (24, "0 3 4 3"), (32, "6 4 6 7"))
    agent = line((4, "okay"), (9, "1 4 8 8 go on please"), (29, "and the last four"))
    masked = hidden([customer, agent])
    assert masked == {"card": "4 5 3 9 1 4 8 8 1 4 8 8 0 3 4 3 four 6 4 6 7"}


@pytest.mark.parametrize(
    ("text", "mask_class"),
    [
        ("and the security code on the back is 1 2 3", "security-code"),
        ("the security code on the card is 123", "security-code"),
        ("it expires oh nine twenty six", "expiry"),
        ("valid until the expiry date 09/26", "expiry"),
        ("my sort code is 20 11 53", "bank-account"),
        ("account number 1 2 3 4 5 6 7 8", "bank-account"),
        ("call me on 0 7 7 0 0 9 0 0 1 2 3", "number"),
        ("the card ending 4 2 4 2", "card"),
    ],
)
def test_shorter_numbers_go_by_the_words_around_them(text: str, mask_class: str):
    masked = hidden([line((0, text))])
    assert list(masked) == [mask_class]
    assert masked[mask_class].split()[-1] == text.rsplit(maxsplit=1)[-1]


def test_a_month_and_a_year_are_an_expiry_where_somebody_speaks_of_one():
    assert hidden([line((0, "it expires in September 2026 I think"))]) == {
        "expiry": "September 2026"
    }
    assert hidden([line((0, "we moved in September 2026 I think"))]) == {}


@pytest.mark.parametrize(
    "text",
    [
        "a table for 5 people at 11 30 on friday for 2 nights",
        "that will be 23 pounds 50 and the train leaves at 9 15",
        "room 1 0 4 please",
        "it was built in 1984 and sold in 2003",
        "the booking is for two adults and one child",
    ],
)
def test_prices_times_rooms_and_years_stay(text: str):
    assert hidden([line((0, text))]) == {}


def test_what_follows_a_card_is_masked_without_a_word_about_it():
    said = line((0, f"{CARD}"), (12, "and then"), (40, "1 2 3"), (50, "0 9 2 6"))
    assert hidden([said]) == {"card": f"{CARD} 1 2 3 0 9 2 6"}
    code = line((0, CARD), (12, "and then"), (40, "1 2 3"))
    assert hidden([code]) == {"card": CARD, "security-code": "1 2 3"}


def test_what_was_not_understood_inside_a_number_is_masked_with_it():
    words = list(line((0, "my number is 4 5 3 9 1 4 8 8 0 3 4 3 sex 4 6 7 bye")).words)
    unsure = [Word(w.text, w.start_ms, w.end_ms, 0.2 if w.text == "sex" else 0.9) for w in words]
    speech = (Span(0, 9_000),)
    masks = find_masks([Line(tuple(unsure), speech)], ALL)
    sex = next(w for w in unsure if w.text == "sex")
    assert any(m.is_doubtful and m.span.overlap(sex.span) for m in masks)
    # So is the speech after the last word, which nobody wrote.
    assert max(m.span.end_ms for m in masks) >= 9_000


def test_where_times_are_guesses_the_whole_region_is_masked():
    said = line((0, f"it is {CARD} bye"))
    region = Span(0, 12_000)
    masks = find_masks([Line(said.words, (region,), (region,))], ALL)
    assert Mask(region, MaskClass.CARD, is_doubtful=True) in masks


def test_a_class_that_the_policy_does_not_name_stays_unless_it_is_long():
    said = line((0, "the security code is 1 2 3"))
    assert hidden([said], ["card"]) == {}
    assert hidden([line((0, f"it is {CARD}"))], ["expiry"]) == {"number": CARD}


@given(
    st.text("0123456789", min_size=12, max_size=19),
    st.lists(st.integers(1, 18), max_size=5),
    st.lists(st.integers(0, 19_000), min_size=6, max_size=6),
    st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_any_run_is_masked_however_it_is_split_over_turns(
    run: str, cuts: list[int], pauses_ms: list[int], are_other: list[bool]
):
    edges = sorted({0, *(cut for cut in cuts if cut < len(run)), len(run)})
    at_ms, lines = 1_000, ([], [])
    for index, (start, end) in enumerate(pairwise(edges)):
        # A digit alone between long pauses is nobody's number.
        for digit in run[start:end]:
            lines[are_other[index]].append(Word(digit, at_ms, at_ms + 250, 0.9))
            at_ms += 300
        at_ms += pauses_ms[index]
    both = [Line(tuple(words)) for words in lines]
    assert sum(len(words.split()) for words in hidden(both).values()) == len(run)


@pytest.mark.parametrize("text", ["8-2-3.", "8 2 3", "eight two three"])
def test_digits_beside_speech_that_nobody_wrote_may_be_the_rest_of_a_card(text: str):
    words = line((30, text)).words
    lost = Span(14_000, 22_000)
    spoken = Span(30_000, 32_000)
    masks = find_masks([Line(words, (lost, spoken))], ALL)
    assert {mask.mask_class for mask in masks} == {MaskClass.CARD}
    assert find_masks([Line(words, (spoken,))], ALL) == []
    assert Mask(lost, MaskClass.CARD, is_doubtful=True) in masks, "nor is the rest audible"
    # A room, or a train, is not read out digit by digit.
    together = line((30, "823")).words
    assert find_masks([Line(together, (lost, spoken))], ALL) == []


@given(
    st.lists(st.tuples(st.integers(0, 3_000), st.integers(0, 2_000)), max_size=12),
    st.lists(st.tuples(st.integers(0, 3_000), st.integers(1, 4_000)), max_size=6),
)
def test_speech_without_words_is_all_of_it_that_lasts(gaps, regions):
    """Compare with milliseconds, one by one."""
    from workers.transcript.redact.find_masks import _wordless_speech

    def spread(pairs):
        at_ms = 0
        for gap_ms, length_ms in pairs:
            yield Span(at_ms + gap_ms, at_ms + gap_ms + length_ms)
            at_ms += gap_ms + length_ms

    words = tuple(Word("x", span.start_ms, span.end_ms) for span in spread(gaps))
    speech = tuple(merge(spread(regions)))
    worded = {ms for word in words for ms in range(word.start_ms, word.end_ms)}
    marks = {word.start_ms for word in words}
    expected = []
    for region in speech:
        start_ms = region.start_ms
        for ms in range(region.start_ms, region.end_ms + 1):
            if ms == region.end_ms or ms in worded or (ms in marks and ms != start_ms):
                if ms - start_ms >= 300:
                    expected.append(Span(start_ms, ms))
                start_ms = ms + 1 if ms in worded else ms
    assert list(_wordless_speech(Line(words, speech))) == expected
