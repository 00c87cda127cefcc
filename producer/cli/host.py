"""``producer doctor``, ``models``, ``migrate`` and ``explain``: this host and the ledger."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text
from typer import Argument, Option

from producer.cli.common import CommandGroup, JsonOption
from producer.cli.doctor import CheckResult, CheckVerdict, examine_host, fix
from producer.cli.exit_codes import ExitCode
from producer.cli.models import ModelStatus, list_models, profile_section
from producer.cli.output import err, out, print_result
from producer.cli.tables import plain_table
from producer.submit.enqueue import celery_app
from schema.advice import ADVICE
from schema.errors import BadRequest, ErrorCode
from schema.migrate import migrate_ledger
from schema.models import KNOWN_MODELS
from schema.roles import find_excess_rights
from schema.settings import load_settings
from schema.store.connection import PEOPLE_ANSWER_S
from schema.store.ledger import Ledger

commands = CommandGroup("This host")


@commands.with_examples("producer doctor --json", "producer doctor --fix")
def doctor(
    fixes: Annotated[
        bool, Option("--fix", help="First remove stored dates that are impossible.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check everything a fleet needs: ledger, Redis, roots, spool, models, workers."""
    settings = load_settings()
    ledger = Ledger.open(settings, answer_s=PEOPLE_ANSWER_S)
    findings = [fix(ledger)] if fixes else []
    findings += examine_host(settings, ledger, celery_app(settings))
    ledger.close()
    value = [asdict(finding) for finding in findings]
    print_result(value, _checks_view(findings), as_json=as_json)
    has_failed = any(finding.verdict is CheckVerdict.FAIL for finding in findings)
    raise typer.Exit(ExitCode.MISCONFIGURED if has_failed else ExitCode.OK)


_VERDICT_STYLES = {CheckVerdict.OK: "green", CheckVerdict.WARN: "yellow", CheckVerdict.FAIL: "red"}


def _checks_view(results: Sequence[CheckResult]) -> Table:
    """Return a line for each check, what to do about it below."""
    rows: list[list[str | Text]] = []
    for result in results:
        style = _VERDICT_STYLES[result.verdict]
        text = Text(result.detail)
        if result.remedy:
            text.append(f"\n{result.remedy}", style=style)
        rows.append([Text(result.verdict, style=style), result.check, text])
    return plain_table(["", "check", "result"], rows)


@commands.with_examples("producer models", "producer models ~/models/paraformer-large")
def models(
    directory: Annotated[
        Path | None,
        Argument(help="Your own model: print the part of a profile that names it.", metavar="DIR"),
    ] = None,
    engine: Annotated[
        str,
        Option(
            help="With DIR: its engine, funasr or whisper; or punctuation, or voices.",
            metavar="ENGINE",
        ),
    ] = "funasr",
    as_json: JsonOption = False,
) -> None:
    """List models: which are on this host, which tier selects them, what they need."""
    if directory is not None:
        sys.stdout.write(profile_section(directory, engine))
        return
    statuses = list(list_models(load_settings().models))
    value = [asdict(status) for status in statuses]
    print_result(value, _models_view(statuses), as_json=as_json)
    if not as_json and any(s.state == "not there" and s.name in KNOWN_MODELS for s in statuses):
        err.print("Download a model where workers run: python -m ops.local.models NAME")


def _models_view(statuses: Sequence[ModelStatus]) -> Table:
    table = Table(
        box=None,
        caption="memory: MB of a worker on one core; s/h: seconds for an hour of audio.\n"
        "Empty fields were not measured. See ops/bench/RESULTS.md.",
        caption_justify="left",
    )
    for heading in ("model", "MB", "state", "tiers", "memory", "s/h"):
        is_number = heading in {"MB", "memory", "s/h"}
        table.add_column(heading, justify="right" if is_number else "left", no_wrap=True)
    for model in statuses:
        needs = model.needs
        table.add_row(
            model.name,
            f"{model.size_bytes / 1e6:,.0f}" if model.size_bytes else "",
            model.state,
            model.tiers,
            f"{needs.memory_bytes / 1e6:,.0f}" if needs else "",
            f"{needs.seconds_an_hour:,.0f}" if needs else "",
        )
    return table


@commands.with_examples("producer migrate", "producer migrate --roles")
def migrate(
    roles: Annotated[
        bool, Option("--roles", help="Also create callscribe's SQL roles, where missing.")
    ] = False,
) -> None:
    """Create or update the ledger's tables: before the first run, and after each update."""
    settings = load_settings()
    ledger = Ledger.open(settings, answer_s=PEOPLE_ANSWER_S)
    with ledger.connect():
        revision = migrate_ledger(ledger.engine, roles=roles, lease_s=settings.lease_s)
    with ledger.connect() as connection:
        privileges = find_excess_rights(connection) if roles else []
    ledger.close()
    out.print(f"The ledger is at revision {revision}.")
    for privilege in privileges:
        err.print(f"{privilege.cause}. {privilege.remedy}", style="yellow", soft_wrap=True)


@commands.with_examples("producer explain audio.truncated")
def explain(
    code: Annotated[
        str, Argument(help="An error code: the word in brackets before a message.", metavar="CODE")
    ],
    as_json: JsonOption = False,
) -> None:
    """Explain an error code: its causes, what happens by itself, and what to do."""
    error_code = _find_code(code.strip().strip("[]").lower())
    advice = ADVICE[error_code]
    facts = Table.grid(padding=(0, 2))
    for name, text in {
        "means": error_code.meaning,
        "causes": advice.causes,
        "by itself": advice.by_itself,
        "do": advice.do,
        "example": advice.example,
    }.items():
        if text:
            facts.add_row(Text(name, style="bold"), text)
    value = {"code": str(error_code), "meaning": error_code.meaning, **asdict(advice)}
    print_result(value, facts, as_json=as_json)


def _find_code(name: str) -> ErrorCode:
    codes = {str(code): code for code in ErrorCode}
    if name in codes:
        return codes[name]
    similar_codes = get_close_matches(name, codes, n=3, cutoff=0.5)
    remedy = f"Codes: {', '.join(sorted(codes))}."
    if similar_codes:
        remedy = f"Did you mean {' or '.join(similar_codes)}?"
    raise BadRequest(ErrorCode.NOT_FOUND, f"code {name}", "there is no such error code", remedy)
