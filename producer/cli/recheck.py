"""``producer recheck``: find recordings that were not transcribed in full."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.status import Status
from typer import Option

from producer.cli.common import CommandGroup, JsonOption, open_ledger, open_queue, parse_since
from producer.cli.exit_codes import ExitCode
from producer.cli.output import count_of, err, out, print_json, show_status
from producer.cli.progress import Pace
from producer.cli.tables import plain_table
from producer.submit.recheck import (
    RecheckFinding,
    RecheckTally,
    ReplanResult,
    recheck_recordings,
    replan_findings,
)
from schema.settings import load_settings
from schema.text import short_id

commands = CommandGroup("Transcribe")


@commands.with_examples(
    "producer recheck",
    "producer recheck --since 2026-11-01 --retry",
    "producer recheck --json > short.json",
)
def recheck(
    since: Annotated[
        str | None, Option(help="Only recordings submitted on this date and later.", metavar="DATE")
    ] = None,
    retry: Annotated[
        bool, Option("--retry", help="Decode these files again. Without it, only list them.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Find recordings that an earlier release transcribed only in part."""
    settings = load_settings()
    since_at = parse_since(since)
    with open_ledger(settings) as ledger, show_status("looking for recordings ...") as status:
        report = _Report(status)
        findings = list(recheck_recordings(ledger, settings, since_at, report))
        replan_result = ReplanResult()
        if retry and findings:
            status.update("planning ...")
            enqueuer, _ = open_queue(settings, ledger)
            replan_result = replan_findings(findings, settings, ledger, enqueuer)
    if as_json:
        print_json(_to_json(findings, report.tally, replan_result))
    else:
        _print_findings(findings, report.tally)
        if retry:
            err.print(
                f"Planned {count_of(replan_result.recordings, 'recording')} again: "
                f"{count_of(replan_result.segments, 'segment')} to decode"
            )
        elif findings:
            err.print("Nothing was changed: add --retry to decode them again.")
    remaining = len(findings) - replan_result.recordings
    raise typer.Exit(ExitCode.INCOMPLETE if remaining else ExitCode.OK)


class _Report:
    def __init__(self, status: Status) -> None:
        self._status = status
        self._pace = Pace()
        self.tally = RecheckTally(0)

    def __call__(self, tally: RecheckTally) -> None:
        self.tally = tally
        self._status.update(self._pace.line(tally.examined_count, tally.total))


def _print_findings(findings: list[RecheckFinding], tally: RecheckTally) -> None:
    if findings:
        rows = [
            [
                short_id(finding.recording.id),
                short_id(finding.recording.submission_id),
                finding.recording.state,
                finding.reason,
                finding.detail,
                finding.recording.source.name,
            ]
            for finding in findings
        ]
        headings = ["recording", "submission", "state", "reason", "detail", "file"]
        out.print(plain_table(headings, rows))
    reasons = {
        "gone": tally.gone_count,
        "changed": tally.changed_count,
        "on other hosts": tally.elsewhere_count,
    }
    skipped_text = ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count)
    examined_text = count_of(tally.examined_count, "recording")
    counts = f"{examined_text} examined, {len(findings)} not transcribed in full"
    err.print(f"{counts} (skipped: {skipped_text})" if skipped_text else counts)


def _to_json(
    findings: list[RecheckFinding], tally: RecheckTally, replan_result: ReplanResult
) -> dict[str, Any]:
    return {
        "examined": tally.examined_count,
        "gone": tally.gone_count,
        "changed": tally.changed_count,
        "elsewhere": tally.elsewhere_count,
        "replanned": replan_result.recordings,
        "segments": replan_result.segments,
        "refused": replan_result.quarantined_recordings,
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
