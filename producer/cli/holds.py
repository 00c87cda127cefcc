"""``producer hold``, ``release`` and ``restored``: what must not be erased, and what must."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Annotated

import typer
from typer import Argument, Option

from producer.cli.common import CommandGroup, JsonOption, open_ledger, open_register
from producer.cli.exit_codes import ExitCode
from producer.cli.output import count_of, err, out, print_result
from producer.cli.tables import plain_table, printable
from producer.erasure.holds import RegisterResult, apply_register, place_hold, release_holds
from producer.intake.spool import remove_copy
from producer.submit.enqueue import celery_app
from schema.errors import ErrorCode, Misconfigured
from schema.publish import Publisher
from schema.settings import load_settings
from schema.store.erasure import holds as store_holds
from schema.store.erasure.holds import Hold
from schema.text import short_id

commands = CommandGroup("Erase and hold")


@commands.with_examples(
    "producer hold",
    "producer hold ACD-20431 --reason 'claim 77'",
    "producer hold --line billing --reason 'audit 2026'",
)
def hold(
    call: Annotated[str | None, Argument(help="The call id to hold.", metavar="CALL_ID")] = None,
    line: Annotated[str | None, Option(help="Hold all calls of this line.", metavar="LINE")] = None,
    reason: Annotated[
        str | None,
        Option(help="Why, for people who find that they cannot erase it.", metavar="TEXT"),
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


@commands.with_examples("producer release ACD-20431")
def release(
    subject: Annotated[
        str,
        Argument(help="A call id, a line, or the id of a hold (producer hold).", metavar="NAME"),
    ],
    as_json: JsonOption = False,
) -> None:
    """End a hold: forget and retention may erase the calls again."""
    settings = load_settings()
    with open_ledger(settings) as ledger:
        holds = release_holds(ledger, open_register(settings), subject)
    if not as_json:
        out.print(printable(f"Released: {', '.join(hold.subject for hold in holds)}"))
    _print_holds(holds, as_json=as_json)


@commands.with_examples("producer restored", "producer restored --yes")
def restored(
    yes: Annotated[bool, Option("--yes", help="Do it. Without it, only count.")] = False,
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
        f"{count_of(result.erased_recordings, 'recording')} {would}erased again, "
        f"{count_of(result.placed_holds, 'hold')} {would}placed again, "
        f"{count_of(result.released_holds, 'hold')} {would}released again"
    )
    print_result(value, text, as_json=as_json)
    if not as_json:
        _print_doubts(result)
    is_doubtful = result.unreadable_lines or result.unknown_erasures
    raise typer.Exit(ExitCode.INCOMPLETE if is_doubtful else ExitCode.OK)


def _print_doubts(result: RegisterResult) -> None:
    if result.unknown_erasures:
        err.print(
            f"The register lacks {count_of(result.unknown_erasures, 'erasure')} of the ledger. "
            "Check that CALLSCRIBE_ERASURES names the right file, and that it is complete."
        )
    if result.unreadable_lines:
        err.print(
            f"{len(result.unreadable_lines)} lines of the register cannot be read, the first is "
            f"line {result.unreadable_lines[0]}. What they record was not applied."
        )


def _print_holds(holds: Sequence[Hold], *, as_json: bool) -> None:
    rows, value = [], []
    for hold in holds:
        since = f"{hold.held_at.astimezone():%Y-%m-%d %H:%M}"
        rows.append([short_id(hold.id), hold.subject, since, hold.reason])
        released_at = hold.released_at.isoformat() if hold.released_at else None
        moments = {"held_at": hold.held_at.isoformat(), "released_at": released_at}
        value.append({**asdict(hold), "id": str(hold.id), **moments})
    view = plain_table(["hold", "call or line", "since", "reason"], rows)
    print_result(value, view, as_json=as_json)
