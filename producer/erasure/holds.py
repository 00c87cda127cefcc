"""Holds placed and let go, in the ledger and in the register; and a restored ledger put right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from schema.bounds import check_text
from schema.erasure_register import Register
from schema.errors import BadRequest, ErrorCode
from schema.store.erasure import forget, holds
from schema.store.erasure.holds import Hold
from schema.store.ledger import Ledger
from schema.wire import Dispatch


def place_hold(
    ledger: Ledger,
    register: Register | None,
    *,
    call_id: str | None = None,
    line: str | None = None,
    reason: str,
) -> Hold:
    """Hold a call, or all calls of a line.

    Raises:
        BadRequest: a text is longer than the ledger takes, or holds what is no character.
    """
    for name, value in {"CALL_ID": call_id, "--line": line, "--reason": reason}.items():
        try:
            check_text(value or "")
        except ValueError as error:
            raise BadRequest(ErrorCode.OPTION_INVALID, name, str(error)) from error

    named = [each for each in (call_id, line) if each is not None]
    if len(named) != 1 or not named[0].strip() or not reason.strip():
        cause, remedy = "it is blank, or both a call and a line", "Say what is held, and why."
        raise BadRequest(ErrorCode.OPTION_INVALID, "hold", cause, remedy)

    def place(connection: Connection) -> Hold:
        hold = holds.place(connection, call_id=call_id, line=line, reason=reason)
        # Before the commit: what a crash leaves in the register alone, a restore holds.
        if register is not None:
            _note(register, hold)
        return hold

    return ledger.transact(place)


def release_holds(ledger: Ledger, register: Register | None, subject: str) -> list[Hold]:
    """Let go of the holds that a call id, a line or the beginning of an id names.

    Raises:
        BadRequest: it names none.
    """

    def let_go(connection: Connection) -> list[Hold]:
        return holds.release(connection, subject)

    released = ledger.transact(let_go)
    # After the commit: what a crash leaves held in the register alone, a restore holds.
    if register is not None:
        for hold in released:
            register.note_release(hold.id)
    return released


@dataclass(slots=True)
class Restored:
    """What was done to a restored ledger, or would be; and the messages that this makes due."""

    erased: int = 0
    held: int = 0
    released: int = 0
    #: Lines of the register that say nothing that this release writes: they were left out.
    unreadable: list[int] = field(default_factory=list)
    #: Erasures that the ledger has noted and the register has not: it is another, or cut short.
    unknown: int = 0
    dispatches: list[Dispatch] = field(default_factory=list)


def apply_register(
    ledger: Ledger,
    register: Register,
    remove_copy: Callable[[bytes], None],
    *,
    really: bool,
) -> Restored:
    """Do to a ledger of a dump what was done since: hold, let go, then erase.

    In this order, so that what was erased and is held today is erased: it was before the hold, or
    the hold had been let go. What a crash left half noted is erased last, unless it is held. A hold
    of which the register knows nothing stays, and what it holds.

    Raises:
        Misconfigured: there is no register, or it is none that this release writes.
    """
    register.require()

    def apply(connection: Connection) -> Restored:
        done = Restored()
        wanted, released = register.holds()
        here = {hold.id for hold in holds.active(connection)}
        noted = forget.erased_once(connection, register)
        done.unreadable = register.unreadable
        done.unknown = forget.unknown_to(connection, register)
        done.held, done.released = len(wanted.keys() - here), len(here & released)
        done.erased = len(noted.erased) + len(noted.begun)
        if not really:
            return done
        for hold_id in here & (wanted.keys() | released):
            holds.release(connection, str(hold_id))
        forgotten = forget.forget(connection, noted.erased, remove_copy)
        holds.forget_holds(connection, wanted)
        for hold_id, facts in wanted.items():
            holds.place(
                connection,
                call_id=facts.get("call_id"),
                line=facts.get("line"),
                reason=facts["reason"],
                hold_id=hold_id,
                held_at=facts["held_at"],
            )
        begun = forget.forget(connection, noted.begun, remove_copy)
        done.erased = forgotten.recordings + begun.recordings
        done.dispatches = forgotten.dispatches + begun.dispatches
        return done

    return ledger.transact(apply)


def hold_json(hold: Hold) -> dict[str, Any]:
    """Return a hold as JSON has it."""
    return {
        "id": str(hold.id),
        "call_id": hold.call_id,
        "line": hold.line,
        "reason": hold.reason,
        "held_at": hold.held_at.isoformat(),
        "released_at": hold.released_at.isoformat() if hold.released_at else None,
    }


def _note(register: Register, hold: Hold) -> None:
    register.note_hold(
        hold.id,
        call_id=hold.call_id,
        line=hold.line,
        reason=hold.reason,
        held_at=hold.held_at.isoformat(),
    )
