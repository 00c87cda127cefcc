"""A worker whose models answer at once, so that what is left is the cost of queue and ledger.

    python -m ops.bench.nullworker segments --name null0

The command line is that of ``python -m workers``.

``BENCH_TIMES`` names a file that gets a line a segment: when it began and ended, by the monotonic
clock. It begins before its claim is asked, and ends after its finish was committed.
``BENCH_TRACE`` names a file that gets libpq's trace of some segments in a row.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import event

from ops.bench.times import Times
from schema.span import Span
from schema.store.ledger import Cursor, Ledger
from schema.store.work.segments import Claim, EndResult
from schema.words import SegmentResult, Word
from workers.__main__ import main
from workers.process.lease import LeasedClaim
from workers.process.memory import freeze_gc
from workers.process.metrics import StageSeconds
from workers.segment.pipeline import DecodedOrError, DecodeOutput, SegmentDecoder

if TYPE_CHECKING:
    from workers.context import Worker

T = TypeVar("T")

#: Segments traced, after a worker's first ones, in which statements are prepared.
TRACED = 100
_UNTRACED = 50

_WORDS = 800
_TEXTS = ("hello,", "thank", "you", "for", "calling", "the", "support", "line", "today,", "Ann.")


def made_up_result(words: int = _WORDS) -> SegmentResult:
    """Return a result as of five minutes of a call: words in sentences, with pauses between."""
    said, speech, at_ms = [], [], 400
    for start in range(0, words, 20):
        begun_ms = at_ms
        for index in range(start, min(start + 20, words)):
            length_ms = 180 + 17 * (index % 9)
            confidence = round(0.5 + (index * 37 % 499) / 1_000, 3)
            text = _TEXTS[index % len(_TEXTS)]
            said.append(Word(text, at_ms, at_ms + length_ms, confidence))
            at_ms += length_ms + 20
        speech.append(Span(begun_ms, at_ms))
        at_ms += 1_500
    return SegmentResult(tuple(said), tuple(speech), "en")


class NullDecoder(SegmentDecoder):
    """Says the same of every segment, without a look at it."""

    @cached_property
    def _result(self) -> SegmentResult:
        result = made_up_result()
        freeze_gc()  # as after a model is loaded
        return result

    def decode_all(self, claims: Sequence[LeasedClaim]) -> list[DecodedOrError]:
        """Return the same words for every claim."""
        return [DecodeOutput(self._result, StageSeconds(0.0, 0.0, 0.0)) for _ in claims]


class TimedLedger(Ledger):
    """The ledger, which also notes how long each segment took from its claim to its finish."""

    def __init__(self, ledger: Ledger, times: Times, trace: str | None) -> None:
        super().__init__(ledger.engine)
        self._times = times
        self._claimed_s = 0.0
        self._trace = trace
        self._finished = 0
        self._connections: list[Any] = []
        event.listen(self.engine, "connect", lambda raw, _: self._connections.append(raw.pgconn))

    def run_statement(self, work: Callable[[Cursor], T]) -> T:
        """Run one statement; claims and finishes are told apart by what they return."""
        asked_s = time.monotonic()
        outcome = super().run_statement(work)
        if isinstance(outcome, Claim):
            self._claimed_s = asked_s
        elif isinstance(outcome, EndResult):
            self._times.add(self._claimed_s, time.monotonic())
            self._finished += 1
            self._trace_some()
        return outcome

    def _trace_some(self) -> None:
        if self._trace is None:
            return
        if self._finished == _UNTRACED:
            with Path(self._trace).open("wb") as file:
                for connection in self._connections:
                    connection.trace(os.dup(file.fileno()))
        elif self._finished == _UNTRACED + TRACED:
            for connection in self._connections:
                connection.untrace()


def prepare(worker: Worker) -> None:
    """Put the null decoder in place of the models."""
    worker.segment_decoder = NullDecoder(worker.settings)
    if path := os.environ.get("BENCH_TIMES"):
        ledger, trace = Ledger.open(worker.settings), os.environ.get("BENCH_TRACE")
        worker.ledger = TimedLedger(ledger, Times(path), trace)


if __name__ == "__main__":
    sys.exit(main(prepare=prepare))
