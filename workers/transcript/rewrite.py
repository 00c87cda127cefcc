"""Words written otherwise, each with its time: digits for number words, marks from a model. Pure.

Both start from the words as they were spoken and end in words whose running text
(:func:`schema.transcript.join_words`) is the text to read: nothing has to be aligned with audio
again. What a rewriter leaves alone keeps its exact times. What it writes anew, "25" for "twenty
five", lasts from the start of the first word it replaces to the end of the last, and is as sure as
the least sure of them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby, pairwise

from schema.transcript import is_cjk, join_words
from schema.words import Word

#: Writes a phrase of one script, lower case and without marks, otherwise.
Rewriter = Callable[[str], str]

#: Words handed to a rewriter at once: wetext's memory and time grow with the length of a text.
PHRASE_WORDS = 64

#: A longer run is no number, however it is written.
_LONGEST_RUN = 32

#: Equal words between two changes that belong to one: "[one] million [dollars]" is "$1 million".
_WITHIN = 3

#: Signs that are spoken, unlike the marks around a word.
_SPOKEN_SIGNS = "&%@#"

#: "Just a second" is no place in a row.
_ORDINALS = frozenset({"1st", "2nd", "3rd"})

_APOSTROPHES = "'\u2019"

#: A vague number, of which no part is exact.
_VAGUE = "几"


@dataclass(frozen=True, slots=True)
class Change:
    """Words ``first`` up to, not including, ``last`` are written as ``tokens``."""

    first: int
    last: int
    tokens: tuple[str, ...]


def rewritten(words: Sequence[Word], rewrite: Rewriter) -> tuple[Word, ...]:
    """Return ``words`` as ``rewrite`` writes them, in order and each with its time.

    Marks and case of what stays are kept; a number does not reach over a mark, so that
    "I have twenty. Five left." keeps its two sentences. A change is refused, and its words stay as
    they were spoken, where it holds no number or address, runs words together, or is out of
    proportion: inverse text normalisation is about numbers, and its rules overreach.
    """
    return tuple(out for phrase in _phrases(words) for out in _rewritten_phrase(phrase, rewrite))


def punctuated(words: Sequence[Word], text: str) -> tuple[Word, ...]:
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
    before, after = _marks(text)
    ends = list(accumulate(map(len, letters)))
    begins = [0, *ends]
    return tuple(
        _marked(word, before.get(begin, ""), after.get(end, "")) if begin < end else word
        for word, begin, end in zip(words, begins, ends, strict=False)
    )


def aligned(spoken: Sequence[str], written: Sequence[str]) -> list[Change]:
    """Return the least changes that make ``written`` of ``spoken``, in order and disjoint.

    By the longest common subsequence of tokens. A change never writes nothing, nor something for
    nothing: one that would is joined to the change beside it, together with the few equal words
    between them, or else left out, so that no word is lost and none invented.
    """
    changes = _differences(spoken, written)
    joined: list[tuple[int, int, int, int]] = []
    for change in changes:
        if joined and _belong(joined[-1], change):
            first, _, begin, _ = joined[-1]
            joined[-1] = (first, change[1], begin, change[3])
        else:
            joined.append(change)
    return [
        Change(first, last, tuple(written[begin:end]))
        for first, last, begin, end in joined
        if first < last and begin < end
    ]


def _phrases(words: Sequence[Word]) -> Iterator[list[Word]]:
    """Yield words that are rewritten together: of one script, without a mark between them."""
    phrase: list[Word] = []
    for word in words:
        if phrase and _parts_from(phrase[-1], word):
            yield from _short(phrase)
            phrase = []
        phrase.append(word)
    if phrase:
        yield from _short(phrase)


def _parts_from(word: Word, following: Word) -> bool:
    _, core, suffix = _dressed(word.text)
    prefix, following_core, _ = _dressed(following.text)
    if suffix or prefix or not (_is_plain(core) and _is_plain(following_core)):
        return True
    return is_cjk(core[0]) != is_cjk(following_core[0])


def _short(phrase: list[Word]) -> Iterator[list[Word]]:
    """Yield a phrase in parts that a rewriter can bear, parted at their widest pauses."""
    while len(phrase) > PHRASE_WORDS:
        pauses_ms = [b.start_ms - a.end_ms for a, b in pairwise(phrase[: PHRASE_WORDS + 1])]
        at = max(range(PHRASE_WORDS // 2, PHRASE_WORDS), key=lambda i: pauses_ms[i]) + 1
        yield phrase[:at]
        phrase = phrase[at:]
    yield phrase


def _rewritten_phrase(phrase: Sequence[Word], rewrite: Rewriter) -> Iterator[Word]:
    spoken = [_dressed(word.text)[1].lower() for word in phrase]
    if not all(map(_is_plain, spoken)):
        yield from phrase
        return
    at = 0
    for change in aligned(spoken, _tokens(rewrite(join_words(spoken)))):
        if not _is_sound(change, spoken):
            continue
        yield from phrase[at : change.first]
        yield from _replaced(phrase, spoken, change, rewrite)
        at = change.last
    yield from phrase[at:]


def _is_sound(change: Change, spoken: Sequence[str]) -> bool:
    """Tell whether a change writes a number or an address, and nothing else."""
    own = spoken[change.first : change.last]
    text = "".join(change.tokens)
    if not any(char.isdigit() for char in text) and "@" not in text and "www." not in text:
        return False
    if len(own) > _LONGEST_RUN or len(text) > 2 * sum(map(len, own)) + 8:
        return False
    if len(own) == 1 and text in _ORDINALS:
        return False
    if _VAGUE in spoken[max(0, change.first - 1) : change.last + 1]:
        return False
    return not any(len(a + b) > 2 and a + b in text for a, b in pairwise(own) if not is_cjk(a[0]))


def _replaced(
    phrase: Sequence[Word], spoken: Sequence[str], change: Change, rewrite: Rewriter
) -> Iterator[Word]:
    """Yield what a change writes, each part with the span of the words that it replaces."""
    parts = list(_split(change, spoken, rewrite))
    for number, part in enumerate(parts):
        own = phrase[part.first : part.last]
        prefix = _dressed(own[0].text)[0] if number == 0 else ""
        suffix = _dressed(own[-1].text)[2] if number == len(parts) - 1 else ""
        sure = [word.confidence for word in own if word.confidence is not None]
        yield Word(
            prefix + join_words(list(part.tokens)) + suffix,
            own[0].start_ms,
            max(word.end_ms for word in own),
            min(sure, default=None),
        )


def _split(change: Change, spoken: Sequence[str], rewrite: Rewriter) -> Iterator[Change]:
    """Yield a change in parts that the rewriter itself confirms: "3rd" and "2021" are two.

    A boundary holds where one side of it, written alone, is written the same. Where it confirms
    none, the change is one word, which may then hold a space: better than times made up.
    """
    while parting := _parting(change, spoken, rewrite):
        first, change = parting
        yield first
    yield change


def _parting(
    change: Change, spoken: Sequence[str], rewrite: Rewriter
) -> tuple[Change, Change] | None:
    """Return a change as its first part and the rest, or None where it is one."""
    is_one = len(change.tokens) == 1
    if is_one and not is_cjk(spoken[change.first][0]):
        return None
    for at in range(change.first + 1, change.last):
        begin = tuple(_tokens(rewrite(join_words(list(spoken[change.first : at])))))
        end = tuple(_tokens(rewrite(join_words(list(spoken[at : change.last])))))
        if is_one and _are_run_together(begin, end, change.tokens):
            return _parted(change, at, begin, end)
        for count in range(1, len(change.tokens)):
            if begin == change.tokens[:count] or end == change.tokens[count:]:
                return _parted(change, at, change.tokens[:count], change.tokens[count:])
    return None


def _are_run_together(
    begin: tuple[str, ...], end: tuple[str, ...], tokens: tuple[str, ...]
) -> bool:
    """Tell whether a script without spaces ran a date and a time together; digits belong so."""
    if len(begin) != 1 or len(end) != 1 or begin[0].isdigit() or end[0].isdigit():
        return False
    return tokens == (begin[0] + end[0],)


def _parted(
    change: Change, at: int, begin: tuple[str, ...], end: tuple[str, ...]
) -> tuple[Change, Change]:
    return Change(change.first, at, begin), Change(at, change.last, end)


def _differences(spoken: Sequence[str], written: Sequence[str]) -> list[tuple[int, int, int, int]]:
    """Return the stretches that differ: first and last of ``spoken``, begin and end of ``written``.

    By the longest common subsequence; what both begin and end with needs no table.
    """
    head = 0
    while head < min(len(spoken), len(written)) and spoken[head] == written[head]:
        head += 1
    tail = 0
    while tail < min(len(spoken), len(written)) - head and spoken[-1 - tail] == written[-1 - tail]:
        tail += 1
    own, new = spoken[head : len(spoken) - tail], written[head : len(written) - tail]
    pairs = [(head + i, head + j) for i, j in _common(own, new)]
    bounds = [(head - 1, head - 1), *pairs, (len(spoken) - tail, len(written) - tail)]
    return [(i + 1, k, j + 1, m) for (i, j), (k, m) in pairwise(bounds) if i + 1 < k or j + 1 < m]


def _common(left: Sequence[str], right: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield the index pairs of a longest common subsequence, in order."""
    longest = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i in reversed(range(len(left))):
        for j in reversed(range(len(right))):
            longest[i][j] = (
                longest[i + 1][j + 1] + 1
                if left[i] == right[j]
                else max(longest[i + 1][j], longest[i][j + 1])
            )
    i = j = 0
    while i < len(left) and j < len(right):
        if left[i] == right[j]:
            yield i, j
            i, j = i + 1, j + 1
        elif longest[i + 1][j] >= longest[i][j + 1]:
            i += 1
        else:
            j += 1


def _belong(change: tuple[int, int, int, int], following: tuple[int, int, int, int]) -> bool:
    """Tell whether two changes are one, because either alone writes nothing or replaces nothing."""
    half = any(first == last or begin == end for first, last, begin, end in (change, following))
    return half and following[0] - change[1] <= _WITHIN


def _tokens(text: str) -> list[str]:
    """Return written text in tokens: a CJK character each, and what spaces part; "5 %" is one."""
    tokens: list[str] = []
    for piece in text.split():
        for cjk, run in groupby(piece, is_cjk):
            text_run = "".join(run)
            tokens += text_run if cjk else [text_run]
    whole: list[str] = []
    for token in tokens:
        if whole and not any(char.isalnum() for char in token):
            whole[-1] += token
        else:
            whole.append(token)
    return whole


def _is_plain(core: str) -> bool:
    """Tell whether a word is one token, which can be found again in what a rewriter returns."""
    return bool(core) and _tokens(core) == [core]


def _dressed(text: str) -> tuple[str, str, str]:
    """Return a word's marks before it, the word itself, and its marks after it."""
    first, last = 0, len(text)
    while first < last and _is_mark(text[first]):
        first += 1
    while last > first and _is_mark(text[last - 1]):
        last -= 1
    return text[:first], text[first:last], text[last:]


def _is_mark(char: str) -> bool:
    return char not in _SPOKEN_SIGNS and unicodedata.category(char)[0] in "PZ"


def _letters(text: str) -> str:
    """Return text as it is compared; that of two texts in a row is both of theirs."""
    return "".join(
        char
        for char in "".join(unicodedata.normalize("NFKC", char).casefold() for char in text)
        if not _is_mark(char)
    )


def _marks(text: str) -> tuple[dict[int, str], dict[int, str]]:
    """Return the marks of a text that open something, and the others, by the letters before them.

    Those within words are the words' own affair: hyphens and apostrophes are left out.
    """
    before: dict[int, str] = {}
    after: dict[int, str] = {}
    letters = 0
    for char in text:
        letters += len(_letters(char))
        category = unicodedata.category(char)
        if category in {"Ps", "Pi"}:
            before[letters] = before.get(letters, "") + char
        elif category in {"Po", "Pe", "Pf"} and _is_mark(char) and char not in _APOSTROPHES:
            after[letters] = after.get(letters, "") + char
    return before, after


def _marked(word: Word, before: str, after: str) -> Word:
    """Return a word between marks, unless it has them already."""
    prefix = "" if word.text.startswith(before) else before
    suffix = "" if word.text.endswith(after) else after
    return replace(word, text=prefix + word.text + suffix)
