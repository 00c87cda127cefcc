"""``producer doctor``, ``models`` and ``migrate``: this host and the ledger."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from producer.cli.doctor import CheckVerdict, examine_host, fix
from producer.cli.exit_codes import ExitCode
from producer.cli.models import list_models, profile_section
from producer.cli.output import JsonOption, err, examples, out, print_result
from producer.cli.tables import checks_view, models_view
from producer.submit.enqueue import celery_app
from schema.migrate import migrate_ledger
from schema.models import KNOWN_MODELS
from schema.roles import find_excess_rights
from schema.settings import load_settings
from schema.store.connection import PEOPLE_ANSWER_S
from schema.store.ledger import Ledger

commands = typer.Typer()

_PANEL = "This host"


@commands.command(
    rich_help_panel=_PANEL, epilog=examples("producer doctor --json", "producer doctor --fix")
)
def doctor(
    fixes: Annotated[
        bool, typer.Option("--fix", help="First remove stored dates that are impossible.")
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
    print_result(value, checks_view(findings), as_json=as_json)
    failed = any(finding.verdict is CheckVerdict.FAIL for finding in findings)
    raise typer.Exit(ExitCode.MISCONFIGURED if failed else ExitCode.OK)


@commands.command(
    rich_help_panel=_PANEL,
    epilog=examples("producer models", "producer models ~/models/paraformer-large"),
)
def models(
    directory: Annotated[
        Path | None,
        typer.Argument(
            help="Your own model: print the part of a profile that names it.", metavar="DIR"
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="With DIR: its engine, funasr or whisper; or punctuation.")
    ] = "funasr",
    as_json: JsonOption = False,
) -> None:
    """List models: which are on this host, which tier selects them, what they need."""
    if directory is not None:
        sys.stdout.write(profile_section(directory, engine))
        return
    statuses = list(list_models(load_settings().models))
    value = [asdict(status) for status in statuses]
    print_result(value, models_view(statuses), as_json=as_json)
    if not as_json and any(s.state == "not there" and s.name in KNOWN_MODELS for s in statuses):
        err.print("Download a model where workers run: python -m ops.local.models NAME")


@commands.command(
    rich_help_panel=_PANEL, epilog=examples("producer migrate", "producer migrate --roles")
)
def migrate(
    roles: Annotated[
        bool, typer.Option("--roles", help="Also create callscribe's SQL roles, where missing.")
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
