"""A reducer orders places of a recording to be decoded once more.

In one transaction the recording goes from stitching back to running, with its repairs as open
segments: the end of the last of them asks for the reduce again, like the last of the plan. A
crash before the commit leaves the reduce to be done anew; one between it and the publishing leaves
pending rows, which the sweep sends.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.postgresql import insert as upsert

from schema.pcm import PlannedSlice, excerpt_digest
from schema.profile import Profile
from schema.span import GRID_MS, Span
from schema.states import RecordingState, SegmentKind, SegmentState
from schema.store.dispatches import segment_dispatch
from schema.store.work.reduces import ReduceClaim, reduce_lost_error, reopen_recording
from schema.tables import Recording, SegmentRow, Submission
from schema.transcript import PlannedRepair
from schema.wire import Dispatch, Priority


def order_repairs(
    connection: Connection, claim: ReduceClaim, repairs: Sequence[PlannedRepair]
) -> list[Dispatch]:
    """Add repairs to a recording that is being reduced; the messages to publish for them.

    A place that already has one gets no second; where that leaves none, nothing changes and the
    reduce goes on. Otherwise the reducer's lease ends here.

    Raises:
        LeaseLost: another reducer took over: nothing was ordered.
    """
    row = connection.execute(
        select(
            Recording.rate_hz,
            Recording.submission_id,
            Submission.force,
            Submission.urgent,
            func.now().label("now"),
        )
        .join(Submission, Recording.submission_id == Submission.id)
        .where(
            Recording.id == claim.recording_id,
            Recording.reduce_token == claim.lease_token,
            Recording.state == RecordingState.STITCHING,
        )
        .with_for_update(key_share=True, of=Recording)
    ).one_or_none()
    if row is None:
        raise reduce_lost_error(claim)
    slices_by_channel = _planned_slices(connection, claim)
    rows = [
        {
            **_repair_values(repair, slices_by_channel[repair.channel], claim.profile, row.rate_hz),
            "recording_id": claim.recording_id,
            "force": row.force,
            "urgent": row.urgent,
            "dispatched_at": row.now,
        }
        for repair in repairs
    ]
    statement = upsert(SegmentRow).on_conflict_do_nothing().returning(SegmentRow.id)
    ids = set(connection.scalars(statement, rows))
    if not ids:
        return []
    reopen_recording(connection, claim)
    return [
        segment_dispatch({**values, "submission_id": row.submission_id}, Priority.URGENT)
        for values in rows
        if values["id"] in ids
    ]


def _planned_slices(
    connection: Connection, claim: ReduceClaim
) -> dict[int | None, list[PlannedSlice]]:
    """Return the planned segments of each channel, in order of their starts."""
    rows = connection.execute(
        select(SegmentRow.channel, SegmentRow.start_ms, SegmentRow.end_ms, SegmentRow.pcm_digest)
        .where(SegmentRow.recording_id == claim.recording_id, SegmentRow.kind == SegmentKind.PLAN)
        .order_by(SegmentRow.channel.nulls_first(), SegmentRow.start_ms)
    )
    return {
        channel: [
            PlannedSlice(Span(row.start_ms, row.end_ms), row.pcm_digest) for row in channel_rows
        ]
        for channel, channel_rows in groupby(rows, key=lambda row: row.channel)
    }


def _repair_values(
    repair: PlannedRepair, slices: Sequence[PlannedSlice], profile: Profile, rate_hz: int
) -> dict[str, Any]:
    overlapping_slices = [
        planned_slice for planned_slice in slices if planned_slice.span.overlap(repair.span)
    ]
    pcm_digest = excerpt_digest(overlapping_slices, repair.span)
    return {
        "id": uuid4(),
        "kind": SegmentKind.REPAIR,
        "channel": repair.channel,
        "index": repair.core.middle_ms // GRID_MS,
        "start_ms": repair.span.start_ms,
        "end_ms": repair.span.end_ms,
        "pcm_digest": pcm_digest,
        "decode_key": profile.with_language(repair.language).decode_key(pcm_digest, rate_hz),
        "reason": repair.reason,
        "core_start_ms": repair.core.start_ms,
        "core_end_ms": repair.core.end_ms,
        "language": repair.language,
        "state": SegmentState.PENDING,
        "attempts": 0,
        "strikes": 0,
        "dispatch_token": uuid4(),
        "dispatches": 1,
    }
