"""Which words of two decodes of one stretch of sound are the same word: one alignment. Pure.

Both decodes run in time, so the alignment is monotone, and words pair only where both were timed
alike: text alone cannot tell the ones of "one one one" apart. It is the cheapest of all such
alignments (Needleman and Wunsch, 1970), where a pair costs the more, the further apart its words
lie in time and the less their texts have in common.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from heapq import merge
from itertools import groupby
from statistics import median

from schema.words import Word

#: Two decodes time one word less far apart than this, once a constant offset is taken away.
SAME_TIME_MS = 300

#: One decode may be late throughout by up to this: models time a word by what is around it.
OFFSET_MS = 200

#: What a word alone costs; a pair costs less than two words alone wherever it is plausible: equal
#: words whenever their times allow it, different ones within some 150 ms.
_ALONE_COST = 600
_TIME_COST = 400
_TEXT_COST = 400
_DIFFERENT_WORD_COST = 600
_IMPOSSIBLE_COST = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Column:
    """A word of both sides, or one that only one side wrote, by its index on each side.

    ``likeness`` is in 0..1: 1 where both texts are equal, 0 where they share nothing.
    """

    left_index: int | None
    right_index: int | None
    likeness: float = 0.0

    @property
    def is_pair(self) -> bool:
        """Whether both sides wrote a word here."""
        return self.left_index is not None and self.right_index is not None

    @property
    def is_equal(self) -> bool:
        """Whether both sides wrote the same word."""
        return self.likeness == 1.0


def align(lefts: Sequence[Word], rights: Sequence[Word]) -> tuple[list[Column], int]:
    """Return the columns in order of time, and by how many ms the right side is late.

    Every word is in exactly one column. Where neither of two neighbouring columns is a pair, the
    one whose word was said first comes first.
    """
    left_texts = [comparison_form(word.text) for word in lefts]
    texts = left_texts, [comparison_form(word.text) for word in rights]
    delay_ms = _right_delay_ms(lefts, rights, texts)
    pairs = _possible_pairs(lefts, rights, texts, delay_ms)
    columns = _cheapest_columns(len(lefts), len(rights), pairs)
    return list(_order_by_time(columns, lefts, rights, delay_ms)), delay_ms


def comparison_form(text: str) -> str:
    """Return a word as it is compared: compatibility forms folded, case and punctuation gone."""
    folded_text = unicodedata.normalize("NFKC", text).casefold()
    return "".join(char for char in folded_text if char.isalnum()) or folded_text


def _right_delay_ms(
    lefts: Sequence[Word], rights: Sequence[Word], texts: tuple[Sequence[str], Sequence[str]]
) -> int:
    """Return the median of how late the right side's words are, of those with one partner only."""
    reach_ms = SAME_TIME_MS + OFFSET_MS
    candidates = [
        (i, j)
        for i, left_word in enumerate(lefts)
        for j, right_word in enumerate(rights)
        if texts[0][i] == texts[1][j]
        and abs(right_word.middle_ms - left_word.middle_ms) <= reach_ms
    ]
    left_indexes, right_indexes = [i for i, _ in candidates], [j for _, j in candidates]
    delays_ms = [
        rights[j].middle_ms - lefts[i].middle_ms
        for i, j in candidates
        if left_indexes.count(i) == 1 and right_indexes.count(j) == 1
    ]
    if not delays_ms:
        return 0
    return max(-OFFSET_MS, min(OFFSET_MS, round(median(delays_ms))))


_Pairs = dict[tuple[int, int], tuple[int, float]]


def _possible_pairs(
    lefts: Sequence[Word],
    rights: Sequence[Word],
    texts: tuple[Sequence[str], Sequence[str]],
    delay_ms: int,
) -> _Pairs:
    """Return the cost and the likeness of each pair that times allow."""
    pairs = {}
    for i, left_word in enumerate(lefts):
        for j, right_word in enumerate(rights):
            distance_ms = abs(right_word.middle_ms - delay_ms - left_word.middle_ms)
            if distance_ms <= SAME_TIME_MS:
                likeness = _likeness(texts[0][i], texts[1][j])
                cost = _TIME_COST * distance_ms // SAME_TIME_MS
                if likeness < 1:
                    cost += _DIFFERENT_WORD_COST + round(_TEXT_COST * (1 - likeness))
                pairs[i, j] = cost, likeness
    return pairs


def _likeness(one: str, other: str) -> float:
    if one == other:
        return 1.0
    # The library's answer depends on the order that it is asked in.
    first, second = sorted((one, other))
    return SequenceMatcher(None, first, second, autojunk=False).ratio()


def _cheapest_columns(left_count: int, right_count: int, pairs: _Pairs) -> list[Column]:
    impossible = (_IMPOSSIBLE_COST, 0.0)
    costs = [[_ALONE_COST * j for j in range(right_count + 1)]]
    for i in range(1, left_count + 1):
        previous_row, row = costs[-1], [_ALONE_COST * i]
        for j in range(1, right_count + 1):
            pair = previous_row[j - 1] + pairs.get((i - 1, j - 1), impossible)[0]
            row.append(min(pair, previous_row[j] + _ALONE_COST, row[-1] + _ALONE_COST))
        costs.append(row)
    columns, i, j = [], left_count, right_count
    while i or j:
        cost, likeness = pairs.get((i - 1, j - 1), impossible)
        if i and j and costs[i][j] == costs[i - 1][j - 1] + cost:
            i, j = i - 1, j - 1
            columns.append(Column(i, j, likeness))
        elif i and costs[i][j] == costs[i - 1][j] + _ALONE_COST:
            i -= 1
            columns.append(Column(i, None))
        else:
            j -= 1
            columns.append(Column(None, j))
    return columns[::-1]


def _order_by_time(
    columns: Sequence[Column], lefts: Sequence[Word], rights: Sequence[Word], delay_ms: int
) -> Iterator[Column]:
    """Yield the columns, words that stand alone between two pairs merged by their times."""

    def moment_ms(column: Column) -> int:
        if column.left_index is not None:
            return lefts[column.left_index].middle_ms
        return rights[column.right_index or 0].middle_ms - delay_ms

    for is_pair, run in groupby(columns, lambda column: column.is_pair):
        run_columns = list(run)
        if is_pair:
            yield from run_columns
        else:
            left_only = [column for column in run_columns if column.right_index is None]
            right_only = [column for column in run_columns if column.left_index is None]
            yield from merge(left_only, right_only, key=moment_ms)
