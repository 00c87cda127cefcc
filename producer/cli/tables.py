"""What ``producer`` prints of a submission: tables for people, objects for scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal
from uuid import UUID

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from producer.cli.doctor import Finding, Verdict
from producer.cli.models import Present
from producer.export.formats import recording_json
from producer.submit.recheck import Finding as Recheck
from producer.submit.recheck import Replanned, Tally
from schema.search_query import Query, marks
from schema.states import EventState, RecordingState, SegmentState
from schema.store.dispatches import clock, short_id
from schema.store.read.recordings import NoticeSummary, Progress, Quality, RecordingSummary
from schema.store.read.search import Hit
from schema.store.work.events import Notified
from schema.transcript import Talk

#: Problems printed in full; the rest is counted, and in --json.
_SHOWN = 20

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
_ENDED = (SegmentState.DONE, SegmentState.FAILED)

#: Recordings that a person should look at.
PROBLEM_STATES = frozenset(
    {RecordingState.QUARANTINED, RecordingState.FAILED, RecordingState.PARTIAL}
)


def printable(text: str) -> Text:
    """Return what others said, character for character, so that no terminal obeys it."""
    return Text("".join(char if char.isprintable() else " " for char in text))


def submission_view(
    progress: Progress,
    quality: Quality,
    problems: Sequence[RecordingSummary],
    notices: Sequence[NoticeSummary],
    told: Notified | None = None,
) -> RenderableType:
    """Return one submission for people: counts, then each problem with its reason."""
    facts = Table.grid(padding=(0, 2))
    facts.add_row("submission", printable(f"{short_id(progress.id)}  {progress.title}"))
    sealed = "sealed: all its files are in"
    facts.add_row("state", sealed if progress.sealed else "open: its producer is not done")
    if progress.urgent:
        facts.add_row("priority", "urgent: before all that is not")
    facts.add_row("recordings", _states(progress))
    facts.add_row(
        "audio", f"{clock(progress.done_ms)} of {clock(progress.audio_ms)} (channels counted each)"
    )
    if quality.coverage is not None:
        speech = clock(quality.speech_ms)
        facts.add_row("coverage", f"words cover {quality.coverage:.0%} of {speech} of speech")
    running = {state: n for state, n in progress.repairs.items() if state not in _ENDED}
    for name, counts in (
        ("flags", progress.flags),
        ("seams", quality.seams),
        ("repairs", {**quality.repairs, **running}),
    ):
        if counts:
            facts.add_row(name, ", ".join(f"{count} {what}" for what, count in counts.items()))
    for waiting in progress.waiting:
        message = printable(f"{waiting.segments} segments: {waiting.message}")
        facts.add_row("waiting", Text(message.plain, "yellow"))
    if told is not None:
        facts.add_row("notified", _notified(told))
    parts: list[RenderableType] = [facts]
    if problems:
        parts += [Text(), _problem_table(problems)]
    if notices:
        parts += [Text(), _notice_table(notices)]
    return Group(*parts)


def _notified(told: Notified) -> Text:
    """Return how far a receiver was told; of its URL the host alone, since it may hold a secret."""
    text = Text(told.host)
    for state in EventState:
        if count := told.events.get(state):
            text.append(" · ").append(f"{count} {state}", style=_EVENT_STYLES[state])
    if told.error:
        text.append(f" · {told.error}", style="yellow")
    return text


def _states(progress: Progress) -> Text:
    text = Text(f"{progress.total}")
    for state in RecordingState:
        if count := progress.recordings.get(state):
            text.append(" · ").append(f"{count} {state}", style=_STYLES.get(state, "cyan"))
    return text


def _problem_table(problems: Sequence[RecordingSummary]) -> Table:
    table = Table(title="Recordings to look at", title_justify="left", box=None)
    table.add_column("state")
    table.add_column("file", overflow="fold")
    table.add_column("why", overflow="fold")
    for recording in problems[:_SHOWN]:
        style = _STYLES.get(recording.state, "")
        table.add_row(
            Text(recording.state, style=style),
            printable(recording.name),
            printable(f"[{recording.error_code}] {recording.error_message or ''}"),
        )
    _add_rest(table, len(problems))
    return table


def _notice_table(notices: Sequence[NoticeSummary]) -> Table:
    table = Table(title="Noticed", title_justify="left", box=None)
    table.add_column("code")
    table.add_column("what", overflow="fold")
    table.add_column("", overflow="fold")
    for notice in notices[:_SHOWN]:
        table.add_row(notice.code, printable(notice.subject), printable(notice.message))
    _add_rest(table, len(notices))
    return table


def _add_rest(table: Table, count: int) -> None:
    if count > _SHOWN:
        table.add_row("", f"... and {count - _SHOWN} more", "producer status ID --json lists all")


def submissions_view(submissions: Sequence[Progress]) -> RenderableType:
    """Return a line for each submission."""
    table = Table(box=None)
    for heading in ("submission", "created", "recordings", "ended", "audio done", "what"):
        table.add_column(heading, overflow="fold")
    for progress in submissions:
        table.add_row(
            short_id(progress.id),
            progress.created_at.astimezone().strftime("%Y-%m-%d %H:%M"),
            str(progress.total),
            str(progress.ended),
            f"{clock(progress.done_ms)} of {clock(progress.audio_ms)}",
            printable(progress.title),
        )
    return table


def progress_json(progress: Progress) -> dict[str, Any]:
    """Return a submission's progress as an object."""
    return {
        "submission": str(progress.id),
        "title": progress.title,
        "profile": progress.profile,
        "created_at": progress.created_at.isoformat(),
        "sealed": progress.sealed,
        "finished": progress.finished,
        "urgent": progress.urgent,
        "recordings": {"total": progress.total, **progress.recordings},
        "segments": progress.segments,
        "distinct_results": progress.distinct_results,
        "audio_ms": progress.audio_ms,
        "done_ms": progress.done_ms,
        "flags": progress.flags,
        "repairs": progress.repairs,
        "waiting": [asdict(waiting) for waiting in progress.waiting],
    }


def submission_json(
    progress: Progress,
    quality: Quality,
    recordings: Sequence[RecordingSummary],
    notices: Sequence[NoticeSummary],
    talks: Mapping[UUID, Talk],
    told: Notified | None = None,
) -> dict[str, Any]:
    """Return a submission, its recordings, what was noticed and who was told, as an object.

    ``talks`` has who talked how much in the recordings of which the ledger knows it.
    """
    return {
        **progress_json(progress),
        "quality": {**asdict(quality), "coverage": quality.coverage},
        "list": [
            {**recording_json(each), "talk": talks[each.id].to_json() if each.id in talks else None}
            for each in recordings
        ],
        "notices": [{"code": n.code, "subject": n.subject, "message": n.message} for n in notices],
        "notified": asdict(told) if told is not None else None,
    }


def models_view(found: Sequence[Present]) -> RenderableType:
    """Show models: where they are, what chooses them, what they need."""
    table = Table(
        box=None,
        caption="memory (MB) and seconds an hour of audio: of a worker on one core, its libraries\n"
        "included; where nothing stands, nothing was measured (ops/bench/RESULTS.md)",
        caption_justify="left",
    )
    for heading, justify in _MODEL_COLUMNS.items():
        table.add_column(heading, justify=justify, no_wrap=True)
    for model in found:
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
    "here": "left",
    "tiers": "left",
    "memory": "right",
    "s/h": "right",
}


_VERDICTS = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}


def findings_view(findings: Sequence[Finding]) -> RenderableType:
    """Return a line for each check, what to do about it below."""
    table = Table(box=None)
    for heading in ("", "check", "found"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        style = _VERDICTS[finding.verdict]
        found = Text(finding.detail)
        if finding.remedy:
            found.append(f"\n{finding.remedy}", style=style)
        table.add_row(Text(finding.verdict, style=style), Text(finding.check), found)
    return table


def hits_view(hits: Sequence[Hit], query: Query) -> RenderableType:
    """Return a line for each utterance found, what was asked for in it [marked]."""
    table = Table(box=None)
    for heading in ("call", "date", "at", "speaker", "said"):
        table.add_column(heading, overflow="fold")
    for hit in hits:
        table.add_row(
            printable(hit.call_id or short_id(hit.recording_id)),
            hit.called_at.astimezone().strftime("%Y-%m-%d %H:%M"),
            clock(hit.start_ms),
            printable(hit.speaker),
            _marked(hit.text, query),
        )
    return table


def _marked(said: str, query: Query) -> Text:
    """Return an utterance with brackets around what was asked for: colours do not go into files."""
    safe = printable(said).plain
    text, at = Text(), 0
    for start, end in marks(said, query.wanted):
        text.append(safe[at:start]).append(f"[{safe[start:end]}]", style="bold yellow")
        at = end
    return text.append(safe[at:])


def hit_json(hit: Hit, query: Query) -> dict[str, Any]:
    """Return an utterance found, as an object; ``marks`` are characters of its text."""
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
        "marks": marks(hit.text, query.wanted),
    }


def recheck_view(findings: Sequence[Recheck]) -> RenderableType:
    """Return the recordings that were not read to their end, a line each."""
    table = Table(box=None)
    for heading in ("recording", "submission", "state", "reason", "read", "file"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        recording = finding.recording
        table.add_row(
            short_id(recording.id),
            short_id(recording.submission_id),
            recording.state,
            finding.reason,
            printable(finding.detail),
            printable(recording.source.name),
        )
    return table


def recheck_json(findings: Sequence[Recheck], tally: Tally, replanned: Replanned) -> dict[str, Any]:
    """Return the same for scripts, with what could not be looked at."""
    return {
        "examined": tally.examined,
        "gone": tally.gone,
        "changed": tally.changed,
        "elsewhere": tally.elsewhere,
        "replanned": replanned.recordings,
        "segments": replanned.segments,
        "refused": replanned.refused,
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
