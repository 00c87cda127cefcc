"""Tables that commands print, and a submission as people and as scripts read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any
from uuid import UUID

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from producer.export.formats import recording_json
from schema.records import Notice
from schema.states import EventState, RecordingState, SegmentState
from schema.store.read.progress import Progress, Quality, RecordingPlaces
from schema.store.read.recordings import RecordingSummary
from schema.store.work.events import NotificationStatus
from schema.text import format_clock, short_id
from schema.transcript import Talk

#: Problems printed in full; the rest is counted, and in --json.
ROWS_MAX = 20

_STYLES = {
    RecordingState.DONE: "green",
    RecordingState.PARTIAL: "yellow",
    RecordingState.FAILED: "red",
    RecordingState.QUARANTINED: "red",
    RecordingState.CANCELLED: "dim",
}

_EVENT_STYLES = {
    EventState.WAITING: "cyan",
    EventState.DELIVERED: "green",
    EventState.GIVEN_UP: "red",
}

#: Repairs that have ended are counted by what they yielded.
_ENDED_STATES = (SegmentState.DONE, SegmentState.FAILED)

#: Recordings that need a person's attention.
PROBLEM_STATES = frozenset(
    {RecordingState.QUARANTINED, RecordingState.FAILED, RecordingState.PARTIAL}
)


def printable(text: str) -> Text:
    """Return text of others, character for character, so that no terminal obeys it."""
    return Text("".join(char if char.isprintable() else " " for char in text))


def plain_table(
    headings: Sequence[str], rows: Iterable[Sequence[str | Text]], title: str | None = None
) -> Table:
    """Return a table without lines, whose long cells go on below themselves."""
    table = Table(title=title, title_justify="left", box=None)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(printable(cell) if isinstance(cell, str) else cell for cell in row))
    return table


def submission_view(
    progress: Progress,
    quality: Quality,
    problems: Sequence[RecordingSummary],
    notices: Sequence[Notice],
    places: Sequence[RecordingPlaces],
    notification: NotificationStatus | None = None,
) -> RenderableType:
    """Return one submission for people: counts, then each problem with its reason.

    ``places`` are of as many recordings as are printed, and one more where there are more.
    """
    facts = Table.grid(padding=(0, 2))
    facts.add_row("submission", printable(f"{short_id(progress.id)}  {progress.title}"))
    sealed, unsealed = (
        "sealed: all its files are submitted",
        "open: files are still being submitted",
    )
    facts.add_row("state", sealed if progress.is_sealed else unsealed)
    if progress.urgent:
        facts.add_row("priority", "urgent: before all non-urgent work")
    facts.add_row("recordings", _states_text(progress))
    done, audio = format_clock(progress.done_ms), format_clock(progress.audio_ms)
    facts.add_row("audio", f"{done} of {audio} (each channel counts)")
    if quality.coverage is not None:
        speech = format_clock(quality.speech_ms)
        facts.add_row("coverage", f"words cover {quality.coverage:.0%} of {speech} of speech")
    running_repairs = {
        state: n for state, n in progress.repairs.items() if state not in _ENDED_STATES
    }
    for name, counts in (
        ("flags", progress.flags),
        ("seams", quality.seams),
        ("repairs", {**quality.repairs, **running_repairs}),
    ):
        if counts:
            facts.add_row(name, ", ".join(f"{count} {item}" for item, count in counts.items()))
    for group in progress.postponed_segments:
        message = printable(f"{group.segments} segments: {group.message}")
        facts.add_row("waiting", Text(message.plain, "yellow"))
    if notification is not None:
        facts.add_row("notified", _notification_text(notification))
    parts: list[RenderableType] = [facts]
    problem_rows = [
        (Text(r.state, _STYLES[r.state]), r.name, f"[{r.error_code}] {r.error_message or ''}")
        for r in problems
    ]
    notice_rows = [(notice.code, notice.subject, notice.message) for notice in notices]
    place_rows = _place_rows(places)
    for title, headings, rows in (
        ("Recordings that need attention", ("state", "file", "reason"), problem_rows),
        ("Places to listen to", ("time", "file", "speaker", "finding"), place_rows),
        ("Notices", ("code", "subject", "message"), notice_rows),
    ):
        if rows:
            # Of more recordings than are printed the places are not counted.
            is_counted = rows is not place_rows or len(places) <= ROWS_MAX
            parts += [Text(), _first_rows(title, headings, rows, is_counted=is_counted)]
    return Group(*parts)


def _place_rows(places: Sequence[RecordingPlaces]) -> list[tuple[str, str, str, str]]:
    return [
        (
            f"{format_clock(place.span.start_ms)}-{format_clock(place.span.end_ms)}",
            recording.name,
            place.speaker,
            place.text,
        )
        for recording in places
        for place in recording.places
    ]


def _notification_text(notification: NotificationStatus) -> Text:
    """Return how far a receiver was told; of its URL the host alone, since it may hold a secret."""
    text = Text(notification.host)
    for state in EventState:
        if count := notification.events.get(state):
            text.append(" · ").append(f"{count} {state}", style=_EVENT_STYLES[state])
    if notification.error:
        text.append(f" · {notification.error}", style="yellow")
    return text


def _states_text(progress: Progress) -> Text:
    text = Text(f"{progress.total}")
    for state in RecordingState:
        if count := progress.recordings.get(state):
            text.append(" · ").append(f"{count} {state}", style=_STYLES.get(state, "cyan"))
    return text


def _first_rows(
    title: str, headings: Sequence[str], rows: Sequence[Sequence[str | Text]], *, is_counted: bool
) -> Table:
    table = plain_table(headings, rows[:ROWS_MAX], title)
    # A state or a code is cut, not folded.
    table.columns[0].overflow = "ellipsis"
    if len(rows) > ROWS_MAX:
        rest = f"... and {len(rows) - ROWS_MAX} more" if is_counted else "... and more"
        table.add_row("", rest, "see all: producer status ID --json")
    return table


def submissions_view(submissions: Sequence[Progress]) -> Table:
    """Return a line for each submission."""
    rows = [
        [
            short_id(progress.id),
            progress.created_at.astimezone().strftime("%Y-%m-%d %H:%M"),
            str(progress.total),
            str(progress.ended_recordings),
            f"{format_clock(progress.done_ms)} of {format_clock(progress.audio_ms)}",
            progress.title,
        ]
        for progress in submissions
    ]
    headings = ["submission", "created", "recordings", "ended", "audio done", "title"]
    return plain_table(headings, rows)


def progress_json(progress: Progress) -> dict[str, Any]:
    """Return a submission's progress as an object."""
    return {
        "submission": str(progress.id),
        "title": progress.title,
        "profile": progress.profile,
        "created_at": progress.created_at.isoformat(),
        "sealed": progress.is_sealed,
        "finished": progress.is_finished,
        "urgent": progress.urgent,
        "recordings": {"total": progress.total, **progress.recordings},
        "segments": progress.segments,
        "distinct_results": progress.distinct_results,
        "audio_ms": progress.audio_ms,
        "done_ms": progress.done_ms,
        "flags": progress.flags,
        "repairs": progress.repairs,
        "waiting": [asdict(segments) for segments in progress.postponed_segments],
    }


def submission_json(
    progress: Progress,
    quality: Quality,
    recordings: Sequence[RecordingSummary],
    notices: Sequence[Notice],
    talks: Mapping[UUID, Talk],
    places: Sequence[RecordingPlaces],
    notification: NotificationStatus | None = None,
) -> dict[str, Any]:
    """Return a submission, its recordings, notices and notifications, as an object.

    ``talks`` has who talked how much, by recording, where the ledger knows it.
    """
    places_by_id = {recording.id: recording.places for recording in places}
    return {
        **progress_json(progress),
        "quality": {
            "seams": quality.seams,
            "repairs": quality.repairs,
            "speech_ms": quality.speech_ms,
            "worded_ms": quality.worded_ms,
            "coverage": quality.coverage,
        },
        "list": [
            {
                **recording_json(r),
                "talk": talks[r.id].to_json() if r.id in talks else None,
                "places": [place.to_json() for place in places_by_id.get(r.id, ())],
            }
            for r in recordings
        ],
        "notices": [asdict(notice) for notice in notices],
        "notified": notification and asdict(notification),
    }
