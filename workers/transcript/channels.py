"""A recording's segments by channel, on the recording's clock. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

from schema.chinese import ChineseScript
from schema.span import Span
from schema.states import SegmentKind
from schema.store.work.reduces import EndedSegment
from schema.transcript import PlannedRepair, RepairReason
from schema.words import ResultTag, SegmentResult
from workers.transcript.repair import DecodedRepair
from workers.transcript.script import write_in_script
from workers.transcript.seams import DecodedSegment


class Channel(NamedTuple):
    """A channel's segments; ``decoded_segments`` are the planned ones on the recording's clock."""

    number: int | None
    planned_segments: list[EndedSegment]
    decoded_segments: list[DecodedSegment]
    repair_segments: list[EndedSegment]

    @property
    def planned_results(self) -> list[tuple[int, SegmentResult]]:
        """The results of planned segments, with the start of each in ms."""
        return _results(self.planned_segments)

    @property
    def results(self) -> list[tuple[int, SegmentResult]]:
        """The results of all segments, with the start of each in ms."""
        return _results([*self.planned_segments, *self.repair_segments])

    @property
    def planned_repairs(self) -> list[PlannedRepair]:
        """The places that were ordered to be decoded once more."""
        return [_to_planned_repair(segment) for segment in self.repair_segments]

    @property
    def decoded_repairs(self) -> list[DecodedRepair]:
        """What came of them."""
        return [
            DecodedRepair(
                _to_decoded_segment(segment),
                plan.core,
                plan.reason,
                plan.language,
                segment.error_code,
            )
            for segment, plan in zip(self.repair_segments, self.planned_repairs, strict=True)
        ]


def group_by_channel(segments: Sequence[EndedSegment], script: ChineseScript) -> list[Channel]:
    """Return a recording's channels, of its segments in order of channel and start.

    Chinese words are written in ``script``.
    """
    channels = []
    for number, group in groupby(segments, key=lambda segment: segment.channel):
        by_kind: dict[str, list[EndedSegment]] = {SegmentKind.PLAN: [], SegmentKind.REPAIR: []}
        for segment in group:
            result = segment.result and write_in_script(segment.result, script)
            by_kind[segment.kind].append(replace(segment, result=result))
        planned_segments, repair_segments = by_kind.values()
        decoded_segments = list(map(_to_decoded_segment, planned_segments))
        channels.append(Channel(number, planned_segments, decoded_segments, repair_segments))
    return channels


def _to_decoded_segment(segment: EndedSegment) -> DecodedSegment:
    """Put a segment's result, whose times start with the segment, on the recording's clock."""
    if segment.result is None:
        return DecodedSegment(segment.span, is_failed=True)
    by_ms = segment.span.start_ms
    return DecodedSegment(
        segment.span,
        words=tuple(word.shifted(by_ms) for word in segment.result.words),
        speech=tuple(span.shifted(by_ms) for span in segment.result.speech),
        untimed_speech=tuple(
            Span(start_ms, end_ms).shifted(by_ms)
            for start_ms, end_ms in segment.result.tags.get(ResultTag.GUESSED_TIMES, [])
        ),
    )


def _results(segments: Sequence[EndedSegment]) -> list[tuple[int, SegmentResult]]:
    return [(s.span.start_ms, s.result) for s in segments if s.result is not None]


def _to_planned_repair(segment: EndedSegment) -> PlannedRepair:
    core = segment.core or segment.span
    reason = RepairReason(segment.reason or RepairReason.SPEECH)
    return PlannedRepair(segment.channel, segment.span, core, reason, segment.language)
