"""Words that one speaker's voice leaves on another's channel, taken out. Pure.

In a stereo call a loud speaker is heard, faintly, on the other channel too (a headset, a hybrid, an
echo), and is written twice. What tells such words from two people who say the same: a run of equal
words at equal times but for a small constant delay; all of it fainter than on the other channel;
and fainter than what this channel's own speaker says. Where the levels do not prove it the words
stay and are counted as suspected: two who count together keep their words.

The levels come with the segments' results (:mod:`workers.transcript.loudness`). Results without
them prove nothing, and lose nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, groupby
from statistics import median

from schema.transcript import Flag, is_cjk
from schema.words import Word
from workers.transcript.alignment import normal
from workers.transcript.loudness import Loudness
from workers.transcript.stitch import Track

#: An echo over a long line comes this much later.
_DELAY_MAX_MS = 400

#: Two decodes of one word, loud and faint, differ by less than this.
_JITTER_MS = 200

#: A faint voice is misheard now and then: so many words may lie between two of a run.
_MISHEARD = 2
_RUN_PAUSE_MS = 2_000

#: A run of so many words, or of characters where each is a word, is no coincidence.
_SURE_WORDS = 3
_SURE_CHARACTERS = 5

#: So much fainter than its source, and than the channel's own voice, is what was only overheard;
#: and so much where the channel has too few words of its own to know its voice by.
_FAINTER_DB = 6.0
_MUCH_FAINTER_DB = 10.0
_OWN_WORDS = 5

#: From run to run the loss on the way to the other channel seems to differ by so much, and that of
#: a misheard word, which only its level gives away, by so much.
_LOSS_SPREAD_DB = 6.0
_MISHEARD_SPREAD_DB = 3.0


@dataclass(frozen=True, slots=True)
class Cleaned:
    """Tracks without crosstalk; how many words were taken out, and how many stay suspected."""

    tracks: tuple[Track, ...]
    removed: int
    suspected: int

    @property
    def flags(self) -> tuple[str, ...]:
        """What a reader of the recording should know, with the number of words."""
        counts = {Flag.CROSSTALK: self.removed, Flag.CROSSTALK_SUSPECTED: self.suspected}
        return tuple(flag.counted(count) for flag, count in counts.items() if count)


#: Indexes of equal words at equal times: the source's, the other's.
_Pair = tuple[int, int]
_Run = list[_Pair]


@dataclass(frozen=True, slots=True)
class _Side:
    """One channel's words, its levels, and its own speaker's level in dB where that is known."""

    words: Sequence[Word]
    levels: Loudness
    own_db: float | None


def without_crosstalk(tracks: Sequence[Track], levels: Mapping[int | None, Loudness]) -> Cleaned:
    """Return the tracks of a recording's channels without the words that were only overheard.

    Speech and seams stay as they are: what was heard was heard, and is accounted for.
    """
    gone: list[set[int]] = [set() for _ in tracks]
    suspected = 0
    for a, b in combinations(range(len(tracks)), 2):
        words = tracks[a].words, tracks[b].words
        heard = [levels.get(tracks[x].channel) or Loudness(()) for x in (a, b)]
        runs = _runs(*words)
        in_b = _fainter(runs, words, heard)
        in_a = _fainter([[(j, i) for i, j in run] for run in runs], words[::-1], heard[::-1])
        left = _side(words[0], heard[0], in_a)
        right = _side(words[1], heard[1], in_b)
        gone_b, gone_a = _overheard(left, right, in_b), _overheard(right, left, in_a)
        gone[a] |= gone_a
        gone[b] |= gone_b
        sure = [run for run in runs if _is_sure(run, words[0])]
        suspected += sum(i not in gone_a and j not in gone_b for run in sure for i, j in run)
    cleaned = tuple(_without(track, own) for track, own in zip(tracks, gone, strict=True))
    return Cleaned(cleaned, sum(map(len, gone)), suspected)


def _without(track: Track, gone: set[int]) -> Track:
    kept = tuple(word for index, word in enumerate(track.words) if index not in gone)
    return replace(track, words=kept) if gone else track


def _fainter(
    runs: Sequence[_Run], words: Sequence[Sequence[Word]], levels: Sequence[Loudness]
) -> list[_Run]:
    """Return the stretches of runs in which the second channel is clearly the fainter one.

    Two who take turns, each overheard on the other's channel, make one long run of both.
    """

    def is_fainter(pair: _Pair) -> bool:
        loss_db = _loss_db(levels[0], words[0][pair[0]], levels[1], words[1][pair[1]])
        return loss_db is not None and loss_db >= _FAINTER_DB

    return [list(part) for run in runs for fainter, part in groupby(run, is_fainter) if fainter]


def _loss_db(source: Loudness, word: Word, other: Loudness, copy: Word) -> float | None:
    from_db, to_db = source.at(word.span), other.at(copy.span)
    return None if from_db is None or to_db is None else from_db - to_db


def _side(words: Sequence[Word], levels: Loudness, copies: Sequence[_Run]) -> _Side:
    """Return a channel with its own speaker's level: that of words which are no faint copy."""
    faint = {j for run in copies for _, j in run}
    own = [levels.at(word.span) for j, word in enumerate(words) if j not in faint]
    known = [level for level in own if level is not None]
    return _Side(words, levels, median(known) if len(known) >= _OWN_WORDS else None)


def _overheard(source: _Side, other: _Side, runs: Sequence[_Run]) -> set[int]:
    """Return the indexes of the other's words that are the source's voice, given faint runs.

    A sure run proves that the source is overheard, and how faintly. Then shorter ones that are as
    faint count as well, and so do the words around them: left alone, misheard ones would be
    fragments.
    """
    losses = [(run, loss) for run in runs if (loss := _proved_db(source, other, run)) is not None]
    proved = [loss for run, loss in losses if _is_sure(run, source.words)]
    if not proved:
        return set()
    usual_db = median(proved)
    found: set[int] = set()
    for run, loss in losses:
        if abs(loss - usual_db) <= _LOSS_SPREAD_DB:
            found |= {j for _, j in run}
            found |= set(_misheard(source, other, run, usual_db))
    return found


def _proved_db(source: _Side, other: _Side, run: _Run) -> float | None:
    """Return by how much a run is fainter on the other channel, or None where it is not proved."""
    own_db = [other.levels.at(other.words[j].span) or 0.0 for _, j in run]
    losses = [
        _loss_db(source.levels, source.words[i], other.levels, other.words[j]) or 0.0
        for i, j in run
    ]
    loss_db = median(losses)
    if other.own_db is None:
        return loss_db if loss_db >= _MUCH_FAINTER_DB else None
    return loss_db if other.own_db - median(own_db) >= _FAINTER_DB else None


def _misheard(source: _Side, other: _Side, run: _Run, usual_db: float) -> Iterator[int]:
    """Yield the other's words within a run and beside it that are as faint beneath the source."""
    first, last = run[0][1], run[-1][1]
    yield from (j for j in range(first, last) if _is_beneath(source, other, j, usual_db))
    for step, begin in ((-1, first), (1, last)):
        j = begin + step
        while 0 <= j < len(other.words) and _is_near(other.words[j], other.words[j - step]):
            if not _is_beneath(source, other, j, usual_db):
                break
            yield j
            j += step


def _is_near(word: Word, beside: Word) -> bool:
    return max(word.start_ms - beside.end_ms, beside.start_ms - word.end_ms) <= _RUN_PAUSE_MS


def _is_beneath(source: _Side, other: _Side, j: int, usual_db: float) -> bool:
    """Tell whether a word lies under words of the source, and is as faint beneath them as usual."""
    word = other.words[j]
    loss_db = _loss_db(source.levels, word, other.levels, word)
    if loss_db is None or abs(loss_db - usual_db) > _MISHEARD_SPREAD_DB:
        return False
    own_db = other.levels.at(word.span)
    if other.own_db is not None and other.own_db - (own_db or 0.0) < _MISHEARD_SPREAD_DB:
        return False
    early_ms, late_ms = word.start_ms - _DELAY_MAX_MS, word.end_ms + _DELAY_MAX_MS
    at = bisect_left(source.words, early_ms, key=lambda own: own.start_ms)
    beside = source.words[max(0, at - 1) : at + 1]
    return any(own.start_ms < late_ms and own.end_ms > early_ms for own in beside)


def _runs(lefts: Sequence[Word], rights: Sequence[Word]) -> list[_Run]:
    """Return runs of equal words at equal times, longest first; each word is in one at most.

    The delay within a run is constant, and few words lie between two of its own.
    """
    open_runs: list[_Run] = []
    closed: list[_Run] = []
    for i, j in _pairs(lefts, rights):
        since_ms = lefts[i].start_ms - _RUN_PAUSE_MS
        closed += [run for run in open_runs if lefts[run[-1][0]].end_ms < since_ms]
        open_runs = [run for run in open_runs if lefts[run[-1][0]].end_ms >= since_ms]
        fitting = [run for run in open_runs if _continues(run, (i, j), lefts, rights)]
        if fitting:
            max(fitting, key=len).append((i, j))
        else:
            open_runs.append([(i, j)])
    used: tuple[set[int], set[int]] = (set(), set())
    chosen: list[_Run] = []
    for run in sorted((*closed, *open_runs), key=lambda run: (-len(run), run)):
        own = [(i, j) for i, j in run if i not in used[0] and j not in used[1]]
        if own:
            chosen.append(own)
            used[0].update(i for i, _ in own)
            used[1].update(j for _, j in own)
    return chosen


def _pairs(lefts: Sequence[Word], rights: Sequence[Word]) -> Iterator[_Pair]:
    """Yield the indexes of equal words at nearly equal times, in order."""
    texts = [normal(word.text) for word in rights]
    begin = 0
    for i, left in enumerate(lefts):
        text = normal(left.text)
        while begin < len(rights) and rights[begin].end_ms < left.start_ms - _DELAY_MAX_MS:
            begin += 1
        for j in range(begin, len(rights)):
            if rights[j].start_ms > left.end_ms + _DELAY_MAX_MS:
                break
            if text and text == texts[j] and abs(_delay_ms(left, rights[j])) <= _DELAY_MAX_MS:
                yield i, j


def _continues(run: _Run, pair: _Pair, lefts: Sequence[Word], rights: Sequence[Word]) -> bool:
    (last_i, last_j), (i, j) = run[-1], pair
    if not (0 < i - last_i <= _MISHEARD + 1 and 0 < j - last_j <= _MISHEARD + 1):
        return False
    usual_ms = median(_delay_ms(lefts[own], rights[new]) for own, new in run)
    return abs(_delay_ms(lefts[i], rights[j]) - usual_ms) <= _JITTER_MS


def _delay_ms(left: Word, right: Word) -> int:
    return right.middle_ms - left.middle_ms


def _is_sure(run: _Run, words: Sequence[Word]) -> bool:
    text = "".join(normal(words[i].text) for i, _ in run)
    return len(run) >= (_SURE_CHARACTERS if is_cjk(text[0]) else _SURE_WORDS)
