"""What does it take to reduce a long recording? One table, a row for each length.

    python -m ops.bench.reduce [--hours 0.17 1 10] [--voices | --protected]

Calls of two channels, each cut into segments of five minutes with overlaps of eight seconds, made
up and finished in a ledger of their own: speech all the time, two words and a half a second on
either channel, no two sentences alike. A reducer of its own, started for each length, then stitches
the call, merges the channels and stores the transcript. The time is from its message to the end of
the recording; with ``--voices`` calls have one channel, on which two people take turns, a sentence
each, and are told apart by voices that are made up; with ``--protected`` results are sealed, and a
card is read out every ten minutes. "kB" is what the results take as they were finished. The memory
is the most that its child ever held, and what it held before.
"""

from __future__ import annotations

import argparse
import random
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from sqlalchemy import text

from ops.bench.bed import Bed, calls, new_submission, open_bed, wait_until
from ops.bench.report import print_table, say
from ops.local.process import Child, ProcessError, family
from ops.local.stack import reducer_command
from schema.profile import load_profile
from schema.records import NewRecording, PlannedSegment
from schema.seal import KeyDirectory, seal
from schema.span import Span
from schema.store.work.segments import claim_segment, finish_segment
from schema.voices import Voices
from schema.wire import Dispatch
from schema.words import SegmentResult, Word
from workers.segment.voices import find_windows

_SEGMENT_MS = 300_000
_OVERLAP_MS = 8_000
_WORD_MS = 320
_GAP_MS = 30
_SENTENCE_WORDS = 12
_PAUSE_MS = 700
_CARD_MS = 6_000
_PATIENCE_S = 600.0
_VOICE_SIZE, _VOICE_SPREAD = 192, 0.05

_HEADINGS = (
    "hours",
    "segments",
    "words in",
    "words kept",
    "seams",
    "seconds",
    "kB",
    "MB before",
    "MB at most",
    "MB grown",
)


@dataclass(frozen=True, slots=True)
class Reduced:
    """One call's reduce: words of its segments and of its transcript, and what it took."""

    hours: float
    segments: int
    written: int
    kept: int
    seams: int
    seconds: float
    result_bytes: int
    before_bytes: int
    peak_bytes: int


def main() -> None:
    """Fill, reduce, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, nargs="+", default=[1 / 6, 1.0, 10.0])
    parser.add_argument("--voices", action="store_true", help="one channel, two voices")
    parser.add_argument("--protected", action="store_true", help="sealed results, and cards")
    arguments = parser.parse_args()
    if arguments.voices and arguments.protected:
        parser.error("one of both")
    channels = 1 if arguments.voices else 2
    with open_bed() as bed, tempfile.TemporaryDirectory() as directory:
        keys = KeyDirectory(Path(directory) / "keys") if arguments.protected else None
        if keys is not None:
            keys.rotate()
            bed.environment["CALLSCRIBE_SEAL_KEYS"] = str(keys.path)
        rows = [_row(_measure(bed, hours, channels, keys)) for hours in arguments.hours]
        title = "two voices" if arguments.voices else f"{channels} channels"
        if keys is not None:
            title += ", protected"
        print_table(bed, f"Reduce of a call on {title}", _HEADINGS, rows)


def _measure(bed: Bed, hours: float, channels: int, keys: KeyDirectory | None) -> Reduced:
    bed.empty()
    spans = list(_spans(round(hours * 3_600_000)))
    message, written = _fill(bed, spans, channels, keys)
    with bed.ledger.connect() as connection:
        size = text("select sum(pg_column_size(body)) from results")
        result_bytes = int(connection.scalar(size) or 0)
    say(f"{hours:.2f} h: {written:,} words in {channels * len(spans)} segments")
    reducer = bed.child("reducer", reducer_command("reducer"))
    with reducer:
        bed.wait_for_workers([reducer])
        before_bytes = _peak_bytes(reducer)
        bed.publisher.publish([message])
        begun_s = time.monotonic()
        wait_until(lambda: _is_reduced(bed), _PATIENCE_S)
        seconds = time.monotonic() - begun_s
        peak_bytes = _peak_bytes(reducer)
    kept, seams = _stored(bed)
    return Reduced(
        hours,
        channels * len(spans),
        written,
        kept,
        seams,
        seconds,
        result_bytes,
        before_bytes,
        peak_bytes,
    )


def _spans(duration_ms: int) -> Iterator[Span]:
    start_ms = 0
    while True:
        end_ms = min(start_ms + _SEGMENT_MS, duration_ms)
        yield Span(start_ms, end_ms)
        if end_ms == duration_ms:
            return
        start_ms = end_ms - _OVERLAP_MS


def _fill(
    bed: Bed, spans: Sequence[Span], channels: int, keys: KeyDirectory | None
) -> tuple[Dispatch, int]:
    """Finish every segment of one call; return the message of its reduce, and the words."""
    [plain] = calls(1)
    recording = replace(
        plain,
        duration_ms=spans[-1].end_ms,
        format=replace(
            plain.format, channels=channels, frames=spans[-1].end_ms * plain.format.rate_hz // 1000
        ),
        segments=tuple(_segments(plain, spans, channels)),
    )
    timelines = [_timeline(channel, spans[-1].end_ms) for channel in range(channels)]
    if keys is not None:
        timelines = list(map(_with_cards, timelines))
    words, reduce = 0, None
    diarize = "auto" if channels == 1 else "off"
    changes = {"render": {"diarize": diarize}}
    profile = load_profile("call", changes if keys is None else {**changes, "redact": {}})
    submission = new_submission(bed.ledger, profile)
    for dispatch in bed.add(submission, [recording], room=1 << 30):
        held = bed.ledger.run_statement(
            partial(claim_segment, message=dispatch.message, owner="bench", lease_s=600)
        )
        if held is None:
            raise ProcessError(f"{dispatch.label} could not be claimed")
        result = _result(timelines[held.source.channel or 0], held.span)
        words += len(result.words)
        voices = _voices(result, held.span) if held.wants_voices else None
        stored = result if keys is None else seal(result, held.decode_key, keys.public_key())
        ended = bed.ledger.run_statement(
            partial(finish_segment, claim=held, result=stored, voices=voices)
        )
        reduce = ended.reduce or reduce
    if reduce is None:
        raise ProcessError("no segment asked for the reduce")
    return reduce, words


def _segments(
    plain: NewRecording, spans: Sequence[Span], channels: int
) -> Iterator[PlannedSegment]:
    digest = plain.content_digest
    for channel in range(channels):
        for index, span in enumerate(spans):
            own = f"{channel:02x}{index:06x}{digest[8:]}"
            yield PlannedSegment(channel, index, span, own)


def _with_cards(words: Sequence[Word]) -> list[Word]:
    """Return what is said with sixteen digits in a row every ten minutes."""
    return [
        replace(word, text=str(index % 10)) if word.start_ms % 600_000 < _CARD_MS else word
        for index, word in enumerate(words)
    ]


def _timeline(channel: int, duration_ms: int) -> list[Word]:
    """Return all that is said on a channel: the speakers pause at other times."""
    draw = random.Random(channel)  # noqa: S311 - no secret
    said: list[Word] = []
    at_ms = 400 + 500 * channel
    while at_ms + _WORD_MS <= duration_ms:
        spelt = "".join(draw.choice("bdfgklmnprst") + draw.choice("aeiou") for _ in range(3))
        said.append(Word(spelt, at_ms, at_ms + _WORD_MS, 0.9))
        at_ms += _WORD_MS + (_GAP_MS if len(said) % _SENTENCE_WORDS else _PAUSE_MS)
    return said


def _result(timeline: Sequence[Word], span: Span) -> SegmentResult:
    own = [w for w in timeline if span.start_ms <= w.start_ms and w.end_ms <= span.end_ms]
    words = tuple(word.shifted(-span.start_ms) for word in own)
    speech: list[Span] = []
    for word in words:
        if speech and word.start_ms - speech[-1].end_ms < _PAUSE_MS:
            speech[-1] = Span(speech[-1].start_ms, word.end_ms)
        else:
            speech.append(word.span)
    return SegmentResult(words, tuple(speech), "en")


def _voices(result: SegmentResult, span: Span) -> Voices:
    """Return voices that change with each sentence, and differ a little from window to window."""
    duration_ms = span.duration_ms
    starts_ms = np.array(
        [w.start_ms for w in find_windows(result.speech, duration_ms, span.start_ms)], np.int64
    )
    sentence_ms = _SENTENCE_WORDS * _WORD_MS + (_SENTENCE_WORDS - 1) * _GAP_MS + _PAUSE_MS
    speakers = (starts_ms + span.start_ms) // sentence_ms % 2
    draw = np.random.default_rng(span.start_ms)
    vectors = draw.normal(0, _VOICE_SPREAD, (len(starts_ms), _VOICE_SIZE)).astype(np.float32)
    vectors[np.arange(len(starts_ms)), speakers] += 1
    return Voices(starts_ms, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _is_reduced(bed: Bed) -> bool:
    query = text("select count(*) from recordings where state = 'done'")
    return bool(bed.ledger.transact(lambda c: c.execute(query).scalar_one()))


def _stored(bed: Bed) -> tuple[int, int]:
    """Return how many words and seams the one transcript has."""
    query = text(
        "select (select sum(jsonb_array_length(words)) from utterances), count(*) from seams"
    )
    words, seams = bed.ledger.transact(lambda c: c.execute(query).one())
    return int(words), int(seams)


def _peak_bytes(reducer: Child) -> int:
    """Return the most that any process of the reducer but its parent has held."""
    peaks = [0]
    for pid in family(reducer.pid) - {reducer.pid}:
        status = Path(f"/proc/{pid}/status").read_text()
        peaks += [1024 * int(kilobytes) for kilobytes in re.findall(r"VmHWM:\s+(\d+)", status)]
    return max(peaks)


def _row(own: Reduced) -> list[str]:
    grown = own.peak_bytes - own.before_bytes
    sizes = (own.before_bytes, own.peak_bytes, grown)
    return [
        f"{own.hours:.2f}",
        f"{own.segments:,}",
        f"{own.written:,}",
        f"{own.kept:,}",
        f"{own.seams:,}",
        f"{own.seconds:.1f}",
        f"{own.result_bytes / 1e3:,.0f}",
        *(f"{size / 1e6:.0f}" for size in sizes),
    ]


if __name__ == "__main__":
    main()
