"""How recordings are laid out in a sweep, so that seams fall everywhere. Pure.

A recording begins later in each layout, as if its first seconds had not been recorded; the rest is
cut by the producer's own planning. Layouts of ``n`` shifts are among those of a multiple of ``n``,
so that a sweep can be widened at the price of what is new.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ops.eval.corpus import Case
from producer.intake.plan import plan_spans
from schema.profile import PlanSettings
from schema.span import GRID_MS, Span

#: A shorter rest cannot be a segment of its own.
_LEAST_MS = 1_000


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """A recording that begins at ``start_ms``, whole and in segments, on its original clock."""

    case: Case
    start_ms: int
    segments: tuple[Span, ...]

    @property
    def whole(self) -> Span:
        """All that is left of the recording."""
        return Span(self.start_ms, self.case.duration_ms)


def plan_settings(segment_s: int, overlap_s: int, *, fixed: bool) -> PlanSettings:
    """Return how to cut: where it is quiet as by default, or ``fixed``, at the full segments.

    Raises:
        ValueError: a segment is shorter than three overlaps.
    """
    room_s = segment_s - 3 * overlap_s
    default = PlanSettings()
    return PlanSettings(
        segment_s=segment_s,
        overlap_s=overlap_s,
        search_s=0 if fixed else min(default.search_s, room_s),
        min_tail_s=min(default.min_tail_s, segment_s // 2),
    )


def starts_ms(shifts: int, period_ms: int) -> list[int]:
    """Return where the recording begins in each layout: evenly within a period, on the grid."""
    return [index * period_ms // shifts // GRID_MS * GRID_MS for index in range(shifts)]


def layouts(case: Case, settings: PlanSettings, shifts: int) -> Iterator[Layout]:
    """Yield a recording's layouts; those of a recording that is too short are left out."""
    for start_ms in starts_ms(shifts, 1000 * settings.segment_s):
        duration_ms = case.duration_ms - start_ms
        if duration_ms < _LEAST_MS:
            continue
        envelope_db = case.signal.envelope_db[start_ms // GRID_MS :]
        spans = plan_spans(duration_ms, envelope_db, settings)
        yield Layout(case, start_ms, tuple(span.shifted(start_ms) for span in spans))
