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

from schema.text import is_cjk
from schema.words import Word
from workers.transcript.alignment import comparison_form
from workers.transcript.loudness import Loudness
from workers.transcript.stitch import ChannelTimeline

#: An echo over a long line comes this much later.
_DELAY_MAX_MS = 400

#: Two decodes of one word, loud and faint, differ by less than this.
_JITTER_MS = 200

#: A faint voice is misheard now and then: so many words may lie between two of a run.
_MISHEARD_WORDS_MAX = 2
_RUN_PAUSE_MS = 2_000

#: A run of so many words, or of characters where each is a word, is no coincidence.
_SURE_WORDS = 3
_SURE_CHARACTERS = 5

#: So much fainter than its source, and than the channel's own voice, is what was only overheard;
#: and so much where the channel has too few words of its own to know its voice by.
_FAINTER_DB = 6.0
_MUCH_FAINTER_DB = 10.0
_VOICE_WORDS_MIN = 5

#: From run to run the loss on the way to the other channel seems to differ by so much, and that of
#: a misheard word, which only its level gives away, by so much.
_LOSS_SPREAD_DB = 6.0
_MISHEARD_SPREAD_DB = 3.0


@dataclass(frozen=True, slots=True)
class CrosstalkResult:
    """Timelines without crosstalk; of each the words taken out, and those that stay suspected.

    A suspected word is counted on one channel, though nobody knows which has the copy: the later.
    """

    timelines: tuple[ChannelTimeline, ...]
    removed_words: tuple[tuple[Word, ...], ...]
    suspected_words: tuple[tuple[Word, ...], ...]


#: Indexes of equal words at equal times: the source's, the other's.
_Pair = tuple[int, int]
_Run = list[_Pair]


@dataclass(frozen=True, slots=True)
class _Voice:
    """One channel's words, its loudness, and its own speaker's level in dB where that is known."""

    words: Sequence[Word]
    loudness: Loudness
    voice_db: float | None


def drop_crosstalk(
    timelines: Sequence[ChannelTimeline], loudness_by_channel: Mapping[int | None, Loudness]
) -> CrosstalkResult:
    """Return the timelines of a recording's channels without the words that were only overheard.

    Speech and seams stay as they are: what was heard was heard, and is accounted for.
    """
    echoes: list[set[int]] = [set() for _ in timelines]
    suspects: list[set[int]] = [set() for _ in timelines]
    for left, right in combinations(range(len(timelines)), 2):
        words = timelines[left].words, timelines[right].words
        pair_loudness = [
            loudness_by_channel.get(timelines[index].channel) or Loudness(())
            for index in (left, right)
        ]
        runs = _equal_runs(*words)
        mirrored_runs = [[(j, i) for i, j in run] for run in runs]
        copies_in_right = _fainter_runs(runs, words, pair_loudness)
        copies_in_left = _fainter_runs(mirrored_runs, words[::-1], pair_loudness[::-1])
        left_voice = _measure_voice(words[0], pair_loudness[0], copies_in_left)
        right_voice = _measure_voice(words[1], pair_loudness[1], copies_in_right)
        echoes_left = _overheard_indexes(right_voice, left_voice, copies_in_left)
        echoes_right = _overheard_indexes(left_voice, right_voice, copies_in_right)
        echoes[left] |= echoes_left
        echoes[right] |= echoes_right
        sure_pairs = [pair for run in runs if _is_sure_run(run, words[0]) for pair in run]
        suspects[right] |= {
            j for i, j in sure_pairs if i not in echoes_left and j not in echoes_right
        }
    return CrosstalkResult(
        tuple(map(_drop_words, timelines, echoes)),
        removed_words=tuple(map(_select_words, timelines, echoes)),
        suspected_words=tuple(map(_select_words, timelines, suspects)),
    )


def _select_words(timeline: ChannelTimeline, indexes: set[int]) -> tuple[Word, ...]:
    return tuple(timeline.words[index] for index in sorted(indexes))


def _drop_words(timeline: ChannelTimeline, indexes: set[int]) -> ChannelTimeline:
    words = tuple(word for index, word in enumerate(timeline.words) if index not in indexes)
    return replace(timeline, words=words) if indexes else timeline


def _fainter_runs(
    runs: Sequence[_Run], words: Sequence[Sequence[Word]], pair_loudness: Sequence[Loudness]
) -> list[_Run]:
    """Return the stretches of runs in which the second channel is clearly the fainter one.

    Two who take turns, each overheard on the other's channel, make one long run of both.
    """

    def is_fainter(pair: _Pair) -> bool:
        loss_db = _loss_db(pair_loudness[0], words[0][pair[0]], pair_loudness[1], words[1][pair[1]])
        return loss_db is not None and loss_db >= _FAINTER_DB

    return [list(part) for run in runs for fainter, part in groupby(run, is_fainter) if fainter]


def _loss_db(source: Loudness, word: Word, other: Loudness, copy: Word) -> float | None:
    from_db, to_db = source.level_db(word.span), other.level_db(copy.span)
    return None if from_db is None or to_db is None else from_db - to_db


def _measure_voice(words: Sequence[Word], loudness: Loudness, copies: Sequence[_Run]) -> _Voice:
    """Return a channel with its own speaker's level: that of words which are no faint copy."""
    copy_indexes = {j for run in copies for _, j in run}
    own_words = (word for j, word in enumerate(words) if j not in copy_indexes)
    levels_db = [
        db for db in (loudness.level_db(word.span) for word in own_words) if db is not None
    ]
    voice_db = median(levels_db) if len(levels_db) >= _VOICE_WORDS_MIN else None
    return _Voice(words, loudness, voice_db)


def _overheard_indexes(source: _Voice, other: _Voice, runs: Sequence[_Run]) -> set[int]:
    """Return the indexes of the other's words that are the source's voice, given faint runs.

    A sure run proves that the source is overheard, and how faintly. Then shorter ones that are as
    faint count as well, and so do the words around them: left alone, misheard ones would be
    fragments.
    """
    losses_db = [(run, _proven_loss_db(source, other, run)) for run in runs]
    proven = [(run, loss_db) for run, loss_db in losses_db if loss_db is not None]
    sure_losses_db = [loss_db for run, loss_db in proven if _is_sure_run(run, source.words)]
    if not sure_losses_db:
        return set()
    usual_db = median(sure_losses_db)
    indexes: set[int] = set()
    for run, loss_db in proven:
        if abs(loss_db - usual_db) <= _LOSS_SPREAD_DB:
            indexes |= {j for _, j in run}
            indexes |= set(_misheard_indexes(source, other, run, usual_db))
    return indexes


def _proven_loss_db(source: _Voice, other: _Voice, run: _Run) -> float | None:
    """Return by how much a run is fainter on the other channel, or None where it is not proved."""
    levels_db = [other.loudness.level_db(other.words[j].span) or 0.0 for _, j in run]
    loss_db = median(
        _loss_db(source.loudness, source.words[i], other.loudness, other.words[j]) or 0.0
        for i, j in run
    )
    if other.voice_db is None:
        return loss_db if loss_db >= _MUCH_FAINTER_DB else None
    return loss_db if other.voice_db - median(levels_db) >= _FAINTER_DB else None


def _misheard_indexes(source: _Voice, other: _Voice, run: _Run, usual_db: float) -> Iterator[int]:
    """Yield the other's words within a run and beside it that are as faint beneath the source."""
    first, last = run[0][1], run[-1][1]
    yield from (j for j in range(first, last) if _is_masked(source, other, j, usual_db))
    for step, edge in ((-1, first), (1, last)):
        j = edge + step
        while 0 <= j < len(other.words) and _is_near(other.words[j], other.words[j - step]):
            if not _is_masked(source, other, j, usual_db):
                break
            yield j
            j += step


def _is_near(word: Word, neighbour: Word) -> bool:
    return max(word.start_ms - neighbour.end_ms, neighbour.start_ms - word.end_ms) <= _RUN_PAUSE_MS


def _is_masked(source: _Voice, other: _Voice, j: int, usual_db: float) -> bool:
    """Tell whether a word lies under words of the source, and is as faint beneath them as usual."""
    word = other.words[j]
    loss_db = _loss_db(source.loudness, word, other.loudness, word)
    if loss_db is None or abs(loss_db - usual_db) > _MISHEARD_SPREAD_DB:
        return False
    level_db = other.loudness.level_db(word.span)
    if other.voice_db is not None and other.voice_db - (level_db or 0.0) < _MISHEARD_SPREAD_DB:
        return False
    early_ms, late_ms = word.start_ms - _DELAY_MAX_MS, word.end_ms + _DELAY_MAX_MS
    index = bisect_left(source.words, early_ms, key=lambda source_word: source_word.start_ms)
    source_words = source.words[max(0, index - 1) : index + 1]
    return any(w.start_ms < late_ms and w.end_ms > early_ms for w in source_words)


def _equal_runs(lefts: Sequence[Word], rights: Sequence[Word]) -> list[_Run]:
    """Return runs of equal words at equal times, longest first; each word is in one at most.

    The delay within a run is constant, and few words lie between two of its own.
    """
    open_runs: list[_Run] = []
    closed_runs: list[_Run] = []
    for i, j in _simultaneous_pairs(lefts, rights):
        since_ms = lefts[i].start_ms - _RUN_PAUSE_MS
        closed_runs += [run for run in open_runs if lefts[run[-1][0]].end_ms < since_ms]
        open_runs = [run for run in open_runs if lefts[run[-1][0]].end_ms >= since_ms]
        continued_runs = [run for run in open_runs if _continues_run(run, (i, j), lefts, rights)]
        if continued_runs:
            max(continued_runs, key=len).append((i, j))
        else:
            open_runs.append([(i, j)])
    used_lefts: set[int] = set()
    used_rights: set[int] = set()
    disjoint_runs: list[_Run] = []
    for run in sorted((*closed_runs, *open_runs), key=lambda run: (-len(run), run)):
        pairs = [(i, j) for i, j in run if i not in used_lefts and j not in used_rights]
        if pairs:
            disjoint_runs.append(pairs)
            used_lefts.update(i for i, _ in pairs)
            used_rights.update(j for _, j in pairs)
    return disjoint_runs


def _simultaneous_pairs(lefts: Sequence[Word], rights: Sequence[Word]) -> Iterator[_Pair]:
    texts = [comparison_form(word.text) for word in rights]
    start = 0
    for i, left in enumerate(lefts):
        text = comparison_form(left.text)
        while start < len(rights) and rights[start].end_ms < left.start_ms - _DELAY_MAX_MS:
            start += 1
        for j in range(start, len(rights)):
            if rights[j].start_ms > left.end_ms + _DELAY_MAX_MS:
                break
            if text and text == texts[j] and abs(_delay_ms(left, rights[j])) <= _DELAY_MAX_MS:
                yield i, j


def _continues_run(run: _Run, pair: _Pair, lefts: Sequence[Word], rights: Sequence[Word]) -> bool:
    (last_i, last_j), (i, j) = run[-1], pair
    steps = range(1, _MISHEARD_WORDS_MAX + 2)
    if i - last_i not in steps or j - last_j not in steps:
        return False
    usual_ms = median(_delay_ms(lefts[earlier], rights[later]) for earlier, later in run)
    return abs(_delay_ms(lefts[i], rights[j]) - usual_ms) <= _JITTER_MS


def _delay_ms(left: Word, right: Word) -> int:
    return right.middle_ms - left.middle_ms


def _is_sure_run(run: _Run, words: Sequence[Word]) -> bool:
    text = "".join(comparison_form(words[i].text) for i, _ in run)
    return len(run) >= (_SURE_CHARACTERS if is_cjk(text[0]) else _SURE_WORDS)
