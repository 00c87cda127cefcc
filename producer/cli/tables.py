"""What ``producer`` prints: tables for people, objects for scripts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal
from uuid import UUID

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from producer.cli.doctor import CheckResult, CheckVerdict
from producer.cli.models import ModelStatus
from producer.export.formats import recording_json
from producer.submit.recheck import RecheckFinding as Recheck
from producer.submit.recheck import RecheckTally, ReplanResult
from schema.search_query import Query, find_highlights
from schema.states import EventState, RecordingState, SegmentState
from schema.store.read.progress import NoticeSummary, Progress, Quality
from schema.store.read.recordings import RecordingSummary
from schema.store.read.search import Hit
from schema.store.work.events import NotificationStatus
from schema.text import format_clock, short_id
from schema.transcript import Talk

#: Problems printed in full; the rest is counted, and in --json.
_ROWS_MAX = 20

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


def plain_table(headings: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """Return a table without lines, whose long cells go on below themselves."""
    table = Table(box=None)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(printable(cell) if isinstance(cell, str) else cell for cell in row))
    return table


def submission_view(
    progress: Progress,
    quality: Quality,
    problems: Sequence[RecordingSummary],
    notices: Sequence[NoticeSummary],
    notification: NotificationStatus | None = None,
) -> RenderableType:
    """Return one submission for people: counts, then each problem with its reason."""
    facts = Table.grid(padding=(0, 2))
    facts.add_row("submission", printable(f"{short_id(progress.id)}  {progress.title}"))
    sealed = "sealed: all its files are submitted"
    facts.add_row(
        "state", sealed if progress.is_sealed else "open: files are still being submitted"
    )
    if progress.urgent:
        facts.add_row("priority", "urgent: before all non-urgent work")
    facts.add_row("recordings", _states_text(progress))
    facts.add_row(
        "audio",
        f"{format_clock(progress.done_ms)} of {format_clock(progress.audio_ms)}"
        " (each channel counts)",
    )
    if quality.coverage is not None:
        speech = format_clock(quality.speech_ms)
        facts.add_row("coverage", f"words cover {quality.coverage:.0%} of {speech} of speech")
    running = {state: n for state, n in progress.repairs.items() if state not in _ENDED_STATES}
    for name, counts in (
        ("flags", progress.flags),
        ("seams", quality.seams),
        ("repairs", {**quality.repairs, **running}),
    ):
        if counts:
            facts.add_row(name, ", ".join(f"{count} {what}" for what, count in counts.items()))
    for waiting in progress.postponed_segments:
        message = printable(f"{waiting.segments} segments: {waiting.message}")
        facts.add_row("waiting", Text(message.plain, "yellow"))
    if notification is not None:
        facts.add_row("notified", _notification_text(notification))
    parts: list[RenderableType] = [facts]
    if problems:
        parts += [Text(), _problem_table(problems)]
    if notices:
        parts += [Text(), _notice_table(notices)]
    return Group(*parts)


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


def _problem_table(problems: Sequence[RecordingSummary]) -> Table:
    table = Table(title="Recordings that need attention", title_justify="left", box=None)
    table.add_column("state")
    table.add_column("file", overflow="fold")
    table.add_column("reason", overflow="fold")
    for recording in problems[:_ROWS_MAX]:
        style = _STYLES.get(recording.state, "")
        table.add_row(
            Text(recording.state, style=style),
            printable(recording.name),
            printable(f"[{recording.error_code}] {recording.error_message or ''}"),
        )
    _add_rest(table, len(problems))
    return table


def _notice_table(notices: Sequence[NoticeSummary]) -> Table:
    table = Table(title="Notices", title_justify="left", box=None)
    table.add_column("code")
    table.add_column("subject", overflow="fold")
    table.add_column("message", overflow="fold")
    for notice in notices[:_ROWS_MAX]:
        table.add_row(notice.code, printable(notice.subject), printable(notice.message))
    _add_rest(table, len(notices))
    return table


def _add_rest(table: Table, count: int) -> None:
    if count > _ROWS_MAX:
        table.add_row("", f"... and {count - _ROWS_MAX} more", "see all: producer status ID --json")


def submissions_view(submissions: Sequence[Progress]) -> RenderableType:
    """Return a line for each submission."""
    headings = ["submission", "created", "recordings", "ended", "audio done", "title"]
    return plain_table(
        headings,
        (
            [
                short_id(progress.id),
                progress.created_at.astimezone().strftime("%Y-%m-%d %H:%M"),
                str(progress.total),
                str(progress.ended_recordings),
                f"{format_clock(progress.done_ms)} of {format_clock(progress.audio_ms)}",
                progress.title,
            ]
            for progress in submissions
        ),
    )


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
        "waiting": [
            {"segments": w.segments, "code": w.code, "message": w.message}
            for w in progress.postponed_segments
        ],
    }


def submission_json(
    progress: Progress,
    quality: Quality,
    recordings: Sequence[RecordingSummary],
    notices: Sequence[NoticeSummary],
    talks: Mapping[UUID, Talk],
    notification: NotificationStatus | None = None,
) -> dict[str, Any]:
    """Return a submission, its recordings, notices and notifications, as an object.

    ``talks`` has who talked how much, by recording, where the ledger knows it.
    """
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
            {**recording_json(r), "talk": talks[r.id].to_json() if r.id in talks else None}
            for r in recordings
        ],
        "notices": [{"code": n.code, "subject": n.subject, "message": n.message} for n in notices],
        "notified": notification
        and {
            "host": notification.host,
            "events": notification.events,
            "error": notification.error,
        },
    }


def models_view(statuses: Sequence[ModelStatus]) -> RenderableType:
    """Return a line for each model: its state here, its tiers, what it needs."""
    table = Table(
        box=None,
        caption="memory: MB of a worker on one core; s/h: seconds for an hour of audio.\n"
        "Empty fields were not measured. See ops/bench/RESULTS.md.",
        caption_justify="left",
    )
    for heading, justify in _MODEL_COLUMNS.items():
        table.add_column(heading, justify=justify, no_wrap=True)
    for model in statuses:
        size = f"{model.size_bytes / 1e6:,.0f}" if model.size_bytes else ""
        needs = model.needs
        table.add_row(
            model.name,
            size,
            model.state,
            model.tiers,
            f"{needs.memory_bytes / 1e6:,.0f}" if needs else "",
            f"{needs.seconds_an_hour:,.0f}" if needs else "",
        )
    return table


_MODEL_COLUMNS: Mapping[str, Literal["left", "right"]] = {
    "model": "left",
    "MB": "right",
    "state": "left",
    "tiers": "left",
    "memory": "right",
    "s/h": "right",
}


_VERDICTS = {CheckVerdict.OK: "green", CheckVerdict.WARN: "yellow", CheckVerdict.FAIL: "red"}


def checks_view(results: Sequence[CheckResult]) -> RenderableType:
    """Return a line for each check, what to do about it below."""
    rows: list[list[str | Text]] = []
    for result in results:
        style = _VERDICTS[result.verdict]
        text = Text(result.detail)
        if result.remedy:
            text.append(f"\n{result.remedy}", style=style)
        rows.append([Text(result.verdict, style=style), result.check, text])
    return plain_table(["", "check", "result"], rows)


def hits_view(hits: Sequence[Hit], query: Query) -> RenderableType:
    """Return a line for each utterance, with [brackets] around the words of the query."""
    return plain_table(
        ["call", "date", "at", "speaker", "text"],
        (
            [
                hit.call_id or short_id(hit.recording_id),
                hit.called_at.astimezone().strftime("%Y-%m-%d %H:%M"),
                format_clock(hit.start_ms),
                hit.speaker,
                _highlight(hit.text, query),
            ]
            for hit in hits
        ),
    )


def _highlight(utterance: str, query: Query) -> Text:
    """Return an utterance with brackets around the words of a query: files have no colours."""
    safe = printable(utterance).plain
    text, at = Text(), 0
    for start, end in find_highlights(utterance, query.required_terms):
        text.append(safe[at:start]).append(f"[{safe[start:end]}]", style="bold yellow")
        at = end
    return text.append(safe[at:])


def hit_json(hit: Hit, query: Query) -> dict[str, Any]:
    """Return an utterance as an object; ``marks`` are the query's words, in characters of it."""
    return {
        "recording": str(hit.recording_id),
        "file": hit.name,
        "call_id": hit.call_id,
        "called_at": hit.called_at.isoformat(),
        "line": hit.line,
        "channel": hit.channel,
        "speaker": hit.speaker,
        "start_ms": hit.start_ms,
        "end_ms": hit.end_ms,
        "text": hit.text,
        "marks": find_highlights(hit.text, query.required_terms),
    }


def recheck_view(findings: Sequence[Recheck]) -> RenderableType:
    """Return the recordings that were not read to their end, a line each."""
    return plain_table(
        ["recording", "submission", "state", "reason", "detail", "file"],
        (
            [
                short_id(finding.recording.id),
                short_id(finding.recording.submission_id),
                finding.recording.state,
                finding.reason,
                finding.detail,
                finding.recording.source.name,
            ]
            for finding in findings
        ),
    )


def recheck_json(
    findings: Sequence[Recheck], tally: RecheckTally, replanned: ReplanResult
) -> dict[str, Any]:
    """Return the same for scripts, with counts of what could not be examined."""
    return {
        "examined": tally.examined_count,
        "gone": tally.gone_count,
        "changed": tally.changed_count,
        "elsewhere": tally.elsewhere_count,
        "replanned": replanned.recordings,
        "segments": replanned.segments,
        "refused": replanned.refused_recordings,
        "list": [
            {
                "recording": str(finding.recording.id),
                "submission": str(finding.recording.submission_id),
                "file": finding.recording.source.name,
                "state": finding.recording.state,
                "reason": finding.reason,
                "detail": finding.detail,
                "was_ms": finding.recording.duration_ms,
                "now_ms": finding.now_ms,
            }
            for finding in findings
        ],
    }
