"""English words as digits: what each word may be of a number that somebody reads out. Pure.

Recognisers write one number in many ways: "4 1 1 1", "4111", "41 11", "four one", "forty-one
eleven", "double one", "oh for 2". Each word is read by itself and by its neighbours; what is
plainly a price, a time, a date or a quantity is none.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_UNITS = {
    "zero": "0", "nought": "0", "naught": "0", "nil": "0", "one": "1", "two": "2", "three": "3",
    "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9", "niner": "9",
    "fife": "5",
}  # fmt: skip
_TEENS = {
    "ten": "10", "eleven": "11", "twelve": "12", "thirteen": "13", "fourteen": "14",
    "fifteen": "15", "sixteen": "16", "seventeen": "17", "eighteen": "18", "nineteen": "19",
}  # fmt: skip
_TENS = {
    "twenty": "2", "thirty": "3", "forty": "4", "fourty": "4", "fifty": "5", "sixty": "6",
    "seventy": "7", "eighty": "8", "ninety": "9",
}  # fmt: skip
_REPEATS = {"double": 2, "triple": 3, "treble": 3, "quadruple": 4}

#: Words that recognisers write for a digit, and that are words of their own everywhere else.
_HOMOPHONES = {
    "oh": "0", "o": "0", "owe": "0", "won": "1", "to": "2", "too": "2", "tree": "3", "free": "3",
    "for": "4", "fore": "4", "sex": "6", "sicks": "6", "ate": "8", "hate": "8", "mine": "9",
    "sets": "6", "i've": "5",
}  # fmt: skip

#: What is said between the digits of one number.
_FILLERS = _words("""
    uh um er erm ah eh hm hmm mm mhm okay ok yes yeah yep right and then dash hyphen space
    slash stroke so sorry no that's is it's its sure correct next got it alright please
    again
""")

#: A digit that stands before one of these counts something.
_COUNTED = _words("""
    percent pounds pound dollars dollar euros euro quid pence cents cent pm am a.m p.m
    o'clock minutes minute hours hour hrs days day nights night weeks week months month
    years year people persons guests times miles mile kilometers km meters feet inches
    degrees items pieces seconds second grand hundred thousand million billion bucks adults
    children rooms beds tickets books street avenue road mph gigs megabytes francs yen
    rupees kronor copies votes men women
""")
#: A number that stands behind one of these may be a time, if it can be one.
_BEFORE_TIMES = _words("at by around before after until till from between past about")
#: And behind one of these, a year.
_BEFORE_YEARS = _words("in since year during of")
_MONTHS = _words("""
    january february march april may june july august september october november december
    jan feb mar apr jun jul aug sep sept oct nov dec
""")

_CURRENCY = re.compile(r"[$£€¥%]")
_NUMERAL = re.compile(r"[0-9]+(?:[-./,:\s]+[0-9]+)*")
_LETTERS = re.compile(r"[^0-9a-z']+")
_TIME_OR_DECIMAL = re.compile(r"[0-9]{1,2}:[0-9]{2}|[0-9]+\.[0-9]{1,2}|[0-9]\.[0-9]-[0-9]")
_YEAR = re.compile(r"(19|20)[0-9]{2}")
_THOUSANDS = re.compile(r"[0-9]{1,3}(,[0-9]{3})+")
_DIGITS_OF_MIXED_MIN = 4


class TokenKind(Enum):
    """What a word is to a number."""

    #: A part of one.
    DIGITS = auto()
    #: Tens, after which a unit may follow: digits, once that is known.
    TENS = auto()
    #: A part of one if its neighbours on both sides are: a homophone, a time, a decimal.
    SOFT = auto()
    #: Makes the next digit two or three.
    REPEAT = auto()
    #: Belongs to none, and does not end one.
    FILLER = auto()
    #: Says what a number before it counts.
    COUNTED = auto()
    #: A price, an ordinal: a number of another kind.
    OTHER_NUMBER = auto()
    MONTH = auto()
    WORD = auto()


@dataclass(frozen=True, slots=True)
class Token:
    """A word as a part of a number: its digits, if it has any."""

    kind: TokenKind
    digits: str = ""
    #: How often the next digit is meant, of a repeat.
    repeat: int = 1
    text: str = ""

    @property
    def is_digits(self) -> bool:
        """Whether it is a part of a number for sure."""
        return self.kind is TokenKind.DIGITS

    @property
    def is_spelled(self) -> bool:
        """Whether its digits are written one by one."""
        return len(self.digits) == len(re.findall("[0-9a-z]+", self.text))


def read_tokens(texts: Sequence[str]) -> list[Token]:
    """Return what each word of one speaker, in order, is to a number."""
    tokens = [_read(text) for text in texts]
    _join_tens(tokens)
    _apply_repeats(tokens)
    _settle_soft(tokens)
    _drop_plain(tokens)
    return tokens


def is_digit_like(text: str) -> bool:
    """Tell whether a word by itself is a digit, or several."""
    return _read(text).kind in (TokenKind.DIGITS, TokenKind.TENS, TokenKind.REPEAT)


def _read(text: str) -> Token:
    plain = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
    stripped = plain.strip(" .,;:!?\"'()[]{}\u2026-\u2013\u2014*#")
    if not stripped:
        return Token(TokenKind.FILLER, text=stripped)
    if _CURRENCY.fullmatch(stripped):
        return Token(TokenKind.COUNTED, text=stripped)
    if any(char.isdigit() for char in stripped):
        return _read_numeral(stripped)
    parts = [part for part in re.split(r"[-\s]+", stripped) if part]
    if len(parts) > 1:
        return _read_parts(parts, stripped)
    return _read_word(_LETTERS.sub("", stripped))


def _read_numeral(text: str) -> Token:
    digits = "".join(
        str(unicodedata.digit(char)) for char in text if unicodedata.digit(char, None) is not None
    )
    if _CURRENCY.search(text):
        return Token(TokenKind.OTHER_NUMBER, digits, text=text)
    if _NUMERAL.fullmatch(text):
        is_time_or_decimal = _TIME_OR_DECIMAL.fullmatch(text)
        kind = TokenKind.SOFT if is_time_or_decimal else TokenKind.DIGITS
        return Token(kind, digits, text=text)
    # "4111x" is a number with a mark; "5th", "2nd" and "cb2" are none.
    kind = TokenKind.DIGITS if len(digits) >= _DIGITS_OF_MIXED_MIN else TokenKind.OTHER_NUMBER
    return Token(kind, digits, text=text)


def _read_parts(parts: Sequence[str], text: str) -> Token:
    """Read a word of several: "four-one-one", "forty-five"."""
    tokens = read_tokens(parts)
    if all(token.is_digits or token.kind is TokenKind.REPEAT for token in tokens):
        return Token(TokenKind.DIGITS, "".join(token.digits for token in tokens), text=text)
    return Token(TokenKind.WORD, text=text)


def _read_word(word: str) -> Token:
    if word in _UNITS or word in _TEENS:
        return Token(TokenKind.DIGITS, _UNITS.get(word) or _TEENS[word], text=word)
    if word in _TENS:
        return Token(TokenKind.TENS, _TENS[word], text=word)
    if word in _REPEATS:
        return Token(TokenKind.REPEAT, repeat=_REPEATS[word], text=word)
    if word in _HOMOPHONES:
        return Token(TokenKind.SOFT, _HOMOPHONES[word], text=word)
    kinds = {TokenKind.MONTH: _MONTHS, TokenKind.COUNTED: _COUNTED, TokenKind.FILLER: _FILLERS}
    kind = next((kind for kind, words in kinds.items() if word in words), TokenKind.WORD)
    return Token(kind, text=word)


def _join_tens(tokens: list[Token]) -> None:
    """Read "forty five" as 45, and "forty" by itself as 40."""
    for index, token in enumerate(tokens):
        if token.kind is TokenKind.TENS:
            following = tokens[index + 1] if index + 1 < len(tokens) else None
            has_unit = following is not None and following.text in _UNITS and following.digits > "0"
            digits = token.digits if has_unit else f"{token.digits}0"
            tokens[index] = replace(token, kind=TokenKind.DIGITS, digits=digits)


def _apply_repeats(tokens: list[Token]) -> None:
    """Read "double five" as 55; a repeat that no digit follows is a word."""
    for index, token in enumerate(tokens):
        if token.kind is not TokenKind.REPEAT:
            continue
        following = tokens[index + 1] if index + 1 < len(tokens) else None
        if following is not None and following.digits and following.kind is not TokenKind.COUNTED:
            digits = following.digits[0] * (token.repeat - 1)
            tokens[index] = replace(token, kind=TokenKind.DIGITS, digits=digits)
            tokens[index + 1] = replace(following, kind=TokenKind.DIGITS)
        else:
            tokens[index] = replace(token, kind=TokenKind.WORD)


def _settle_soft(tokens: list[Token]) -> None:
    """Let what may be a digit be one where digits are on both its sides."""
    for index, token in enumerate(tokens):
        if token.kind is not TokenKind.SOFT:
            continue
        before = tokens[index - 1] if index else None
        after = next((t for t in tokens[index + 1 : index + 3] if t.kind != TokenKind.SOFT), None)
        beside = [side is not None and side.is_digits for side in (before, after)]
        # An "oh" is a nought beside any digit; people do not say "5 oh" of anything else.
        if all(beside) or (token.text in ("oh", "o") and any(beside)):
            tokens[index] = replace(token, kind=TokenKind.DIGITS)


def _drop_plain(tokens: list[Token]) -> None:
    """Take what is plainly a price, a time, a date or a quantity for none of a number."""
    index = 0
    while index < len(tokens):
        if not tokens[index].is_digits:
            index += 1
            continue
        end = index
        while end < len(tokens) and tokens[end].is_digits:
            end += 1
        if _is_plain(tokens, index, end):
            for at in range(index, end):
                tokens[at] = replace(tokens[at], kind=TokenKind.OTHER_NUMBER)
        index = end


def _is_plain(tokens: Sequence[Token], start: int, end: int) -> bool:
    digits = "".join(token.digits for token in tokens[start:end])
    before = tokens[start - 1] if start else None
    after = tokens[end] if end < len(tokens) else None
    is_counted = after is not None and after.kind is TokenKind.COUNTED
    if end - start == 1:
        is_amount = is_counted and _THOUSANDS.fullmatch(tokens[start].text) is not None
        if is_amount or _is_pronoun(tokens, start):
            return True
    # Somebody who reads out digits says more of them than a quantity has.
    if len(digits) > 4 or end - start > 2:
        return False
    # "march 26" is a date, unless somebody asks when a card expires: see find_masks.
    kinds = (token.kind for token in (before, after) if token is not None)
    is_date = TokenKind.MONTH in kinds and len(digits) <= 2
    is_time = before is not None and before.text in _BEFORE_TIMES and _is_time(digits)
    is_year = before is not None and before.text in _BEFORE_YEARS and _YEAR.fullmatch(digits)
    return is_counted or is_date or is_time or bool(is_year)


def _is_pronoun(tokens: Sequence[Token], index: int) -> bool:
    """Tell whether a "one" is that of "this one": no digit is near it but for fillers."""
    if tokens[index].text != "one":
        return False
    sides = (reversed(tokens[:index]), tokens[index + 1 :])
    nearest = [next((t for t in side if t.kind is not TokenKind.FILLER), None) for side in sides]
    return not any(token is not None and token.is_digits for token in nearest)


def _is_time(digits: str) -> bool:
    if len(digits) <= 2:
        return int(digits) <= 24
    return int(digits[:-2]) <= 24 and int(digits[-2:]) < 60
