"""``producer recheck``: find recordings whose files were not read to their end."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.status import Status

from producer.cli.common import open_ledger, open_queue, parse_since
from producer.cli.exit_codes import ExitCode
from producer.cli.output import JsonOption, err, examples, out, print_json, show_status
from producer.cli.progress import Pace
from producer.cli.tables import recheck_json, recheck_view
from producer.submit.recheck import RecheckFinding as Recheck
from producer.submit.recheck import RecheckTally, ReplanResult, recheck_recordings, replan_findings
from schema.settings import load_settings

commands = typer.Typer()


@commands.command(
    rich_help_panel="Transcribe",
    epilog=examples(
        "producer recheck",
        "producer recheck --since 2026-11-01 --retry",
        "producer recheck --json > short.json",
    ),
)
def recheck(
    since: Annotated[
        str | None,
        typer.Option(help="Only recordings submitted on this date and later.", metavar="DATE"),
    ] = None,
    retry: Annotated[
        bool, typer.Option("--retry", help="Decode these files again. Without it, only list.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Find recordings that an earlier release read only in part, because of wrong headers."""
    settings = load_settings()
    since_at = parse_since(since)
    with open_ledger(settings) as ledger, show_status("looking for recordings ...") as status:
        report = _Report(status)
        findings = list(recheck_recordings(ledger, settings, since_at, report))
        replanned = ReplanResult()
        if retry and findings:
            status.update("planning ...")
            enqueuer, _ = open_queue(settings, ledger)
            replanned = replan_findings(findings, settings, ledger, enqueuer)
    if as_json:
        print_json(recheck_json(findings, report.tally, replanned))
    else:
        _print_findings(findings, report.tally)
        if retry:
            err.print(
                f"Planned {replanned.recordings} recordings again: {replanned.segments} segments "
                "to decode"
            )
        elif findings:
            err.print("Nothing was changed: add --retry to decode them again.")
    remaining = len(findings) - replanned.recordings
    raise typer.Exit(ExitCode.INCOMPLETE if remaining else ExitCode.OK)


class _Report:
    """Shows how far it is, and keeps the latest counts."""

    def __init__(self, status: Status) -> None:
        self._status = status
        self._pace = Pace()
        self.tally = RecheckTally(0)

    def __call__(self, tally: RecheckTally) -> None:
        self.tally = tally
        self._status.update(self._pace.line(tally.examined_count, tally.total))


def _print_findings(findings: list[Recheck], tally: RecheckTally) -> None:
    if findings:
        out.print(recheck_view(findings))
    reasons = {
        "gone": tally.gone_count,
        "changed": tally.changed_count,
        "on other hosts": tally.elsewhere_count,
    }
    skipped = ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count)
    counts = f"{tally.examined_count} recordings examined, {len(findings)} not read to their end"
    err.print(f"{counts} (skipped: {skipped})" if skipped else counts)
