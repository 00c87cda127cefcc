"""Which stretches of a call hold numbers that must not be kept. Pure.

Digits that follow one another are a group; groups make a run over turns and pauses, since a number
is read out in parts, repeated by the other and corrected. A run of seven digits or more is masked
whatever it is; a shorter one by the words around it, or because a card was read out just before.
Where something in or beside a masked run was not understood, it is masked with it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Generic, TypeVar

from schema.redaction import Mask, MaskClass
from schema.span import Span, merge
from schema.words import Word
from workers.transcript.redact.spoken_digits import Token, TokenKind, read_tokens

T = TypeVar("T")

#: Digits of one group: so far apart at most, with so many fillers between.
_GROUP_PAUSE_MS, _GROUP_FILLERS_MAX = 4_000, 4
#: Groups of one run: so far apart at most, with so many words of anybody between; where a group is
#: a digit alone, with fewer.
_RUN_PAUSE_MS, _RUN_WORDS_MAX, _LONE_WORDS_MAX = 20_000, 8, 2

#: So many digits are masked whatever they are, and so many are a card's.
_LONG_MIN, _CARD_MIN = 7, 12
#: So many are masked by the words around.
_SHORT_MIN = 3

#: Words around a group: so long before it, so many of them; and just after it.
_CONTEXT_MS, _CONTEXT_WORDS, _AFTER_MS = 12_000, 25, 3_000
#: After a card, its other numbers: whatever has three digits is one of them.
_AFTER_CARD_MS = 60_000

#: What stands this close to a masked group is masked if it was not understood.
_BESIDE_MS = 1_500
_UNSURE_BELOW = 0.5
_WORDLESS_MIN_MS = 300
#: So much speech without words beside a short number may be the rest of a long one.
_UNWRITTEN_MIN_MS = 2_500
#: So long a part of it is masked as far from a number as its groups may be from each other.
_UNWRITTEN_PART_MS = 1_000
#: And so long a part is masked in the audio of a protected call, wherever it is.
_UNWRITTEN_AUDIO_MS = 600
#: No word, and no region of speech, is longer.
_WORD_REACH_MS, _REGION_REACH_MS = 60_000, 120_000
#: Between two groups so close, with so few words, everything is masked.
_BETWEEN_MS, _BETWEEN_WORDS_MAX = 3_000, 3

#: Around a masked word, since its times are right to 155 ms in nineteen of twenty cases.
_PAD_MS = 150


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_KEYWORDS = {
    MaskClass.SECURITY_CODE: _words("""
        security cvv cvc cvv2 cv2 csc cid verification signature strip code
    """),
    MaskClass.EXPIRY: _words("""
        expiry expires expire expiration expiring exp valid thru
    """),
    MaskClass.CARD: _words("""
        card cards visa mastercard amex maestro debit credit american discover
    """),
    MaskClass.BANK_ACCOUNT: _words("""
        account iban routing sort bank branch swift
    """),
}
#: "code" and "valid" say much where a card or its back is spoken of, and little by themselves.
_WEAK = _words("""
    code valid signature strip american discover bank branch verification
""")
_PARTS_OF_CARDS = frozenset({MaskClass.SECURITY_CODE, MaskClass.EXPIRY})
_NEAREST_WORDS = 8
#: What stands before a "code" that is no card's.
_OTHER_CODES = _words("sort post zip area country promo discount access dialling dialing")
_STRENGTHENED_BY = _words("""
    card three digit digits back sort account expiry
""")


@dataclass(frozen=True, slots=True)
class Line:
    """One decode of one channel: its words in order, and the speech they were heard in.

    The times of words within ``untimed_speech`` are guesses.
    """

    words: tuple[Word, ...]
    speech: tuple[Span, ...] = ()
    untimed_speech: tuple[Span, ...] = ()


class _InOrder(Generic[T]):
    """Things in order of when they begin, none of which lasts longer than ``reach_ms``."""

    def __init__(self, things: Iterable[tuple[Span, T]], reach_ms: int) -> None:
        self._things = sorted(things, key=lambda thing: thing[0])
        self._starts_ms = [span.start_ms for span, _ in self._things]
        self._reach_ms = reach_ms

    def near(self, around: Span) -> Iterator[T]:
        """Yield what may overlap a stretch, and whatever does."""
        first = bisect_left(self._starts_ms, around.start_ms - self._reach_ms)
        last = bisect_left(self._starts_ms, around.end_ms)
        for _, thing in self._things[first:last]:
            yield thing


@dataclass(frozen=True, slots=True)
class _Group:
    """Digits that follow one another on a line: the words ``first`` to ``last``."""

    line: int
    first: int
    last: int
    digits: str
    span: Span


@dataclass(slots=True)
class _Run:
    groups: list[_Group] = field(default_factory=list)

    @property
    def length(self) -> int:
        return sum(len(group.digits) for group in self.groups)

    @property
    def end_ms(self) -> int:
        return max(group.span.end_ms for group in self.groups)

    @property
    def start_ms(self) -> int:
        return self.groups[0].span.start_ms


def find_masks(lines: Sequence[Line], classes: Collection[str]) -> list[Mask]:
    """Return what is to be masked of several channels that are heard together.

    ``classes`` are those that a policy names: others are masked only as a part of what it names, or
    where they have seven digits.
    """
    return list(_MaskFinder(lines, classes).find())


class _MaskFinder:
    def __init__(self, lines: Sequence[Line], classes: Collection[str]) -> None:
        self._lines = lines
        self._classes = frozenset(classes)
        self._tokens = [read_tokens([word.text for word in line.words]) for line in lines]
        spoken = sorted(
            (
                (word.start_ms, token)
                for line, tokens in zip(lines, self._tokens, strict=True)
                for word, token in zip(line.words, tokens, strict=True)
                if token.kind is not TokenKind.FILLER
            ),
            key=lambda pair: pair[0],
        )
        #: All words but fillers, in order, and when each begins.
        self._spoken = [token for _, token in spoken]
        self._starts_ms = [start_ms for start_ms, _ in spoken]
        self._words = _InOrder(
            ((word.span, word) for line in lines for word in line.words), _WORD_REACH_MS
        )
        self._wordless = _InOrder(
            ((span, span) for line in lines for span in _wordless_speech(line)), _REGION_REACH_MS
        )

    def find(self) -> Iterator[Mask]:
        card_end_ms: int | None = None
        for run in self._runs():
            is_after_card = card_end_ms is not None and run.start_ms - card_end_ms <= _AFTER_CARD_MS
            run_class = self._class_of(run, is_after_card=is_after_card)
            if run_class is None:
                continue
            if run_class is MaskClass.CARD and run.length >= _LONG_MIN:
                card_end_ms = run.end_ms
            yield from self._mask_run(run, run_class)
        yield from self._dated_expiries()

    # What a run is.

    def _class_of(self, run: _Run, *, is_after_card: bool) -> MaskClass | None:
        """Return what a run is masked as, or None."""
        context = self._context_class(run.groups[0])
        if run.length >= _LONG_MIN:
            if run.length >= _CARD_MIN or context is MaskClass.CARD or is_after_card:
                return MaskClass.CARD if MaskClass.CARD in self._classes else MaskClass.NUMBER
            is_account = context is MaskClass.BANK_ACCOUNT and context in self._classes
            return MaskClass.BANK_ACCOUNT if is_account else MaskClass.NUMBER
        least = 2 if context is MaskClass.EXPIRY else _SHORT_MIN
        if context is not None and run.length >= least:
            return context if context in self._classes else None
        if run.length >= _SHORT_MIN and self._is_heard_in_part(run):
            return MaskClass.CARD if MaskClass.CARD in self._classes else None
        if is_after_card and run.length >= _SHORT_MIN and MaskClass.CARD in self._classes:
            return MaskClass.SECURITY_CODE if run.length == _SHORT_MIN else MaskClass.CARD
        return None

    def _is_heard_in_part(self, run: _Run) -> bool:
        """Tell whether a number was read out digit by digit beside speech that nobody wrote.

        It may be the rest of a longer one.
        """
        is_spelled = all(
            token.is_spelled
            for group in run.groups
            for token in self._tokens[group.line][group.first : group.last + 1]
            if token.is_digits
        )
        if not is_spelled:
            return False
        around = Span(max(0, run.start_ms - _RUN_PAUSE_MS), run.end_ms + _RUN_PAUSE_MS)
        parts = (wordless.overlap(around) for wordless in self._wordless.near(around))
        return sum(part.duration_ms for part in parts if part) >= _UNWRITTEN_MIN_MS

    def _context_class(self, group: _Group) -> MaskClass | None:
        """Return what the words around a group say that it is."""
        span = group.span
        before = self._spoken_between(span.start_ms - _CONTEXT_MS, span.start_ms)
        after = self._spoken_between(span.end_ms, span.end_ms + _AFTER_MS)
        # The nearest word says it: "and the security code on the card" is about the code.
        return _nearest_class(before[: -_CONTEXT_WORDS - 1 : -1]) or _nearest_class(after)

    # Groups and runs.

    def _runs(self) -> list[_Run]:
        runs: list[_Run] = []
        for group in self._groups():
            if runs and self._continues(runs[-1], group):
                runs[-1].groups.append(group)
            else:
                runs.append(_Run([group]))
        return runs

    def _continues(self, run: _Run, group: _Group) -> bool:
        if group.span.start_ms - run.end_ms > _RUN_PAUSE_MS:
            return False
        words = sum(
            not token.is_digits
            for token in self._spoken_between(run.groups[-1].span.end_ms, group.span.start_ms)
        )
        is_lone = min(len(run.groups[-1].digits), len(group.digits)) < 2 and run.length < _LONG_MIN
        return words <= (_LONE_WORDS_MAX if is_lone else _RUN_WORDS_MAX)

    def _spoken_between(self, start_ms: int, end_ms: int) -> list[Token]:
        first, last = bisect_left(self._starts_ms, start_ms), bisect_left(self._starts_ms, end_ms)
        return self._spoken[first:last]

    def _groups(self) -> list[_Group]:
        groups = [
            group for index in range(len(self._lines)) for group in self._groups_of_line(index)
        ]
        return sorted(groups, key=lambda group: (group.span, group.line))

    def _groups_of_line(self, line: int) -> Iterator[_Group]:
        words, tokens = self._lines[line].words, self._tokens[line]
        members: list[int] = []
        for index, token in enumerate(tokens):
            if not token.is_digits:
                continue
            if members and not self._follows(line, members[-1], index):
                yield _to_group(line, words, tokens, members)
                members = []
            members.append(index)
        if members:
            yield _to_group(line, words, tokens, members)

    def _follows(self, line: int, last: int, index: int) -> bool:
        words, between = self._lines[line].words, self._tokens[line][last + 1 : index]
        is_close = words[index].start_ms - words[last].end_ms <= _GROUP_PAUSE_MS
        fillers_only = all(token.kind is TokenKind.FILLER for token in between)
        return is_close and fillers_only and len(between) <= _GROUP_FILLERS_MAX

    # Masks of a run.

    def _mask_run(self, run: _Run, run_class: MaskClass) -> Iterator[Mask]:
        for index, group in enumerate(run.groups):
            yield from self._mask_words(group, self._class_in_run(run, index, run_class))
        for left, right in pairwise(run.groups):
            yield from self._mask_between(left, right, run_class)
        if run.length >= _SHORT_MIN:
            yield from self._mask_beside(run, run_class)

    def _class_in_run(self, run: _Run, index: int, run_class: MaskClass) -> MaskClass:
        """Return what a group of a run is: a code is asked for between the groups of a card."""
        if index == 0:
            return run_class
        group, before = run.groups[index], run.groups[index - 1]
        between = self._spoken_between(before.span.end_ms, group.span.start_ms)
        nearest = _nearest_class(between[::-1])
        is_known = nearest in self._classes and len(group.digits) < _LONG_MIN
        return nearest if nearest is not None and is_known else run_class

    def _mask_words(self, group: _Group, mask_class: MaskClass) -> Iterator[Mask]:
        line = self._lines[group.line]
        for span in merge(_padded(word) for word in line.words[group.first : group.last + 1]):
            yield Mask(span, mask_class)
        # Where times are guesses, the words may have been said anywhere in the region.
        for region in line.untimed_speech:
            if region.overlap(group.span):
                yield Mask(region, mask_class, is_doubtful=True)

    def _mask_between(self, left: _Group, right: _Group, run_class: MaskClass) -> Iterator[Mask]:
        """Mask what lies between two groups that are close."""
        start_ms, end_ms = left.span.end_ms, right.span.start_ms
        if not 0 < end_ms - start_ms <= _BETWEEN_MS:
            return
        words = [t for t in self._spoken_between(start_ms, end_ms) if not t.is_digits]
        if len(words) <= _BETWEEN_WORDS_MAX:
            yield Mask(Span(start_ms, end_ms), run_class)

    def _mask_beside(self, run: _Run, run_class: MaskClass) -> Iterator[Mask]:
        """Mask what was not understood inside a run, and at its sides."""
        around = Span(max(0, run.start_ms - _BESIDE_MS), run.end_ms + _BESIDE_MS)
        for word in self._words.near(around):
            is_unsure = word.confidence is not None and word.confidence < _UNSURE_BELOW
            if is_unsure and around.start_ms <= word.middle_ms < around.end_ms:
                yield Mask(_padded(word), run_class, is_doubtful=True)
        # Of what nobody wrote, nobody knows that it is no part of the number.
        reach = Span(max(0, run.start_ms - _RUN_PAUSE_MS), run.end_ms + _RUN_PAUSE_MS)
        for wordless in self._wordless.near(reach):
            if wordless.duration_ms >= _UNWRITTEN_PART_MS and wordless.overlap(reach):
                yield Mask(wordless, run_class, is_doubtful=True)
            elif part := wordless.overlap(around):
                yield Mask(part, run_class, is_doubtful=True)

    def _dated_expiries(self) -> Iterator[Mask]:
        """Mask a month and a year where somebody speaks of a card's end."""
        if MaskClass.EXPIRY not in self._classes:
            return
        for line, tokens in zip(self._lines, self._tokens, strict=True):
            for index, token in enumerate(tokens):
                if token.kind is not TokenKind.MONTH:
                    continue
                last = index
                while last + 1 < len(tokens) and (
                    tokens[last + 1].digits or tokens[last + 1].kind is TokenKind.FILLER
                ):
                    last += 1
                while last > index and not tokens[last].digits:
                    last -= 1
                span = Span(line.words[index].start_ms, line.words[last].end_ms)
                group = _Group(0, index, last, "", span)
                if self._context_class(group) is MaskClass.EXPIRY:
                    for word in line.words[index : last + 1]:
                        yield Mask(_padded(word), MaskClass.EXPIRY)


def _to_group(
    line: int, words: Sequence[Word], tokens: Sequence[Token], members: Sequence[int]
) -> _Group:
    return _Group(
        line,
        members[0],
        members[-1],
        "".join(tokens[index].digits for index in members),
        Span(words[members[0]].start_ms, max(words[index].end_ms for index in members)),
    )


def _nearest_class(tokens: Sequence[Token]) -> MaskClass | None:
    """Return the class that words name, the nearest first; a weak one needs another word's help.

    Of the nearest few a code or an expiry counts more: "the security code on the card" is no card's
    number.
    """
    named = list(_named_classes([token.text for token in tokens]))
    for at, mask_class in named:
        if mask_class in _PARTS_OF_CARDS and at < _NEAREST_WORDS:
            return mask_class
    return named[0][1] if named else None


def _named_classes(texts: Sequence[str]) -> Iterator[tuple[int, MaskClass]]:
    has_help = any(text in _STRENGTHENED_BY for text in texts)
    for index, text in enumerate(texts):
        if text == "code" and index + 1 < len(texts) and texts[index + 1] in _OTHER_CODES:
            continue
        for mask_class, keywords in _KEYWORDS.items():
            if text in keywords and (text not in _WEAK or has_help):
                yield index, mask_class


def _padded(word: Word) -> Span:
    return Span(max(0, word.start_ms - _PAD_MS), word.end_ms + _PAD_MS)


def find_unwritten(line: Line) -> Iterator[Mask]:
    """Yield a channel's speech that nobody wrote, if it is long enough for two digits."""
    for span in _wordless_speech(line):
        if span.duration_ms >= _UNWRITTEN_AUDIO_MS:
            yield Mask(span, MaskClass.NO_WORDS, is_doubtful=True)


def _wordless_speech(line: Line) -> Iterator[Span]:
    """Yield stretches of speech that no word covers, if they last; in order."""
    index = 0
    for region in line.speech:
        at_ms = region.start_ms
        while index < len(line.words) and line.words[index].start_ms < region.end_ms:
            word = line.words[index]
            if word.start_ms - at_ms >= _WORDLESS_MIN_MS:
                yield Span(at_ms, word.start_ms)
            at_ms = max(at_ms, word.end_ms)
            index += 1
        if region.end_ms - at_ms >= _WORDLESS_MIN_MS:
            yield Span(at_ms, region.end_ms)
        # The last word may reach into the next region.
        if index and line.words[index - 1].end_ms > region.end_ms:
            index -= 1
