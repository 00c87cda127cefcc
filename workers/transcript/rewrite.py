"""Words written otherwise, each with its time: digits for number words, marks from a model. Pure.

Both start from the words as they were spoken and end in words whose running text
(:func:`schema.text.join_words`) is the text to read: nothing has to be aligned with audio
again. What a rewriter leaves alone keeps its exact times. What it writes anew, "25" for "twenty
five", lasts from the start of the first word it replaces to the end of the last, and is as sure as
the least sure of them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby, pairwise
from typing import NamedTuple

from schema.text import is_cjk, join_words
from schema.words import Word
from workers.transcript.dialogue import split_words

#: Writes a phrase of one script, lower case and without marks, otherwise.
Rewriter = Callable[[str], str]

#: Words handed to a rewriter at once: wetext's memory and time grow with the length of a text.
PHRASE_WORDS = 64

#: A longer run is no number, however it is written.
_CHANGE_WORDS_MAX = 32

#: Equal words between two changes that belong to one: "[one] million [dollars]" is "$1 million".
_MERGE_WITHIN_WORDS = 3

#: Signs that are spoken, unlike the marks around a word.
_SPOKEN_SIGNS = "&%@#"

#: "Just a second" is no place in a row.
_ORDINALS = frozenset({"1st", "2nd", "3rd"})

_APOSTROPHES = "'\u2019"

#: A vague number, of which no part is exact.
_VAGUE_NUMERAL = "几"


@dataclass(frozen=True, slots=True)
class Change:
    """Words ``start`` up to, not including, ``end`` are written as ``tokens``."""

    start: int
    end: int
    tokens: tuple[str, ...]


def rewrite_words(words: Sequence[Word], rewrite: Rewriter) -> tuple[Word, ...]:
    """Return ``words`` as ``rewrite`` writes them, in order and each with its time.

    Marks and case of what stays are kept; a number does not reach over a mark, so that
    "I have twenty. Five left." keeps its two sentences. A change is refused, and its words stay as
    they were spoken, where it holds no number or address, runs words together, or is out of
    proportion: inverse text normalisation is about numbers, and its rules overreach.
    """
    phrases = _split_phrases(words)
    return tuple(word for phrase in phrases for word in _rewrite_phrase(phrase, rewrite))


def add_punctuation(words: Sequence[Word], text: str) -> tuple[Word, ...]:
    """Return ``words`` with the marks of ``text``, which is the same words as a model wrote them.

    For models that restore punctuation after the fact (CT-Punc, beside the funasr engine, whose
    recognizers write none; Whisper writes its own). Such a model parts a text in tokens of its
    own, so letters are matched and not tokens: a mark belongs to the word whose last letter comes
    before it, an opening bracket or quote to the word after it. Times, letters and case stay the
    words' own. Where the letters differ, the model changed the words: they are returned as they
    were.
    """
    letters = [_letters(word.text) for word in words]
    if _letters(text) != "".join(letters):
        return tuple(words)
    opening, closing = _marks_by_letter(text)
    ends = list(accumulate(map(len, letters)))
    starts = [0, *ends]
    return tuple(
        _add_marks(word, opening.get(start, ""), closing.get(end, "")) if start < end else word
        for word, start, end in zip(words, starts, ends, strict=False)
    )


def find_changes(texts: Sequence[str], tokens: Sequence[str]) -> list[Change]:
    """Return the least changes that make ``tokens`` of ``texts``, in order and disjoint.

    By the longest common subsequence of tokens. A change never writes nothing, nor something for
    nothing: one that would is joined to the change beside it, together with the few equal words
    between them, or else left out, so that no word is lost and none invented.
    """
    changes = _find_differences(texts, tokens)
    merged_changes: list[_Difference] = []
    for change in changes:
        if merged_changes and _belong_together(merged_changes[-1], change):
            merged_changes[-1] = merged_changes[-1]._replace(
                text_end=change.text_end, token_end=change.token_end
            )
        else:
            merged_changes.append(change)
    return [
        Change(
            change.text_start, change.text_end, tuple(tokens[change.token_start : change.token_end])
        )
        for change in merged_changes
        if not change.is_half
    ]


def _split_phrases(words: Sequence[Word]) -> Iterator[list[Word]]:
    """Yield words that are rewritten together: of one script, without a mark between them."""
    for phrase in split_words(words, _is_phrase_end):
        yield from _split_long_phrase(phrase)


def _is_phrase_end(phrase: Sequence[Word], following: Word) -> bool:
    _, core, suffix = _separate_marks(phrase[-1].text)
    prefix, following_core, _ = _separate_marks(following.text)
    if suffix or prefix or not (_is_single_token(core) and _is_single_token(following_core)):
        return True
    return is_cjk(core[0]) != is_cjk(following_core[0])


def _split_long_phrase(phrase: list[Word]) -> Iterator[list[Word]]:
    """Yield a phrase in parts that a rewriter can bear, parted at their widest pauses."""
    while len(phrase) > PHRASE_WORDS:
        pauses_ms = [b.start_ms - a.end_ms for a, b in pairwise(phrase[: PHRASE_WORDS + 1])]
        index = max(range(PHRASE_WORDS // 2, PHRASE_WORDS), key=lambda i: pauses_ms[i]) + 1
        yield phrase[:index]
        phrase = phrase[index:]
    yield phrase


def _rewrite_phrase(phrase: Sequence[Word], rewrite: Rewriter) -> Iterator[Word]:
    texts = [_separate_marks(word.text)[1].lower() for word in phrase]
    if not all(map(_is_single_token, texts)):
        yield from phrase
        return
    index = 0
    for change in find_changes(texts, _tokenize(rewrite(join_words(texts)))):
        if not _is_allowed(change, texts):
            continue
        yield from phrase[index : change.start]
        yield from _apply_change(phrase, texts, change, rewrite)
        index = change.end
    yield from phrase[index:]


def _is_allowed(change: Change, texts: Sequence[str]) -> bool:
    """Tell whether a change writes a number or an address, and nothing else."""
    words = texts[change.start : change.end]
    text = "".join(change.tokens)
    if not any(char.isdigit() for char in text) and "@" not in text and "www." not in text:
        return False
    if len(words) > _CHANGE_WORDS_MAX or len(text) > 2 * sum(map(len, words)) + 8:
        return False
    if len(words) == 1 and text in _ORDINALS:
        return False
    if _VAGUE_NUMERAL in texts[max(0, change.start - 1) : change.end + 1]:
        return False
    return not any(len(a + b) > 2 and a + b in text for a, b in pairwise(words) if not is_cjk(a[0]))


def _apply_change(
    phrase: Sequence[Word], texts: Sequence[str], change: Change, rewrite: Rewriter
) -> Iterator[Word]:
    """Yield what a change writes, each part with the span of the words that it replaces."""
    parts = list(_split_change(change, texts, rewrite))
    for number, part in enumerate(parts):
        words = phrase[part.start : part.end]
        prefix = _separate_marks(words[0].text)[0] if number == 0 else ""
        suffix = _separate_marks(words[-1].text)[2] if number == len(parts) - 1 else ""
        confidences = [word.confidence for word in words if word.confidence is not None]
        yield Word(
            prefix + join_words(list(part.tokens)) + suffix,
            words[0].start_ms,
            max(word.end_ms for word in words),
            min(confidences, default=None),
        )


def _split_change(change: Change, texts: Sequence[str], rewrite: Rewriter) -> Iterator[Change]:
    """Yield a change in parts that the rewriter itself confirms: "3rd" and "2021" are two.

    A boundary holds where one side of it, written alone, is written the same. Where it confirms
    none, the change is one word, which may then hold a space: better than times made up.
    """
    while parting := _find_split(change, texts, rewrite):
        first, change = parting
        yield first
    yield change


def _find_split(
    change: Change, texts: Sequence[str], rewrite: Rewriter
) -> tuple[Change, Change] | None:
    """Return a change as its first part and the rest, or None where it is one."""
    is_single = len(change.tokens) == 1
    if is_single and not is_cjk(texts[change.start][0]):
        return None
    for index in range(change.start + 1, change.end):
        head = tuple(_tokenize(rewrite(join_words(list(texts[change.start : index])))))
        tail = tuple(_tokenize(rewrite(join_words(list(texts[index : change.end])))))
        if is_single and _is_concatenation(head, tail, change.tokens):
            return _split_at(change, index, head, tail)
        for count in range(1, len(change.tokens)):
            if head == change.tokens[:count] or tail == change.tokens[count:]:
                return _split_at(change, index, change.tokens[:count], change.tokens[count:])
    return None


def _is_concatenation(
    head: tuple[str, ...], tail: tuple[str, ...], tokens: tuple[str, ...]
) -> bool:
    """Tell whether a script without spaces ran a date and a time together; digits belong so."""
    if len(head) != 1 or len(tail) != 1 or head[0].isdigit() or tail[0].isdigit():
        return False
    return tokens == (head[0] + tail[0],)


def _split_at(
    change: Change, index: int, head: tuple[str, ...], tail: tuple[str, ...]
) -> tuple[Change, Change]:
    return Change(change.start, index, head), Change(index, change.end, tail)


class _Difference(NamedTuple):
    text_start: int
    text_end: int
    token_start: int
    token_end: int

    @property
    def is_half(self) -> bool:
        return self.text_start == self.text_end or self.token_start == self.token_end


def _find_differences(texts: Sequence[str], tokens: Sequence[str]) -> list[_Difference]:
    """Return what differs, by the longest common subsequence.

    What both begin and end with needs no table.
    """
    head = 0
    while head < min(len(texts), len(tokens)) and texts[head] == tokens[head]:
        head += 1
    tail = 0
    while tail < min(len(texts), len(tokens)) - head and texts[-1 - tail] == tokens[-1 - tail]:
        tail += 1
    middles = texts[head : len(texts) - tail], tokens[head : len(tokens) - tail]
    pairs = [(head + i, head + j) for i, j in _common_pairs(*middles)]
    bounds = [(head - 1, head - 1), *pairs, (len(texts) - tail, len(tokens) - tail)]
    return [
        _Difference(i + 1, k, j + 1, m)
        for (i, j), (k, m) in pairwise(bounds)
        if i + 1 < k or j + 1 < m
    ]


def _common_pairs(texts: Sequence[str], tokens: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield the index pairs of a longest common subsequence, in order."""
    longest = [[0] * (len(tokens) + 1) for _ in range(len(texts) + 1)]
    for i in reversed(range(len(texts))):
        for j in reversed(range(len(tokens))):
            longest[i][j] = (
                longest[i + 1][j + 1] + 1
                if texts[i] == tokens[j]
                else max(longest[i + 1][j], longest[i][j + 1])
            )
    i = j = 0
    while i < len(texts) and j < len(tokens):
        if texts[i] == tokens[j]:
            yield i, j
            i, j = i + 1, j + 1
        elif longest[i + 1][j] >= longest[i][j + 1]:
            i += 1
        else:
            j += 1


def _belong_together(change: _Difference, following: _Difference) -> bool:
    """Tell whether two changes are one, because either alone writes nothing or replaces nothing."""
    is_near = following.text_start - change.text_end <= _MERGE_WITHIN_WORDS
    return is_near and (change.is_half or following.is_half)


def _tokenize(text: str) -> list[str]:
    """Return written text in tokens: a CJK character each, and what spaces part; "5 %" is one."""
    tokens: list[str] = []
    for piece in text.split():
        for cjk, run in groupby(piece, is_cjk):
            text_run = "".join(run)
            tokens += text_run if cjk else [text_run]
    whole_tokens: list[str] = []
    for token in tokens:
        if whole_tokens and not any(char.isalnum() for char in token):
            whole_tokens[-1] += token
        else:
            whole_tokens.append(token)
    return whole_tokens


def _is_single_token(core: str) -> bool:
    """Tell whether a word is one token, which can be found again in what a rewriter returns."""
    return bool(core) and _tokenize(core) == [core]


def _separate_marks(text: str) -> tuple[str, str, str]:
    """Return a word's marks before it, the word itself, and its marks after it."""
    start, end = 0, len(text)
    while start < end and _is_mark(text[start]):
        start += 1
    while end > start and _is_mark(text[end - 1]):
        end -= 1
    return text[:start], text[start:end], text[end:]


def _is_mark(char: str) -> bool:
    return char not in _SPOKEN_SIGNS and unicodedata.category(char)[0] in "PZ"


def _letters(text: str) -> str:
    """Return text as it is compared; that of two texts in a row is both of theirs."""
    return "".join(
        char
        for char in "".join(unicodedata.normalize("NFKC", char).casefold() for char in text)
        if not _is_mark(char)
    )


def _marks_by_letter(text: str) -> tuple[dict[int, str], dict[int, str]]:
    """Return the marks of a text that open something, and the others, by the letters before them.

    Those within words are the words' own affair: hyphens and apostrophes are left out.
    """
    opening: dict[int, str] = {}
    closing: dict[int, str] = {}
    letters = 0
    for char in text:
        letters += len(_letters(char))
        category = unicodedata.category(char)
        if category in {"Ps", "Pi"}:
            opening[letters] = opening.get(letters, "") + char
        elif category in {"Po", "Pe", "Pf"} and _is_mark(char) and char not in _APOSTROPHES:
            closing[letters] = closing.get(letters, "") + char
    return opening, closing


def _add_marks(word: Word, opening: str, closing: str) -> Word:
    """Return a word between marks, unless it has them already."""
    prefix = "" if word.text.startswith(opening) else opening
    suffix = "" if word.text.endswith(closing) else closing
    return replace(word, text=prefix + word.text + suffix)
