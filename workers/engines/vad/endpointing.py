"""Where speech begins and ends, from one probability a frame: FSMN-VAD's rules, over arrays. Pure.

What FunASR's ``FsmnVADStreaming`` decides frame by frame, in Python, is decided here turn by turn:
an hour has 360,000 frames, but only some thousand times at which speech begins or pauses. A frame
is speech or not; a window of 20 frames tells a start (15 of them are speech) from noise, and a
pause (no more than 15 are) from a stop within a word; and speech has ended once the pause is long
enough. The window is emptied after each region. The same frames give the same regions as there,
but for one thing: where audio ends with silence exactly as a chunk of FunASR's does, its last
region ends with that silence, and ours as if no chunk had ended.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from schema.span import Span

FRAME_MS = 10

#: Frames that the window holds, and how many of them must be speech.
_WINDOW = 20
_VOICED = 15

#: Frames kept before the first that the window calls speech: those in it, and as many again.
_LOOKBACK = 2 * _WINDOW
#: Frames kept after the last that it does.
_LOOKAHEAD = 10
#: A pause is noticed this much after it began, which counts as part of it.
_NOTICED_MS = 150

Flags = npt.NDArray[np.bool_]


def regions(is_speech: Flags, end_silence_ms: int) -> list[Span]:
    """Return the regions of speech, in order, which may meet but do not overlap.

    Args:
        is_speech: bool ``(frames,)``, one each 10 ms.
        end_silence_ms: how long a pause ends a region.
    """
    return list(_Endpoints(is_speech, end_silence_ms).regions())


class _Endpoints:
    """One stretch of frames, with what is looked up in it again and again."""

    def __init__(self, is_speech: Flags, end_silence_ms: int) -> None:
        self._frames = len(is_speech)
        self._pause = max(1, -(-(end_silence_ms - _NOTICED_MS) // FRAME_MS))
        # The frame at which a region ends, counted from where its pause was noticed.
        kept = max(0, (end_silence_ms - _NOTICED_MS) // FRAME_MS - _LOOKAHEAD - 1)
        self._end = self._pause - kept
        #: How many of the first n frames are speech.
        self._voiced = np.concatenate([[0], np.cumsum(is_speech, dtype=np.int64)])
        within = self._voiced[_WINDOW:] - self._voiced[:-_WINDOW]
        #: Frames at which a window that was not emptied is voiced, and at which it is not.
        self._up = np.flatnonzero(within >= _VOICED) + _WINDOW - 1
        self._down = np.flatnonzero(within <= _VOICED) + _WINDOW - 1

    def regions(self) -> Iterator[Span]:
        """Yield each region."""
        emptied = earliest = 0
        while (begun := self._next_voiced(emptied, emptied)) is not None:
            start = max(earliest, begun - _LOOKBACK)
            paused = self._pause_after(begun, emptied)
            if paused is None:
                yield Span(start * FRAME_MS, self._frames * FRAME_MS)
                return
            earliest = paused + self._end + 1
            yield Span(start * FRAME_MS, earliest * FRAME_MS)
            emptied = paused + self._pause + 1

    def _pause_after(self, begun: int, emptied: int) -> int | None:
        """Return the frame at which a pause is noticed that ends what has begun, if one does."""
        paused = self._next_unvoiced(begun + 1, emptied)
        while paused is not None:
            resumed = self._next_voiced(paused + 1, emptied)
            if resumed is None or resumed > paused + self._pause:
                return paused if paused + self._pause < self._frames else None
            paused = self._next_unvoiced(resumed + 1, emptied)
        return None

    def _next_voiced(self, first: int, emptied: int) -> int | None:
        """Return the first frame from ``first`` on at which the window is voiced."""
        for frame in range(first, min(emptied + _WINDOW, self._frames)):
            if self._since(frame, emptied) >= _VOICED:
                return frame
        return _first_from(self._up, max(first, emptied + _WINDOW))

    def _next_unvoiced(self, first: int, emptied: int) -> int | None:
        """Return the first frame from ``first`` on at which the window is not voiced."""
        for frame in range(first, min(emptied + _WINDOW, self._frames)):
            if self._since(frame, emptied) <= _VOICED:
                return frame
        return _first_from(self._down, max(first, emptied + _WINDOW))

    def _since(self, frame: int, emptied: int) -> int:
        """Return how many frames are speech in a window that was emptied less than itself ago."""
        return int(self._voiced[frame + 1] - self._voiced[emptied])


def _first_from(frames: npt.NDArray[np.intp], first: int) -> int | None:
    at = int(np.searchsorted(frames, first))
    return int(frames[at]) if at < len(frames) else None
