"""``producer hold``, ``release`` and ``restored``: what must not be erased, and what must."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated

import typer

from producer.cli.common import open_ledger, open_register
from producer.cli.exit_codes import ExitCode
from producer.cli.output import JsonOption, err, examples, print_result
from producer.cli.tables import plain_table
from producer.erasure.holds import (
    RegisterResult,
    apply_register,
    hold_json,
    place_hold,
    release_holds,
)
from producer.intake.spool import remove_copy
from producer.submit.enqueue import celery_app
from schema.errors import ErrorCode, Misconfigured
from schema.publish import Publisher
from schema.settings import load_settings
from schema.store.erasure import holds as store_holds
from schema.store.erasure.holds import Hold
from schema.text import short_id

commands = typer.Typer()

_PANEL = "Erase and hold"


@commands.command(
    rich_help_panel=_PANEL,
    epilog=examples(
        "producer hold",
        "producer hold ACD-20431 --reason 'claim 77'",
        "producer hold --line billing --reason 'audit 2026'",
    ),
)
def hold(
    call: Annotated[
        str | None, typer.Argument(help="The call id to hold.", metavar="CALL_ID")
    ] = None,
    line: Annotated[str | None, typer.Option(help="Hold all calls of this line.")] = None,
    reason: Annotated[
        str | None, typer.Option(help="Why, for people who find that they cannot erase it.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Protect calls from erasure until released. Without arguments, list all holds."""
    if call and line:
        raise typer.BadParameter("hold a call or a line, not both")
    if bool(call or line) != bool(reason):
        raise typer.BadParameter("a hold needs a call id or --line, and a --reason")
    settings = load_settings()
    with open_ledger(settings) as ledger:
        if reason:
            register = open_register(settings)
            holds = [place_hold(ledger, register, call_id=call, line=line, reason=reason)]
            with ledger.connect() as connection:
                if not store_holds.has_recordings(connection, call_id=call, line=line):
                    err.print("No recording has this call id or line yet. Check the spelling.")
        else:
            with ledger.connect() as connection:
                holds = store_holds.list_active_holds(connection)
    _print_holds(holds, as_json=as_json)


@commands.command(rich_help_panel=_PANEL, epilog=examples("producer release ACD-20431"))
def release(
    subject: Annotated[
        str,
        typer.Argument(
            help="A call id, a line, or the id of a hold (producer hold).", metavar="NAME"
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """End a hold: forget and retention may erase the calls again."""
    settings = load_settings()
    with open_ledger(settings) as ledger:
        holds = release_holds(ledger, open_register(settings), subject)
    _print_holds(holds, as_json=as_json)


@commands.command(
    rich_help_panel=_PANEL, epilog=examples("producer restored", "producer restored --yes")
)
def restored(
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Without it, only count.")] = False,
    as_json: JsonOption = False,
) -> None:
    """After restoring a backup, before workers start: repeat erasures and holds made since."""
    settings = load_settings()
    register = open_register(settings)
    if register is None:
        raise Misconfigured(
            ErrorCode.SETTING_MISSING,
            "CALLSCRIBE_ERASURES",
            "it is not set, so nobody knows which calls were erased",
            "Set it to the register that was used before the restore.",
        )
    with open_ledger(settings) as ledger:
        result = apply_register(ledger, register, partial(remove_copy, settings), really=yes)
        Publisher(celery_app(settings)).publish(result.dispatches)
    value = {
        "applied": yes,
        "erased": result.erased_recordings,
        "held": result.placed_holds,
        "released": result.released_holds,
        "unreadable": result.unreadable_lines,
        "unknown": result.unknown_erasures,
    }
    would = "" if yes else "would be "
    text = (
        f"{result.erased_recordings} recordings {would}erased again, "
        f"{result.placed_holds} holds {would}placed again, "
        f"{result.released_holds} holds {would}released again"
    )
    print_result(value, text, as_json=as_json)
    if not as_json:
        _print_doubts(result)
    is_doubtful = result.unreadable_lines or result.unknown_erasures
    raise typer.Exit(ExitCode.INCOMPLETE if is_doubtful else ExitCode.OK)


def _print_doubts(result: RegisterResult) -> None:
    if result.unknown_erasures:
        err.print(
            f"The register lacks {result.unknown_erasures} erasures that the ledger has. "
            "Check that CALLSCRIBE_ERASURES names the right file, and that it is complete."
        )
    if result.unreadable_lines:
        err.print(
            f"{len(result.unreadable_lines)} lines of the register cannot be read, the first is "
            f"line {result.unreadable_lines[0]}. What they record was not applied."
        )


def _print_holds(holds: Sequence[Hold], *, as_json: bool) -> None:
    rows = [
        [
            short_id(hold.id),
            hold.subject,
            f"{hold.held_at.astimezone():%Y-%m-%d %H:%M}",
            hold.reason,
        ]
        for hold in holds
    ]
    view = plain_table(["hold", "call or line", "since", "reason"], rows)
    print_result([hold_json(hold) for hold in holds], view, as_json=as_json)
