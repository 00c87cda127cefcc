"""Time on a recording's clock: integer milliseconds, and the only conversion to frames.

Everywhere outside the decoders a moment is an integer number of milliseconds since the start of
the recording. A frame is one sample of one channel at the file's own rate. At 11,025 Hz no whole
number of frames lasts 10 ms, so a moment maps to a frame by one rule, :func:`frame_at`: two
neighbours that meet at the same millisecond meet at the same frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

#: Segments start on multiples of this, so that the 10 ms frames of two neighbours' VAD coincide
#: and a span's digest is made of whole blocks (see :mod:`schema.pcm`).
GRID_MS = 100


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A stretch of time: ``start_ms`` inclusive, ``end_ms`` exclusive, never reversed."""

    start_ms: int
    end_ms: int

    def __post_init__(self) -> None:
        if not 0 <= self.start_ms <= self.end_ms:
            raise ValueError(f"not a span: {self.start_ms}..{self.end_ms} ms")

    @property
    def duration_ms(self) -> int:
        """Length in milliseconds."""
        return self.end_ms - self.start_ms

    @property
    def middle_ms(self) -> int:
        """The moment halfway through, rounded down."""
        return (self.start_ms + self.end_ms) // 2

    def overlap(self, other: Span) -> Span | None:
        """Return what both spans cover, or None where they do not meet."""
        start_ms, end_ms = max(self.start_ms, other.start_ms), min(self.end_ms, other.end_ms)
        return Span(start_ms, end_ms) if start_ms < end_ms else None

    def shifted(self, by_ms: int) -> Span:
        """Return the same stretch, ``by_ms`` later (earlier where negative)."""
        return Span(self.start_ms + by_ms, self.end_ms + by_ms)


def merge(spans: Iterable[Span], gap_ms: int = 0) -> Iterator[Span]:
    """Yield spans, which are in order of their starts, joined over gaps up to ``gap_ms``."""
    last: Span | None = None
    for span in spans:
        if last is not None and span.start_ms - last.end_ms <= gap_ms:
            last = Span(last.start_ms, max(last.end_ms, span.end_ms))
            continue
        if last is not None:
            yield last
        last = span
    if last is not None:
        yield last


def minus(within: Span, spans: Iterable[Span]) -> Iterator[Span]:
    """Yield what of ``within`` none of ``spans``, which are in order of their starts, covers."""
    at_ms = within.start_ms
    for span in spans:
        if span.start_ms >= within.end_ms:
            break
        if span.start_ms > at_ms:
            yield Span(at_ms, span.start_ms)
        at_ms = max(at_ms, span.end_ms)
    if at_ms < within.end_ms:
        yield Span(at_ms, within.end_ms)


def frame_at(ms: int, rate_hz: int) -> int:
    """Return the first frame at or before the moment ``ms``: ``floor(ms * rate / 1000)``."""
    return ms * rate_hz // 1000


def duration_of(frames: int, rate_hz: int) -> int:
    """Return the milliseconds that ``frames`` last, rounded up: no frame is left outside."""
    return -(-frames * 1000 // rate_hz)
