"""Words as digits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.transcript.redact.spoken_digits import TokenKind, is_digit_like, read_tokens

NAMES = {
    "0": "zero", "1": "one", "2": "two", "3": "three", "4": "four", "5": "five", "6": "six",
    "7": "seven", "8": "eight", "9": "nine",
}  # fmt: skip


def digits_of(text: str) -> str:
    return "".join(token.digits for token in read_tokens(text.split()) if token.is_digits)


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        ("4 1 1 1", "4111"),
        ("4111 1111, 1111 1111.", "4111111111111111"),
        ("41-11-11", "411111"),
        ("four one one one", "4111"),
        ("Four-one-one.", "411"),
        ("forty-five eleven", "4511"),
        ("forty five eleven", "4511"),
        ("seventy", "70"),
        ("double five triple nine", "55999"),
        ("double-five two", "552"),
        ("four oh oh one", "4001"),
        ("oh nine", "09"),
        ("4 for 1 to 9", "44129"),
        ("4 uh 1, okay, 1", "411"),
        ("4,111", "4111"),
        ("\uff14\uff11\uff11\uff11", "4111"),
        ("4111x", "4111"),
        ("4 4:11 4", "44114"),
        ("8-2-3.", "823"),
    ],
)
def test_however_a_number_is_written_its_digits_are_read(text: str, digits: str):
    assert digits_of(text) == digits


@pytest.mark.parametrize(
    "text",
    [
        "that is for you to say",
        "$4,111 and £20",
        "20 pounds",
        "twenty five minutes",
        "at 11 30",
        "by eleven thirty",
        "the 5th of march",
        "march 26",
        "594,000 francs",
        "100 %",
        "10:30",
        "CB2 and 3rd",
        "this one is won",
        "two thousand",
        "double the price",
    ],
)
def test_what_is_plainly_no_number_to_read_out_has_no_digits(text: str):
    assert digits_of(text) == ""


@given(st.text("0123456789", min_size=3, max_size=19), st.data())
def test_any_writing_of_any_run_has_all_its_digits(run: str, data: st.DataObject):
    texts, at = [], 0
    while at < len(run):
        size = data.draw(st.integers(1, 4))
        part = run[at : at + size]
        at += size
        form = data.draw(st.sampled_from(["numeral", "names", "hyphens"]))
        if form == "numeral":
            texts.append(part)
        elif form == "names":
            texts += [NAMES[digit] for digit in part]
        else:
            texts.append("-".join(NAMES[digit] for digit in part))
        if data.draw(st.booleans()):
            texts.append(data.draw(st.sampled_from(["uh", "okay,", "and", "Yes."])))
    # A number of four digits and fewer may be followed by what it counts; none is here.
    assert digits_of(" ".join(texts)) == run


@given(st.lists(st.text(max_size=12), max_size=20))
def test_any_words_are_tokens_one_for_each(texts: list[str]):
    tokens = read_tokens(texts)
    assert len(tokens) == len(texts)
    assert all(token.digits for token in tokens if token.kind is TokenKind.DIGITS)


def test_a_digit_is_known_by_itself():
    assert is_digit_like("seven,")
    assert is_digit_like("4111")
    assert is_digit_like("double")
    assert not is_digit_like("for")
    assert not is_digit_like("$5")
