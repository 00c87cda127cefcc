"""Detected speech against true speech, by the millisecond. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from schema.span import Span


class Detection(NamedTuple):
    """Milliseconds of speech and of other sound that were counted, and of errors among them."""

    speech_ms: int
    other_ms: int
    missed_ms: int
    false_ms: int


def judge(
    turns: Sequence[Span], detected: Sequence[Span], duration_ms: int, collar_ms: int
) -> Detection:
    """Compare detected speech with turns; what is within ``collar_ms`` of their edges is left out.

    Turns are joined already: an edge between two people who speak at once is no edge of speech.
    """
    counted = ~_flags(
        (_around(turn, collar_ms, duration_ms) for turn in _edges(turns)), duration_ms
    )
    speech, found = _flags(turns, duration_ms), _flags(detected, duration_ms)
    return Detection(
        int(np.sum(speech & counted)),
        int(np.sum(~speech & counted)),
        int(np.sum(speech & ~found & counted)),
        int(np.sum(~speech & found & counted)),
    )


def _edges(turns: Sequence[Span]) -> Iterable[int]:
    return (edge for turn in turns for edge in (turn.start_ms, turn.end_ms))


def _around(at_ms: int, collar_ms: int, duration_ms: int) -> Span:
    return Span(min(duration_ms, max(0, at_ms - collar_ms)), min(duration_ms, at_ms + collar_ms))


def _flags(spans: Iterable[Span], duration_ms: int) -> npt.NDArray[np.bool_]:
    """Return for each millisecond whether any span covers it."""
    flags = np.zeros(duration_ms, np.bool_)
    for span in spans:
        flags[span.start_ms : span.end_ms] = True
    return flags
