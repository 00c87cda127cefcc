"""Where speech begins and ends, from a flag for each frame: FSMN-VAD's rules, over arrays. Pure.

What FunASR's ``FsmnVADStreaming`` decides frame by frame, in Python, is decided here turn by turn:
an hour has 360,000 frames, but only some thousand times at which speech begins or pauses. A frame
is speech or not; a window of 20 frames tells a start (15 of them are speech) from noise, and a
pause (no more than 15 are) from a stop within a word; and speech has ended once the pause is long
enough. The window is emptied after each region. The same frames give the same regions as there,
but for one thing: where audio ends with silence exactly as a chunk of FunASR's does, its last
region ends with that silence, and ours as if no chunk had ended.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from schema.span import Span

FRAME_MS = 10

#: Frames that the window holds, and how many of them must be speech.
_WINDOW_FRAMES = 20
_SPEECH_FRAMES = 15

#: Frames kept before the first that the window calls speech: those in it, and as many again.
_LOOKBACK_FRAMES = 2 * _WINDOW_FRAMES
#: Frames kept after the last that it does.
_LOOKAHEAD_FRAMES = 10
#: A pause is noticed this much after it began, which counts as part of it.
_NOTICE_DELAY_MS = 150

Flags = npt.NDArray[np.bool_]
_Frames = npt.NDArray[np.intp]
_Comparison = Callable[[int, int], bool]


def find_regions(is_speech: Flags, end_silence_ms: int) -> list[Span]:
    """Return the regions of speech, in order, which may meet but do not overlap.

    ``is_speech`` is bool ``(frames,)``, of 10 ms each; a pause of ``end_silence_ms`` ends a region.
    """
    return list(_Endpointer(is_speech, end_silence_ms).regions())


class _Endpointer:
    """Finds the regions of one stretch of frames; a window is "voiced" where it calls speech."""

    def __init__(self, is_speech: Flags, end_silence_ms: int) -> None:
        self._frames = len(is_speech)
        self._pause_frames = max(1, -(-(end_silence_ms - _NOTICE_DELAY_MS) // FRAME_MS))
        # The last frame of a region, counted from where its pause was noticed.
        trailing_frames = (end_silence_ms - _NOTICE_DELAY_MS) // FRAME_MS - _LOOKAHEAD_FRAMES - 1
        self._end_offset = self._pause_frames - max(0, trailing_frames)
        #: How many of the first n frames are speech.
        self._speech_counts = np.concatenate([[0], np.cumsum(is_speech, dtype=np.int64)])
        counts = self._speech_counts[_WINDOW_FRAMES:] - self._speech_counts[:-_WINDOW_FRAMES]
        #: The last frames of full windows that are voiced, and of those that are not.
        self._voiced_at = np.flatnonzero(counts >= _SPEECH_FRAMES) + _WINDOW_FRAMES - 1
        self._unvoiced_at = np.flatnonzero(counts <= _SPEECH_FRAMES) + _WINDOW_FRAMES - 1

    def regions(self) -> Iterator[Span]:
        # The window is emptied after each region: it holds nothing from before ``reset``.
        reset = earliest = 0
        while (voiced_frame := self._next_voiced(reset, reset)) is not None:
            start = max(earliest, voiced_frame - _LOOKBACK_FRAMES)
            pause = self._find_pause(voiced_frame, reset)
            if pause is None:
                yield Span(start * FRAME_MS, self._frames * FRAME_MS)
                return
            earliest = pause + self._end_offset + 1
            yield Span(start * FRAME_MS, earliest * FRAME_MS)
            reset = pause + self._pause_frames + 1

    def _find_pause(self, voiced_frame: int, reset: int) -> int | None:
        """Return the frame at which the pause that ends a region is noticed, if there is one."""
        pause = self._next_unvoiced(voiced_frame + 1, reset)
        while pause is not None:
            resume = self._next_voiced(pause + 1, reset)
            if resume is None or resume > pause + self._pause_frames:
                return pause if pause + self._pause_frames < self._frames else None
            pause = self._next_unvoiced(resume + 1, reset)
        return None

    def _next_voiced(self, first: int, reset: int) -> int | None:
        return self._next_window(self._voiced_at, operator.ge, first, reset)

    def _next_unvoiced(self, first: int, reset: int) -> int | None:
        return self._next_window(self._unvoiced_at, operator.le, first, reset)

    def _next_window(
        self, full_windows: _Frames, compare: _Comparison, first: int, reset: int
    ) -> int | None:
        """Return the first frame from ``first`` on whose window compares so with the threshold."""
        for frame in range(first, min(reset + _WINDOW_FRAMES, self._frames)):
            # The window is not full yet.
            count = int(self._speech_counts[frame + 1] - self._speech_counts[reset])
            if compare(count, _SPEECH_FRAMES):
                return frame
        index = int(np.searchsorted(full_windows, max(first, reset + _WINDOW_FRAMES)))
        return int(full_windows[index]) if index < len(full_windows) else None
